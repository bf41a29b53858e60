"""Metrics, their documentation, the dashboard and the rules say the same."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
import yaml

from deployments.metrics import ReplicaMetrics, Sampler
from deployments.startup import Stage, Timeline
from serve_app.access.visit import Visit
from serve_app.live import LiveSettings
from serve_app.routing.directory import PoolDirectory
from serve_app.routing.snapshot import PoolState
from serve_app.routing.work import Work
from serve_app.telemetry.catalogue import CATALOGUE, table
from serve_app.telemetry.cloudwatch import Publisher
from serve_app.telemetry.dashboards import grafana
from serve_app.telemetry.dashboards.local import RULES, write_grafana, write_prometheus
from serve_app.telemetry.dashboards.panels import ROWS
from serve_app.telemetry.http import RayHttpMetrics
from serve_app.telemetry.pools import RayPoolMetrics
from serve_app.telemetry.publishing import RayPublisherMetrics
from tests.serve_app.conftest import make_settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "metrics.md"
# What a client may choose is in none of them.
LABELS = {
    "pool", "accelerator", "reason", "cause", "code", "route", "method", "status", "phase", "for"
}  # fmt: skip
MOST_SERIES_NAMES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}


def series() -> set[str]:
    """Every name that Prometheus knows."""
    return {m.exported + end for m in CATALOGUE for end in MOST_SERIES_NAMES[m.kind]}


def test_the_documentation_lists_what_the_code_exports() -> None:
    text = DOCS.read_text(encoding="utf-8")
    listed = text.split("<!-- catalogue -->\n")[1].split("\n<!-- /catalogue -->")[0]
    assert listed == table()
    for label in LABELS:
        assert f"`{label}`" in text


def test_the_documentation_names_the_phases_of_a_start() -> None:
    (row,) = (line for line in DOCS.read_text("utf-8").splitlines() if line.startswith("| `phase`"))
    told = re.findall(r"`(\w+)`", row.split("of a start")[1])
    assert told == [*get_args(Stage), "total"]
    timeline = Timeline()
    with timeline.stage("load"):
        pass
    assert set(timeline.phases) <= set(told)


def test_names_are_unique_and_labels_few() -> None:
    assert len({metric.name for metric in CATALOGUE}) == len(CATALOGUE)
    for metric in CATALOGUE:
        assert metric.name.startswith("imagine_")
        assert set(metric.labels) <= LABELS
        assert (metric.kind == "histogram") == bool(metric.boundaries)
        assert list(metric.boundaries) == sorted(metric.boundaries)


def test_no_metric_is_made_outside_the_catalogue() -> None:
    made = re.compile(r"metrics\.(Counter|Gauge|Histogram)\(")
    for folder in ("serve_app", "deployments"):
        for path in (ROOT / folder).rglob("*.py"):
            found = made.findall(path.read_text(encoding="utf-8"))
            assert bool(found) == (path.name == "metrics.py"), path


def names_in(query: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", query))


def test_the_dashboard_is_built_from_its_panels_and_asks_for_metrics_there_are() -> None:
    assert grafana.FILE.read_text(encoding="utf-8") == grafana.text()
    known, asked = series(), set()
    for panel in (panel for row in ROWS.values() for panel in row):
        for query in panel.queries.values():
            assert names_in(query) <= known, query
            asked |= names_in(query)
    # Each metric is on the dashboard, but for those that explain others.
    shown = {
        metric.name for metric in CATALOGUE if any(m.startswith(metric.exported) for m in asked)
    }
    assert {metric.name for metric in CATALOGUE} - shown == {
        "imagine_routing_decisions",
        "imagine_predicted_seconds",
        "imagine_autoscaling_required_row_steps_per_s",
        "imagine_autoscaling_faults",
        "imagine_autoscaling_age_seconds",
    }


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in grafana.dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def rules() -> list[dict[str, Any]]:
    return list(yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"][0]["rules"])


def test_the_rules_ask_for_metrics_there_are() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for rule in rules():
        assert names_in(rule["expr"]) <= series(), rule
        assert set(re.findall(r"\bimagine:[\w:]+", rule["expr"])) <= recorded


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("PROMTOOL IS MISSING (apt-get install prometheus): the rules were not checked")
    return found


def test_promtool_takes_the_rules_and_the_configuration(promtool: str, tmp_path: Path) -> None:
    config = write_prometheus(tmp_path, targets=["127.0.0.1:1"])
    for command in (["check", "rules", str(RULES)], ["check", "config", str(config)]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


# Alert -> the series under which it must fire, and those under which it must not.
ALERTS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "ImagineNoPool": (
        {'ray_imagine_pool_ready{pool="a"}': "0x60", 'ray_imagine_pool_ready{pool="b"}': "0x60"},
        {'ray_imagine_pool_ready{pool="a"}': "0x60", 'ray_imagine_pool_ready{pool="b"}': "1x60"},
    ),
    "ImagineErrors": (
        {
            'ray_imagine_http_requests_total{status="503"}': "0+5x60",
            'ray_imagine_http_requests_total{status="200"}': "0+95x60",
        },
        {'ray_imagine_http_requests_total{status="200"}': "0+95x60"},
    ),
    "ImagineSlow": (
        {
            'ray_imagine_took_seconds_bucket{pool="a",le="25.6"}': "0+1x60",
            'ray_imagine_took_seconds_bucket{pool="a",le="51.2"}': "0+9x60",
            'ray_imagine_took_seconds_bucket{pool="a",le="+Inf"}': "0+9x60",
        },
        {
            'ray_imagine_took_seconds_bucket{pool="a",le="25.6"}': "0+9x60",
            'ray_imagine_took_seconds_bucket{pool="a",le="51.2"}': "0+9x60",
            'ray_imagine_took_seconds_bucket{pool="a",le="+Inf"}': "0+9x60",
        },
    ),
    "ImaginePoolStuck": (
        {'ray_imagine_pool_starting{pool="a"}': "1x60"},
        {'ray_imagine_pool_starting{pool="a"}': "1x15 0x45"},
    ),
    "ImagineHardwareShort": (
        {'ray_imagine_autoscaling_short{pool="a"}': "1x60"},
        {'ray_imagine_autoscaling_short{pool="a"}': "0x60"},
    ),
    "ImagineAutoscalerFails": (
        {"ray_imagine_autoscaling_faults": "0+1x60"},
        {"ray_imagine_autoscaling_faults": "7x60"},
    ),
    "ImagineAutoscalerFails, nothing said": (
        {
            'ray_imagine_autoscaling_age_seconds{instance="a"}': "0+60x60",
            'ray_imagine_autoscaling_age_seconds{instance="b"}': "0+60x60",
        },
        {
            'ray_imagine_autoscaling_age_seconds{instance="a"}': "0+60x60",  # it is gone
            'ray_imagine_autoscaling_age_seconds{instance="b"}': "2x60",
        },
    ),
    "ImagineCloudWatchOut": (
        {"ray_imagine_cloudwatch_failures": "0+1x60"},
        {"ray_imagine_cloudwatch_failures": "0x60"},
    ),
}


def test_every_alert_fires_when_it_must_and_only_then(promtool: str, tmp_path: Path) -> None:
    by_name = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    assert {name.split(",")[0] for name in ALERTS} == set(by_name)
    cases = []
    for name, both in ALERTS.items():
        for fires, given in zip((True, False), both, strict=True):
            cases.append(
                {
                    "interval": "1m",
                    "name": f"{name} {fires}",
                    "input_series": [{"series": s, "values": v} for s, v in given.items()],
                    # Whether any fires; what its text says is not the matter here.
                    "promql_expr_test": [
                        {
                            "expr": f"count(ALERTS{{alertname='{name.split(',')[0]}',"
                            "alertstate='firing'})",
                            "eval_time": "50m",
                            "exp_samples": [{"labels": "{}", "value": 1}] if fires else [],
                        }
                    ],
                }
            )
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": cases}))
    done = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_is_provisioned(tmp_path: Path) -> None:
    write_grafana(tmp_path, 9090)
    provisioning = tmp_path / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "imagine.yml").read_text())
    assert source["datasources"][0]["url"] == "http://127.0.0.1:9090"
    provider = yaml.safe_load((provisioning / "dashboards" / "imagine.yml").read_text())
    (shown,) = Path(provider["providers"][0]["options"]["path"]).iterdir()
    assert json.loads(shown.read_text())["uid"] == "imagine-serve"


class Tagged:
    """A Ray metric that remembers, and insists on its labels."""

    seen: ClassVar[dict[tuple[str, ...], float]] = {}

    def __init__(self, name: str, about: str, *more: Any) -> None:
        self.name = name
        self._labels = set(more[-1])

    def inc(self, value: float = 1, tags: dict[str, str] | None = None) -> None:
        assert value > 0
        self._keep(tags, lambda old: old + value)

    def set(self, value: float, tags: dict[str, str] | None = None) -> None:
        self._keep(tags, lambda old: value)

    observe = set

    def _keep(self, tags: dict[str, str] | None, change: Any) -> None:
        assert set(tags or {}) == self._labels, self.name
        key = (self.name, *(tags or {}).values())
        self.seen[key] = change(self.seen.get(key, 0))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, ...], float]:
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(f"ray.serve.metrics.{kind}", Tagged)
    monkeypatch.setattr(Tagged, "seen", {})
    return Tagged.seen


class AnEngine:
    max_rows, steps, row_steps, rows, waiting = 8, 0, 0, 3, 5


def test_an_engines_numbers(seen: dict[tuple[str, ...], float]) -> None:
    engine = AnEngine()
    metrics = ReplicaMetrics("gpu", "l4", engine, {"load": 2.5, "total": 9.0})
    metrics.export()
    assert ("imagine_engine_steps", "gpu", "l4") not in seen
    engine.steps, engine.row_steps = 4, 20
    metrics.export()
    metrics.export()
    engine.steps, engine.row_steps = 5, 28
    metrics.export()
    assert seen == {
        ("imagine_engine_steps", "gpu", "l4"): 5,
        ("imagine_engine_row_steps", "gpu", "l4"): 28,
        ("imagine_engine_slots", "gpu", "l4"): 8,
        ("imagine_engine_slots_used", "gpu", "l4"): 3,
        ("imagine_engine_waiting", "gpu", "l4"): 5,
        ("imagine_startup_seconds", "gpu", "l4", "load"): 2.5,
        ("imagine_startup_seconds", "gpu", "l4", "total"): 9.0,
    }


def test_the_pools_numbers(seen: dict[tuple[str, ...], float]) -> None:
    states = {"gpu": PoolState(ready=2, starting=1), "cpu": PoolState()}
    directory = PoolDirectory(make_settings().pools, lambda: states, Work(2, 8))
    directory.configure(
        LiveSettings.model_validate(
            {
                "prices": {"gpu": 1.2},
                "profiles": {"gpu": {"latency_s": 1, "images_per_minute": 100}},
            }
        )
    )
    directory.record("gpu").load.add(Work(2, 8))
    RayPoolMetrics().show(directory.books(), turns=4, capacity=2)
    assert seen.pop(("imagine_pool_dollars_per_hour", "gpu", "l4")) == pytest.approx(3.6)
    assert seen.pop(("imagine_pool_cost_per_1000", "gpu", "l4")) == pytest.approx(0.2)
    assert seen == {
        ("imagine_pool_ready", "gpu", "l4"): 2,
        ("imagine_pool_starting", "gpu", "l4"): 1,
        ("imagine_pool_requests", "gpu", "l4"): 1,
        ("imagine_pool_ready", "cpu", "cpu"): 0,
        ("imagine_pool_starting", "cpu", "cpu"): 0,
        ("imagine_pool_requests", "cpu", "cpu"): 0,
        ("imagine_waiting", "turn"): 4,
        ("imagine_waiting", "capacity"): 2,
    }


def test_the_numbers_of_http_and_of_the_publisher(seen: dict[tuple[str, ...], float]) -> None:
    visit = Visit(request_id="r", method="POST", route="/imagine", address="1.2.3.4")
    metrics = RayHttpMetrics()
    metrics(visit)
    visit.status, visit.code, visit.took_s = 429, "rate_limit_exceeded", 0.5
    metrics(visit)
    metrics(visit)
    visit.status, visit.code, visit.took_s = 200, None, 0.7
    metrics(visit)
    publisher = Publisher(None, period_s=1, max_waiting=100)  # type: ignore[arg-type]
    publisher.sent, publisher.failures = 7, 2
    RayPublisherMetrics(publisher).show()
    assert seen == {
        ("imagine_http_requests", "/imagine", "POST", "499", "client_left"): 1,
        ("imagine_http_requests", "/imagine", "POST", "429", "rate_limit_exceeded"): 2,
        ("imagine_http_requests", "/imagine", "POST", "200", "ok"): 1,
        ("imagine_http_seconds", "/imagine", "4xx"): 0.5,
        ("imagine_http_seconds", "/imagine", "2xx"): 0.7,
        ("imagine_cloudwatch_sent",): 7,
        ("imagine_cloudwatch_dropped",): 0,
        ("imagine_cloudwatch_failures",): 2,
    }


def test_a_sampler_that_fails_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = [OSError("gone"), OSError("gone"), None, OSError("gone")]

    def sample() -> None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    sampler = Sampler(sample, period_s=0.001)
    for _ in range(4):
        sampler.once()
    assert len([r for r in caplog.records if "gone" in r.message]) == 2
    answers.extend([None] * 1000)
    sampler.start()
    sampler.stop()
