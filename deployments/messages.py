"""What travels between the ingress and a replica: plain values, no tensors.

Both sides import this module, so it must never import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OutputFormat = Literal["png", "jpeg", "webp"]
SchedulerName = Literal["default", "ddim", "euler", "euler_a", "dpmpp_2m", "unipc", "lcm"]

MEDIA_TYPES: dict[OutputFormat, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """One picture to paint: fully validated, every default filled in.

    Attributes:
        request_id: unique per picture; the key for cancellation.
        prompt: what to paint.
        negative_prompt: what to steer away from; ``""`` for none.
        width: picture width in pixels.
        height: picture height in pixels.
        num_inference_steps: denoising steps before ``strength`` shortens them.
        guidance_scale: classifier-free guidance; at most 1 means unguided (one row).
        seed: 0…2**32-1; the seed alone decides the noise.
        scheduler: ``"default"`` is the model's own scheduler.
        lora: the adapter to paint with, or ``None``.
        init_rgb: image-to-image only: ``height*width*3`` raw RGB bytes.
        strength: image-to-image only: 0 < strength <= 1.
        mask: inpainting only: ``height*width`` bytes, 255 where ``init_rgb`` is repainted and 0
            where it is kept.
        output_format: encoding of the answer.
        quality: 1 to 100, of JPEG and WebP; ``None`` for the service's own.
        previews: most partial pictures to show on the way, for requests that are watched.
        time_left_s: seconds within which the answer is wanted, if the caller set a limit; counted
            by whoever gets the message, on a clock that cannot be set, from when it came.
    """

    request_id: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    seed: int
    scheduler: SchedulerName = "default"
    lora: str | None = None
    init_rgb: bytes | None = None
    strength: float | None = None
    mask: bytes | None = None
    output_format: OutputFormat = "png"
    quality: int | None = None
    previews: int = 0
    time_left_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Where a picture's time went, in milliseconds."""

    queue: float
    encode: float
    denoise: float
    decode: float
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageResult:
    """A finished picture, already encoded by the replica.

    Attributes:
        image: encoded bytes in ``media_type``; a PNG carries its recipe as text chunks.
        media_type: e.g. ``image/png``.
        seed: the seed that was used.
        timings: per-phase times.
        truncated: the prompt was longer than the text encoder's window.
        unknown_words: prompt words outside a closed-vocabulary model's vocabulary.
    """

    image: bytes
    media_type: str
    seed: int
    timings: Timings
    truncated: bool = False
    unknown_words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageProgress:
    """How far a watched picture is.

    Attributes:
        step: denoising steps taken; 0 while it waits.
        steps: all there are.
        place: in the replica's queue while it waits, 1 for the next; ``None`` while it is painted.
    """

    step: int
    steps: int
    place: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePreview:
    """What a watched picture would be if it were finished now, roughly.

    Attributes:
        index: 0 for the first preview.
        step: after which it was taken.
        steps: all there are.
        image: encoded bytes of the picture's size and format.
        media_type: e.g. ``image/png``.
    """

    index: int
    step: int
    steps: int
    image: bytes
    media_type: str


ImageEvent = ImageProgress | ImagePreview

FailureCode = Literal[
    "invalid_request",  # the request itself cannot be painted here (HTTP 400)
    "overloaded",  # the replica's queue is full (HTTP 429)
    "deadline_exceeded",  # HTTP 504
    "content_policy_violation",  # the safety checker refuses the picture (HTTP 400)
    "generation_failed",  # this request alone failed (HTTP 500)
    "device_error",  # the device failed under the batch (retryable elsewhere, HTTP 503)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFailure:
    """Why a picture was not painted: a value, not an exception, so that it crosses processes."""

    code: FailureCode
    message: str
    retryable: bool = False
    param: str | None = None
