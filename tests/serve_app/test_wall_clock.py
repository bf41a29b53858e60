"""Setting a node's clock changes no decision: only what is told to people goes by it."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.engine.admission import earliest_deadline
from deployments.engine.job import Job
from serve_app.autoscaling.clock import steady_unix
from serve_app.routing.time_limit import TimeLimit
from tests.deployments.harness import ask

ROOT = Path(__file__).resolve().parents[2]
# Module -> why it may look at the wall clock.
ALLOWED = {
    "serve_app/access/audit.py": "the line's date",
    "serve_app/api/answer.py": "'created' in the answer",
    "serve_app/api/openai/answer.py": "'created' in the answer",
    "serve_app/autoscaling/board.py": "makes each report differ from the one before",
    "serve_app/autoscaling/clock.py": "once",
    "serve_app/telemetry/cloudwatch.py": "CloudWatch's minute",
}


def wall_clocks(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = f"{node.value.id}.{node.attr}"
            if found in ("time.time", "time.time_ns", "datetime.now", "datetime.utcnow"):
                yield found


def test_only_these_look_at_the_wall_clock() -> None:
    paths = [*(ROOT / "serve_app").rglob("*.py"), *(ROOT / "deployments").rglob("*.py")]
    assert len(paths) > 100
    found = {str(path.relative_to(ROOT)) for path in paths if list(wall_clocks(path))}
    assert found == set(ALLOWED)


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_jump_moves_no_limit(monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    limit = TimeLimit.of(60, 5, time.monotonic)
    job = Job(request=ask(time_left_s=5), on_answer=lambda answer: None)
    clock = steady_unix()
    before = clock()
    real = time.time
    monkeypatch.setattr("time.time", lambda: real() + jump_s)
    assert 4 < limit.left_s() <= 5
    assert not job.expired(time.monotonic())
    assert job.expired(time.monotonic() + 5)
    assert 4 < earliest_deadline(job, time.monotonic()) <= 5
    assert 0 <= clock() - before < 1
