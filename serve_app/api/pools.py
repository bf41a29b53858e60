"""``GET /pools``: every pool as the router sees it now, and what it decided so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from serve_app.api.answer import model_label
from serve_app.api.front import Front
from serve_app.routing.journal import Journal
from serve_app.routing.prediction import predict
from serve_app.routing.snapshot import Observed, PoolSnapshot


class Pools:
    """Shows the routing's state. Counts and latencies are those of the ingress replica asked."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def handle(self, request: Request) -> JSONResponse:
        """Everything the router goes by, and the counts of what it did."""
        front, routing = self._front, self._front.routing
        pools = front.pools.snapshots()
        shares = routing.policy.shares([one for one in pools if one.available and not one.held])
        measured = await front.measurements.of(pools)
        answered = sum(pool.observed.pictures for pool in pools if pool.observed)
        decision = front.decision() or {}
        told = decision.get("pools", {})
        return JSONResponse(
            {
                "model": model_label(front.model),
                "policy": routing.policy.name,
                "slo_s": front.live.slo_s,
                "ingress_replicas": routing.peers,
                "waiting_turns": routing.waiting,
                "waiting_for_capacity": routing.holding,
                "autoscaling": {
                    "decided_at": decision.get("at") or None,  # 0: never so far
                    "faults": decision.get("faults", 0),
                    "required_row_steps_per_s": decision.get("required_row_steps_per_s"),
                },
                "refusals": dict(routing.journal.refusals),
                "config_problem": front.config_problem,
                "pools": [
                    {
                        **_configured(pool),
                        "share": None if shares is None else shares.get(pool.name, 0.0),
                        "traffic_share": _part(pool.observed, answered),
                        **_live(pool),
                        "queue": self._queue(pool),
                        **_counts(routing.journal, pool.name),
                        "measured": _measured(measured.get(pool.name)),
                        "autoscaling": _told(told.get(pool.name)),
                    }
                    for pool in pools
                ],
            }
        )

    def _queue(self, pool: PoolSnapshot) -> dict[str, Any]:
        wait_s, total_s = predict(pool, self._front.default_work)
        known = pool.available and pool.speed is not None
        return {
            "requests": pool.load.requests,
            "rows": pool.load.rows,
            "predicted_wait_s": wait_s if known else None,
            "predicted_s": total_s if known else None,
            "correction": pool.correction,
        }


def _configured(pool: PoolSnapshot) -> dict[str, Any]:
    return {
        "name": pool.name,
        "accelerator": pool.accelerator,
        "framework": pool.framework,
        "emulated": pool.framework == "emulated",
        "weight": pool.weight,
        "price_per_hour": pool.price_per_hour,
        "profile": None if pool.profile is None else asdict(pool.profile),
        "cost_per_1000": pool.cost_per_1000,
        "max_replicas": pool.max_replicas,
        "loras": list(pool.loras),
        "lora_fused": pool.lora_fused,
    }


def _live(pool: PoolSnapshot) -> dict[str, Any]:
    observed = pool.observed
    return {
        "available": pool.available,
        "reason": pool.why_unavailable or None,
        "breaker": "half_open" if pool.probe else "open" if pool.held else "closed",
        "ready_replicas": pool.ready,
        "target_replicas": pool.state.target,
        "updating_replicas": pool.state.updating,
        "starting_replicas": pool.state.starting,
        "draining_replicas": pool.state.draining,
        "status": pool.state.status,
        "latency_s": None
        if observed is None
        else {"p50": observed.p50_s, "p95": observed.p95_s, "p99": observed.p99_s},
        "images_per_minute": 0.0 if observed is None else observed.images_per_minute,
    }


def _counts(journal: Journal, name: str) -> dict[str, Any]:
    return {
        "decisions": _of_pool(journal.decisions, name),
        "failures": _of_pool(journal.failures, name),
        "retries": journal.retries[name],
    }


def _told(decision: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What the autoscaling policy wants of a pool, and why."""
    if decision is None:
        return None
    supply = decision.get("supply")
    return {
        "target": decision["target"],
        "reason": decision.get("reason", "as many as its hardware holds, within its bounds"),
        "changed_at": decision.get("changed_at"),
        "supply": None if supply is None else supply["state"],
        "replicas": decision.get("replicas"),
    }


def _of_pool(counts: Counter[tuple[str, str]], name: str) -> dict[str, int]:
    return {what: count for (pool, what), count in counts.items() if pool == name}


def _part(observed: Observed | None, total: int) -> float:
    return 0.0 if observed is None else observed.pictures / total


def _measured(description: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The part of a replica's description that does not change while it lives."""
    if description is None:
        return None
    return {
        "device": description["device"],
        "dtype": description["dtype"],
        "max_rows": description["max_rows"],
        "graphs": description["graphs"],
        "startup_s": description["startup_s"],
        "step_cost_ms": {str(rows): cost for rows, cost in description["step_cost_ms"].items()},
        "sizes": description.get("sizes"),
    }
