"""Why a pool is not available, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.routing.availability import trouble_in
from serve_app.routing.snapshot import PoolState
from tests.serve_app.conftest import snapshot


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", ""),
        ("Deployment 'x' has 1 replicas that have taken more than 30s to be scheduled.", ""),
        (
            "A replica failed to start with exception. Retrying 2 more time(s). Error:\n"
            "Traceback (most recent call last):\n"
            '  File "x.py", line 1, in start\n'
            "compile.manifest.ArtifactError: unet-2.pt2: sha256 is 1; recorded: 2\n\n",
            "ArtifactError: unet-2.pt2: sha256 is 1; recorded: 2",
        ),
    ],
    ids=["nothing", "another matter", "a failed start"],
)
def test_why_replicas_do_not_start_is_found_in_what_serve_tells(
    message: str, expected: str
) -> None:
    assert trouble_in(message) == expected


def test_a_pool_tells_why_it_does_not_start() -> None:
    trouble = "OSError: no space"
    starting = replace(snapshot("a"), state=PoolState(starting=1, trouble=trouble))
    assert starting.why_unavailable == f"1 replica(s) starting; the last try failed: {trouble}"
    given_up = replace(snapshot("a"), state=PoolState(status="UNHEALTHY", trouble=trouble))
    assert given_up.why_unavailable == f"its replicas do not start: {trouble}"
