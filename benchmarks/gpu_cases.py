"""What is measured of one model at one picture size; each measurement is bounded and may fail."""

from __future__ import annotations

import asyncio
import copy
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_models import build
from benchmarks.servers import (
    CollectThenRun,
    Mix,
    Server,
    StepLevel,
    drive,
    finish,
    make_requests,
    poisson,
    run_pipeline,
)
from deployments.backends.base import DenoiseBatch
from deployments.backends.bucketed import BucketedBackend
from deployments.backends.compiled import Compile, Record
from deployments.backends.memory import Memory
from deployments.engine.calibration import time_rows
from deployments.engine.engine import Engine
from deployments.engine.job import Job
from deployments.engine.preparation import Preparation
from deployments.engine.service import EngineService
from deployments.messages import ImageRequest

GUIDANCE = 5.0
EQUAL = 20
LOAD = 0.8
MIXED = Mix("mixed steps", (8, 20, 50), (0.3, 0.5, 0.2))


@dataclass(frozen=True)
class Case:
    """A model and a picture size in pixels."""

    model: str
    pixels: int

    @property
    def name(self) -> str:
        """E.g. ``sdxl-1024``."""
        return f"{self.model}-{self.pixels}"


@dataclass
class Limits:
    """How long all of it may take.

    Attributes:
        until: monotonic seconds at which no measurement is begun any more.
        seconds: of one measurement, about.
        steps: factor of all step counts; below 1 for trying the benchmark out.
    """

    until: float
    seconds: float = 12.0
    steps: float = 1.0


@dataclass
class Device:
    """Where it runs, and what only such a device has.

    Attributes:
        wait: returns when the device is done.
        peak: bytes allocated at most since it was last asked.
    """

    device: torch.device
    dtype: torch.dtype
    memory: Memory
    compile_it: Compile | None
    record: Callable[[], Record | None]
    wait: Callable[[], None]
    peak: Callable[[], int]


Results = dict[str, Any]


@dataclass
class Run:
    """One case being measured; ``results`` grows, and is saved by ``keep`` after each part."""

    case: Case
    slots: Sequence[int]
    device: Device
    limits: Limits
    keep: Callable[[], None]
    say: Callable[[str], None]
    results: Results = field(default_factory=dict)

    def all(self) -> None:
        """Every measurement that time allows, the most telling first."""
        self._part("eager", self._eager)
        backend = self._part("start", self._start)
        if backend is None:
            return
        self._part("compiled", partial(self._compiled, backend))
        usable = [n for n in self.slots if 2 * n <= backend.rows.largest]
        for n in self.slots:
            if n not in usable:
                self.results[f"engine {n}"] = {"error": "does not fit the memory"}
        for n in sorted(usable, key=lambda n: abs(n - 8)):
            self._part(f"engine {n}", partial(self._engine, backend, n))
        if not usable:
            return
        best = self._best(usable)
        self._part("static", partial(self._static, backend, best))
        self._part("load", partial(self._load, backend, best))
        for n in usable:
            self._part(f"share {n}", partial(self._share, backend, n))

    def measure_apart(self, name: str, measure: Callable[[], Results]) -> None:
        """As the parts of ``all``: of what needs the device's memory for itself."""
        self._part(name, measure)

    def _part(self, name: str, measure: Callable[[], Any]) -> Any:
        """One measurement; its failure is a result."""
        if time.monotonic() > self.limits.until:
            self.results[name] = {"error": "no time left"}
            self.keep()
            return None
        self.say(f"{self.case.name}: {name}")
        value, found = None, {}
        try:
            value = measure()
            found = value if isinstance(value, dict) else {}
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        if name in self.results:
            found = self.results[name] | found
        self.results[name] = found
        self.say(f"{self.case.name}: {name}: {found}")
        self.keep()
        gc.collect()
        return value

    def _request(self, index: int, steps: int) -> ImageRequest:
        return ImageRequest(
            request_id=str(index),
            prompt=f"a picture {index}",
            negative_prompt="",
            width=self.case.pixels,
            height=self.case.pixels,
            num_inference_steps=max(2, round(steps * self.limits.steps)),
            guidance_scale=GUIDANCE,
            seed=index,
        )

    def _one_by_one(self, pipe: Any) -> Results:
        run_pipeline(pipe, [self._request(0, EQUAL)])
        begin, count = time.perf_counter(), 0
        while count < 3 or time.perf_counter() - begin < self.limits.seconds / 2:
            run_pipeline(pipe, [self._request(count, EQUAL)])
            count += 1
            if time.perf_counter() - begin > self.limits.seconds:
                break
        took = time.perf_counter() - begin
        return {"images_per_s": count / took, "seconds": took / count, "peak": self.device.peak()}

    def _eager(self) -> Results:
        pipe = build(self.case.model, self.device.device, self.device.dtype)
        return self._one_by_one(pipe)

    def _start(self) -> BucketedBackend:
        """The backend with every bucket compiled; also how long that takes."""
        begin = time.perf_counter()
        pipe = build(self.case.model, self.device.device, self.device.dtype)
        built = time.perf_counter()
        free = self.device.memory.free()
        size = (self.case.pixels, self.case.pixels)
        backend = BucketedBackend(
            pipe,
            device=self.device.device,
            dtype=self.device.dtype,
            most_rows=2 * max(self.slots),
            bucket_rows=[2 * n for n in self.slots],
            deterministic=False,
            sizes=(size,),
            memory=self.device.memory,
            compile_it=self.device.compile_it,
            record=self.device.record(),
            read=self.device.wait,
        )
        ready = time.perf_counter()
        text = backend.encode_prompt("")
        side = self.case.pixels
        costs = {n: time_rows(backend, text, side, side, n) for n in backend.rows.sizes}
        self.results["start"] = {
            "build_s": built - begin,
            "warm_s": ready - built,
            "free": free,
            "rows": list(backend.rows.sizes),
            "decode_batch": backend.facts.decode_batch,
            "step_ms": costs,
            "peak": self.device.peak(),
        }
        return backend

    def _compiled(self, backend: BucketedBackend) -> Results:
        return self._one_by_one(stock_on(backend))

    def _service(self, backend: BucketedBackend, slots: int) -> EngineService:
        return EngineService(
            backend, finish, max_rows=2 * slots, max_queued=10**6, admission="deadline"
        )

    def _engine(self, backend: BucketedBackend, slots: int) -> Results:
        """Images/s with always ``slots`` pictures under way, equal step counts."""
        per_image = self._guess(backend, 2 * slots) / slots
        count = slots * max(2, min(8, round(self.limits.seconds / per_image / slots)))
        requests = [self._request(i, EQUAL) for i in range(count)]
        service = self._service(backend, slots)
        try:
            server = StepLevel(service)
            asyncio.run(_all(server, requests[:slots]))
            latencies, took = asyncio.run(_timed(server, requests))
        finally:
            service.stop()
        return {
            "images_per_s": count / took,
            "images": count,
            "p50": float(np.percentile(latencies, 50)),
            "peak": self.device.peak(),
        }

    def _guess(self, backend: BucketedBackend, rows: int) -> float:
        """Seconds of a batch of pictures of equal step counts, from the step's cost."""
        costs = self.results["start"]["step_ms"]
        steps = self._request(0, EQUAL).num_inference_steps
        return float(costs[backend.rows.fit(rows)]) * steps / 1000 * 1.2 + 1e-3

    def _best(self, usable: Sequence[int]) -> int:
        """Slots after which the engine's throughput hardly grows."""
        rates = {n: self.results.get(f"engine {n}", {}).get("images_per_s", 0.0) for n in usable}
        best = usable[0]
        for n in usable:
            if rates[n] > 1.02 * rates[best]:
                best = n
        return best

    def _static(self, backend: BucketedBackend, batch: int) -> Results:
        """Collect-then-run on the same graphs: saturated, equal and mixed step counts."""
        found: Results = {"batch": batch}
        for what, steps in (("equal", Mix("equal", (EQUAL,), (1.0,))), ("mixed", MIXED)):
            batches = round(self.limits.seconds / self._guess(backend, 2 * batch))
            count = batch * max(2, min(6, batches))
            requests = make_requests(self._request, steps, count, 1)
            server = CollectThenRun(stock_on(backend), batch)
            _, took = asyncio.run(_timed(server, requests))
            found[f"{what}_images_per_s"] = count / took
        return found

    def _load(self, backend: BucketedBackend, slots: int) -> Results:
        """Poisson arrivals at 80 % of what static batching does when saturated, mixed steps."""
        rate = LOAD * self.results["static"]["mixed_images_per_s"]
        count = max(12, round(rate * 4 * self.limits.seconds))
        requests = make_requests(self._request, MIXED, count, 2)
        arrivals = poisson(rate, count, 3)
        found: Results = {"rate": rate, "images": count, "slots": slots}
        service = self._service(backend, slots)
        try:
            servers: list[tuple[str, Server]] = [
                ("static", CollectThenRun(stock_on(backend), slots)),
                ("engine", StepLevel(service)),
            ]
            for name, server in servers:
                latencies, _ = asyncio.run(drive(server, requests, arrivals))
                for q in (50, 95):
                    found[f"{name}_p{q}"] = float(np.percentile(latencies, q))
        finally:
            service.stop()
        return found

    def _share(self, backend: BucketedBackend, slots: int) -> Results:
        """Part of an engine's full step that is not the UNet."""
        side = self.case.pixels
        preparation = Preparation(backend)
        engine = Engine(backend, lambda job, picture: None, max_rows=2 * slots)
        steps = 3 + EQUAL
        for i in range(slots):
            job = Job(self._request(i, round(steps / self.limits.steps)), lambda answer: None)
            preparation.prepare(job)
            engine.submit(job)
        for _ in range(2):
            engine.step()
        self.device.wait()
        begin = time.perf_counter()
        for _ in range(EQUAL):
            engine.step()
        self.device.wait()
        step_ms = (time.perf_counter() - begin) / EQUAL * 1000
        engine.fail_all("measured")
        engine.close()
        # Again here, as the clocks of a warm device are others than at its start.
        unet_ms = time_rows(backend, backend.encode_prompt(""), side, side, 2 * slots)
        return {"step_ms": step_ms, "unet_ms": unet_ms, "share": 1 - unet_ms / step_ms}


async def _all(server: Server, requests: Sequence[ImageRequest]) -> None:
    await asyncio.gather(*(server.paint(request) for request in requests))


async def _timed(server: Server, requests: Sequence[ImageRequest]) -> tuple[Any, float]:
    return await drive(server, requests, [0.0] * len(requests))


def stock_on(backend: BucketedBackend) -> Any:
    """A stock pipeline whose UNet and VAE run the backend's graphs, padded to its buckets.

    So that what is compared is how requests are batched, and not what compiles better.
    """
    pipe = backend.pipe
    unet, vae = copy.copy(pipe.unet), copy.copy(pipe.vae)

    def forward(
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        timestep_cond: torch.Tensor | None = None,
        cross_attention_kwargs: Any = None,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
        return_dict: bool = True,
    ) -> tuple[torch.Tensor]:
        added = added_cond_kwargs or {}
        batch = DenoiseBatch(
            latents=sample,
            timesteps=timestep.to(sample.device, torch.float32).expand(sample.shape[0]),
            hidden=encoder_hidden_states,
            pooled=added.get("text_embeds"),
            time_ids=added.get("time_ids"),
            timestep_cond=timestep_cond,
        )
        return (backend.denoise(batch),)

    def decode(
        latents: torch.Tensor, return_dict: bool = True, generator: Any = None
    ) -> tuple[torch.Tensor]:
        scaled = latents * vae.config.scaling_factor
        with torch.inference_mode():
            return (backend.decode_latents(scaled),)

    unet.forward = forward
    vae.decode = decode
    parts = dict(pipe.components) | {
        "unet": unet,
        "vae": vae,
        "scheduler": type(pipe.scheduler).from_config(pipe.scheduler.config),
    }
    more = (
        {"add_watermarker": False}
        if backend.facts.size_conditioned
        else {"requires_safety_checker": False}
    )
    stock = type(pipe)(**parts, **more)
    stock.set_progress_bar_config(disable=True)
    return stock
