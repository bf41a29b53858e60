"""The ingress deployment: HTTP in, pools behind. Never imports torch."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)
from ray import serve
from ray.serve.grpc_util import RayServegRPCContext
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from deployments.metrics import Sampler
from deployments.model_info import load_model_info
from deployments.patience import patiently
from deployments.trouble import Trouble
from serve_app.access.audit import AuditLog
from serve_app.api.application import create_app
from serve_app.api.front import Front, default_work
from serve_app.api.grpc_health import SERVICE_UNKNOWN, GrpcHealth, TooManyWatchesError
from serve_app.api.openai.once import Once
from serve_app.api.openai.ray_desk import RayDesk, start_actor
from serve_app.api.openai.shared_book import SharedBook
from serve_app.autoscaling.board import Board
from serve_app.autoscaling.meter import DemandMeter
from serve_app.autoscaling.reporter import Reporter
from serve_app.last_good import LastGood
from serve_app.live import LiveSettings
from serve_app.routing.availability import Availability, serve_states
from serve_app.routing.directory import PoolDirectory
from serve_app.routing.dispatcher import Dispatcher
from serve_app.routing.journal import Journal
from serve_app.routing.measurements import Measurements
from serve_app.routing.ray_handle import RayPoolHandle
from serve_app.settings import Settings
from serve_app.telemetry.autoscaling import RayAutoscalingMetrics
from serve_app.telemetry.cloudwatch import Publisher
from serve_app.telemetry.http import RayHttpMetrics
from serve_app.telemetry.pools import RayPoolMetrics
from serve_app.telemetry.publishing import RayPublisherMetrics, make_publisher
from serve_app.telemetry.routing import RayRoutingMetrics
from serve_app.validation import SettingsError

# Ingress replicas start their round robins at different places of a hundred requests.
_PHASES = 100

log = logging.getLogger(__name__)


@serve.ingress()
class Ingress:
    """Validates requests, spreads them over the pools, answers over HTTP.

    Args:
        settings: the service's settings.
        handles: one deployment handle per pool.

    Raises:
        ModelError: the model's JSON files cannot be found or read.
    """

    def __init__(self, settings: Settings, handles: dict[str, DeploymentHandle[Any]]) -> None:
        app_name = serve.get_replica_context().app_name
        self._settings = settings
        self._started = False
        self._last_good = LastGood(app_name)
        self._availability = Availability(
            partial(serve_states, app_name, Trouble(app_name).of), settings.ingress.poll_interval_s
        )
        source = settings.model
        model = patiently(lambda: load_model_info(source.source, source.revision), lambda why: None)
        directory = PoolDirectory(settings.pools, self._availability.states, default_work(model))
        pools = {name: RayPoolHandle(handle) for name, handle in handles.items()}
        measurements = Measurements(pools, directory.measured)
        meter = DemandMeter()
        cloudwatch = settings.telemetry.cloudwatch
        self._publisher = None if cloudwatch is None else make_publisher(cloudwatch)
        told = () if self._publisher is None else (self._publisher.record,)
        self._dispatcher = Dispatcher(
            pools,
            directory,
            reference_pixels=model.defaults.width * model.defaults.height,
            timeout_s=settings.limits.request_timeout_s,
            journal=Journal(RayRoutingMetrics(), told),
            meter=meter,
            looked=measurements.refresh,
            phase=secrets.randbelow(_PHASES),
        )
        self._reporter = Reporter(
            serve.get_replica_context().replica_id.unique_id,
            Board(app_name),
            meter,
            directory.books,
            lambda: directory.peers,
            default_work(model),
            lambda: self._front.live.slo_s,
            RayAutoscalingMetrics().decided,
        )
        self._front = Front(
            settings=settings,
            model=model,
            pools=directory,
            painter=self._dispatcher,
            routing=self._dispatcher,
            measurements=measurements,
            decision=lambda: self._reporter.decision,
            observers=(RayHttpMetrics(), AuditLog(settings.access.audit)),
        )
        self._once = Once()
        if settings.ingress.replicas > 1:
            desk = RayDesk(partial(start_actor, app_name))
            self._once = Once(SharedBook(desk, serve.get_replica_context().replica_id.unique_id))
        self._health = GrpcHealth(self._front)
        self._metrics = Sampler(self._exporter(directory))
        self._take(LiveSettings())
        self._availability.poll()  # so that the first request finds pools
        self._availability.start()
        self._reporter.start()
        self._metrics.start()
        if self._publisher is not None:
            self._publisher.start()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve after the constructor."""
        return create_app(self._front, request_id_echoed=True, once=self._once)

    async def Check(  # noqa: N802 - the name is the protocol's
        self, request: HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> HealthCheckResponse:
        """``grpc.health.v1``: the status of one service; ``NOT_FOUND`` where there is none."""
        status = self._health.status(request.service)
        if status == SERVICE_UNKNOWN:
            grpc_context.set_code(grpc.StatusCode.NOT_FOUND)
            grpc_context.set_details("no such service: '', 'Ingress' or the name of a pool")
        return HealthCheckResponse(status=status)

    async def List(  # noqa: N802
        self, request: HealthListRequest
    ) -> HealthListResponse:
        """``grpc.health.v1``: the status of every service."""
        found = self._health.all().items()
        return HealthListResponse(
            statuses={name: HealthCheckResponse(status=status) for name, status in found}
        )

    async def Watch(  # noqa: N802
        self, request: HealthCheckRequest, grpc_context: RayServegRPCContext
    ) -> AsyncIterator[HealthCheckResponse]:
        """``grpc.health.v1``: the status of one service now, and whenever it changes."""
        try:
            async for status in self._health.watch(request.service):
                yield HealthCheckResponse(status=status)
        except TooManyWatchesError as error:
            grpc_context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            grpc_context.set_details(str(error))

    async def reconfigure(self, user_config: Any) -> None:
        """Take a new ``user_config`` into force, whole or not at all.

        A bad one at the first start fails the deployment. Later, the last good one stays in force,
        also in an ingress that is restarted, and ``/readiness`` and ``/pools`` say what was wrong:
        raising would make Serve replace a healthy ingress by one that cannot start.

        A coroutine, since Serve runs a plain function in a thread beside the requests.

        Raises:
            SettingsError: the first configuration is bad.
        """
        try:
            live = LiveSettings.parse(user_config, self._settings)
        except SettingsError as error:
            if not self._started:
                self._take(self._recall(error))
            log.error("refused, the last good configuration stays in force: %s", error)
            self._front.config_problem = str(error)
        else:
            self._take(live)
            self._last_good.put(user_config)
        self._started = True

    def _recall(self, error: SettingsError) -> LiveSettings:
        """The last good configuration, of an ingress before this one."""
        try:
            return LiveSettings.parse(self._last_good.get(), self._settings)
        except (LookupError, SettingsError):
            raise error from None

    def check_health(self) -> None:
        """Called by Serve once the ingress has been constructed and configured, if it is at all."""
        self._started = True

    def __del__(self) -> None:
        """Called by Serve at shutdown."""
        if hasattr(self, "_metrics"):
            self._metrics.stop()
        publisher: Publisher | None = getattr(self, "_publisher", None)
        if publisher is not None:
            publisher.stop()

    def _exporter(self, directory: PoolDirectory) -> Callable[[], None]:
        """Shows pools and publisher as they are now, from another thread."""
        pools, publisher = RayPoolMetrics(), self._publisher
        published = None if publisher is None else RayPublisherMetrics(publisher)

        def export() -> None:
            pools.show(directory.books(), self._dispatcher.waiting, self._dispatcher.holding)
            if published is not None:
                published.show()

        return export

    def _take(self, live: LiveSettings) -> None:
        self._dispatcher.configure(live)
        self._front.live = live
        self._front.config_problem = None
