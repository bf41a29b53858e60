"""A front door without Ray: a painter that records, pools that can be switched."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import pytest
from PIL import Image
from starlette.testclient import TestClient

from deployments.messages import MEDIA_TYPES, ImageRequest, ImageResult, Timings
from deployments.model_info import ModelDefaults, ModelInfo
from serve_app.api.application import create_app
from serve_app.api.front import Front, default_work
from serve_app.routing.directory import PoolDirectory
from serve_app.routing.journal import Journal
from serve_app.routing.outcome import DispatchError, Painted
from serve_app.routing.policies import POLICIES, Policy, PolicyOptions
from serve_app.routing.router import Reason, Wishes
from serve_app.routing.snapshot import PoolSnapshot, PoolState
from serve_app.routing.watching import Watch
from serve_app.settings import Settings

# Speed is measured in benchmarks; on a busy machine an example may take any time.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

MODEL = ModelInfo(
    name="tiny",
    revision="r1",
    size_multiple=16,
    defaults=ModelDefaults(width=64, height=64, num_inference_steps=8, guidance_scale=3.0),
    vocabulary=None,
)


def make_settings() -> Settings:
    """Two pools and tight limits."""
    return Settings.parse(
        {
            "pools": {
                "gpu": {
                    "accelerator": "l4",
                    "framework": "cuda",
                    "resources": {"num_gpus": 1},
                    "weight": 100,
                },
                "cpu": {"accelerator": "cpu", "framework": "cpu", "weight": 0, "min_replicas": 1},
            },
            "limits": {
                "max_n": 4,
                "min_width": 32,
                "max_width": 256,
                "min_height": 32,
                "max_height": 256,
                "max_steps": 60,
                "max_guidance": 20,
                "max_body_bytes": 200_000,
                "max_image_pixels": 100_000,
            },
        }
    )


def snapshot(
    name: str,
    *,
    ready: int = 1,
    weight: float = 1,
    draining: int = 0,
    updating: int = 0,
    **more: Any,
) -> PoolSnapshot:
    """A pool as the router sees it."""
    return PoolSnapshot(
        name=name,
        accelerator=f"{name}-card",
        framework="cpu",
        weight=weight,
        max_replicas=4,
        state=PoolState(ready=ready, updating=updating, draining=draining, status="HEALTHY"),
        **more,
    )


@dataclass
class FakePainter:
    """Paints one flat colour and remembers what it was asked."""

    requests: list[ImageRequest] = field(default_factory=list)
    wishes: list[Wishes] = field(default_factory=list)
    reason: Reason = "policy"
    moved_to: str | None = None
    failure: DispatchError | Exception | None = None
    truncated: bool = False
    unknown_words: tuple[str, ...] = ()
    happens: Sequence[Any] = ()

    async def paint(
        self, request: ImageRequest, wishes: Wishes, watch: Watch | None = None
    ) -> Painted:
        """Paint ``request``; a watcher is told what ``happens`` (a number: that many seconds)."""
        self.requests.append(request)
        self.wishes.append(wishes)
        for event in self.happens if watch is not None else ():
            if isinstance(event, int | float):
                await asyncio.sleep(event)
            elif watch is not None:
                watch(event)
        if self.failure is not None:
            raise self.failure
        out = io.BytesIO()
        picture = Image.new("RGB", (request.width, request.height), (request.seed % 256, 0, 0))
        picture.save(out, request.output_format)
        result = ImageResult(
            image=out.getvalue(),
            media_type=MEDIA_TYPES[request.output_format],
            seed=request.seed,
            timings=Timings(queue=1, encode=2, denoise=3, decode=4, total=10),
            truncated=self.truncated,
            unknown_words=self.unknown_words,
        )
        pool = snapshot(self.moved_to or wishes.pin or wishes.sticky or "cpu")
        return Painted(result=result, pool=pool, reason=self.reason)


class FakeRouting:
    """Routes nothing, but has a policy and counts to show."""

    def __init__(self) -> None:
        self.policy: Policy = POLICIES["weighted"](PolicyOptions())
        self.journal = Journal()
        self.waiting = self.holding = 0
        self.peers = 1


class FakeMeasurements:
    """Every available pool is a tiny CPU."""

    async def of(self, pools: Sequence[PoolSnapshot]) -> Mapping[str, Mapping[str, Any]]:
        """By pool."""
        facts = {
            "device": "cpu",
            "dtype": "float32",
            "max_rows": 4,
            "graphs": "artifact cpu-64x64",
            "startup_s": {"load": 1.5},
            "step_cost_ms": {1: 2.5, 2: 4},
        }
        return {pool.name: facts | {"rows": 0} for pool in pools if pool.available}


@dataclass
class Stand:
    """Everything a test of the HTTP surface needs."""

    client: TestClient
    painter: FakePainter
    front: Front
    states: dict[str, PoolState]


@pytest.fixture
def stand() -> Iterator[Stand]:
    """The HTTP surface over a fake painter; pool ``cpu`` is up, ``gpu`` has no replica."""
    settings, painter = make_settings(), FakePainter()
    states = {"cpu": PoolState(ready=1, status="HEALTHY"), "gpu": PoolState(status="HEALTHY")}
    front = Front(
        settings=settings,
        model=MODEL,
        pools=PoolDirectory(settings.pools, lambda: states, default_work(MODEL)),
        painter=painter,
        routing=FakeRouting(),
        measurements=FakeMeasurements(),
    )
    with TestClient(create_app(front)) as client:
        yield Stand(client=client, painter=painter, front=front, states=states)
