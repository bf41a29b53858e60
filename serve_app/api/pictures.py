"""The start picture of image-to-image: base64 in, raw RGB of the target's size out."""

from __future__ import annotations

import base64
import binascii
import io
import re

from PIL import Image, ImageOps, UnidentifiedImageError

from serve_app.api.errors import ApiError, bad_value

_FORMATS = ("PNG", "JPEG", "WEBP")
_MIMES = ("image/png", "image/jpeg", "image/jpg", "image/webp")
_DATA_URL = re.compile(r"data:(?P<mime>[\w/+.-]*)(?P<params>(;[\w=.+-]+)*?);base64,", re.ASCII)

# Pillow's own limit warns through a process-wide filter; ours is checked before decoding.
Image.MAX_IMAGE_PIXELS = None


def read_start_picture(text: str, width: int, height: int, max_pixels: int) -> bytes:
    """Decode the ``image`` field for a picture of ``width`` x ``height`` pixels.

    EXIF orientation is applied and transparency laid over white; a picture of another size is
    cropped about its centre to the target's shape, then resized (Lanczos).

    Returns:
        ``height * width * 3`` bytes: rows of RGB. Those of the picture itself if it has the size.

    Raises:
        ApiError: 400 for ``image``: not base64, not PNG/JPEG/WebP, truncated, animated, or more
            than ``max_pixels``.
    """
    data = _decode_base64(text)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            _check_size(picture, max_pixels)
            return _fit(_to_rgb(picture), width, height).tobytes()
    except ApiError:
        raise
    except UnidentifiedImageError:
        raise bad_value("image", "image: not a PNG, JPEG or WebP picture") from None
    except Exception as error:  # Pillow raises many kinds for broken files
        reason = str(error) or type(error).__name__
        raise bad_value("image", f"image: broken or truncated ({reason[:100]})") from None


def _decode_base64(text: str) -> bytes:
    if text.startswith("data:"):
        head = _DATA_URL.match(text[:200])
        if head is None:
            raise bad_value("image", "image: the data URL must start 'data:image/png;base64,'")
        if head["mime"].lower() not in _MIMES:
            raise bad_value(
                "image",
                f"image: the data URL says {head['mime']!r}; allowed: image/png, image/jpeg,"
                " image/webp",
            )
        text = text[head.end() :]
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad_value("image", "image: not valid base64 (standard alphabet, padded)") from None
    if not data:
        raise bad_value("image", "image: empty")
    return data


def _check_size(picture: Image.Image, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise bad_value(
            "image",
            f"image: {width}x{height} is {width * height} pixels; allowed: at most {max_pixels}",
        )
    # A phone's JPEG may hold a preview as a second frame; that is no animation.
    if picture.format in ("PNG", "WEBP") and getattr(picture, "n_frames", 1) != 1:
        raise bad_value("image", "image: animated; allowed: one still picture")


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Decode, turn upright and flatten to 8-bit RGB."""
    picture.load()
    upright = ImageOps.exif_transpose(picture) or picture
    if upright.mode.startswith("I"):  # 16-bit grey: keep the high byte
        upright = upright.convert("I").point(lambda level: level * (1 / 256)).convert("L")
    if upright.has_transparency_data:
        clear = upright.convert("RGBA")
        white = Image.new("RGBA", clear.size, "white")
        return Image.alpha_composite(white, clear).convert("RGB")
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    if picture.size == (width, height):
        return picture
    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
