"""CloudWatch is out: nobody who asks for a picture notices."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest

from tests.chaos.shared import Shared
from tests.e2e.conftest import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

REQUESTS = 200


def metric(stand: Shared, name: str) -> float:
    """The largest value of a gauge over all processes; what has died is still exported."""
    folder = Path(stand.cluster.head_node.get_session_dir_path())
    found = json.loads((folder.parent / "prom_metrics_service_discovery.json").read_text("utf-8"))
    values = [0.0]
    for target in found[0]["targets"]:
        try:
            text = httpx.get(f"http://{target}/metrics", timeout=10).text
        except httpx.TransportError:
            continue  # a node that is gone
        values += map(float, re.findall(rf"^ray_{name}\{{.*\}} ([\d.e+]+)$", text, re.MULTILINE))
    return max(values)


async def test_cloudwatch_goes_and_comes_back(fresh: Shared) -> None:
    wait_for("what was sent", lambda: metric(fresh, "imagine_cloudwatch_sent") > 0, 60)
    outcome = await fresh.run(fresh.moto.stop, count=REQUESTS)
    fresh.check("CloudWatch out", outcome)

    def dropped() -> bool:
        return metric(fresh, "imagine_cloudwatch_dropped") > 0

    wait_for("drops that are counted", dropped, 60)
    assert metric(fresh, "imagine_cloudwatch_failures") > 0
    sent = metric(fresh, "imagine_cloudwatch_sent")
    fresh.moto.start()
    outcome = await fresh.run(count=50)
    fresh.check("CloudWatch back", outcome)
    wait_for("more sent", lambda: metric(fresh, "imagine_cloudwatch_sent") >= sent + 50, 60)
