"""The mask of inpainting: a picture in, one byte a pixel of the target's size out."""

from __future__ import annotations

from typing import Literal

from PIL import Image, ImageChops, ImageOps

from serve_app.api.errors import bad_value
from serve_app.api.pictures import eight_bit, opened, upright_size

# How a mask says what is repainted: by white (transparent counts as black), or by transparency.
MaskStyle = Literal["white", "transparent"]
_HALF = 128


def read_mask(
    source: str | bytes,
    image: str | bytes,
    width: int,
    height: int,
    max_pixels: int,
    style: MaskStyle,
) -> bytes:
    """Decode the ``mask`` field for a picture of ``width`` x ``height`` pixels.

    It lies on the start picture, and is cropped and resized as that is.

    Args:
        source: the mask; as for ``read_start_picture``.
        image: the start picture.
        width: of the target.
        height: of the target.
        max_pixels: largest picture that is decoded.
        style: how it says what is repainted.

    Returns:
        ``height * width`` bytes: 255 where the picture is repainted, else 0.

    Raises:
        ApiError: 400 for ``mask``: not a picture, of neither the start picture's size nor the
            target's, without transparency where that is needed, or with nothing to repaint.
    """
    with opened(image, "image", max_pixels) as picture:
        allowed = (upright_size(picture), (width, height))
    with opened(source, "mask", max_pixels) as picture:
        size = upright_size(picture)
        if size not in allowed:
            sizes = " or ".join(dict.fromkeys(f"{w}x{h}" for w, h in allowed))
            raise bad_value(
                "mask", f"mask: {size[0]}x{size[1]} pixels; allowed: the size of image, {sizes}"
            )
        if style == "transparent" and not picture.has_transparency_data:
            raise bad_value(
                "mask", "mask: has no transparency; what is to be repainted must be transparent"
            )
        levels = ImageOps.exif_transpose(_levels(picture, style))
        fitted = ImageOps.fit(levels, (width, height), Image.Resampling.BILINEAR)
    marked = fitted.point(lambda level: 255 if level >= _HALF else 0)
    if marked.getbbox() is None:
        raise bad_value("mask", f"mask: nothing is {style}, so nothing would be repainted")
    return marked.tobytes()


def _levels(picture: Image.Image, style: MaskStyle) -> Image.Image:
    """Grey levels, bright where the picture is repainted; Pillow keeps the EXIF orientation."""
    plain = eight_bit(picture)
    if style == "transparent":
        return ImageChops.invert(plain.getchannel("A"))
    levels = plain.convert("L")
    if plain.mode == "RGBA":
        levels = ImageChops.multiply(levels, plain.getchannel("A"))
    return levels
