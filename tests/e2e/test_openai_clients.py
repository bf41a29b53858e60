"""OpenAI's official clients, both major versions in use, against the running service."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.e2e.conftest import HASTY_KEY, KEY, ROOT, Service

pytestmark = pytest.mark.e2e

SUITE = "tests/e2e/openai_suite.py"
# Where `make` puts the first major version; the other is installed with everything else.
FIRST = ROOT / ".venv" / "openai-1"
LEAST_CALLS = 40


@pytest.mark.parametrize("major", ["1", "3"])
def test_the_official_client(service: Service, major: str, tmp_path: Path) -> None:
    if major == "1" and not FIRST.is_dir():
        pytest.skip(f"no openai 1.x at {FIRST}: run `make {FIRST.relative_to(ROOT)}/.installed`")
    path = f"{FIRST}{os.pathsep}{ROOT}" if major == "1" else str(ROOT)
    report = tmp_path / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", "-W", "default", f"--junitxml={report}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", SUITE, *options],
        cwd=ROOT,
        env=os.environ
        | {
            "PYTHONPATH": path,
            "OPENAI_BASE_URL": f"{service.url}/v1",
            "OPENAI_API_KEY": KEY,
            "HASTY_KEY": HASTY_KEY,
            "EXPECTED_MAJOR": major,
        },
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    (suite,) = ElementTree.parse(report).getroot()
    assert int(suite.attrib["tests"]) >= LEAST_CALLS
    assert {suite.attrib[key] for key in ("failures", "errors", "skipped")} == {"0"}
