"""``POST /imagine`` and ``GET /imagine``."""

from __future__ import annotations

import asyncio
import logging
import time
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from serve_app.api.accept import Accept
from serve_app.api.answer import image_answer, json_answer
from serve_app.api.caller import caller_key
from serve_app.api.errors import ApiError, bad_value
from serve_app.api.intake import Intake
from serve_app.api.order import Order, read_order
from serve_app.api.painting import paint_all
from serve_app.api.progress import stream_pictures
from serve_app.api.stickiness import read_sticky, set_sticky
from serve_app.routing.outcome import DispatchError
from serve_app.routing.router import Wishes

log = logging.getLogger(__name__)

_MAX_QUERY_FIELDS = 64


class Imagine:
    """Answers ``/imagine``."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._front = intake.front

    async def handle(self, request: Request) -> Response:
        """Check, paint, answer.

        Raises:
            ApiError: any error of the contract.
        """
        began = time.monotonic()
        front, request_id = self._front, request.state.request_id
        order = await self._read_order(request)
        sticking = front.live.stickiness
        wishes = Wishes(
            pin=order.pool,
            sticky=read_sticky(request, sticking, front.settings.pools),
            key=caller_key(request),
        )
        if order.stream:
            return await stream_pictures(
                front.painter,
                order.pictures,
                wishes,
                front.model,
                request_id=request_id,
                heartbeat_s=front.settings.ingress.heartbeat_s,
            )
        try:
            painted = await paint_all(front.painter, order.pictures, wishes)
        except DispatchError as error:
            raise ApiError.from_dispatch(error) from error
        except asyncio.CancelledError:
            log.info("request %s cancelled by the client after %s", request_id, _since(began))
            raise
        total_ms = (time.monotonic() - began) * 1000
        answer: Response
        if order.as_json:
            answer = json_answer(painted, front.model, total_ms)
        else:
            answer = image_answer(painted[0], front.model, total_ms)
        if wishes.pin is None:
            set_sticky(answer, sticking, painted[0].pool.name)
        return answer

    async def _read_order(self, request: Request) -> Order:
        # On its own, so that the body is let go before the picture is painted.
        intake = self._intake
        accept = Accept.parse(", ".join(request.headers.getlist("accept")))
        given = (accept, request.state.request_id, self._front, intake.decoding)
        if request.method != "POST":
            return await read_order(intake.fields.check_query(_query(request)), *given)
        async with intake.bodies.open(request) as body:
            return await read_order(intake.fields.check_body(body), *given)


def _query(request: Request) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            request.url.query,
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_QUERY_FIELDS,
        )
    except ValueError as error:  # also UnicodeDecodeError
        raise bad_value(None, f"the query cannot be read: {str(error)[:100]}") from None


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.2f} s"
