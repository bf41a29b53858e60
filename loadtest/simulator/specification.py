"""What a simulated pool is made of, and what happens to its hardware."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.routing.speed import Profile, Speed


@dataclass(frozen=True, slots=True)
class IceWindow:
    """Insufficient capacity: a time in which no new node can be had.

    Attributes:
        from_s, to_s: simulated seconds.
        cap: nodes above it are taken away at ``from_s``; ``None``: present ones may stay.
    """

    from_s: float
    to_s: float
    cap: int | None = None


@dataclass(frozen=True, slots=True)
class Interruption:
    """Spot nodes reclaimed at once, without notice.

    Attributes:
        at_s: simulated second.
        fraction: part of the present nodes, rounded up.
    """

    at_s: float
    fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """One pool: a row of a scenario's table.

    Attributes:
        name: the pool's name.
        speed: step cost of one replica by rows, and how many rows step together.
        profile: what one replica does within the objective; ``None``: what ``speed`` says.
        price_per_hour: US dollars per replica; a node costs ``per_node`` times as much.
        weight: for the ``weighted`` policy.
        min_replicas, max_replicas: bounds on the target.
        per_node: replicas that share one node, which is paid for as a whole from the moment it is
            granted until its last replica has stopped.
        provisioning_s: seconds from asking for a node to having it.
        start_s: seconds from a place on a node to a ready replica (image, model).
        ice: when no node can be had.
        interruptions: when nodes are reclaimed.
    """

    name: str
    speed: Speed
    profile: Profile | None = None
    price_per_hour: float
    weight: float = 1.0
    min_replicas: int = 1
    max_replicas: int = 60
    per_node: int = 1
    provisioning_s: float = 90.0
    start_s: float = 90.0
    ice: tuple[IceWindow, ...] = ()
    interruptions: tuple[Interruption, ...] = ()


def one_at_a_time(seconds: float, *, rows: int = 2, steps: int = 10) -> Speed:
    """A replica that paints one picture after the other, each in ``seconds``."""
    return Speed({rows: seconds / steps * 1000}, rows)
