"""What others do better, with the figure and the reason."""

from __future__ import annotations

from benchmarks.peers.contestants import OURS, OURS_HAPROXY, OURS_LEAN, ROOT
from benchmarks.peers.engine_table import engine_misses
from benchmarks.peers.results import Cell, Results
from benchmarks.peers.summary import best, figure, value
from benchmarks.peers.tables import number, ours
from benchmarks.peers.verdicts import Verdict, verdicts

ENGINE = ROOT / "benchmarks" / "engine.md"
ALWAYS = (
    "* vLLM-Omni and SGLang Diffusion serve more models (diffusion transformers, video) and split"
    " one picture over several GPUs; both have been run on accelerators. Here it is Stable"
    " Diffusion 1, 2 and XL, one device a picture, and neither GPU nor Neuron has been seen yet."
    " They are not in these tables: they are made for accelerators, and none was at hand.",
    "* On a machine without an accelerator, one server process per core, each with its own copy"
    " of the model, uses all cores; what is compared here has one copy each, as a device has."
    " Ours does so with `max_replicas` of the CPU pool.",
    "* Where one request at a time is all there is, a script around the pipeline is as fast and"
    " far smaller. What the rest buys is company in the batch, more than one kind of device,"
    " and an answer when one of them is gone.",
)


def better(results: Results) -> list[str]:
    """The section of the page."""
    lines = [
        f"* {one.goal}: {one.text}, goal {one.limit:g}{'' if one.missed else f', {one.word}'}."
        f" {reason(results, one)}"
        for one in verdicts(results)
        if one.missed or one.behind
    ]
    lines += behind(results, "concurrency", "by_clients", "{} clients at once")
    lines += behind(results, "size", "by_side", "{0}×{0} pixels")
    cold, least = value(results, "start", OURS, "cold_s"), None
    if cold is not None:
        others = [server for server in results.servers("start") if not ours(server)]
        least = best(results, "start", "cold_s", others, least=True)
    if cold is not None and least is not None and cold.mean > least:
        lines.append(
            f"* Cold start: {cold.mean:.1f} s against {least:.1f} s. A cluster starts first, then"
            " the replica measures its step costs before it calls itself ready."
        )
    misses = engine_misses(ENGINE.read_text("utf-8")) if ENGINE.exists() else []
    if misses:
        misses.append(
            "\n  [The engine's tables](../benchmarks/engine.md) have no intervals, and their p95"
            " rest on a twentieth of the requests: where two tables of a day disagree about a goal,"
            " neither decides it. The reasons are arithmetic on the tables, not profiles."
        )
    return [*lines, *misses, *ALWAYS, ""]


def behind(results: Results, kind: str, key: str, head: str) -> list[str]:
    """Where ours has fewer images a second than the best other by more than a twentieth."""
    cells = results.of(kind)
    mine: dict[str, Cell] = next((cell[key] for cell in cells if cell["server"] == OURS), {})
    lines = []
    for name, one in mine.items():
        others = {cell["server"]: cell[key][name] for cell in cells if not ours(cell["server"])}
        good = {server: found["rate"] for server, found in others.items() if not found["errors"]}
        if not good or one["rate"] >= 0.95 * max(good.values()):
            continue
        first = max(good, key=lambda server: good[server])
        lines.append(
            f"* {head.format(name)}: {one['rate']:.1f} images/s, {first} {good[first]:.1f}."
        )
    return lines


def reason(results: Results, verdict: Verdict) -> str:
    """Why a goal was missed, with what the run itself tells of it."""
    if "overhead" in verdict.goal:
        return _overhead(results)
    if "memory" in verdict.goal:
        return _memory(results)
    if "one at a time" in verdict.goal:
        gains = [cell["images_per_s"] for cell in results.of("curve")]
        gain = max((max(c.values()) / c["1"] for c in gains), default=None)
        told = f"; its curve ends at {number(gain)} times" if gain else ""
        return f"More than a batch gains on this machine nobody can reach{told}."
    if "images/s" in verdict.goal:
        return (
            "A queue that is never empty fills static batches too, so that joining late gains"
            " little, while the proxy, the ingress and a scheduler for each request take time of"
            " the cores that a single process leaves to the model. The engine alone:"
            " [its tables](../benchmarks/engine.md)."
        )
    return (
        "Near saturation all wait for the same cores, of which proxy and ingress take a part"
        " here; and a request's own steps in a full batch, most of p95, nobody can shorten."
    )


def _overhead(results: Results) -> str:
    parts = [
        "A request passes Serve's proxy and an ingress before the model's process, and is"
        " validated and routed; a single process has none of these hops."
    ]
    for cell in results.of("light", "1 pools, 1 ingress"):
        ms = number(figure(cell["alone"][0], "latencies_ms"), 1)
        parts.append(f"All of that without a model: {ms} ms.")
    lean = value(results, "alone", OURS_HAPROXY, "beyond_ms")
    if lean is not None:
        parts.append(f"With Ray's HAProxy and throughput settings {number(lean.mean, 1)} ms stay.")
    return " ".join(parts)


def _memory(results: Results) -> str:
    told = "Ray's own processes, the proxy and the ingress come on top of the model's"
    kinds: dict[str, int] = next((c["by_kind"] for c in results.of("start", OURS)), {})
    lean = value(results, "start", OURS_LEAN, "pss_mb")
    if "replica" in kinds:
        told += f": of {sum(kinds.values())} MB the model's process has {kinds['replica']}"
    if lean is not None:
        told += f"; without Ray's dashboard it is {number(lean.mean, 0)} MB"
    return f"{told}."
