"""Stock diffusers, static batching and the engine on one GPU, at several numbers of slots.

``python -m benchmarks.gpu`` needs a GPU and nothing else: no download, no Ray. It saves what it has
after each measurement, begins none after ``--minutes``, and adds to what earlier runs found.
``--device cpu --tiny`` tries the benchmark itself out.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import gpu_start
from benchmarks.gpu_cases import Case, Device, Limits, Run
from benchmarks.gpu_report import render
from benchmarks.hardware import cpu_name
from deployments.backends.compiled import inductor
from deployments.backends.cuda import default_dtype, set_up_torch
from deployments.backends.graphs import CudaGraphs
from deployments.backends.memory import CudaMemory

CASES = ("sd15-512", "sdxl-1024", "sd21-512", "sd15-1024", "sdxl-512")
SLOTS = (1, 4, 8, 16, 32)
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
_RESTART_S = 600


class HostMemory:
    """Enough of it: for trying the benchmark out without a GPU."""

    def free(self) -> int:
        """See ``Memory``."""
        return 8 * 2**30

    def peak(self, work: Callable[[], object]) -> int:
        """See ``Memory``."""
        work()
        return 2**20

    def release(self) -> None:
        """See ``Memory``."""


def open_device(args: argparse.Namespace) -> Device:
    """The device to measure.

    Raises:
        SystemExit: it is not there.
    """
    if args.device == "cpu":
        torch.set_num_threads(1)  # tiny operations wait for each other on several
        return Device(
            device=torch.device("cpu"),
            dtype=torch.float32,
            memory=HostMemory(),
            compile_it=None,
            record=lambda: None,
            wait=lambda: None,
            peak=lambda: 0,
        )
    if not torch.cuda.is_available():
        raise SystemExit(f"torch {torch.__version__} sees no CUDA device; --device cpu --tiny?")
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    set_up_torch(deterministic=False)

    def peak() -> int:
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return most

    compiled = args.compile != "off"
    return Device(
        device=device,
        dtype=getattr(torch, args.dtype or default_dtype(torch.cuda.get_device_capability())),
        memory=CudaMemory(device),
        compile_it=inductor(args.compile),
        record=lambda: CudaGraphs(device) if compiled and not args.no_graphs else None,
        wait=torch.cuda.synchronize,
        peak=peak,
    )


def conditions(device: Device, args: argparse.Namespace) -> str:
    """What the numbers hold for."""
    if device.device.type == "cuda":
        one = torch.cuda.get_device_properties(device.device)
        where = f"{one.name}, {one.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    else:
        where = "no GPU"
    import diffusers

    return (
        f"{time.strftime('%Y-%m-%d')}, {where}, {os.cpu_count()} cores of {cpu_name()}, torch"
        f" {torch.__version__}, diffusers {diffusers.__version__}, Python"
        f" {platform.python_version()}, {str(device.dtype).removeprefix('torch.')}, torch.compile"
        f" {args.compile if device.compile_it else 'off'}, CUDA graphs"
        f" {'where they pay' if device.compile_it and not args.no_graphs else 'off'}."
    )


def only_start(args: argparse.Namespace) -> None:
    """In a process of its own: seconds until every graph is warm, as JSON."""
    run = Run(
        case=parse_case(args.only_start),
        slots=args.slots,
        device=open_device(args),
        limits=Limits(until=time.monotonic() + _RESTART_S),
        keep=lambda: None,
        say=lambda text: None,
    )
    backend = run._start()
    backend.denoise  # noqa: B018 - alive until here
    sys.stdout.write(json.dumps({"warm_s": run.results["start"]["warm_s"]}) + "\n")


def restart(case: Case, args: argparse.Namespace, left_s: float) -> dict[str, Any]:
    """A second start, with the compile cache that the first one left on disk."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--only-start", case.name]
    command += ["--device", args.device, "--compile", args.compile]
    command += ["--slots", *map(str, args.slots)]
    command += ["--dtype", args.dtype] if args.dtype else []
    command += ["--no-graphs"] if args.no_graphs else []
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=max(30.0, left_s)
        )
    except subprocess.TimeoutExpired:
        return {"error": "no time left"}
    if done.returncode:
        return {"error": done.stderr.strip()[-300:]}
    took = time.perf_counter() - begin
    return {"process_s": took, **json.loads(done.stdout.splitlines()[-1])}


def start_with_artifact(run: Run, args: argparse.Namespace) -> dict[str, Any]:
    """Of the batch with which the engine is at its best."""
    slots = run.results.get("load", {}).get("slots", args.slots[0])
    return gpu_start.measure(run.case, args.device, run.device.dtype, slots, run.limits.until)


def parse_case(name: str) -> Case:
    """``sd15-512`` to a case."""
    model, _, pixels = name.rpartition("-")
    return Case(model, int(pixels))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and few steps")
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="MODEL-PIXELS, in order")
    parser.add_argument("--slots", nargs="+", type=int, default=list(SLOTS))
    parser.add_argument("--minutes", type=float, default=25, help="begin nothing after that")
    parser.add_argument("--seconds", type=float, default=12, help="of one measurement, about")
    parser.add_argument("--compile", choices=("off", "default", "max-autotune"), default="default")
    parser.add_argument("--no-graphs", action="store_true", help="no CUDA graphs")
    parser.add_argument("--no-restart", action="store_true", help="no second start")
    parser.add_argument("--no-artifact", action="store_true", help="no start with an artifact")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--out", type=Path, default=HERE, help="folder of gpu.json and gpu.md")
    parser.add_argument("--only-start", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.tiny:
        args.cases, args.slots, args.seconds = ["tiny-16"], [1, 2], 0.2
    args.slots = sorted(set(args.slots))
    return args


def main() -> None:
    """Measure, save, print."""
    args = parse_arguments()
    if args.only_start:
        only_start(args)
        return
    console = Console(stderr=True)
    # A cache of its own: the first start compiles, whatever ran here before.
    with tempfile.TemporaryDirectory(prefix="gpu-benchmark-") as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        measure(args, console)


def measure(args: argparse.Namespace, console: Console) -> None:
    """All cases, as far as the time goes."""
    begin = time.monotonic()
    until = begin + args.minutes * 60
    args.out.mkdir(parents=True, exist_ok=True)
    store = args.out / "gpu.json"
    results: dict[str, Any] = json.loads(store.read_text("utf-8")) if store.is_file() else {}
    device = open_device(args)
    console.print(conditions(device, args))

    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - begin:5.0f} s] {text}", markup=False)

    def keep() -> None:
        whole = store.with_suffix(".part")
        whole.write_text(json.dumps(results, indent=1), encoding="utf-8")
        whole.replace(store)
        (args.out / "gpu.md").write_text(render(results), encoding="utf-8")

    runs: list[Run] = []
    for name in args.cases:
        if time.monotonic() > until:
            say(f"{name}: no time left")
            continue
        run = Run(
            case=parse_case(name),
            slots=args.slots,
            device=device,
            limits=Limits(until, args.seconds, 0.2 if args.tiny else 1.0),
            keep=keep,
            say=say,
        )
        run.results["conditions"] = conditions(device, args)
        results[name] = run.results
        run.all()
        # The second start needs the device's memory.
        torch._dynamo.reset()
        gc.collect()
        device.memory.release()
        if not args.no_restart and "warm_s" in run.results.get("start", {}):
            say(f"{name}: restart")
            run.results["restart"] = restart(run.case, args, until - time.monotonic())
            keep()
        runs.append(run)
    # Last: compiling an artifact takes as long as all of a case.
    for run in () if args.no_artifact else runs:
        if "warm_s" in run.results.get("start", {}):
            run.measure_apart("artifact", partial(start_with_artifact, run, args))
    sys.stdout.write(render(results))


if __name__ == "__main__":
    main()
