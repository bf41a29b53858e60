"""The accounts of the chaos suite can be trusted: what goes wrong in them is seen. No cluster."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.chaos.ledger import Entry, Ledger, scenarios
from tests.chaos.stand import Outcome, Stand

MADE_UP = "made up"
PICTURE = httpx.Response(200, content=b"", headers={"content-type": "image/png", "x-pool": "alpha"})


@pytest.fixture
def idle() -> Stand:
    """A stand on which nothing runs: for requests that go nowhere."""
    known = dict.fromkeys(range(10), b"")
    return Stand("http://x", "", None, {}, Path(), Ledger(), pictures=known)


async def test_a_lost_request_is_counted_and_judged_and_the_others_go_on(idle: Stand) -> None:
    done: list[str] = []

    async def ask(client: httpx.AsyncClient, seed: int) -> httpx.Response:
        if seed < 3:
            raise httpx.RemoteProtocolError("hung up")
        return PICTURE

    outcome = await idle.run(lambda: done.append("it"), count=10, after=10, ask=ask, counted=False)
    assert (sorted(outcome.lost), len(outcome.answers), done) == ([0, 1, 2], 7, ["it"])
    with pytest.raises(AssertionError, match="hung up"):
        idle.check(MADE_UP, outcome, counted=False)
    assert (idle.ledger.total.requests, idle.ledger.total.lost) == (10, 3)


def test_one_sent_too_often_is_not_set_off_by_one_lost(idle: Stand) -> None:
    """Ten requests and one retry, but twelve were sent."""
    outcome = Outcome(10, answers=dict.fromkeys(range(10), PICTURE), sent=12, retried=1)
    with pytest.raises(AssertionError):
        idle.check(MADE_UP, outcome)
    outcome = Outcome(10, answers=dict.fromkeys(range(9), PICTURE), sent=9)
    with pytest.raises(AssertionError):
        idle.check(MADE_UP, outcome)
    assert (idle.ledger.total.duplicated, idle.ledger.total.lost) == (1, 1)


def test_what_a_test_enters_is_known_before_it_runs() -> None:
    found = scenarios(Path(__file__).parent)
    assert found["test_clocks_jump"] == {"clocks an hour forward", "clocks two hours back"}
    assert sum(map(len, found.values())) >= 25
    assert not {"test_retry_after_is_honest"} & found.keys()


def test_what_was_not_run_is_told(tmp_path: Path) -> None:
    ledger = Ledger([Entry(MADE_UP, 1, answered=1)], {"test_x": "no such disk here"})
    ledger.write(tmp_path)
    assert "**NOT RUN**: test_x: no such disk here" in (tmp_path / "chaos.md").read_text("utf-8")
