"""docs/benchmarks.md from the cells."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.peers.contestants import (
    COLLECT_S,
    GATHER,
    MOST,
    OTHERS,
    OURS,
    OURS_HAPROXY,
    OURS_LEAN,
    PLAIN,
    ROOT,
)
from benchmarks.peers.measure import LOADS, STEPS, WEIGHTS
from benchmarks.peers.results import Results
from benchmarks.peers.summary import (
    best,
    best_percentile,
    percentiles,
    ratio,
    static,
    value,
    verdicts,
)

ABSENT = "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table, numbers to the right."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def number(found: float | None, digits: int = 2) -> str:
    """A figure, or that there is none."""
    return ABSENT if found is None else f"{found:,.{digits}f}"


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
        ("Who was not measured", failed),
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
        f"`make bench-peers`, {found['date']}, {found['cores']}"
        f" cores of {found['cpu']}, Python {found['python']}, {versions}. Load of the machine"
        f" before the run: {found['load_before']}.",
        "",
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


def goals(results: Results) -> list[str]:
    """The verdicts, for the default and with HAProxy."""
    first, second = verdicts(results), verdicts(results, OURS_HAPROXY)
    rows = [
        (
            one.goal,
            f"{'≥' if one.at_least else '≤'} {one.limit:g}",
            number(one.measured),
            one.word,
            number(two.measured),
            two.word,
        )
        for one, two in zip(first, second, strict=True)
    ]
    head = ("ratio", "goal", OURS, "", OURS_HAPROXY, "")
    note = f"“{OURS_HAPROXY}” is the same service with Ray's throughput settings on as well."
    return [*table(head, rows), note, ""]


def saturated(results: Results) -> list[str]:
    """Images a second with a queue that is never empty."""
    if not results.servers("mixed"):
        return []
    top = {k: best(results, k, "rate", static(results), least=False) for k in ("equal", "mixed")}
    rows = []
    for server in results.servers("mixed"):
        row = [server]
        for kind in ("equal", "mixed"):
            found = value(results, kind, server, "rate")
            plain = value(results, kind, PLAIN, "rate")
            mean = found.mean if found else None
            row += [
                found.text(1) if found else ABSENT,
                number(ratio(mean, top[kind])),
                number(ratio(mean, plain.mean if plain else None)),
            ]
        rows.append([*row, str(errors(results, ("equal", "mixed"), server))])
    head = ["server"]
    for steps in ("8 steps", "mixed"):
        head += [f"images/s, {steps}", "÷ best static", "÷ one at a time"]
    return [*table([*head, "errors"], rows), *curve(results)]


def curve(results: Results) -> list[str]:
    """What a batch can gain at all."""
    lines = []
    for cell in results.of("curve"):
        rates = cell["images_per_s"]
        first = rates["1"]
        heads = ["pictures per call", *rates]
        shown = ["images/s, 8 steps", *(number(rate, 1) for rate in rates.values())]
        gains = ["÷ one", *(number(rate / first) for rate in rates.values())]
        lines += [
            "What batching can gain on this machine at all, of the stock pipeline alone:",
            "",
            *table(heads, [shown, gains]),
        ]
    return [
        *lines,
        "The same comparison without HTTP: [the engine's table](../benchmarks/engine.md).",
        "",
    ]


def errors(results: Results, kinds: Sequence[str], server: str) -> int:
    """Requests without a good picture."""
    return sum(len(cell["errors"]) for kind in kinds for cell in results.of(kind, server))


def loads(results: Results) -> list[str]:
    """Open-loop percentiles."""
    rows = []
    for load in LOADS:
        kind = f"load {load}"
        p50s, p95s = (best_percentile(results, kind, which) for which in (0, 1))
        for server in results.servers(kind):
            found = percentiles(results, kind, server)
            if found is None:
                rows.append([f"{load} %", server, *[ABSENT] * 6, "all"])
                continue
            p50, p95, p99 = found
            cells = results.of(kind, server)
            medians = [float(np.median(c["latencies_ms"])) for c in cells if c["latencies_ms"]]
            rows.append(
                [
                    f"{load} %",
                    server,
                    f"{p50:,.0f}",
                    f"{min(medians):,.0f} to {max(medians):,.0f}",
                    f"{p95:,.0f}",
                    f"{p99:,.0f}",
                    number(ratio(p50, p50s)),
                    number(ratio(p95, p95s)),
                    str(errors(results, [kind], server)),
                ]
            )
    if not rows:
        return []
    offered = results.of(f"load {LOADS[0]}")[0]["offered"] / LOADS[0] * 100
    count = len(results.of(f"load {LOADS[-1]}")[0]["latencies_ms"])
    head = ("load", "server", "p50 ms", "p50 by turn", "p95 ms", "p99 ms", "p50 ÷ best static")
    return [
        f"Open loop, Poisson arrivals, mixed steps, the same for all. 100 % is {offered:.1f}"
        f" images/s, what the best static batching did in the first turn. A cell has some {count}"
        " requests a turn at the highest load, so that p99 rests on a few requests. One at a time"
        " cannot carry more than the first load.",
        "",
        *table((*head, "p95 ÷ best static", "errors"), rows),
    ]


def alone(results: Results) -> list[str]:
    """Overhead of a request."""
    servers = results.servers("alone")
    if not servers:
        return []
    least = best(results, "alone", "beyond_ms", [s for s in servers if not _ours(s)], least=True)
    rows = []
    for server in servers:
        found = percentiles(results, "alone", server)
        beyond = value(results, "alone", server, "beyond_ms")
        model = value(results, "alone", server, "model_ms")
        rows.append(
            [
                server,
                number(found[0] if found else None, 1),
                model.text(1) if model else ABSENT,
                beyond.text(1) if beyond else ABSENT,
                number(ratio(beyond.mean if beyond else None, least), 1),
            ]
        )
    head = ("server", "p50 ms", "its model's ms", "beyond ms", "÷ leanest other")
    return [
        "One client, one step. “Beyond” is what the client waits less what the server says its"
        " model took: HTTP, validation, routing, hops between processes, waiting for company.",
        "",
        *table(head, rows),
    ]


def memory(results: Results) -> list[str]:
    """Of all processes of a server."""
    servers = results.servers("start")
    if not servers:
        return []
    least = best(results, "start", "pss_mb", [s for s in servers if not _ours(s)], least=True)
    rows = []
    for server in servers:
        found = {
            key: value(results, "start", server, key)
            for key in ("cold_s", "processes", "pss_mb", "rss_mb")
        }
        cold, processes, pss, rss = found.values()
        if cold is None or processes is None or pss is None or rss is None:
            continue
        rows.append(
            [
                server,
                cold.text(1),
                f"{processes.mean:.0f}",
                pss.text(0),
                f"{rss.mean:,.0f}",
                number(ratio(pss.mean, least), 1),
            ]
        )
    head = ("server", "s to the first picture", "processes", "PSS MB", "RSS MB", "PSS ÷ leanest")
    lines = table(head, rows)
    kinds: dict[str, int] = next(
        (c["by_kind"] for c in results.of("start", OURS) if c["by_kind"]), {}
    )
    if kinds:
        parts = sorted(kinds.items(), key=lambda item: -item[1])
        told = ", ".join(f"{kind} {mb}" for kind, mb in parts)
        lines += [
            f"{OURS} by process, PSS in MB: {told}. “{OURS_LEAN}” is the same service started"
            " without Ray's dashboard, which also takes `serve deploy`, `serve status` and the REST"
            " API away. The command is gone once it has deployed to a cluster that stands.",
            "",
        ]
    return lines


def concurrency(results: Results) -> list[str]:
    """One-step pictures by clients."""
    return _growth(results, "concurrency", "by_clients", "{} clients", "One step, closed loop.")


def sizes(results: Results) -> list[str]:
    """Pictures of other sizes."""
    said = "Eight steps; 16 pictures at once, 8 of the largest."
    return _growth(results, "size", "by_side", "{0}×{0}", said)


def _growth(results: Results, kind: str, key: str, head: str, said: str) -> list[str]:
    cells = results.of(kind)
    if not cells:
        return []
    names = list(cells[0][key])
    rows = []
    for cell in cells:
        row = [cell["server"]]
        for name in names:
            one = cell[key][name]
            p95 = np.percentile(one["latencies_ms"], 95) if one["latencies_ms"] else float("nan")
            wrong = f", {len(one['errors'])} errors" if one["errors"] else ""
            row.append(f"{one['rate']:.1f}/s, {p95:,.0f} ms{wrong}")
        rows.append(row)
    heads = [head.format(name) for name in names]
    return [f"{said} Images a second, and p95.", "", *table(["server", *heads], rows)]


def light(results: Results) -> list[str]:
    """Our front by numbers of pools and ingress replicas."""
    cells = results.of("light")
    if not cells:
        return []
    rows = [
        [
            cell["server"],
            f"{cell['alone_ms']:.1f}",
            f"{cell['rate']:,.0f}",
            f"{cell['cold_s']:.0f}",
            f"{cell['pss_mb']:,}",
            str(len(cell["errors"])),
        ]
        for cell in cells
    ]
    head = ("", "p50 ms, 1 client", "requests/s, 32 clients", "s to start", "PSS MB", "errors")
    return [
        "The real proxy, ingress, routing and handles in front of pools that answer at once with"
        " a ready picture and hold no model, so that fifty fit one machine. One measurement each;"
        " client, proxy, ingress and pools share the cores, so that more ingress replicas can"
        " gain only what the proxy leaves. The cost of a routing decision alone, by pools, is in"
        " [the routing table](../benchmarks/routing.md).",
        "",
        *table(head, rows),
    ]


def better(results: Results) -> list[str]:
    """What others do better, with the figure and the reason."""
    reasons = {
        "overhead": "a request passes Serve's proxy and an ingress before the model's process, and"
        " is routed and validated; a single process has none of these hops",
        "memory": "Ray's own processes, the proxy and the ingress come on top of the model's",
        "images/s": "the whole service has more to do per picture than a loop around one pipeline",
        "p50": "see the table above",
        "p95": "see the table above",
    }
    lines = []
    for verdict in verdicts(results):
        if verdict.word == "missed":
            reason = next((why for word, why in reasons.items() if word in verdict.goal), "")
            goal = f"{verdict.goal}: {number(verdict.measured)}, goal {verdict.limit:g}"
            lines.append(f"* {goal}. {reason[:1].upper()}{reason[1:]}.")
    cold, least = (
        value(results, "start", OURS, "cold_s"),
        best(
            results,
            "start",
            "cold_s",
            [s for s in results.servers("start") if not _ours(s)],
            least=True,
        ),
    )
    if cold is not None and least is not None and cold.mean > least:
        lines.append(
            f"* Cold start: {cold.mean:.1f} s against {least:.1f} s. A cluster starts first, then"
            " the replica measures its step costs before it calls itself ready."
        )
    lines += [
        "* On a machine without an accelerator, one server process per core, each with its own copy"
        " of the model, uses all cores; what is compared here has one copy each, as a device has."
        " Ours does so with `max_replicas` of the CPU pool.",
        "* Where one request at a time is all there is, a script around the pipeline is as fast and"
        " far smaller. What the rest buys is company in the batch, more than one kind of device,"
        " and an answer when one of them is gone.",
    ]
    return [*lines, ""]


def failed(results: Results) -> list[str]:
    """Servers that are not in the tables, with what they said."""
    up = set(results.servers("start")) | set(results.servers("light"))
    cells = [cell for cell in results.of("failed") if cell["server"] not in up]
    said = {cell["server"]: cell["error"] for cell in cells}
    absent = [server for server in (*OTHERS, OURS, OURS_HAPROXY) if server not in up]
    if not absent:
        return ["All were.", ""]
    return [*(f"* {said.get(name, f'{name}: not part of this run')}" for name in absent), ""]


def _ours(server: str) -> bool:
    return server.startswith(OURS)
