"""Ray Serve behind the dispatcher's protocols."""

from __future__ import annotations

from typing import Any

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    TaskCancelledError,
    WorkerCrashedError,
)
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from deployments.messages import ImageFailure, ImageRequest, ImageResult
from serve_app.routing.outcome import ReplicaLostError
from serve_app.routing.watching import Watch

# The replica or its node is gone, or was before its answer could be fetched; or Serve itself has
# cancelled the request. In each case nobody works on it any more.
_LOST = (
    RayActorError,
    WorkerCrashedError,
    NodeDiedError,
    ObjectLostError,
    TaskCancelledError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)

# Serve takes messages of up to 4 MiB at either end. A picture of noise may be a bit larger than
# its raw RGB bytes.
_GRPC_BYTES = 3 << 20


class RayPoolHandle:
    """A pool's deployment handle."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        # Whether by gRPC -> what calls it.
        self._handle = {
            grpc: handle.options(method_name="generate", _by_reference=not grpc)
            for grpc in (True, False)
        }
        self._watched = {
            grpc: handle.options(method_name="stream", stream=True, _by_reference=not grpc)
            for grpc in (True, False)
        }
        self._about = handle.options(method_name="describe", _by_reference=False)

    def generate(self, request: ImageRequest, watch: Watch | None = None) -> RayReply:
        """Send ``request`` to a replica of the pool; returns at once.

        Only a watched request takes the streaming way, which costs more.
        """
        grpc = fits_grpc(request)
        if watch is None:
            return RayReply(self._handle[grpc].remote(request))
        return RayStream(self._watched[grpc].remote(request), watch)

    async def describe(self) -> dict[str, Any]:
        """What a replica of the pool was measured to do.

        Raises:
            Exception: whatever Ray raises when no replica answers.
        """
        description: dict[str, Any] = await self._about.remote()
        return description


def fits_grpc(request: ImageRequest) -> bool:
    """Whether request and answer are small enough for gRPC; larger ones go through Ray's objects.

    gRPC is how Serve's throughput mode calls replicas, which listen for it anyway. A call of a Ray
    actor takes so much of the replica's interpreter that its steps wait (docs/performance.md).
    """
    pixels = request.width * request.height
    sent = len(request.init_rgb or b"") + len(request.mask or b"")
    return max(sent, 3 * pixels) <= _GRPC_BYTES


class RayReply:
    """A request under way at a replica."""

    def __init__(self, response: Any) -> None:
        self._response = response

    async def result(self) -> ImageResult | ImageFailure:
        """The replica's answer.

        Raises:
            ReplicaLostError: the replica's process or node is gone, or the pool is.
        """
        try:
            return await self._answer()
        except _LOST as error:
            raise ReplicaLostError(type(error).__name__) from error
        except BackPressureError:
            return ImageFailure(code="overloaded", message="the pool's queue is full")

    async def _answer(self) -> ImageResult | ImageFailure:
        answer: ImageResult | ImageFailure = await self._response
        return answer

    def cancel(self) -> None:
        """Cancel at the replica: its coroutine gets ``CancelledError``."""
        self._response.cancel()


class RayStream(RayReply):
    """A watched request under way at a replica."""

    def __init__(self, response: Any, watch: Watch) -> None:
        super().__init__(response)
        self._watch = watch

    async def _answer(self) -> ImageResult | ImageFailure:
        answer: ImageResult | ImageFailure | None = None
        try:
            async for item in self._response:
                if isinstance(item, ImageResult | ImageFailure):
                    answer = item  # the last item; to the end, so that Serve counts it as done
                else:
                    self._watch(item)
        except _LOST:
            if answer is None:
                raise
        if answer is None:
            raise ReplicaLostError("the stream ended without an answer")
        return answer
