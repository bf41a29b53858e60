"""``POST /v1/images/generations`` and ``POST /v1/images/edits``."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve_app.api.accept import JSON, Accept
from serve_app.api.answer import headers, model_label
from serve_app.api.caller import caller_key
from serve_app.api.errors import ApiError, bad_value
from serve_app.api.events import EventStream
from serve_app.api.intake import Intake
from serve_app.api.openai.answer import ImageEvents, images_body
from serve_app.api.openai.fields import edit_fields, generation_fields, translate
from serve_app.api.openai.form import Form, parse_form
from serve_app.api.openai.once import Once
from serve_app.api.openai.ticket import Ticket
from serve_app.api.order import Order, read_order
from serve_app.api.painting import WatchAll, paint_all
from serve_app.api.quoting import shorten_name
from serve_app.api.stickiness import read_sticky, set_sticky
from serve_app.routing.outcome import DispatchError, Painted
from serve_app.routing.router import Wishes

# A list of pictures is sent under the second name.
_IMAGE_PARTS = ("image", "image[]")


class Images:
    """Answers both routes.

    Args:
        intake: reads requests.
        once: knows retries again.
    """

    def __init__(self, intake: Intake, once: Once) -> None:
        self._intake = intake
        self._front = intake.front
        self.generation_fields = generation_fields(intake.fields)
        self.edit_fields = edit_fields(intake.fields)
        self._once = once

    async def generations(self, request: Request) -> Response:
        """From a text.

        Raises:
            ApiError: any error of the contract.
        """
        async with self._intake.bodies.open(request) as body:
            asked = self.generation_fields.check_body(body)
        ticket = Ticket.of(request, asked)
        order = await self._order(request, asked, {}, ticket)
        return await self._answer(request, "image_generation", order, ticket)

    async def edits(self, request: Request) -> Response:
        """From a picture and a text, with or without a mask.

        Raises:
            ApiError: any error of the contract.
        """
        order, ticket = await self._read_edit(request)
        return await self._answer(request, "image_edit", order, ticket)

    async def _read_edit(self, request: Request) -> tuple[Order, Ticket | None]:
        # On its own, so that the files are let go before the picture is painted.
        async with self._intake.bodies.raw(request, "multipart/form-data") as raw:
            content_type = request.headers["content-type"]
            form, digests = await asyncio.get_running_loop().run_in_executor(
                self._intake.decoding, _read_form, raw, content_type
            )
            asked = self.edit_fields.check_query(form.texts.items())
            ticket = Ticket.of(request, {**asked, "files": digests})
            return await self._order(request, asked, _pictures(form), ticket), ticket

    async def _order(
        self,
        request: Request,
        asked: Mapping[str, Any],
        pictures: Mapping[str, bytes],
        ticket: Ticket | None,
    ) -> Order:
        drawn = {} if ticket is None or ticket.seed is None else {"seed": ticket.seed}
        return await read_order(
            {**drawn, **translate(asked, self._intake.fields), **pictures},
            Accept.parse(JSON),
            request.state.request_id,
            self._front,
            self._intake.decoding,
            mask_style="transparent",
        )

    async def _answer(
        self, request: Request, kind: str, order: Order, ticket: Ticket | None
    ) -> Response:
        began, front = time.monotonic(), self._front
        sticking = front.live.stickiness
        wishes = Wishes(
            pin=order.pool,
            sticky=read_sticky(request, sticking, front.settings.pools),
            key=caller_key(request),
        )

        async def paint(
            watch: WatchAll | None = None, joined: Callable[[int], None] = lambda seed: None
        ) -> list[Painted]:
            return await self._once.paint(
                ticket,
                order.pictures[0].seed,
                lambda seed: paint_all(front.painter, order.seeded(seed), wishes, watch),
                joined,
            )

        if order.stream:
            return await self._stream(kind, order, paint, request.state.request_id)
        try:
            painted = await paint()
        except DispatchError as error:
            raise ApiError.from_dispatch(error) from error
        total_ms = (time.monotonic() - began) * 1000
        answer = JSONResponse(
            images_body(painted, order), headers=headers(painted, front.model, total_ms)
        )
        if wishes.pin is None:
            set_sticky(answer, sticking, painted[0].pool.name)
        return answer

    async def _stream(self, kind: str, order: Order, paint: Any, request_id: str) -> EventStream:
        async def work(stream: EventStream) -> None:
            def joined(seed: int) -> None:  # before the headers are sent
                stream.headers["X-Seed"] = str(seed)

            events = ImageEvents(stream, kind, order)
            (painted,) = await paint(events.watch, joined)
            events.completed(painted)

        return await EventStream(
            work,
            request_id=request_id,
            heartbeat_s=self._front.settings.ingress.heartbeat_s,
            headers={
                "X-Seed": str(order.pictures[0].seed),
                "X-Model": model_label(self._front.model),
            },
        ).open()


def _read_form(raw: bytearray, content_type: str) -> tuple[Form, list[str]]:
    """The form, and what its files are known again by."""
    form = parse_form(raw, content_type)
    digests = [
        f"{name} {hashlib.sha256(data).hexdigest()}"
        for name, files in sorted(form.files.items())
        for data in files
    ]
    return form, digests


def _pictures(form: Form) -> dict[str, bytes]:
    """``image`` and, where there is one, ``mask``."""
    for name in form.files:
        if name not in (*_IMAGE_PARTS, "mask"):
            short = shorten_name(name)
            raise bad_value(
                short, f"{short}: unknown file; allowed: image, mask", code="unknown_field"
            )
    images = [data for name in _IMAGE_PARTS for data in form.files.get(name, ())]
    masks = form.files.get("mask", [])
    if not images:
        raise bad_value("image", "image: missing; it must be a file", code="missing_field")
    for name, files in (("image", images), ("mask", masks)):
        if len(files) > 1:
            raise bad_value(name, f"{name}: got {len(files)} files; allowed: 1")
    return {"image": images[0], **({"mask": masks[0]} if masks else {})}
