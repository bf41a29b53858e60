"""Setting a node's clock changes no decision: only what is told to people goes by it."""

from __future__ import annotations

import ast
import time
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


WALL_CLOCKS = {
    *(f"time.{name}" for name in ("time", "time_ns", "clock_gettime", "clock_gettime_ns")),
    *(f"time.{name}" for name in ("localtime", "gmtime", "ctime", "asctime", "strftime")),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    "datetime.date.today",
}


def wall_clocks(source: str) -> set[str]:
    """Those that ``source`` names, whatever it calls them."""
    tree = ast.parse(source)
    at_home: dict[str, str] = {}  # as it is called here -> as it is called at home
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            at_home |= {one.asname or one.name: one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            at_home |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}

    def whole(node: ast.AST) -> str:
        if isinstance(node, ast.Attribute):
            return f"{whole(node.value)}.{node.attr}"
        return at_home.get(node.id, "") if isinstance(node, ast.Name) else ""

    return {whole(node) for node in ast.walk(tree)} & WALL_CLOCKS


@pytest.mark.parametrize(
    "source",
    [
        "import time; time.time()",
        "import time as t; t.time_ns()",
        "from time import time; time()",
        "from time import time as now; clock = now",
        "import datetime; datetime.datetime.now()",
        "import datetime as dt; dt.date.today()",
        "from datetime import UTC, datetime; datetime.now(UTC)",
        "def f():\n    from datetime import datetime as d\n    return d.utcnow()",
    ],
)
def test_every_way_to_look_at_it_is_seen(source: str) -> None:
    assert len(wall_clocks(source)) == 1


def test_other_clocks_are_not_it() -> None:
    source = "import time\nfrom datetime import datetime\ntime.monotonic()\ndatetime.fromisoformat"
    assert not wall_clocks(source)


def test_only_these_look_at_the_wall_clock() -> None:
    paths = [*(ROOT / "serve_app").rglob("*.py"), *(ROOT / "deployments").rglob("*.py")]
    assert len(paths) > 100
    found = {str(p.relative_to(ROOT)) for p in paths if wall_clocks(p.read_text("utf-8"))}
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
