"""The CPU backend: eager torch on this process' cores."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import torch

from deployments.backends.allocation import keep_freed_memory
from deployments.backends.packaged import GraphSource
from deployments.backends.pipeline import PipelineBackend
from deployments.engine.calibration import LONG_STEP_MS, time_rows
from deployments.lora.loading import add_adapters
from deployments.model import load_pipeline
from deployments.options import ReplicaOptions
from deployments.startup import stage

DECODE_BATCH = 4
# Two guided pictures: between one alone, which wants a short step, and a full batch.
_TRIAL_ROWS = 4


def create(options: ReplicaOptions, graphs: GraphSource | None = None) -> PipelineBackend:
    """Load the model in float32 (or as told) and choose the number of threads if not told.

    Args:
        options: what the replica was told.
        graphs: compiled ones to run in the place of the model's own parts.
    """
    keep_freed_memory()
    torch.set_num_threads(options.threads or usable_cores())
    dtype = getattr(torch, options.dtype or "float32")
    pipe = load_pipeline(options.model_source, options.model_revision)
    backend = PipelineBackend(
        pipe,
        device=torch.device("cpu"),
        dtype=dtype,
        fixed_rows=options.max_rows if options.deterministic else None,
        decode_batch=1 if options.deterministic else DECODE_BATCH,
        overlap_decode=False,
        adapters=add_adapters(pipe, options.loras, options.fuse_lora),
    )
    if graphs is not None:
        graphs.attach(backend)
    # Timing may choose differently next time, and another number of threads other last bits.
    if options.threads is None and not options.deterministic:
        with stage("warm_up"):
            torch.set_num_threads(fastest_threads(backend, *backend.own_size))
    # A core that the steps leave free decodes beside them: some 10 % more images/s.
    spare = torch.get_num_threads() < usable_cores()
    backend.facts = dataclasses.replace(backend.facts, overlap_decode=spare)
    return backend


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may keep busy: its affinity, within a container's CPU quota.

    Args:
        quota: control group file of the quota (Linux, version 2): microseconds and period.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        allowed, period = quota.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores  # no such control group
    return cores if allowed == "max" else max(1, min(cores, math.ceil(int(allowed) / int(period))))


def fastest_threads(backend: PipelineBackend, height: int, width: int) -> int:
    """The number of threads, up to all cores, with which a step of a few rows takes least time.

    A small model's step is many short operations, and threads that have to be woken for each cost
    more than they save: the embedded model's step takes twice as long on two cores as on one.
    """
    cores = usable_cores()
    numbers = [cores]
    while numbers[-1] > 1:
        numbers.append(numbers[-1] // 2)
    text = backend.encode_prompt("")
    costs: dict[int, float] = {}
    for threads in numbers:
        torch.set_num_threads(threads)
        costs[threads] = time_rows(backend, text, height, width, _TRIAL_ROWS)
        if costs[threads] > LONG_STEP_MS:  # worth every core, and too long to try fewer
            break
    return min(costs, key=lambda threads: costs[threads])
