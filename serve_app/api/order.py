"""From checked fields to the pictures to paint."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

from deployments.messages import ImageRequest
from deployments.model_info import ModelInfo
from serve_app.api.accept import JSON, Accept
from serve_app.api.errors import ApiError, bad_value
from serve_app.api.fields import MAX_SEED
from serve_app.api.front import Front
from serve_app.api.masks import MaskStyle, read_mask
from serve_app.api.pictures import read_start_picture
from serve_app.settings import Settings
from serve_app.validation import did_you_mean

DEFAULT_STRENGTH = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Everything one ``/imagine`` call asks for.

    Attributes:
        pictures: one request per picture, seeds counting up.
        pool: the pinned pool, if any.
        as_json: whether the answer is JSON rather than the picture's bytes.
        stream: whether the answer is a stream of events.
    """

    pictures: tuple[ImageRequest, ...]
    pool: str | None
    as_json: bool
    stream: bool

    def seeded(self, seed: int) -> tuple[ImageRequest, ...]:
        """The pictures with ``seed`` as that of the first."""
        return tuple(
            replace(picture, seed=(seed + index) % (MAX_SEED + 1))
            for index, picture in enumerate(self.pictures)
        )


async def read_order(
    fields: Mapping[str, Any],
    accept: Accept,
    request_id: str,
    front: Front,
    decoding: Executor,
    mask_style: MaskStyle = "white",
) -> Order:
    """Turn checked fields into requests that no replica needs to check again.

    Start picture and mask are decoded last, on ``decoding``, so that nothing is decoded in vain.

    Args:
        fields: by the names of ``/imagine``; ``image`` and ``mask`` may also be bytes.
        accept: what the client takes.
        request_id: of the call.
        front: settings and model.
        decoding: where pictures are decoded.
        mask_style: how a mask says what is repainted.

    Raises:
        ApiError: 400 for fields that do not go together, 404 for an unknown pool, 406 when
            nothing the client admits can be sent.
    """
    received = time.monotonic()
    count: int = fields["n"]
    stream: bool = fields["stream"]
    as_json = not stream and _answer_as_json(count, fields.get("output_format"), accept)
    _check_goes_together(fields)
    _check_lcm_steps(fields, front.model)
    strength = _strength(fields)
    pool = _known_pool(fields.get("pool"), front)
    lora = known_lora(fields.get("lora"), pool, front.settings)
    init_rgb = mask = None
    if strength is not None:
        init_rgb, mask = await asyncio.get_running_loop().run_in_executor(
            decoding, _read_pictures, fields, front.settings.limits.max_image_pixels, mask_style
        )
    seed: int = fields["seed"] if "seed" in fields else secrets.randbelow(MAX_SEED + 1)
    time_left_s = None
    if "deadline_ms" in fields:
        time_left_s = fields["deadline_ms"] / 1000 - (time.monotonic() - received)
    # A client may use one request id for several calls; the replicas' key must be unique.
    key = f"{request_id}-{secrets.token_hex(4)}"
    pictures = tuple(
        ImageRequest(
            request_id=f"{key}-{index}",
            prompt=fields["prompt"],
            negative_prompt=fields["negative_prompt"],
            width=fields["width"],
            height=fields["height"],
            num_inference_steps=fields["num_inference_steps"],
            guidance_scale=fields["guidance_scale"],
            seed=seed,
            scheduler=fields["scheduler"],
            lora=lora,
            init_rgb=init_rgb,
            strength=strength,
            mask=mask,
            output_format=fields.get("output_format") or accept.first_image() or "png",
            quality=fields.get("quality"),
            previews=fields["partial_images"],
            time_left_s=time_left_s,
        )
        for index in range(count)
    )
    order = Order(pictures=pictures, pool=pool, as_json=as_json, stream=stream)
    return replace(order, pictures=order.seeded(seed))


def _read_pictures(
    fields: Mapping[str, Any], max_pixels: int, mask_style: MaskStyle
) -> tuple[bytes, bytes | None]:
    """Start picture and mask as ``ImageRequest`` has them."""
    image, size = fields["image"], (fields["width"], fields["height"])
    mask = None
    if "mask" in fields:
        mask = read_mask(fields["mask"], image, *size, max_pixels, mask_style)
    return read_start_picture(image, *size, max_pixels), mask


def _check_goes_together(fields: Mapping[str, Any]) -> None:
    if fields["partial_images"] and not fields["stream"]:
        raise bad_value("partial_images", "partial_images: only allowed together with stream")
    if "mask" in fields and "image" not in fields:
        raise bad_value("mask", "mask: only allowed together with image")


def _answer_as_json(count: int, output_format: str | None, accept: Accept) -> bool:
    admits_json = accept.quality(JSON) > 0
    if count > 1:
        if not admits_json:
            raise bad_value(
                "n", f"n: {count} pictures can only be sent as JSON, which Accept does not admit"
            )
        return True
    if accept.prefers_json:
        return True
    image = f"image/{output_format}" if output_format else None
    if accept.quality(image) > 0 if image else accept.first_image() is not None:
        return False
    if admits_json:
        return True
    raise ApiError(
        406,
        "Accept admits neither"
        f" {image or 'image/png, image/jpeg, image/webp'} nor application/json",
        code="not_acceptable",
        param="output_format" if output_format else None,
    )


def _check_lcm_steps(fields: Mapping[str, Any], model: ModelInfo) -> None:
    steps: int = fields["num_inference_steps"]
    scheduler: str = fields["scheduler"]
    lcm = scheduler == "lcm" or (scheduler == "default" and model.lcm_by_default)
    if lcm and steps > model.lcm_max_steps:
        raise bad_value(
            "num_inference_steps",
            f"num_inference_steps: got {steps}; allowed with scheduler {scheduler!r}:"
            f" 1 to {model.lcm_max_steps}",
        )


def _strength(fields: Mapping[str, Any]) -> float | None:
    """The strength of image-to-image, or ``None`` for text-to-image."""
    if "image" not in fields:
        if "strength" in fields:
            raise bad_value("strength", "strength: only allowed together with image")
        return None
    steps: int = fields["num_inference_steps"]
    # A default must leave at least one step to run.
    usual = 1.0 if "mask" in fields else max(DEFAULT_STRENGTH, 1 / steps)
    strength: float = fields.get("strength", usual)
    if int(steps * strength) < 1:
        raise bad_value(
            "strength",
            f"strength: {strength:g} of {steps} steps leaves none to run; allowed: at least"
            f" {1 / steps:.4g}",
        )
    return strength


def _known_pool(pool: str | None, front: Front) -> str | None:
    pools = front.settings.pools
    if pool is not None and pool not in pools:
        raise ApiError(
            404,
            f"pool: no pool {pool!a}; declared: {', '.join(pools)}{did_you_mean(pool, pools)}",
            code="pool_not_found",
            param="pool",
        )
    return pool


def known_lora(lora: str | None, pool: str | None, settings: Settings) -> str | None:
    """The adapter asked for, which some pool (or the pinned one) has.

    Raises:
        ApiError: 404 for one that is not there, 400 for none where every pool has one fused.
    """
    pools = settings.pools if pool is None else {pool: settings.pools[pool]}
    where = "" if pool is None else f" in pool {pool!r}"
    names = sorted({name for one in pools.values() for name in one.loras})
    declared = ", ".join(names) or "none"
    if lora is None:
        if all(one.fuse_lora for one in pools.values()):
            raise bad_value(
                "lora", f"lora: missing; every picture{where} is painted with one of: {declared}"
            )
    elif lora not in names:
        raise ApiError(
            404,
            f"lora: no LoRA adapter {lora!a}{where}; declared: {declared}"
            f"{did_you_mean(lora, names)}",
            code="lora_not_found",
            param="lora",
        )
    return lora
