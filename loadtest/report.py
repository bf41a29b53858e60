"""A load's report: latency, errors, shares and cost, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.figures import percentiles
from loadtest.fleet import Fleet
from loadtest.host import HostLoad
from loadtest.outcome import TIMEOUT, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReport:
    """What one pool did.

    Attributes:
        pictures: how many it painted.
        share: of all pictures.
        latency_s: percentiles, corrected, in seconds.
        emulated: no real hardware.
        mean_replicas: ready ones, over the load.
        dollars: what they cost over the load, in US dollars; ``None`` without a price.
        dollars_per_1000: the same for 1,000 of these pictures, idle time included.
    """

    pictures: int
    share: float
    latency_s: Mapping[str, float | None]
    emulated: bool
    mean_replicas: float | None
    dollars: float | None
    dollars_per_1000: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole load.

    Attributes:
        partial: whether it was interrupted.
        load: what was asked for: address, shape, rate, seed and so on.
        seconds: from the first due time to the last answer.
        planned, sent, pictures, failed, interrupted: numbers of requests; sent ones are pictures,
            failed or interrupted.
        offered_per_s: requests sent, over the time in which they were due.
        served_per_s: pictures over ``seconds``.
        latency_s: ``corrected`` from when a request was due, ``uncorrected`` from when it was
            sent; percentiles in seconds of those that got a picture. The others are in none:
            what was waited for in vain is among ``problems``.
        errors: kind -> how many.
        pools: name -> what it did; those that painted nothing are there too.
        host: how busy this machine was.
        problems: sentences on what spoils the figures.
    """

    partial: bool
    load: Mapping[str, Any]
    seconds: float
    planned: int
    sent: int
    pictures: int
    failed: int
    interrupted: int
    offered_per_s: float
    served_per_s: float
    latency_s: Mapping[str, Mapping[str, float | None]]
    errors: Mapping[str, int]
    pools: Mapping[str, PoolReport]
    host: HostLoad
    problems: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def make_report(
    load: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    fleet: Fleet,
    host: HostLoad,
    *,
    planned: int,
    due_s: float,
    partial: bool,
) -> Report:
    """Sum a load up.

    Args:
        load: what was asked for.
        outcomes: of every request sent.
        fleet: what the pools were meanwhile.
        host: how busy this machine was.
        planned: requests in the schedule.
        due_s: seconds of the schedule that were carried out.
        partial: whether it was interrupted.
    """
    answered = [one for one in outcomes if one.ok]
    interrupted = sum(one.interrupted for one in outcomes)
    errors = Counter(one.answer.error for one in outcomes if not one.ok and not one.interrupted)
    seconds = max([due_s, *(one.done_s for one in outcomes)])
    problems = [] if host.problem is None else [host.problem]
    if fleet.missed:
        problems.append(f"/pools did not answer {fleet.missed} times: costs are estimates")
    # 504: the service's own word for the same.
    late = sum(n for kind, n in errors.items() if kind == TIMEOUT or kind.startswith("504"))
    if late:
        problems.append(
            f"{late} of {len(outcomes)} requests were waited for in vain: they are in no"
            " percentile, and with them the latencies would be longer"
        )
    return Report(
        partial=partial,
        load=dict(load),
        seconds=seconds,
        planned=planned,
        sent=len(outcomes),
        pictures=len(answered),
        failed=sum(errors.values()),
        interrupted=interrupted,
        offered_per_s=len(outcomes) / due_s if due_s else 0.0,
        served_per_s=len(answered) / seconds if seconds else 0.0,
        latency_s={
            "corrected": percentiles([one.latency_s for one in answered]),
            "uncorrected": percentiles([one.uncorrected_s for one in answered]),
        },
        errors=dict(errors.most_common()),
        pools=_pools(answered, fleet),
        host=host,
        problems=problems,
    )


def _pools(answered: Sequence[Outcome], fleet: Fleet) -> dict[str, PoolReport]:
    by_pool: dict[str, list[float]] = {name: [] for name in fleet.shown}
    for one in answered:
        by_pool.setdefault(one.answer.pool, []).append(one.latency_s)
    found = {}
    for name, latencies in by_pool.items():
        dollars = fleet.dollars(name)
        found[name] = PoolReport(
            pictures=len(latencies),
            share=len(latencies) / len(answered) if answered else 0.0,
            latency_s=percentiles(latencies),
            emulated=bool(fleet.shown.get(name, {}).get("emulated")),
            mean_replicas=fleet.mean_replicas(name),
            dollars=dollars,
            dollars_per_1000=dollars / len(latencies) * 1000 if dollars and latencies else None,
        )
    return found
