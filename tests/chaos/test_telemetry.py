"""CloudWatch is out: nobody who asks for a picture notices."""

from __future__ import annotations

import asyncio

import pytest

from tests.chaos.exported import exported, settled
from tests.chaos.shared import Shared
from tests.e2e.conftest import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

REQUESTS = 200


def metric(stand: Shared, name: str) -> float:
    """The largest value of a gauge over all processes."""
    return max(exported(stand, name), default=0.0)


async def test_cloudwatch_goes_and_comes_back(fresh: Shared) -> None:
    wait_for("what was sent", lambda: metric(fresh, "imagine_cloudwatch_sent") > 0, 60)
    outcome = await fresh.run(fresh.moto.stop, count=REQUESTS)
    fresh.check("CloudWatch out", outcome)

    def dropped() -> bool:
        return metric(fresh, "imagine_cloudwatch_dropped") > 0

    wait_for("drops that are counted", dropped, 60)
    assert metric(fresh, "imagine_cloudwatch_failures") > 0
    fresh.moto.start()
    # What waited from the outage first: the ones below are to be sent on top of that.
    sent = await asyncio.to_thread(settled, lambda: metric(fresh, "imagine_cloudwatch_sent"))
    outcome = await fresh.run(count=50)
    fresh.check("CloudWatch back", outcome)
    wait_for("more sent", lambda: metric(fresh, "imagine_cloudwatch_sent") >= sent + 50, 60)
