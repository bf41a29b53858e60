"""CloudWatch: what arrives at moto's server equals what was painted, also after an outage."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.messages import ImageRequest, ImageResult, Timings
from serve_app.routing.directory import PoolDirectory
from serve_app.routing.dispatcher import Dispatcher
from serve_app.routing.journal import Journal
from serve_app.routing.router import Decision
from serve_app.routing.snapshot import PoolState
from serve_app.routing.work import Work
from serve_app.settings import Settings
from serve_app.telemetry.cloudwatch import MOST_DATA, MOST_VALUES, Api, Publisher, Series
from serve_app.telemetry.emf import Emf
from serve_app.telemetry.publishing import make_publisher
from serve_app.telemetry.settings import CloudWatchSettings
from serve_app.validation import SettingsError
from tests.moto_server import NAMESPACE, REGION, MotoServer
from tests.serve_app.conftest import make_settings, snapshot


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that open nothing."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def moto(aws: None) -> Iterator[MotoServer]:
    server = MotoServer()
    server.start()
    server.reset()
    yield server
    server.stop()


def publisher_to(moto: MotoServer, **more: Any) -> Publisher:
    fields = {"region": REGION, "namespace": NAMESPACE, "endpoint_url": moto.url, **more}
    return make_publisher(CloudWatchSettings.model_validate(fields))


class Instant:
    """A pool that paints at once."""

    def generate(self, request: ImageRequest, watch: object = None) -> Instant:
        self._seed = request.seed
        return self

    async def result(self) -> ImageResult:
        timings = Timings(queue=0, encode=0, denoise=0, decode=0, total=0)
        return ImageResult(image=b"png", media_type="image/png", seed=1, timings=timings)

    def cancel(self) -> None:
        raise AssertionError("nothing here is cancelled")


def an_image(seed: int) -> ImageRequest:
    return ImageRequest(
        request_id=str(seed),
        prompt="a",
        negative_prompt="",
        width=64,
        height=64,
        num_inference_steps=8,
        guidance_scale=3,
        seed=seed,
    )


class Traffic:
    """Users' requests through the real dispatcher, and the books of what they got."""

    def __init__(self, publisher: Publisher) -> None:
        self.painted: Counter[str] = Counter()
        self.ms: dict[str, list[int]] = {"cpu": [], "gpu": []}
        raw = make_settings().model_dump()
        for pool in raw["pools"].values():
            pool["weight"] = 50
        settings = Settings.parse(raw)
        states = {"cpu": PoolState(ready=1), "gpu": PoolState(ready=1)}
        directory = PoolDirectory(settings.pools, lambda: states, Work(2, 8))
        self.dispatcher = Dispatcher(
            {"cpu": Instant(), "gpu": Instant()},
            directory,
            reference_pixels=64 * 64,
            timeout_s=10,
            journal=Journal(None, (self._note, publisher.record)),
        )

    def _note(self, decision: Decision, took_s: float) -> None:
        self.ms[decision.pool.name].append(round(took_s * 1000))

    def run(self, requests: int) -> None:
        """Send so many at once; every one of them must be answered."""

        async def all_of_them() -> None:
            for number in range(0, requests, 50):
                batch = (self.dispatcher.paint(an_image(n)) for n in range(number, number + 50))
                for painted in await asyncio.gather(*batch):
                    self.painted[painted.pool.name] += 1

        asyncio.run(all_of_them())


def test_what_arrives_equals_what_was_painted(moto: MotoServer) -> None:
    publisher = publisher_to(moto, period_s=0.2, dimensions={"Cluster": "c1"})
    publisher.start()
    traffic = Traffic(publisher)
    traffic.run(1000)
    publisher.stop()
    assert sum(traffic.painted.values()) == 1000
    assert (publisher.sent, publisher.dropped, publisher.failures) == (1000, 0, 0)
    for pool, label in (("gpu", "l4"), ("cpu", "cpu")):
        count, ms = traffic.painted[pool], traffic.ms[pool]
        latency = moto.statistics("Latency", pool, label, Cluster="c1")
        assert latency["count"] == count
        assert latency["sum"] == pytest.approx(sum(ms))
        assert (latency["least"], latency["most"]) == (min(ms), max(ms))
        assert moto.statistics("Images", pool, label, Cluster="c1")["sum"] == count
    assert traffic.painted == {"gpu": 500, "cpu": 500}


def test_a_large_batch_arrives_compressed(moto: MotoServer) -> None:
    publisher = publisher_to(moto)
    decision = Decision(pool=snapshot("gpu"), reason="policy", predicted_s=0)
    seconds = [random.Random(n).uniform(0.1, 60) for n in range(3000)]
    for took_s in seconds:
        publisher.record(decision, took_s)
    publisher.flush()
    latency = moto.statistics("Latency", "gpu", "gpu-card")
    assert latency["count"] == publisher.sent == 3000
    assert latency["sum"] == pytest.approx(sum(round(s * 1000) for s in seconds))


def test_an_outage_loses_no_request_and_is_counted(
    moto: MotoServer, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = publisher_to(moto, period_s=0.1)
    publisher.start()
    traffic = Traffic(publisher)
    traffic.run(200)
    moto.stop()
    before = time.monotonic()
    traffic.run(300)  # each is answered: the books check it
    assert sum(traffic.painted.values()) == 500
    while publisher.failures < 2 and time.monotonic() < before + 30:
        time.sleep(0.05)
    assert publisher.failures >= 2
    assert publisher.dropped == 0
    arrived = publisher.sent
    moto.start()  # moto forgets nothing: its store is this process'
    traffic.run(100)
    publisher.stop()
    assert publisher.sent == 600 > arrived
    for pool, label in (("gpu", "l4"), ("cpu", "cpu")):
        assert moto.statistics("Latency", pool, label)["count"] == 300
        assert moto.statistics("Images", pool, label)["sum"] == 300
    warnings = [r for r in caplog.records if "CloudWatch cannot be reached" in r.message]
    assert len(warnings) <= 2  # one per outage, not one per batch


class Broken:
    """Takes nothing."""

    def send(self, batch: Any) -> Iterator[Series]:
        raise OSError("out")
        yield


def test_what_waits_is_bounded_and_drops_are_counted() -> None:
    now = [6000.0]
    publisher = Publisher(Broken(), period_s=60, max_waiting=100, clock=lambda: now[0])
    decision = Decision(pool=snapshot("gpu"), reason="policy", predicted_s=0)
    for _ in range(150):
        publisher.record(decision, 0.5)
    assert publisher.dropped == 50  # no flush yet: the queue itself is full
    publisher.flush()
    now[0] += 60
    for _ in range(70):
        publisher.record(decision, 0.5)
    publisher.flush()
    # The older hundred has gone as a whole; the newest are kept.
    assert (publisher.dropped, publisher.failures, publisher.sent) == (150, 2, 0)


class Client:
    """Remembers calls; the real client checks each against the service's model."""

    def __init__(self) -> None:
        self.calls: list[list[dict[str, Any]]] = []

    def put_metric_data(self, **call: Any) -> None:
        assert call["Namespace"] == NAMESPACE
        self.calls.append(call["MetricData"])


def a_batch(series: int, values: int) -> dict[Series, Counter[int]]:
    chance = random.Random(5)
    return {
        Series(f"p{number}", "x", 60): Counter({ms: chance.randint(1, 9) for ms in range(values)})
        for number in range(series)
    }


def test_the_apis_limits_are_kept() -> None:
    client, batch = Client(), a_batch(series=500, values=400)
    kept = dict(batch)
    sent = list(Api(client, NAMESPACE, {}).send(batch))
    assert sent == list(kept)
    for data in client.calls:
        assert len(data) <= MOST_DATA
        for datum in data:
            assert len(datum.get("Values", [])) == len(datum.get("Counts", [])) <= MOST_VALUES
    found: Counter[tuple[str, int]] = Counter()
    for datum in (datum for data in client.calls for datum in data):
        pool = datum["Dimensions"][0]["Value"]
        for ms, count in zip(datum.get("Values", []), datum.get("Counts", []), strict=True):
            found[pool, int(ms)] += int(count)
    assert found == Counter(
        {
            (series.pool, ms): count
            for series, counts in kept.items()
            for ms, count in counts.items()
        }
    )


def test_emf_lines(tmp_path: Path) -> None:
    path = tmp_path / "emf.log"
    publisher = make_publisher(
        CloudWatchSettings(
            mode="emf", namespace=NAMESPACE, file=str(path), dimensions={"Cluster": "c1"}
        )
    )
    publisher.start()
    traffic = Traffic(publisher)
    traffic.run(250)
    publisher.stop()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sum(line["Images"] for line in lines) == 250
    for pool, expected in traffic.ms.items():
        told = [ms for line in lines if line["Pool"] == pool for ms in line["Latency"]]
        assert sorted(told) == sorted(expected)
        assert len(told) == 125
    for line in lines:
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        assert directive["Namespace"] == NAMESPACE
        assert directive["Dimensions"] == [["Pool", "Accelerator", "Cluster"]]
        assert all(isinstance(line[name], str) for name in directive["Dimensions"][0])
        assert {metric["Name"] for metric in directive["Metrics"]} == {"Latency", "Images"}
        assert len(line["Latency"]) == line["Images"] <= 100
        assert abs(line["_aws"]["Timestamp"] / 1000 - time.time()) < 120


def test_emf_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    batch = {Series("gpu", "l4", 60): Counter({5: 2})}
    assert list(Emf(NAMESPACE, {}, None).send(batch)) == list(batch)
    assert json.loads(capsys.readouterr().out)["Latency"] == [5, 5]


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "needs region"),
    ({"region": "Frankfurt"}, "not a region"),
    ({"region": REGION, "namespace": "AWS/EC2"}, "not starting with 'AWS/'"),
    ({"region": REGION, "dimensions": {"Pool": "x"}}, "'Pool'"),
    ({"region": REGION, "file": "x"}, "for mode 'emf' only"),
    ({"mode": "emf", "endpoint_url": "http://x"}, "for mode 'api' only"),
    ({"region": REGION, "period_s": 0}, "at least 0.1"),
]


@pytest.mark.parametrize(("cloudwatch", "word"), BAD)
def test_bad_settings_are_explained(cloudwatch: dict[str, Any], word: str) -> None:
    raw = {**make_settings().model_dump(), "telemetry": {"cloudwatch": cloudwatch}}
    with pytest.raises(SettingsError, match=r"telemetry\.cloudwatch") as caught:
        Settings.parse(raw)
    assert word in str(caught.value)


def test_off_by_default_and_clear_without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_settings().telemetry.cloudwatch is None
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(SettingsError, match=r"imagine-serve\[aws\]"):
        make_publisher(CloudWatchSettings(region=REGION))
