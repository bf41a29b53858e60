"""Measurements of ``benchmarks.gpu`` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEAD = """# GPU benchmark

`python -m benchmarks.gpu` (bounded by `--minutes`; `--cases`, `--slots` choose; results are kept in
`gpu.json` and added to). Models of the published shapes with random weights, guided pictures (two
rows each), 20 steps where not mixed; mixed is 8, 20 and 50 steps (30, 50, 20 %).

- *eager*: stock diffusers, one picture at a time.
- *compiled*: stock diffusers with this project's compiled UNet and VAE, one at a time.
- *static*: collect-then-run of equal step counts on the same graphs.
- *engine n*: step-level batching with n slots, on the same graphs.
- *share*: part of a full step that is not the UNet call.
- *restart*: a new process that finds torch's compile cache on disk.
"""
NOT_RUN = """
**Not yet run on a GPU.** No device was at hand; `python -m benchmarks.gpu --device cpu --tiny` only
shows that the benchmark itself works (`tests/benchmarks`).
"""
GOALS = """
Goals (H200): engine at 8 or more slots at least 3 × *compiled* at 512²; p95 at 80 % of static
batching's capacity at most half of *static*'s; share at most 5 %.
"""


def render(results: Mapping[str, Any]) -> str:
    """The whole document."""
    if not results:
        return HEAD + NOT_RUN + GOALS
    parts = [HEAD, GOALS]
    for name, case in results.items():
        parts.append(f"\n## {name}\n\n{case.get('conditions', '')}\n")
        parts.append(_throughput(case))
        parts.append(_others(case))
    return "\n".join(part.rstrip() for part in parts) + "\n"


def _throughput(case: Mapping[str, Any]) -> str:
    lines = [
        "| server | images/s | ÷ compiled | peak GiB | step ms | UNet ms | share |",
        "|---|---|---|---|---|---|---|",
    ]
    base = case.get("compiled", {}).get("images_per_s")
    slots = sorted(int(name.split()[1]) for name in case if name.startswith("engine "))
    for name in ("eager", "compiled", *(f"engine {n}" for n in slots)):
        found = case.get(name, {"error": "not measured"})
        if "error" in found:
            lines.append(f"| {name} | {found['error']} | | | | | |")
            continue
        rate, peak = found["images_per_s"], found.get("peak", 0) / 2**30
        share = case.get(f"share {name.removeprefix('engine ')}", {})
        step, unet, part = (share.get(key) for key in ("step_ms", "unet_ms", "share"))
        lines.append(
            f"| {name} | {rate:.3f} | {_number(base and rate / base, 2)} | {peak:.1f} "
            f"| {_number(step, 1)} | {_number(unet, 1)} | {_number(part, 3)} |"
        )
    return "\n".join(lines) + "\n"


def _others(case: Mapping[str, Any]) -> str:
    lines = ["", "| measurement | value |", "|---|---|"]
    for name in ("start", "restart", "static", "load"):
        found = case.get(name)
        if found is None:
            continue
        lines += [f"| {name}: {key} | {_value(value)} |" for key, value in found.items()]
    load = case.get("load", {})
    if "engine_p95" in load and "static_p95" in load:
        ratio = load["engine_p95"] / load["static_p95"]
        lines.append(f"| **p95, engine ÷ static** | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_value(one)}" for key, one in value.items())
    return str(value)
