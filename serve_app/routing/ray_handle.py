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


class RayPoolHandle:
    """A pool's deployment handle."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle.options(method_name="generate")
        self._watched = handle.options(method_name="stream", stream=True)
        self._about = handle.options(method_name="describe")

    def generate(self, request: ImageRequest, watch: Watch | None = None) -> RayReply:
        """Send ``request`` to a replica of the pool; returns at once.

        Only a watched request takes the streaming way, which costs more.
        """
        if watch is None:
            return RayReply(self._handle.remote(request))
        return RayStream(self._watched.remote(request), watch)

    async def describe(self) -> dict[str, Any]:
        """What a replica of the pool was measured to do.

        Raises:
            Exception: whatever Ray raises when no replica answers.
        """
        description: dict[str, Any] = await self._about.remote()
        return description


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
