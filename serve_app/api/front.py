"""What the HTTP surfaces stand on: settings, model, pools and a way to get pictures painted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.messages import ImageRequest
from deployments.model_info import ModelInfo
from serve_app.routing.dispatcher import Painted
from serve_app.routing.snapshot import PoolSnapshot
from serve_app.settings import Settings


class Painter(Protocol):
    """Gets one picture painted; the dispatcher is one."""

    async def paint(self, request: ImageRequest, pin: str | None = None) -> Painted:
        """See ``Dispatcher.paint``."""


class MeasurementsView(Protocol):
    """Knows what pools were measured to do; ``Measurements`` is one."""

    async def of(self, pools: Sequence[PoolSnapshot]) -> Mapping[str, Mapping[str, Any]]:
        """See ``Measurements.of``."""


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
        measurements: what the pools' replicas say of themselves.
        config_problem: why the newest live configuration was refused; ``None`` when in force.
    """

    settings: Settings
    model: ModelInfo
    pools: PoolsView
    painter: Painter
    measurements: MeasurementsView
    config_problem: str | None = None
