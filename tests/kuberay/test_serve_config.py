"""What is generated is what lies there, and Ray takes it."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from kuberay import fleet, serve_config
from kuberay.__main__ import main
from kuberay.render import rendered
from serve_app.settings import Settings
from serve_app.validation import SettingsError
from tests.kuberay.rendering import KUBERAY, ROOT

FLEET = fleet.load()
each = pytest.mark.parametrize("name", sorted(FLEET.variants))


def test_nothing_has_drifted() -> None:
    """The documented command, as it is typed."""
    done = subprocess.run(
        [sys.executable, "-m", "kuberay", "render", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_drift_is_found_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "--root", str(tmp_path)]) == 0
    assert main(["render", "--check", "--root", str(tmp_path)]) == 0
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert written == set(rendered(FLEET))
    stale = tmp_path / "overlays" / "local" / "serve-config.yaml"
    stale.write_text(stale.read_text(encoding="utf-8") + "# by hand\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["render", "--check", "--root", str(tmp_path)]) == 1
    assert "overlays/local/serve-config.yaml" in capsys.readouterr().out


def test_every_overlay_has_its_variant() -> None:
    there = {str(p.parent.relative_to(KUBERAY / "overlays"))
             for p in KUBERAY.glob("overlays/**/serve-config.yaml")}  # fmt: skip
    assert there == set(FLEET.variants)


@each
def test_ray_takes_it(name: str) -> None:
    config = serve_config.compose(name, FLEET)
    parsed = ServeDeploySchema.model_validate(config)
    assert [application.name for application in parsed.applications] == ["imagine"]
    assert yaml.safe_load(yaml.safe_dump(config)) == config


@each
def test_what_is_served_locally_is_its_source(name: str) -> None:
    """What a variant does not say is what ``serve_config.yaml`` says."""
    source = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    config = serve_config.compose(name, FLEET)
    said = FLEET.variants[name].over
    for key in set(source) - set(said) - {"applications"}:
        assert config[key] == source[key], key
    (ours,), (theirs,) = config["applications"], source["applications"]
    for key in set(theirs) - {"args", "autoscaling_policy", "deployments"}:
        assert ours[key] == theirs[key], key


def test_a_setting_that_the_service_refuses_is_never_written() -> None:
    raw = FLEET.model_dump()
    raw["families"]["g5"]["pool"]["max_replica"] = 3
    with pytest.raises((SettingsError, ValueError), match="max_replica"):
        rendered(fleet.Fleet.model_validate(raw))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"families": ["g5", "h100"], "warm": {}}, "h100"),
        ({"warm": {"trn1": 1}}, "trn1"),
        ({"service": "Imagine"}, "service"),
        ({"model": {"source": "owner/name"}}, "revision"),
    ],
)
def test_bad_variants(change: dict[str, object], message: str) -> None:
    raw = copy.deepcopy(FLEET.model_dump())
    raw["variants"]["eks"] |= change
    with pytest.raises((SettingsError, ValueError), match=message):
        rendered(fleet.Fleet.model_validate(raw))


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not YAML"), ("- a", "mapping"), ("{}", "variants")]
)
def test_files_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    variants = tmp_path / "variants.yaml"
    variants.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        fleet.load(variants=variants)


@each
def test_prices_and_pools_belong_together(name: str) -> None:
    config = serve_config.compose(name, FLEET)["applications"][0]
    live = next(d for d in config["deployments"] if d["name"] == "Ingress")["user_config"]
    families = set(FLEET.variants[name].families)
    assert set(live.get("prices", {})) == families
    assert families <= set(Settings.parse(config["args"]).pools)


@each
def test_pools_load_what_the_compile_jobs_publish(name: str) -> None:
    """A Neuron pool without compiled graphs would never have a replica."""
    args = serve_config.compose(name, FLEET)["applications"][0]["args"]
    for pool, declared in Settings.parse(args).pools.items():
        assert declared.lacks == "", pool
        if pool in FLEET.families:
            assert declared.artifact is not None
            assert declared.artifact.source == serve_config.artifact_repository()


def test_a_cluster_without_a_repository_is_refused(tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.env"
    cluster.write_text("ARTIFACT_REPO=\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="ARTIFACT_REPO"):
        serve_config.artifact_repository(cluster)
