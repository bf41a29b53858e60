"""The ingress deployment: HTTP in, pools behind. Never imports torch."""

from __future__ import annotations

import logging
import secrets
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from deployments.model_info import load_model_info
from serve_app.api.application import create_app
from serve_app.api.front import Front, default_work
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
            lambda: serve_states(app_name), settings.ingress.poll_interval_s
        )
        model = load_model_info(settings.model.source, settings.model.revision)
        directory = PoolDirectory(settings.pools, self._availability.states, default_work(model))
        pools = {name: RayPoolHandle(handle) for name, handle in handles.items()}
        measurements = Measurements(pools, directory.measured)
        meter = DemandMeter()
        self._dispatcher = Dispatcher(
            pools,
            directory,
            reference_pixels=model.defaults.width * model.defaults.height,
            timeout_s=settings.limits.request_timeout_s,
            journal=Journal(RayRoutingMetrics()),
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
        )
        self._take(LiveSettings())
        self._availability.poll()  # so that the first request finds pools
        self._availability.start()
        self._reporter.start()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by Serve after the constructor."""
        return create_app(self._front, request_id_echoed=True)

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

    def _take(self, live: LiveSettings) -> None:
        self._dispatcher.configure(live)
        self._front.live = live
        self._front.config_problem = None
