"""docs/benchmarks.md from the cells."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.better import better
from benchmarks.peers.contestants import (
    COLLECT_S,
    GATHER,
    MOST,
    OTHERS,
    OURS,
    OURS_HAPROXY,
    ROOT,
)
from benchmarks.peers.measure import LOADS, STEPS, WEIGHTS
from benchmarks.peers.results import Results
from benchmarks.peers.tables import (
    alone,
    concurrency,
    light,
    loads,
    memory,
    saturated,
    sizes,
    table,
)
from benchmarks.peers.verdicts import verdicts

# Turns below which an interval is said to be a guess.
FEW = 6


def page(results: Results, picture: Path) -> str:
    """The whole page; a section without cells says so."""
    sections: list[tuple[str, Callable[[Results], list[str]]]] = [
        ("Goals", goals),
        ("Saturated", saturated),
        ("Latency at a given load", loads),
        ("One request alone", alone),
        ("Memory and cold start", memory),
        ("More clients at once", concurrency),
        ("Larger pictures", sizes),
        ("More pools, more ingress replicas", light),
        ("Where others are better", better),
        ("Who was not measured, and what failed", failed),
    ]
    where = os.path.relpath(picture, ROOT / "docs")
    lines = ["# Beside others", "", *conditions(results)]
    for title, section in sections:
        lines += [f"## {title}", "", *(section(results) or ["Not measured.", ""])]
        if section is loads and results.servers(f"load {LOADS[0]}"):
            lines += [f"![latency by load]({where})", ""]
    return "\n".join(lines).rstrip() + "\n"


def conditions(results: Results) -> list[str]:
    """Date, hardware, versions and rules."""
    found = results.conditions
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    mix = ", ".join(f"{s} ({w:.0%})" for s, w in zip(STEPS, WEIGHTS, strict=True))
    turns = 1 + max((cell["turn"] for cell in results.cells), default=0)
    many = "one turn" if turns == 1 else f"{turns} turns, every other one in reverse order"
    return [
        f"`make bench-peers`, {' and '.join(results.under('date')) or found['date']},"
        f" {found['cores']} cores of {found['cpu']}, Python {found['python']}, {versions}. Code"
        f" {found['code']}. Load of the machine before the run: {found['load_before']}.",
        "",
        *mixing(results),
        "Every server paints with the embedded model (64×64 pixels unless said otherwise), one copy"
        " of it, on one thread, and answers with a PNG of the same compression over HTTP on the"
        f" same port, one server after the other; {many}. The"
        " client runs on the same cores; no two requests have the same prompt. Figures are means"
        " over the turns ± half their range; percentiles are over all requests of all turns."
        " Only ratios within this page mean anything.",
        "",
        f"Mixed steps: {mix}. The others call the stock diffusers pipeline, which takes one step"
        f" count per call, so batching means up to {MOST} pictures of equal steps. LitServe,"
        f" BentoML and `@serve.batch` collect up to {GATHER} requests and make one call per step"
        f" count among them; “by hand” picks equal ones from the whole queue. Both wait"
        f" {COLLECT_S * 1000:.0f} ms for company; BentoML decides by itself how long. Running all"
        " for the most steps would be one call, but paint other pictures than were asked for."
        " Ray's workers run at normal priority here (`RAY_worker_niceness=0`; its default of 15"
        " lets anything else on the machine go first).",
        "",
    ]


def mixing(results: Results) -> list[str]:
    """That cells were not measured under the same conditions, if so."""
    mixed = {key: results.under(key) for key in ("date", "code", "hardware")}
    told = [f"{key} ({', '.join(found)})" for key, found in mixed.items() if len(found) > 1]
    if not told:
        return []
    return [f"**Mixed:** cells differ in {' and '.join(told)}; a turn may pair unlike ones.", ""]


def goals(results: Results) -> list[str]:
    """The verdicts, for the default and with HAProxy."""
    first, second = verdicts(results), verdicts(results, OURS_HAPROXY)
    rows = [
        (
            one.goal,
            f"{'≥' if one.at_least else '≤'} {one.limit:g}",
            one.text,
            one.word,
            two.text,
            two.word,
        )
        for one, two in zip(first, second, strict=True)
    ]
    head = ("ratio", "goal", OURS, "", OURS_HAPROXY, "")
    note = (
        "Ours over the best other's of the same turn, geometric means over the turns; in brackets"
        " their 95 % interval (turns drawn again with replacement). A goal inside of it is within"
        " noise: neither met nor missed."
    )
    turns = max((v.measured.pairs for v in (*first, *second) if v.measured), default=0)
    if 1 < turns < FEW:
        # Of n even draws all lie on one side of their median with 2 × 2^-n.
        note += (
            f" {turns} turns are few: their whole range holds the true ratio in"
            f" {1 - 2 ** (1 - turns):.0%} of cases at most, so “met” and “missed” are that sure."
        )
    note += f" “{OURS_HAPROXY}” is the same service with Ray's throughput settings on as well."
    return [*table(head, rows), note, ""]


def failed(results: Results) -> list[str]:
    """Servers that are not in the tables, with what they said."""
    up = set(results.servers("start")) | set(results.servers("light"))
    cells = [cell for cell in results.of("failed") if cell["server"] not in up]
    said = {cell["server"]: cell["error"] for cell in cells}
    absent = [server for server in (*OTHERS, OURS, OURS_HAPROXY) if server not in up]
    if not absent:
        lines = ["All were measured.", ""]
    else:
        lines = [*(f"* {said.get(name, f'{name}: not part of this run')}" for name in absent), ""]
    return [*lines, *failures(results)]


def failures(results: Results) -> list[str]:
    """Whose requests failed, how many, and what clients saw."""
    found = dict[str, Counter[str]]()
    for cell in results.cells:
        for one in (cell, *cell.get("by_clients", {}).values(), *cell.get("by_side", {}).values()):
            for error in one.get("errors", ()):
                found.setdefault(cell["server"], Counter())[error] += 1
    rows = [
        (server, ", ".join(f"{count} × {error}" for error, count in kinds.most_common()))
        for server, kinds in found.items()
    ]
    if not rows:
        return ["No request failed.", ""]
    return [
        "Requests that failed, in the tables above counted as errors and left out of images/s:",
        "",
        *table(("server", "what the client saw"), rows),
    ]
