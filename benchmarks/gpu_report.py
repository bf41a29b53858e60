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
- *artifact*: a replica's start with a published artifact (AOTInductor, one batch) and without.
"""
NOT_RUN = """
**Not yet run on a GPU.** No device was at hand; `python -m benchmarks.gpu --device cpu --tiny` only
shows that the benchmark itself works (`tests/benchmarks`).
"""
GOALS = """
Goals (H200): engine at 8 or more slots at least 3 × *compiled* at 512²; p95 at 80 % of static
batching's capacity at most half of *static*'s; share at most 5 %.
"""


# Slots from which on the engine is meant to be far ahead, and its goals.
_MANY, _AHEAD, _P95, _SHARE = 8, 3.0, 0.5, 0.05


def goals(name: str, case: Mapping[str, Any]) -> list[str]:
    """A line for each goal that the case's numbers speak of: met or missed."""
    lines = []
    base = case.get("compiled", {}).get("images_per_s")
    rates = {
        slots: case[f"engine {slots}"]["images_per_s"]
        for slots in _slots(case)
        if slots >= _MANY and "images_per_s" in case[f"engine {slots}"]
    }
    if base and rates and name.endswith("-512"):
        best = max(rates, key=lambda slots: rates[slots])
        ratio = rates[best] / base
        lines.append(_goal(ratio >= _AHEAD, f"engine {best} ÷ compiled {ratio:.2f}, ≥ {_AHEAD:g}"))
    load = case.get("load", {})
    if "engine_p95" in load and "static_p95" in load:
        ratio = load["engine_p95"] / load["static_p95"]
        lines.append(_goal(ratio <= _P95, f"p95, engine ÷ static {ratio:.2f}, ≤ {_P95:g}"))
    share = case.get(f"share {load.get('slots')}", {}).get("share")
    if share is not None:
        lines.append(
            _goal(share <= _SHARE, f"share at {load['slots']} slots {share:.3f}, ≤ {_SHARE:g}")
        )
    return lines


def _goal(met: bool, text: str) -> str:
    return f"- **{'met' if met else 'missed'}**: {text}"


def _slots(case: Mapping[str, Any]) -> list[int]:
    return sorted(int(name.split()[1]) for name in case if name.startswith("engine "))


def render(results: Mapping[str, Any]) -> str:
    """The whole document."""
    if not results:
        return HEAD + NOT_RUN + GOALS
    parts = [HEAD, GOALS]
    for name, case in results.items():
        parts.append(f"\n## {name}\n\n{case.get('conditions', '')}\n")
        parts.append(_throughput(case))
        parts.append(_others(case))
        parts.append("\n".join(["", *goals(name, case)]))
    return "\n".join(part.rstrip() for part in parts) + "\n"


def _throughput(case: Mapping[str, Any]) -> str:
    lines = [
        "| server | images/s | ÷ compiled | peak GiB | step ms | UNet ms | share |",
        "|---|---|---|---|---|---|---|",
    ]
    base = case.get("compiled", {}).get("images_per_s")
    for name in ("eager", "compiled", *(f"engine {n}" for n in _slots(case))):
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
    for name in ("start", "restart", "artifact", "static", "load"):
        found = case.get(name)
        if found is None:
            continue
        lines += [f"| {name}: {key} | {_value(value)} |" for key, value in found.items()]
    return "\n".join(lines) + "\n"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_value(one)}" for key, one in value.items())
    return str(value)
