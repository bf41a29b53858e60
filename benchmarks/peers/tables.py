"""Sections of docs/benchmarks.md, one for each kind of cell."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from benchmarks.peers.contestants import (
    OURS,
    OURS_LEAN,
    PLAIN,
)
from benchmarks.peers.lateness import late
from benchmarks.peers.measure import CONCURRENCY, FEWEST, LOADS, ROUNDS, SIDES
from benchmarks.peers.ratios import Figure, against
from benchmarks.peers.results import Results
from benchmarks.peers.summary import (
    Value,
    best,
    figure,
    percentiles,
    ratio,
    static,
    value,
)

ABSENT = "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table, numbers to the right."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def number(found: float | None, digits: int = 2) -> str:
    """A figure, or that there is none; ∞ where it is an error's."""
    if found is None or math.isnan(found):
        return ABSENT
    return "∞" if math.isinf(found) else f"{found:,.{digits}f}"


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
    """What a batch gains the stock pipeline."""
    lines = []
    for cell in results.of("curve"):
        rates = cell["images_per_s"]
        first = rates["1"]
        heads = ["pictures per call", *rates]
        shown = ["images/s, 8 steps", *(number(rate, 1) for rate in rates.values())]
        gains = ["÷ one", *(number(rate / first) for rate in rates.values())]
        lines += [
            "What batching gains the stock pipeline alone, in one process without a server,"
            " measured once before the others:",
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
        for server in results.servers(kind):
            found = percentiles(results, kind, server)
            if found is None:
                continue
            p50, p95, p99 = found
            medians = [figure(cell, "latencies_ms") for cell in results.of(kind, server)]
            rows.append(
                [
                    f"{load} %",
                    server,
                    number(p50, 0),
                    f"{number(min(medians), 0)} to {number(max(medians), 0)}",
                    number(p95, 0),
                    number(p99, 0),
                    *(over_static(results, kind, server, percent) for percent in (50, 95)),
                    str(errors(results, [kind], server)),
                ]
            )
    if not rows:
        return []
    offered = {
        cell["turn"]: f"{cell['offered'] / LOADS[0] * 100:.1f}"
        for cell in results.of(f"load {LOADS[0]}")
    }
    capacities = ", ".join(offered[turn] for turn in sorted(offered))
    last = results.of(f"load {LOADS[-1]}")[0]
    count = len(last["latencies_ms"]) + len(last["errors"])
    head = ("load", "server", "p50 ms", "p50 by turn", "p95 ms", "p99 ms", "p50 ÷ best static")
    return [
        "Open loop, mixed steps, Poisson arrivals of exactly the expected number, the same for all."
        f" 100 % is what the best static batching did in the same turn: {capacities} images/s. A"
        f" cell has some {count} requests a turn at the highest load, so that p99 rests on a few"
        " requests. One at a time cannot carry more than the first load. A request that failed"
        " counts as infinitely late. Ratios are those of the goals: turn by turn, then their"
        " geometric mean; milliseconds are over all requests of all turns.",
        "",
        *table((*head, "p95 ÷ best static", "errors"), rows),
    ]


def over_static(results: Results, kind: str, server: str, percent: float) -> str:
    """A server's percentile over the best static batching's, as the goals have it."""
    what = Figure(kind, "latencies_ms", percent)
    found = against(results, what, server, static(results))
    return number(found.mean if found else None)


def alone(results: Results) -> list[str]:
    """Overhead of a request."""
    servers = results.servers("alone")
    if not servers:
        return []
    least = best(results, "alone", "beyond_ms", [s for s in servers if not ours(s)], least=True)
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
    least = best(results, "start", "pss_mb", [s for s in servers if not ours(s)], least=True)
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
    few = [str(clients) for clients in CONCURRENCY if ROUNDS * clients <= FEWEST]
    many = [str(clients) for clients in CONCURRENCY if ROUNDS * clients > FEWEST]
    said = (
        "One step, closed loop, the first turn only. All clients start at once, and each asks again"
        f" when it was answered: {FEWEST} requests in all by {' and '.join(few)}, {ROUNDS} by each"
        f" of {' and '.join(many)}, so that these are nearly bursts: their p95 is about as long as"
        " all clients' first requests take."
    )
    return _growth(results, "concurrency", "by_clients", "{} clients", said)


def sizes(results: Results) -> list[str]:
    """Pictures of other sizes."""
    counts = ", ".join(f"{count} of {side}×{side}" for side, count in SIDES.items())
    said = f"Eight steps, bursts in the first turn only, all asked for at once: {counts}."
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
            (p95,) = late(one["latencies_ms"], len(one["errors"]), 95)
            wrong = f", {len(one['errors'])} errors" if one["errors"] else ""
            row.append(f"{one['rate']:.1f}/s, {number(p95, 0)} ms{wrong}")
        rows.append(row)
    heads = [head.format(name) for name in names]
    return [f"{said} Images a second, and p95.", "", *table(["server", *heads], rows)]


def light(results: Results) -> list[str]:
    """Our front by numbers of pools and ingress replicas."""
    cells = results.of("light")
    if not cells:
        return []
    rows = []
    for cell in cells:
        medians = Value.of([figure(one, "latencies_ms") for one in cell["alone"]])
        rates = Value.of([one["rate"] for one in cell["many"]])
        rows.append(
            [
                cell["server"],
                medians.text(1) if medians else ABSENT,
                rates.text(0) if rates else ABSENT,
                f"{cell['idle_cores']:.2f}",
                f"{cell['cold_s']:.0f}",
                f"{cell['pss_mb']:,}",
                str(sum(len(one["errors"]) for one in (*cell["alone"], *cell["many"]))),
            ]
        )
    head = (
        "", "p50 ms, 1 client", "requests/s, 32 clients", "cores when idle", "s to start", "PSS MB",
        "errors",
    )  # fmt: skip
    return [
        "The real proxy, ingress, routing and handles in front of pools that answer at once with"
        " a ready picture and hold no model, so that fifty fit one machine. Measured three times"
        " after one start, ± half the range; client, proxy, ingress and pools share the cores, so"
        " that more ingress replicas can gain only what the proxy leaves. What the processes take"
        " of the cores with nobody asking is Ray's and Serve's keeping of a process for each pool"
        " (health, queue lengths, metrics), which elsewhere have their own machines. The cost of a"
        " routing decision alone, by pools, is in [the routing table](../benchmarks/routing.md).",
        "",
        *table(head, rows),
    ]


def ours(server: str) -> bool:
    return server.startswith(OURS)
