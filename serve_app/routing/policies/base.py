"""What every routing policy is: a pure ranking of candidates, and a place in the registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from serve_app.routing.snapshot import PoolSnapshot

POLICIES: dict[str, type[Policy]] = {}


class Candidate(NamedTuple):
    """An available pool and what it promises for the request at hand.

    Attributes:
        pool: the pool.
        wait_s: predicted seconds until the request enters a batch there.
        total_s: predicted seconds until its picture is done.
        fits: whether that keeps the admission limits and the request's deadline.
    """

    pool: PoolSnapshot
    wait_s: float
    total_s: float
    fits: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOptions:
    """What the live settings say to a policy.

    Attributes:
        slo_s: latency objective in seconds.
        leave_after_s: how long a pool may miss it before ``failover`` leaves.
        return_after_s: how long a better pool must hold it before ``failover`` returns.
        phase: how far into its round a round robin starts: each ingress replica has its own, so
            that they do not all send their first request to the same pool.
    """

    slo_s: float = 30.0
    leave_after_s: float = 3.0
    return_after_s: float = 30.0
    phase: int = 0


class Policy(ABC):
    """Ranks pools for one request after the other; may remember what it did.

    A subclass registers itself by giving its name: ``class Mine(Policy, name="mine")``.

    Attributes:
        name: what the settings call it.
        needs_prices: whether every pool must have a price.
    """

    name: ClassVar[str]
    needs_prices: ClassVar[bool] = False

    def __init_subclass__(cls, *, name: str | None = None) -> None:
        super().__init_subclass__()
        if name is not None:
            cls.name = name
            POLICIES[name] = cls

    def __init__(self, options: PolicyOptions) -> None:
        self.options = options

    @abstractmethod
    def rank(self, candidates: Sequence[Candidate], now: float) -> list[str]:
        """Names of the candidates that fit, best first; the first counts as served.

        Args:
            candidates: every pool that may take traffic, also those that do not fit right now.
            now: monotonic seconds.
        """

    def shares(self, pools: Sequence[PoolSnapshot]) -> dict[str, float] | None:
        """The share of the traffic meant for each of ``pools``; ``None`` if there is no plan."""
        return None
