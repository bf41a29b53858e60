"""How much a step costs by batch size, and where a larger batch stops paying."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import torch

from deployments.backends.base import Backend, BackendFacts, DenoiseBatch, TextEmbedding

# A larger batch must cut the cost per row by at least this much to be worth the longer step.
WORTHWHILE_GAIN = 0.01
REPEATS = 3
ROUNDS = 4
# A step as long as this is timed once: noise is small beside it, and start-up must end.
LONG_STEP_MS = 500.0


def measure_step_costs(
    backend: Backend, height: int, width: int, max_rows: int
) -> dict[int, float]:
    """Milliseconds per UNet call for 1, 2, 4, … rows (or just the fixed batch).

    Runs every batch size several times before its best time counts, so it is also the warm-up.
    Every size is timed again in later rounds: a first round is slower, and a busy spell of the
    machine must not decide for one size. Where a step is long, sizes after the first doubling
    that does not pay are left out.

    Args:
        backend: device code.
        height: picture height in pixels.
        width: picture width in pixels.
        max_rows: largest batch to try.
    """
    # In a thread of its own, as the engine's steps: memory that the main thread allocates is handed
    # out by other rules, which made a batch of 16 rows look a tenth slower than it was.
    with ThreadPoolExecutor(1, "calibration") as thread:
        return thread.submit(_measure, backend, height, width, max_rows).result()


def _measure(backend: Backend, height: int, width: int, max_rows: int) -> dict[int, float]:
    text = backend.encode_prompt("")
    if backend.facts.fixed_rows is not None:
        rows = backend.facts.fixed_rows
        return {rows: time_rows(backend, text, height, width, rows)}
    costs: dict[int, float] = {}
    rows = 1
    max_rows = min(max_rows, backend.facts.max_rows or max_rows)
    while rows <= max_rows:
        costs[rows] = time_rows(backend, text, height, width, rows)
        if rows >= 4 and costs[rows] > LONG_STEP_MS and not _pays(costs, rows, rows // 2):
            break
        rows *= 2
    for _ in range(ROUNDS - 1):
        for rows, known in costs.items():
            if known <= LONG_STEP_MS:
                costs[rows] = min(known, time_rows(backend, text, height, width, rows))
    return costs


def choose_rows(costs: dict[int, float]) -> int:
    """The batch size after which a row gets no cheaper; at least 2 (one guided request)."""
    sizes = sorted(costs)
    best = max(sizes[0], 2) if len(sizes) > 1 else sizes[0]
    for rows in sizes:
        if rows > best and _pays(costs, rows, best):
            best = rows
    return best


def _pays(costs: dict[int, float], rows: int, than: int) -> bool:
    return costs[rows] / rows < (1 - WORTHWHILE_GAIN) * costs[than] / than


def blank_batch(
    facts: BackendFacts, text: TextEmbedding, height: int, width: int, rows: int
) -> DenoiseBatch:
    """So many rows of pictures of this size in pixels, with which to try a step out."""
    cell = facts.scale_factor
    device = torch.device(facts.device)
    shape = (rows, facts.input_channels, height // cell, width // cell)
    return DenoiseBatch(
        latents=torch.zeros(shape, dtype=facts.dtype, device=device),
        timesteps=torch.full((rows,), 500.0, device=device),
        hidden=text.hidden.repeat(rows, 1, 1),
        pooled=None if text.pooled is None else text.pooled.repeat(rows, 1),
        time_ids=torch.zeros(rows, 6, dtype=facts.dtype, device=device)
        if facts.size_conditioned
        else None,
        timestep_cond=torch.zeros(
            rows, facts.guidance_embedding_dim, dtype=facts.dtype, device=device
        )
        if facts.guidance_embedding_dim is not None
        else None,
        adapters=torch.zeros(rows, dtype=torch.long, device=device) if facts.loras else None,
    )


def time_rows(backend: Backend, text: TextEmbedding, height: int, width: int, rows: int) -> float:
    """Milliseconds of one UNet call with so many rows of this size, the best of a few."""
    batch = blank_batch(backend.facts, text, height, width, rows)
    best = float("inf")
    for call in range(REPEATS + 1):
        begin = time.perf_counter()
        # Reading one value back waits for a device that works asynchronously.
        backend.denoise(batch).flatten()[0].item()
        best = min(best, (time.perf_counter() - begin) * 1000)
        if call and best > LONG_STEP_MS:  # the first call may be a slow one
            break
    return best
