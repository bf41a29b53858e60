"""All scenarios together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.ledger import Ledger, scenarios

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

AT_LEAST = 5000


def test_no_request_of_the_suite_was_lost_duplicated_or_wrong(
    ledger: Ledger, request: pytest.FixtureRequest
) -> None:
    found = scenarios(Path(__file__).parent)
    if found.keys() - {item.name for item in request.session.items}:
        pytest.skip("only after the whole suite: make chaos")
    expected = {name for test in found.keys() - ledger.skipped.keys() for name in found[test]}
    assert {entry.scenario for entry in ledger.entries} == expected - ledger.skipped.keys()
    total = ledger.total
    assert total.requests >= AT_LEAST
    assert (total.lost, total.duplicated, total.wrong) == (0, 0, 0)
    assert total.answered + total.refused + total.left == total.requests
