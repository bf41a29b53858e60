"""The thin parts that touch Ray, without a cluster."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import grpc
import pytest
from grpc_health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
)
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.serve.exceptions import BackPressureError

from deployments.messages import ImageFailure, ImageProgress, ImageResult, Timings
from deployments.options import ArtifactOptions
from serve_app.api.front import Front, default_work
from serve_app.api.grpc_health import MOST_WATCHES, GrpcHealth
from serve_app.app import actor_options, autoscaling_config, bind_pool, build, replica_options
from serve_app.ingress import Ingress
from serve_app.last_good import LastGood
from serve_app.routing.availability import serve_states
from serve_app.routing.directory import PoolDirectory
from serve_app.routing.dispatcher import Dispatcher
from serve_app.routing.journal import Journal
from serve_app.routing.outcome import ReplicaLostError
from serve_app.routing.ray_handle import RayPoolHandle
from serve_app.routing.router import Decision
from serve_app.routing.snapshot import PoolState
from serve_app.settings import Settings
from serve_app.telemetry.routing import RayRoutingMetrics
from serve_app.validation import SettingsError
from tests.serve_app.conftest import (
    MODEL,
    FakeMeasurements,
    FakePainter,
    make_settings,
    snapshot,
)
from tests.serve_app.test_dispatcher import RESULT, request


class Response:
    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.cancelled = False

    def __await__(self) -> Any:
        yield from ()
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def cancel(self) -> None:
        self.cancelled = True


class Handle:
    def __init__(self, outcome: Any) -> None:
        self.response = Response(outcome)
        self.calls: list[tuple[Any, ...]] = []
        self.by_grpc: list[bool] = []

    def options(self, *, method_name: str, _by_reference: bool, stream: bool = False) -> Any:
        def remote(*given: Any) -> Response:
            self.calls.append((method_name, *given))
            self.by_grpc.append(not _by_reference)
            return Items(self.response.outcome) if stream else self.response

        return SimpleNamespace(remote=remote)


class Items(Response):
    """A streaming response: its outcome is a list, whose last item may be an error."""

    async def __aiter__(self) -> Any:
        for item in self.outcome:
            if isinstance(item, BaseException):
                raise item
            yield item


def watched(*items: Any) -> tuple[Any, list[Any]]:
    handle: Any = Handle(items)
    told: list[Any] = []
    sent = RayPoolHandle(handle).generate(request(), told.append)
    assert handle.calls == [("stream", request())]
    return sent, told


def reply(outcome: Any) -> Any:
    handle: Any = Handle(outcome)
    asked = request()
    sent = RayPoolHandle(handle).generate(asked)
    assert handle.calls == [("generate", asked)]
    return sent


@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(),
        ActorUnavailableError("maybe", None),
        ObjectLostError("ff" * 28, None, ""),
        NodeDiedError("gone"),
        WorkerCrashedError(),
        TaskCancelledError(),
    ],
)
async def test_a_dead_or_unreachable_replica_is_lost(error: Exception) -> None:
    with pytest.raises(ReplicaLostError, match=type(error).__name__):
        await reply(error).result()


STEP = ImageProgress(step=1, steps=2)


async def test_a_watched_reply_tells_what_happens_and_answers() -> None:
    sent, told = watched(STEP, STEP, RESULT)
    assert await sent.result() is RESULT
    assert told == [STEP, STEP]
    sent.cancel()
    assert sent._response.cancelled


async def test_a_replica_lost_after_its_answer_is_not_lost() -> None:
    sent, _ = watched(RESULT, ActorDiedError())
    assert await sent.result() is RESULT


@pytest.mark.parametrize("items", [(), (STEP,), (STEP, ActorDiedError())])
async def test_a_stream_without_an_answer_is_lost(items: tuple[Any, ...]) -> None:
    sent, _ = watched(*items)
    with pytest.raises(ReplicaLostError):
        await sent.result()


@pytest.mark.parametrize(
    ("changes", "grpc"),
    [
        ({}, True),
        ({"width": 1024, "height": 1024}, True),
        ({"width": 1032, "height": 1024}, False),
        ({"width": 1024, "height": 1024, "init_rgb": bytes(3 << 20)}, True),
        ({"width": 1024, "height": 1024, "init_rgb": bytes(3 << 20), "mask": bytes(1)}, False),
    ],
)
@pytest.mark.parametrize("watch", [None, lambda event: None])
def test_what_is_larger_than_grpc_takes_goes_through_rays_objects(
    changes: dict[str, Any], grpc: bool, watch: Any
) -> None:
    handle: Any = Handle((RESULT,))
    RayPoolHandle(handle).generate(replace(request(), **changes), watch)
    assert handle.by_grpc == [grpc]


async def test_back_pressure_is_overload() -> None:
    answer = await reply(BackPressureError(num_queued_requests=1, max_queued_requests=1)).result()
    assert isinstance(answer, ImageFailure)
    assert answer.code == "overloaded"


async def test_a_pool_describes_itself() -> None:
    handle: Any = Handle({"max_rows": 3})
    assert await RayPoolHandle(handle).describe() == {"max_rows": 3}
    assert handle.calls == [("describe",)]


async def test_answers_and_cancellation_pass_through() -> None:
    failure = ImageFailure(code="generation_failed", message="no")
    sent = reply(failure)
    assert await sent.result() is failure
    sent.cancel()
    assert sent._response.cancelled


def test_serve_states(monkeypatch: pytest.MonkeyPatch) -> None:
    def deployment(status: str, **counts: int) -> Any:
        return SimpleNamespace(status=status, message="m", replica_states=counts)

    cpu = deployment(
        "HEALTHY",
        RUNNING=2,
        PENDING_MIGRATION=4,
        UPDATING=5,
        RECOVERING=1,
        STARTING=7,
        STOPPING=3,
        STOPPED=9,
    )
    application = SimpleNamespace(deployments={"cpu": cpu, "gpu": deployment("UPSCALING")})
    failed = SimpleNamespace(deployments={}, message="Deployment 'nope' does not exist.")
    status = SimpleNamespace(applications={"imagine": application, "badly configured": failed})
    monkeypatch.setattr("ray.serve.status", lambda: status)
    states = serve_states("imagine", lambda pool: "")
    assert states["cpu"] == PoolState(
        ready=7, updating=5, draining=3, starting=7, status="HEALTHY", message="m"
    )
    assert states["gpu"].ready == 0
    # Not "no pool has a replica": that would end all that is under way.
    with pytest.raises(LookupError, match="'other'"):
        serve_states("other", lambda pool: "")
    # A config that could not be built shows none, while all replicas run on.
    with pytest.raises(LookupError, match="'nope'"):
        serve_states("badly configured", lambda pool: "")


class Kept:
    """The last good settings, in a test's memory."""

    def __init__(self, kept: Any = LookupError()) -> None:  # noqa: B008 - never changed
        self.kept = kept

    def put(self, user_config: Any) -> None:
        self.kept = user_config

    def get(self) -> Any:
        if isinstance(self.kept, LookupError):
            raise self.kept
        return self.kept


def bare_ingress() -> tuple[Any, Dispatcher, Front]:
    settings = make_settings()
    directory = PoolDirectory(settings.pools, dict, default_work(MODEL))
    dispatcher = Dispatcher({}, directory, reference_pixels=64 * 64, timeout_s=1)
    front = Front(
        settings=settings,
        model=MODEL,
        pools=directory,
        painter=FakePainter(),
        routing=dispatcher,
        measurements=FakeMeasurements(),
    )
    # Our class without Serve's wrapper, whose __del__ is a coroutine that only Serve awaits.
    plain: Any = Ingress.__mro__[1]
    ingress = plain.__new__(plain)
    ingress._settings, ingress._dispatcher, ingress._front = settings, dispatcher, front
    ingress._started, ingress._last_good = False, Kept()
    return ingress, dispatcher, front


def weights(front: Front) -> dict[str, float]:
    return {pool.name: pool.weight for pool in front.pools.snapshots()}


async def test_a_bad_first_configuration_fails_the_deployment() -> None:
    ingress, _dispatcher, _front = bare_ingress()
    with pytest.raises(SettingsError, match="did you mean 'cpu'"):
        await ingress.reconfigure({"weights": {"cpuu": 1}})


async def test_an_ingress_restarted_under_a_bad_configuration_uses_the_last_good_one() -> None:
    ingress, _dispatcher, front = bare_ingress()
    ingress._last_good = Kept({"weights": {"cpu": 7}})
    await ingress.reconfigure({"weights": {"cpuu": 1}})
    assert weights(front) == {"gpu": 100, "cpu": 7}
    assert "did you mean 'cpu'" in (front.config_problem or "")


async def test_a_kept_configuration_that_fits_no_more_is_no_help() -> None:
    ingress, _dispatcher, _front = bare_ingress()
    ingress._last_good = Kept({"weights": {"old": 7}})
    with pytest.raises(SettingsError, match="did you mean 'cpu'"):
        await ingress.reconfigure({"weights": {"cpuu": 1}})


def test_the_last_good_configuration_is_kept_with_the_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store: dict[bytes, bytes] = {}
    kv = "ray.experimental.internal_kv"
    monkeypatch.setattr(f"{kv}._internal_kv_put", lambda k, v, overwrite: store.update({k: v}))
    monkeypatch.setattr(f"{kv}._internal_kv_get", store.get)
    with pytest.raises(LookupError):
        LastGood("app").get()
    LastGood("app").put({"weights": {"cpu": 1}})
    assert LastGood("app").get() == {"weights": {"cpu": 1}}
    with pytest.raises(LookupError):
        LastGood("other").get()


async def test_a_bad_configuration_of_an_ingress_that_started_without_one_is_refused() -> None:
    ingress, _dispatcher, front = bare_ingress()
    ingress.check_health()
    await ingress.reconfigure({"weights": {"cpuu": 1}})
    assert front.config_problem is not None
    assert "did you mean 'cpu'" in front.config_problem


async def test_a_bad_later_configuration_is_refused_whole() -> None:
    ingress, dispatcher, front = bare_ingress()
    await ingress.reconfigure({"weights": {"cpu": 7}, "policy": "latency", "slo_s": 3})
    assert weights(front) == {"gpu": 100, "cpu": 7}
    await ingress.reconfigure({"weights": {"gpu": 1, "cpu": -1}, "policy": "capacity", "slo_s": 4})
    assert weights(front) == {"gpu": 100, "cpu": 7}
    assert (dispatcher.policy.name, front.live.slo_s) == ("latency", 3)
    assert front.config_problem is not None
    assert "weights.cpu: got -1" in front.config_problem
    await ingress.reconfigure({})
    assert weights(front) == {"gpu": 100, "cpu": 0}
    assert front.config_problem is None


class Tagged:
    """A Ray metric that remembers."""

    seen: ClassVar[list[tuple[str, float, dict[str, str]]]] = []

    def __init__(self, name: str, description: str, *more: Any) -> None:
        self.name = name

    def inc(self, value: float = 1, *, tags: dict[str, str]) -> None:
        self.seen.append((self.name, value, tags))

    observe = inc


PAINTED = ImageResult(
    image=b"png",
    media_type="image/png",
    seed=1,
    timings=Timings(queue=1000, encode=2000, denoise=3000, decode=4000, total=10_000),
)


def test_every_decision_becomes_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.serve.metrics.Counter", Tagged)
    monkeypatch.setattr("ray.serve.metrics.Histogram", Tagged)
    monkeypatch.setattr(Tagged, "seen", [])
    journal = Journal(RayRoutingMetrics())
    decision = Decision(pool=snapshot("a"), reason="retry", predicted_s=2.0)
    journal.decided(decision)
    journal.finished(decision, 3.0, PAINTED)
    other = Decision(pool=snapshot("b"), reason="policy", predicted_s=0.0)
    journal.finished(other, 1.0, PAINTED)
    journal.failed("a", "lost")
    journal.refused("overloaded")
    a, b = ({"pool": name, "accelerator": f"{name}-card"} for name in "ab")
    phases = {"queue": 1.0, "encode": 2.0, "denoise": 3.0, "decode": 4.0}
    assert Tagged.seen == [
        ("imagine_routing_decisions", 1, a | {"reason": "retry"}),
        ("imagine_routing_retries", 1, {"pool": "a"}),
        ("imagine_images", 1, a),
        ("imagine_took_seconds", 3.0, a),
        ("imagine_predicted_seconds", 2.0, a),
        ("imagine_prediction_ratio", 1.5, a),
        *(("imagine_phase_seconds", s, a | {"phase": phase}) for phase, s in phases.items()),
        ("imagine_images", 1, b),
        ("imagine_took_seconds", 1.0, b),
        *(("imagine_phase_seconds", s, b | {"phase": phase}) for phase, s in phases.items()),
        ("imagine_routing_failures", 1, {"pool": "a", "cause": "lost"}),
        ("imagine_routing_refusals", 1, {"code": "overloaded"}),
    ]


class GrpcContext:
    """What Serve hands over with a call."""

    code: Any = None
    details = ""

    def set_code(self, code: Any) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details


async def test_the_ingress_answers_health_calls() -> None:
    ingress, _, front = bare_ingress()
    ingress._health = GrpcHealth(front)
    context: Any = GrpcContext()
    answer = await ingress.Check(HealthCheckRequest(service="Ingress"), context)
    assert (answer.status, context.code) == (HealthCheckResponse.SERVING, None)
    listed = await ingress.List(HealthListRequest())
    assert set(listed.statuses) == {"", "Ingress", "gpu", "cpu"}
    await ingress.Check(HealthCheckRequest(service="tpu"), context)
    assert context.code == grpc.StatusCode.NOT_FOUND
    assert "name of a pool" in context.details
    watch = ingress.Watch(HealthCheckRequest(service="tpu"), context)
    assert (await anext(watch)).status == HealthCheckResponse.SERVICE_UNKNOWN
    ingress._health._watches = MOST_WATCHES
    assert [one async for one in ingress.Watch(HealthCheckRequest(), context)] == []
    assert context.code == grpc.StatusCode.RESOURCE_EXHAUSTED


RAW = {
    "model": {"source": "a/b", "revision": "r"},
    "pools": {
        "gpu": {
            "accelerator": "l4",
            "framework": "cuda",
            "resources": {"num_gpus": 1, "resources": {"licence": 1}},
            "min_replicas": 1,
            "max_replicas": 3,
            "engine": {"dtype": "float16", "max_rows": 4, "max_queued": 6},
        },
        "cpu": {"accelerator": "cpu", "framework": "cpu", "min_replicas": 1},
    },
}


def test_what_a_pool_becomes() -> None:
    settings = Settings.parse(RAW)
    gpu, cpu = settings.pools["gpu"], settings.pools["cpu"]
    options = replica_options("gpu", gpu, settings)
    assert (options.pool, options.framework, options.model_source) == ("gpu", "cuda", "a/b")
    assert (options.model_revision, options.dtype, options.max_rows) == ("r", "float16", 4)
    assert options.artifact is None
    reserved = {"num_cpus": 1, "num_gpus": 1, "resources": {"licence": 1}}
    assert reserved.items() <= actor_options(gpu).items()
    # A minimum on hardware that may be absent would hold the application in DEPLOYING.
    assert autoscaling_config(gpu)["min_replicas"] == 0
    assert autoscaling_config(gpu)["max_replicas"] == 3
    assert autoscaling_config(cpu)["initial_replicas"] == 1


def test_a_pools_artifact_is_what_its_replicas_run() -> None:
    artifact = {"source": "a/b", "tag": "cuda-1", "revision": "0" * 40, "fallback": "jit"}
    pools = {"gpu": RAW["pools"]["gpu"] | {"artifact": artifact}}
    settings = Settings.parse(RAW | {"pools": pools})
    options = replica_options("gpu", settings.pools["gpu"], settings)
    assert options.artifact == ArtifactOptions(**artifact)


def test_the_builder_explains_bad_settings() -> None:
    with pytest.raises(SettingsError, match="did you mean 'pools'"):
        build({**RAW, "pool": {}})


def test_the_builder_makes_one_deployment_per_pool() -> None:
    application: Any = build(RAW)
    deployment = application._bound_deployment
    assert deployment.name == "Ingress"
    settings, pools = deployment.init_args
    assert settings == Settings.parse(RAW)
    assert {name: p._bound_deployment.name for name, p in pools.items()} == {
        "gpu": "gpu",
        "cpu": "cpu",
    }


def test_serve_delivers_what_the_engine_refuses() -> None:
    settings = Settings.parse(RAW)
    for name, pool in settings.pools.items():
        bound: Any = bind_pool(name, pool, settings)
        refused_from = pool.engine.max_rows + pool.engine.max_queued
        # Clearly more: several requests may be on their way when the engine fills up.
        assert bound._bound_deployment.max_ongoing_requests >= 1.5 * refused_from


def test_a_dead_device_is_found_soon() -> None:
    settings = Settings.parse(RAW)
    bound: Any = bind_pool("gpu", settings.pools["gpu"], settings)
    config = bound._bound_deployment._deployment_config
    assert config.health_check_period_s <= 2
    assert config.health_check_period_s < config.health_check_timeout_s <= 10
