"""All scenarios together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

AT_LEAST = 5000


def test_no_request_of_the_suite_was_lost_duplicated_or_wrong(
    ledger: Ledger, request: pytest.FixtureRequest
) -> None:
    files = set(Path(__file__).parent.glob("test_*.py"))
    missing = files - {item.path for item in request.session.items}
    if missing or request.config.option.keyword:
        pytest.skip("only after the whole suite: make chaos")
    total = ledger.total
    assert total.requests >= AT_LEAST
    assert (total.lost, total.duplicated, total.wrong) == (0, 0, 0)
    assert total.answered + total.refused + total.left == total.requests
