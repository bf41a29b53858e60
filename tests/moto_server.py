"""CloudWatch as moto serves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import boto3
import httpx
from moto.server import ThreadedMotoServer

from tests.e2e.conftest import free_port

NAMESPACE = "Imagine/Test"
REGION = "eu-central-1"


class MotoServer:
    """moto's server, which can go and come back on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._server: ThreadedMotoServer | None = None

    def start(self) -> None:
        self._server = ThreadedMotoServer(port=self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def reset(self) -> None:
        """Forget all that has arrived."""
        httpx.post(f"{self.url}/moto-api/reset").raise_for_status()

    def statistics(self, metric: str, pool: str, accelerator: str, **more: str) -> dict[str, float]:
        """Count, sum, least and most of what has arrived."""
        client = boto3.client("cloudwatch", region_name=REGION, endpoint_url=self.url)
        now = datetime.now(UTC)
        names = {"Pool": pool, "Accelerator": accelerator, **more}
        points = client.get_metric_statistics(
            Namespace=NAMESPACE,
            MetricName=metric,
            Dimensions=[{"Name": name, "Value": value} for name, value in names.items()],
            StartTime=now - timedelta(hours=1),
            EndTime=now + timedelta(hours=1),
            Period=7200,
            Statistics=["SampleCount", "Sum", "Minimum", "Maximum"],
        )["Datapoints"]
        return {
            "count": sum(point["SampleCount"] for point in points),
            "sum": sum(point["Sum"] for point in points),
            "least": min((point["Minimum"] for point in points), default=0),
            "most": max((point["Maximum"] for point in points), default=0),
        }
