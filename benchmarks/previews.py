"""What watching costs the batch: streams with previews against plain requests, in one run.

``python -m benchmarks.previews`` prints a table and whether three previews cost at most 5 %;
``--out FILE`` writes it as Markdown. All cells serve the same requests with the same model in the
same process, taking turns, so that only the ratios within a turn matter. Some four minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from benchmarks.hardware import cpu_name
from benchmarks.paired import Ratio
from deployments.backends.cpu import create
from deployments.engine.calibration import choose_rows, measure_step_costs
from deployments.engine.job import Job
from deployments.engine.previews import LinearDecoder
from deployments.engine.service import EngineService
from deployments.messages import MEDIA_TYPES, ImageRequest, ImageResult, Timings
from deployments.model_info import load_model_info
from deployments.options import ReplicaOptions
from deployments.picture import encode_picture, encode_preview
from models import scenes

Paint = Callable[[ImageRequest], Awaitable[Any]]


# Of the batch's time, for three previews.
BOUND = 1.05


@dataclass
class Cell:
    """One way to be served.

    Attributes:
        name, paint, previews: what it is.
        every: it takes part in each so-manieth turn: the cells that decide in all.
        turns: by turn, seconds that the batch took, and seconds of the CPU.
    """

    name: str
    paint: Paint
    previews: int
    every: int
    turns: dict[int, tuple[float, float]] = field(default_factory=dict)

    def against(self, plain: Cell, what: int) -> Ratio:
        """Time (``what`` 0) or CPU time (1) over that of ``plain`` in the same turns."""
        base = [plain.turns[turn][what] for turn in self.turns]
        return Ratio.of([took[what] for took in self.turns.values()], base)


async def watched(service: EngineService, request: ImageRequest) -> None:
    """Read a stream to its end, as the ingress does."""
    async for event in service.stream(request):
        last = event
    if not isinstance(last, ImageResult):
        raise RuntimeError(str(last))


async def run(args: argparse.Namespace, console: Console) -> str:
    """Measure everything and return it as Markdown."""
    options = ReplicaOptions(
        pool="bench", accelerator="cpu", framework="cpu", model_source=args.model, threads=1
    )
    info = load_model_info(args.model, None)
    backend = create(options)
    d = info.defaults
    began = time.perf_counter()
    linear = LinearDecoder.fit(backend, d.height, d.width)
    fit_s = time.perf_counter() - began
    rows = choose_rows(measure_step_costs(backend, d.height, d.width, options.max_rows))

    def finish(job: Job, pixels: NDArray[np.uint8]) -> ImageResult:
        return ImageResult(
            image=encode_picture(pixels, job.request, info.name, info.revision),
            media_type=MEDIA_TYPES[job.request.output_format],
            seed=job.request.seed,
            timings=Timings(queue=0, encode=0, denoise=0, decode=0, total=0),
        )

    def with_linear(request: ImageRequest, clean: torch.Tensor) -> bytes:
        return encode_preview(linear.decode(clean), request)

    def with_vae(request: ImageRequest, clean: torch.Tensor) -> bytes:
        picture = backend.decode(clean)[0]
        if picture is None:
            raise ValueError("not finite")
        return encode_preview(picture, request)

    services = [
        EngineService(
            backend, finish, render, max_rows=rows, max_queued=10**6, admission="deadline"
        )
        for render in (with_linear, with_vae)
    ]
    cheap, dear = services
    cells = [
        Cell("plain requests", cheap.generate, 0, 1),
        Cell("streams, 3 previews", lambda r: watched(cheap, r), 3, 1),
        Cell("streams, 1 preview", lambda r: watched(cheap, r), 1, 3),
        Cell("streams, steps alone", lambda r: watched(cheap, r), 0, 3),
        Cell("streams, 3 previews by the VAE", lambda r: watched(dear, r), 3, 6),
    ]
    with Progress(console=console) as progress:
        task = progress.add_task("benchmarking", total=args.turns)
        for turn in range(args.turns + 1):
            taking_part = [cell for cell in cells if turn % cell.every == 0]
            for cell in random.Random(turn).sample(taking_part, len(taking_part)):
                requests = [
                    ImageRequest(
                        request_id=f"{turn}-{index}", prompt=f"{index % 9} red circles",
                        negative_prompt="", width=d.width, height=d.height,
                        num_inference_steps=d.num_inference_steps,
                        guidance_scale=d.guidance_scale, seed=index, previews=cell.previews,
                    )
                    for index in range(args.requests)
                ]  # fmt: skip
                began, busy = time.perf_counter(), time.process_time()
                await asyncio.gather(*map(cell.paint, requests))
                if turn:  # the first warms up
                    took = time.perf_counter() - began, time.process_time() - busy
                    cell.turns[turn] = took
            if turn:
                progress.advance(task)
    for service in services:
        service.stop()
    return report(args, cells, backend, fit_s, quality(backend, linear), rows)


def quality(backend: Any, linear: LinearDecoder) -> list[str]:
    """How like their pictures previews of finished latents are, by the map's pixels per cell."""
    pictures = [
        np.asarray(
            scenes.render(scenes.draw_scene(random.Random(i), scenes.KINDS[i % len(scenes.KINDS)]))
        )
        for i in range(24)
    ]
    latents = [
        backend.encode_image(picture, torch.Generator().manual_seed(i))
        for i, picture in enumerate(pictures)
    ]
    size = pictures[0].shape[1::-1]

    def decibels(shown: list[NDArray[np.uint8]]) -> float:
        found = []
        for one, picture in zip(shown, pictures, strict=True):
            large = np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC))
            found.append(10 * np.log10(255**2 / ((large.astype(float) - picture) ** 2).mean()))
        return float(np.mean(found))

    def timed(decode: Callable[[torch.Tensor], Any]) -> tuple[list[Any], float]:
        decode(latents[0])
        began = time.perf_counter()
        shown = [decode(latent) for latent in latents]
        return shown, (time.perf_counter() - began) / len(latents) * 1000

    lines = []
    for side in dict.fromkeys((1, linear.side)):
        other = LinearDecoder.fit(backend, *size[::-1], side=side)
        shown, ms = timed(other.decode)
        lines.append(f"| linear, {side}×{side} pixels a cell | {decibels(shown):.1f} | {ms:.2f} |")
    shown, ms = timed(lambda latent: backend.decode(latent)[0])
    lines.append(f"| the VAE's decoder | {decibels(shown):.1f} | {ms:.2f} |")
    return lines


def report(
    args: argparse.Namespace,
    cells: list[Cell],
    backend: Any,
    fit_s: float,
    qualities: list[str],
    rows: int,
) -> str:
    """The tables."""
    plain, decisive = cells[0], cells[1]
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {torch.get_num_threads()} thread of {cpu_name()},"
        f" torch {torch.__version__}, Python {platform.python_version()}, model `{args.model}`,"
        f" {rows} rows. {args.requests} requests at once (saturated), {args.turns} turns, the"
        " cells in random order each turn, some in each third or sixth. A ratio is the geometric"
        " mean over the turns of the time over that of the plain requests in the same turn, with"
        " its 95 % confidence interval (bootstrap over the turns). CPU time counts all"
        " threads of the process, so that what is done beside the steps counts as well, and what"
        " else the machine was doing does not; the other time is the clock's.",
        "",
        "| served as | turns | time ÷ plain | CPU time ÷ plain | CPU s a picture |",
        "|---|---|---|---|---|",
    ]
    for cell in cells:
        each = np.median([cpu for _, cpu in cell.turns.values()]) / args.requests
        lines.append(
            f"| {cell.name} | {len(cell.turns)} | {cell.against(plain, 0)}"
            f" | {cell.against(plain, 1)} | {each:.4f} |"
        )
    by_clock, by_cpu = (decisive.against(plain, what).at_most(BOUND) for what in (0, 1))
    lines += [
        "",
        f"Verdict on three previews at most {BOUND} × plain: by the clock **{by_clock}**, by CPU"
        f" time **{by_cpu}** (holds: the whole interval is at most {BOUND}).",
        "",
        f"Fitting the linear map took {fit_s:.2f} s, once, when the model was loaded.",
        "",
        "| decoder of finished latents | PSNR against the picture, dB | ms a picture |",
        "|---|---|---|",
        *qualities,
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and print (and write) the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded", help="embedded (the scenes are its own)")
    parser.add_argument("--requests", type=int, default=16, help="requests at once")
    parser.add_argument("--turns", type=int, default=50, help="at least 6")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    table = asyncio.run(run(args, Console(stderr=True)))
    sys.stdout.write(table + "\n")
    if args.out:
        text = f"# What previews cost\n\n`python -m benchmarks.previews`\n\n{table}\n"
        args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
