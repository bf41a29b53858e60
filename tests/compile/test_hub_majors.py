"""The hub registry's tests again, under the Neuron image's older huggingface_hub."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLDER = Path(sys.prefix) / "older"
CODE = """
import sys
import huggingface_hub, pytest
print("huggingface_hub", huggingface_hub.__version__)
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests/compile/test_hub_registry.py"]))
"""


@pytest.mark.slow
def test_the_older_major_does_all_of_it_too() -> None:
    assert OLDER.is_dir(), f"{OLDER} is missing: run `make slow`"
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (OLDER, ROOT)))},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "huggingface_hub 0.36.2" in done.stdout
    passed = re.search(r"^(\d+) passed in", done.stdout, re.MULTILINE)
    assert passed, done.stdout[-300:]
    assert int(passed.group(1)) >= 28
