"""Every code block of README and docs does what it says, or says why no test can show it."""

from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.live import LiveSettings
from serve_app.settings import Settings
from tests.docs.blocks import BLOCKS, ROOT, RUN, Block, named, of, run
from tests.e2e.conftest import shipped_config


def merged(base: Any, part: Any) -> Any:
    """``part`` laid over ``base``, mapping by mapping."""
    if not (isinstance(base, Mapping) and isinstance(part, Mapping)):
        return copy.deepcopy(part)
    return {
        key: merged(base.get(key), part[key]) if key in part else base[key]
        for key in [*base, *(key for key in part if key not in base)]
    }


def shipped_args() -> dict[str, Any]:
    args: dict[str, Any] = shipped_config(8000)["applications"][0]["args"]
    return args


def check_args(part: Any) -> None:
    Settings.parse(merged(shipped_args(), part))


def check_live(part: Any) -> None:
    LiveSettings.parse(part, Settings.parse(shipped_args()))


def check_probe(part: Any) -> None:
    """The port is the one that ``serve_config.yaml`` opens."""
    shipped = yaml.safe_load((ROOT / "serve_config.yaml").read_text("utf-8"))
    assert set(part) == {"grpc"}
    assert part["grpc"]["port"] == shipped["grpc_options"]["port"]
    assert part["grpc"].get("service", "") in ("", "Ingress", *shipped_args()["pools"])


# The top key of a YAML block -> what must take it.
YAML: dict[str, Callable[[Any], None]] = {
    "args": check_args,
    "pools": lambda part: check_args({"pools": part}),
    "keys": lambda part: check_args({"access": {"keys": part}}),
    "user_config": check_live,
    "readinessProbe": check_probe,
    "livenessProbe": check_probe,
}


def test_every_block_is_of_a_kind_that_a_test_knows() -> None:
    assert {block.language for block in BLOCKS} <= {"console", "python", "yaml"}, [
        block.where for block in BLOCKS if block.language not in ("console", "python", "yaml")
    ]
    assert len(RUN) >= 10


def test_every_block_is_run_or_says_why_not() -> None:
    """These are what the tests here and in tests/e2e/test_doc_blocks.py take."""
    here = {*of("yaml"), *of("python")}
    on_a_service = {*of("console", service=True), *of("python", service=True)}
    assert here | on_a_service == set(RUN)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "console"], ids=named)
def test_a_shell_block_is_shell(block: Block) -> None:
    checked = subprocess.run(
        ["bash", "-n"], input=block.text, text=True, capture_output=True, check=False
    )
    assert checked.returncode == 0, f"{block.where}: {checked.stderr}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "console"], ids=named)
def test_what_a_shell_block_names_is_there(block: Block) -> None:
    """Modules, make targets and files of ours; also of blocks that no test can run."""
    for module in re.findall(r"python -m ([\w.]+)", block.text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for target in re.findall(r"^make ([\w-]+)", block.text, re.MULTILINE):
        assert target in targets, target
    ours = "|".join(("kuberay", "loadtest", "models", "benchmarks"))
    for path in re.findall(rf"(?:^|-[kf] )((?:{ours})/[\w./-]+)", block.text, re.MULTILINE):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("block", of("yaml"), ids=named)
def test_a_settings_block_is_taken_by_the_settings(block: Block) -> None:
    for key, part in yaml.safe_load(block.text).items():
        assert key in YAML, f"{block.where}: what must take {key}? Add it to this test."
        YAML[key](part)


@pytest.mark.parametrize("block", of("python"), ids=named)
def test_a_python_block_runs(block: Block, tmp_path: Path) -> None:
    run(block, [sys.executable, "-c", block.text], tmp_path)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=named)
def test_a_python_block_is_python(block: Block) -> None:
    ast.parse(block.text)
