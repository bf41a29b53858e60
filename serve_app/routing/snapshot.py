"""What the router sees of the pools at one moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """A pool's live replicas, as Ray Serve reports them.

    Attributes:
        ready: replicas that run and take requests.
        updating: replicas that work on but are sent nothing: Serve reconfigures them in place, or
            its restarted controller has yet to find them again.
        draining: replicas that finish their requests and then stop.
        starting: replicas being scheduled or loading the model.
        status: Serve's word for the deployment, e.g. ``"HEALTHY"``.
        message: Serve's explanation, if any.
    """

    ready: int = 0
    updating: int = 0
    draining: int = 0
    starting: int = 0
    status: str = "UNKNOWN"
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    """One pool at one moment: what was configured joined with its live state.

    Attributes:
        name: the pool's name.
        accelerator: its label, e.g. ``"nvidia-l4"``.
        framework: ``"cpu"``, ``"cuda"`` or ``"neuron"``.
        weight: weight in force (not normalised).
        max_replicas: most replicas the settings allow.
        state: live replicas.
    """

    name: str
    accelerator: str
    framework: str
    weight: float
    max_replicas: int
    state: PoolState

    @property
    def ready(self) -> int:
        """Replicas that can take a request now."""
        return self.state.ready

    @property
    def available(self) -> bool:
        """Whether the pool may be sent a request."""
        return self.state.ready > 0

    @property
    def gone(self) -> bool:
        """Whether no replica is left that could still finish a request."""
        return not (self.state.ready or self.state.updating or self.state.draining)

    @property
    def why_unavailable(self) -> str:
        """A sentence for people; ``""`` when the pool is available."""
        if self.available:
            return ""
        if self.state.updating:
            return f"{self.state.updating} replica(s) being reconfigured or found again"
        if self.state.starting:
            return f"{self.state.starting} replica(s) starting"
        if self.state.status == "UNHEALTHY":
            return "unhealthy"
        return "no replica is running (its hardware may be absent)"
