"""From settings to the Ray Serve application: one deployment per pool, and the ingress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application

from deployments.options import ArtifactOptions, LoraOptions, ReplicaOptions
from deployments.replica import PoolReplica
from serve_app.ingress import Ingress
from serve_app.pool_settings import PoolSettings
from serve_app.settings import INGRESS, Settings

_UPSCALE_DELAY_S = 1.0
_DOWNSCALE_DELAY_S = 60.0
# Serve asks this often whether a stopping replica is idle; its 2 s are most of a Ctrl-C's time.
_SHUTDOWN_POLL_S = 0.5
# Three failures in a row have a replica replaced, so a dead device is gone in some 6 s. A check
# that does not answer is more often a busy machine than a hung process: that takes 30 s.
_HEALTH_CHECK_PERIOD_S = 2.0
_HEALTH_CHECK_TIMEOUT_S = 10.0


def build(args: Settings | Mapping[str, Any]) -> Application:
    """The application builder named in ``serve_config.yaml``; ``args`` is what stands there.

    For ``serve run`` and ``serve deploy``. ``serve build`` takes no builder, and what it writes
    knows neither ``args`` nor the application's autoscaling policy.

    Not annotated with the pydantic model alone: Serve would then validate it itself and lose
    our one-line errors.

    Raises:
        SettingsError: one line per bad key.
    """
    settings = args if isinstance(args, Settings) else Settings.parse(dict(args))
    pools = {name: bind_pool(name, pool, settings) for name, pool in settings.pools.items()}
    ingress = serve.deployment(Ingress).options(
        name=INGRESS,
        num_replicas=settings.ingress.replicas,
        max_ongoing_requests=settings.ingress.max_ongoing_requests,
        ray_actor_options={
            "num_cpus": settings.ingress.num_cpus,
            "resources": dict(settings.ingress.resources),
        },
        graceful_shutdown_timeout_s=settings.ingress.drain_s,
        graceful_shutdown_wait_loop_s=_SHUTDOWN_POLL_S,
    )
    return ingress.bind(settings, pools)


def bind_pool(name: str, pool: PoolSettings, settings: Settings) -> Application:
    """The deployment of one pool, named as the pool."""
    engine = pool.engine
    deployment = serve.deployment(PoolReplica).options(
        name=name,
        autoscaling_config=autoscaling_config(pool),
        ray_actor_options=actor_options(pool),
        # The engine queues and refuses by itself, from max_rows + max_queued requests on. Serve
        # must deliver the one that it refuses, not hold it back: hence twice as many.
        max_ongoing_requests=2 * (engine.max_rows + engine.max_queued),
        health_check_period_s=_HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=_HEALTH_CHECK_TIMEOUT_S,
        graceful_shutdown_timeout_s=pool.drain_s,
        graceful_shutdown_wait_loop_s=_SHUTDOWN_POLL_S,
    )
    return deployment.bind(replica_options(name, pool, settings))


def replica_options(name: str, pool: PoolSettings, settings: Settings) -> ReplicaOptions:
    """What a replica of this pool is told."""
    # Left out when unset: not every build knows every engine option.
    engine = {k: v for k, v in pool.engine.model_dump().items() if v is not None}
    return ReplicaOptions(
        pool=name,
        accelerator=pool.label,
        framework=pool.framework,
        model_source=settings.model.source,
        model_revision=settings.model.revision,
        artifact=None
        if pool.artifact is None
        else ArtifactOptions.model_validate(pool.artifact.model_dump()),
        safety_source=None if settings.safety is None else settings.safety.source,
        safety_revision=None if settings.safety is None else settings.safety.revision,
        emulated_step_s=None if pool.emulation is None else pool.emulation.step_s,
        loras=tuple(
            LoraOptions(name=name, **lora.model_dump()) for name, lora in pool.loras.items()
        ),
        fuse_lora=pool.fuse_lora,
        **engine,
    )


def autoscaling_config(pool: PoolSettings) -> dict[str, Any]:
    """Bounds for Serve; the application-level policy decides within them.

    Only a pool that any machine can host gets a minimum here: Serve would hold the whole
    application in DEPLOYING for a minimum on hardware that is absent. The policy sees to the
    minimum of the others while their hardware is present.
    """
    minimum = 0 if pool.resources.special else pool.min_replicas
    if pool.elastic is not None:
        minimum = 0
    # The planner has stabilisation windows of its own; Serve's would come on top.
    shrink_s = _DOWNSCALE_DELAY_S if pool.elastic is None else _UPSCALE_DELAY_S
    return {
        "min_replicas": minimum,
        "initial_replicas": minimum,
        "max_replicas": pool.max_replicas,
        "upscale_delay_s": _UPSCALE_DELAY_S,
        "downscale_delay_s": shrink_s,
        "downscale_to_zero_delay_s": shrink_s,
    }


def actor_options(pool: PoolSettings) -> dict[str, Any]:
    """What Ray reserves for one replica."""
    wanted = pool.resources
    return {
        "num_cpus": wanted.num_cpus,
        "num_gpus": wanted.num_gpus,
        "resources": dict(wanted.resources),
        # OpenMP threads that spin while they wait make a step many times slower as soon as
        # anything else runs on the cores (measured: 20 to 50 times on two busy cores).
        "runtime_env": {"env_vars": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}},
    }
