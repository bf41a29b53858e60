"""The one shape of every error: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from serve_app.access.visit import current_visit
from serve_app.routing.outcome import DispatchError

_STATUS_OF_DISPATCH = {
    "unavailable": 503,
    "lost": 503,
    "device_error": 503,
    "timeout": 504,
    "deadline_exceeded": 504,
    "invalid_request": 400,
    "overloaded": 429,
    "generation_failed": 500,
    "content_policy_violation": 400,
}
# What failed once for good, or has used up its time, is not painted again unasked.
_WORTH_RETRYING = frozenset({408, 429, 503})


class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        status: HTTP status.
        message: a sentence for people; says what was got and what is allowed.
        param: the request field at fault, or ``None``.
        code: a word for programs.
        headers: extra response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    @classmethod
    def from_dispatch(cls, error: DispatchError) -> ApiError:
        """The HTTP form of a dispatcher's error."""
        headers = {}
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(error.retry_after_s)
        return cls(
            _STATUS_OF_DISPATCH[error.code],
            str(error),
            code=error.code,
            param=error.param,
            headers=headers,
        )

    def body(self) -> dict[str, Any]:
        """The common envelope; the visit, if there is one, notes its code."""
        visit = current_visit()
        if visit is not None:
            visit.code = self.code
        return {
            "error": {
                "message": self.message,
                "type": _type_of(self.status),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self, more: Mapping[str, Any] | None = None) -> JSONResponse:
        """The error as a response in the common envelope; ``more`` stands beside it.

        It says whether trying again makes sense: clients of OpenAI's API go by that.
        """
        again = "true" if self.status in _WORTH_RETRYING else "false"
        return JSONResponse(
            {**self.body(), **(more or {})},
            status_code=self.status,
            headers={"X-Should-Retry": again, **self.headers},
        )


def bad_value(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """A 400 that blames the field ``param``."""
    return ApiError(400, message, code=code, param=param)


def _type_of(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"
