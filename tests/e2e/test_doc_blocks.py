"""What README and docs tell people to type in a second terminal, typed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.docs.blocks import Block, named, of, run
from tests.e2e.conftest import KEY, Service

pytestmark = pytest.mark.e2e

_HERE = "http://127.0.0.1:8000"
_NO_KEY = "unused"  # right where no keys are set; here some are
_SHELLS = {
    "console": ["bash", "-euo", "pipefail", "-c"],
    "python": [sys.executable, "-c"],
}


@pytest.mark.parametrize(
    "block", [*of("console", service=True), *of("python", service=True)], ids=named
)
def test_it_does_what_the_page_says(block: Block, service: Service, tmp_path: Path) -> None:
    here = replace(block, text=block.text.replace(_HERE, service.url).replace(_NO_KEY, KEY))
    run(here, [*_SHELLS[block.language], here.text], tmp_path)
