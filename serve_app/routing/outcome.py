"""How a request ended: painted, or why not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from deployments.messages import ImageFailure, ImageResult
from serve_app.routing.router import Reason
from serve_app.routing.snapshot import PoolSnapshot

RETRY_AFTER_S = 5

DispatchCode = Literal[
    "unavailable",  # no pool (or not the pinned one) has a ready replica
    "lost",  # the replica died and so did the retry
    "timeout",  # the service's own time limit passed
    "invalid_request",
    "overloaded",
    "deadline_exceeded",
    "generation_failed",
    "content_policy_violation",
    "device_error",
]


class ReplicaLostError(Exception):
    """The replica died or left before it answered; the request may be sent again."""


class ReplicaHungError(ReplicaLostError):
    """The replica has not answered long after it should have."""


class DispatchError(Exception):
    """The request was not painted.

    Attributes:
        code: why, as a word.
        param: the request field at fault, if one is.
        retry_after_s: seconds after which trying again makes sense, if it does.
    """

    def __init__(
        self,
        code: DispatchCode,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s


class LateError(DispatchError):
    """A time limit has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    """A picture, the pool it came from and why it went there."""

    result: ImageResult
    pool: PoolSnapshot
    reason: Reason = "policy"


def from_failure(failure: ImageFailure, predicted_s: float) -> DispatchError:
    """What a replica said, for the caller."""
    # A full queue has room again when about one picture's time has passed.
    busy_s = max(1, math.ceil(predicted_s))
    waits: dict[str, int] = {"overloaded": busy_s, "device_error": RETRY_AFTER_S}
    late = failure.code == "deadline_exceeded"
    return DispatchError(
        failure.code,
        failure.message,
        param="deadline_ms" if late else failure.param,
        retry_after_s=waits.get(failure.code),
    )
