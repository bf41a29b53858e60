"""What the router sees of the pools at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from serve_app.routing.speed import Profile, Speed
from serve_app.routing.work import Load, Work

# Widths and heights in pixels.
Sizes = frozenset[tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """A pool's live replicas, as Ray Serve reports them.

    Attributes:
        ready: replicas that run and take requests.
        updating: replicas that work on but are sent nothing: Serve reconfigures them in place.
        draining: replicas that finish their requests and then stop.
        starting: replicas being scheduled or loading the model.
        status: Serve's word for the deployment, e.g. ``"HEALTHY"``.
        message: Serve's explanation, if any.
        trouble: why replicas have failed to start of late, on one line; ``""``: they have not.
    """

    ready: int = 0
    updating: int = 0
    draining: int = 0
    starting: int = 0
    status: str = "UNKNOWN"
    message: str = ""
    trouble: str = ""

    @property
    def target(self) -> int:
        """Replicas that Serve wants: all but those that stop."""
        return self.ready + self.updating + self.starting


class Observed(NamedTuple):
    """What a pool did of late, as this ingress replica saw it.

    Attributes:
        pictures: answered within the window.
        p50_s, p95_s, p99_s: seconds from send to answer.
        images_per_minute: rate of answers.
    """

    pictures: int
    p50_s: float
    p95_s: float
    p99_s: float
    images_per_minute: float


# Not frozen: eight are made per request, and a frozen one takes three times as long to make.
@dataclass(slots=True, kw_only=True)
class PoolSnapshot:
    """One pool at one moment: what was configured joined with its live state.

    Attributes:
        name: the pool's name.
        accelerator: its label, e.g. ``"nvidia-l4"``.
        framework: ``"cpu"``, ``"cuda"``, ``"neuron"`` or ``"emulated"``.
        weight: weight in force (not normalised).
        max_replicas: most replicas the settings allow.
        state: live replicas.
        price_per_hour: US dollars for one replica, if known.
        profile: what one replica does within the latency objective, if known.
        speed: step cost of one replica by rows, if known.
        load: work sent and not yet answered, by all ingress replicas.
        correction: how many times longer than predicted requests take of late.
        observed: latency of late; ``None`` without enough answers.
        held: whether its circuit breaker keeps requests away.
        probe: whether it waits for one request to show that it works again.
        sizes: the only picture sizes (width, height) that it paints; ``None``: any, or not known
            yet.
        lacks: the setting without which it has no replicas; ``""``: none.
        loras: names of the LoRA adapters it has.
        lora_fused: its one adapter is part of its every picture.
    """

    name: str
    accelerator: str
    framework: str
    weight: float
    max_replicas: int
    state: PoolState
    price_per_hour: float | None = None
    profile: Profile | None = None
    speed: Speed | None = None
    load: Load = field(default_factory=Load)
    correction: float = 1.0
    observed: Observed | None = None
    held: bool = False
    probe: bool = False
    sizes: Sizes | None = None
    lacks: str = ""
    loras: tuple[str, ...] = ()
    lora_fused: bool = False

    @property
    def ready(self) -> int:
        """Replicas that can take a request now."""
        return self.state.ready

    @property
    def available(self) -> bool:
        """Whether the pool may be sent a request."""
        return self.state.ready > 0

    def has(self, lora: str | None) -> bool:
        """Whether it can paint with this LoRA adapter, or without one."""
        return not self.lora_fused if lora is None else lora in self.loras

    def paints(self, work: Work) -> bool:
        """Whether it can be asked for this: it has the adapter and paints the size."""
        fits = work.size is None or self.sizes is None or work.size in self.sizes
        return fits and self.has(work.lora)

    @property
    def gone(self) -> bool:
        """Whether no replica is left that could still finish a request."""
        return not (self.state.ready or self.state.updating or self.state.draining)

    @property
    def cost_per_1000(self) -> float | None:
        """US dollars for 1,000 default pictures at the full rate; ``None`` when unknown."""
        if self.price_per_hour is None or self.profile is None:
            return None
        if self.profile.images_per_minute == 0:
            return None
        return self.price_per_hour / 60 / self.profile.images_per_minute * 1000

    @property
    def why_unavailable(self) -> str:
        """A sentence for people; ``""`` when the pool is available."""
        if self.available:
            return ""
        if self.lacks:
            return f"not started: its settings name no {self.lacks}"
        if self.state.updating:
            return f"{self.state.updating} replica(s) being reconfigured"
        if self.state.starting:
            again = f"; the last try failed: {self.state.trouble}" if self.state.trouble else ""
            return f"{self.state.starting} replica(s) starting{again}"
        if self.state.trouble:
            return f"its replicas do not start: {self.state.trouble}"
        if self.state.status == "UNHEALTHY":
            return "unhealthy"
        return "no replica is running (its hardware may be absent)"
