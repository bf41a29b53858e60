"""Pixels to PNG, JPEG or WebP; a PNG carries its own recipe."""

from __future__ import annotations

import io
import json
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from deployments.messages import ImageRequest

JPEG_QUALITY = 92
WEBP_QUALITY = 90
# zlib level 1 costs a third of level 6 and a few per cent of size: the replica's time is dearer.
PNG_LEVEL = 1


def encode_picture(
    pixels: NDArray[np.uint8], request: ImageRequest, model: str, revision: str
) -> bytes:
    """Encode ``[height, width, 3]`` pixels as the request asks, a PNG with its recipe."""
    return _encode(Image.fromarray(pixels), request, pnginfo=_png_info(request, model, revision))


def encode_preview(pixels: NDArray[np.uint8], request: ImageRequest) -> bytes:
    """Encode a smaller ``[h, w, 3]`` picture, enlarged to the request's size."""
    size = (request.width, request.height)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    # So smooth a picture gets smaller by run lengths alone, in two thirds of the time.
    return _encode(image, request, compress_type=zlib.Z_RLE)


def _encode(image: Image.Image, request: ImageRequest, **png: Any) -> bytes:
    """``png``: more of Pillow's options for that format."""
    out = io.BytesIO()
    if request.output_format == "png":
        image.save(out, "PNG", compress_level=PNG_LEVEL, **png)
    elif request.output_format == "jpeg":
        image.save(out, "JPEG", quality=request.quality or JPEG_QUALITY)
    else:
        image.save(out, "WEBP", quality=request.quality or WEBP_QUALITY)
    return out.getvalue()


def recipe(request: ImageRequest, model: str, revision: str) -> dict[str, object]:
    """The fields that paint this picture again."""
    fields: dict[str, object] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "width": request.width,
        "height": request.height,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "seed": request.seed,
        "scheduler": request.scheduler,
    }
    if request.strength is not None:
        fields["strength"] = request.strength
    if request.lora is not None:
        fields["lora"] = request.lora
    return fields | {"model": model, "model_revision": revision}


def _png_info(request: ImageRequest, model: str, revision: str) -> PngInfo:
    """``imagine``: the recipe as JSON; ``parameters``: the line other tools read."""
    fields = recipe(request, model, revision)
    info = PngInfo()
    info.add_itxt("imagine", json.dumps(fields, ensure_ascii=False))
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    info.add_itxt(
        "parameters",
        f"{request.prompt}{negative}\nSteps: {request.num_inference_steps}, "
        f"Sampler: {request.scheduler}, CFG scale: {request.guidance_scale}, "
        f"Seed: {request.seed}, Size: {request.width}x{request.height}, Model: {model}",
    )
    return info
