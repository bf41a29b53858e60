"""What the HTTP surfaces stand on: settings, model, pools and a way to get pictures painted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from deployments.messages import ImageRequest
from deployments.model_info import ModelInfo
from serve_app.access.visit import Visit
from serve_app.live import LiveSettings
from serve_app.routing.journal import Journal
from serve_app.routing.outcome import Painted
from serve_app.routing.policies import Policy
from serve_app.routing.router import Wishes
from serve_app.routing.snapshot import PoolSnapshot
from serve_app.routing.watching import Watch
from serve_app.routing.work import Work
from serve_app.settings import Settings


class Painter(Protocol):
    """Gets one picture painted; the dispatcher is one."""

    async def paint(
        self, request: ImageRequest, wishes: Wishes, watch: Watch | None = None
    ) -> Painted:
        """See ``Dispatcher.paint``."""


class MeasurementsView(Protocol):
    """Knows what pools were measured to do; ``Measurements`` is one."""

    async def of(self, pools: Sequence[PoolSnapshot]) -> Mapping[str, Mapping[str, Any]]:
        """See ``Measurements.of``."""


class RoutingView(Protocol):
    """What the routing goes by and did; the dispatcher is one."""

    @property
    def policy(self) -> Policy:
        """The policy in force."""

    @property
    def journal(self) -> Journal:
        """Counts of what was decided."""

    @property
    def waiting(self) -> int:
        """Requests waiting for their fair turn."""

    @property
    def holding(self) -> int:
        """Requests waiting for a first replica of any pool."""

    @property
    def peers(self) -> int:
        """Ingress replicas, this one included."""


class PoolsView(Protocol):
    """Sees the pools; the pool directory is one."""

    def snapshots(self) -> list[PoolSnapshot]:
        """One snapshot per declared pool."""


@dataclass(slots=True, kw_only=True)
class Front:
    """Shared by all handlers of one ingress replica.

    Attributes:
        settings: the service's settings.
        model: what every pool paints with.
        pools: live view of the pools.
        painter: where requests go.
        routing: what the routing goes by and did.
        measurements: what the pools' replicas say of themselves.
        decision: what the autoscaling policy decided last, if anything.
        live: the live settings in force.
        observers: told of each finished HTTP request.
        config_problem: why the newest live configuration was refused; ``None`` when in force.
    """

    settings: Settings
    model: ModelInfo
    pools: PoolsView
    painter: Painter
    routing: RoutingView
    measurements: MeasurementsView
    decision: Callable[[], Mapping[str, Any] | None] = lambda: None
    live: LiveSettings = field(default_factory=LiveSettings)
    observers: Sequence[Callable[[Visit], None]] = ()
    config_problem: str | None = None

    @property
    def default_work(self) -> Work:
        """What the model's default request asks of a pool."""
        return default_work(self.model)


def default_work(model: ModelInfo) -> Work:
    """The work of a request that leaves everything to ``model``'s defaults."""
    d = model.defaults
    return Work(2 if d.guidance_scale > 1 else 1, d.num_inference_steps)
