"""The start picture of image-to-image: a file in, raw RGB of the target's size out."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from serve_app.api.errors import ApiError, bad_value

_FORMATS = ("PNG", "JPEG", "WEBP")
_MIMES = ("image/png", "image/jpeg", "image/jpg", "image/webp")
_DATA_URL = re.compile(r"data:(?P<mime>[\w/+.-]*)(?P<params>(;[\w=.+-]+)*?);base64,", re.ASCII)
_QUARTER_TURNS = (5, 6, 7, 8)  # EXIF orientations that swap width and height

# Pillow's own limit warns through a process-wide filter; ours is checked before decoding.
Image.MAX_IMAGE_PIXELS = None


def read_start_picture(source: str | bytes, width: int, height: int, max_pixels: int) -> bytes:
    """Decode the ``image`` field for a picture of ``width`` x ``height`` pixels.

    EXIF orientation is applied and transparency laid over white; a picture of another size is
    cropped about its centre to the target's shape, then resized (Lanczos).

    Args:
        source: the file's bytes, or those as base64 or as a base64 data URL.
        width: of the target.
        height: of the target.
        max_pixels: largest picture that is decoded.

    Returns:
        ``height * width * 3`` bytes: rows of RGB. Those of the picture itself if it has the size.

    Raises:
        ApiError: 400 for ``image``: not base64, not PNG/JPEG/WebP, truncated, animated, or more
            than ``max_pixels``.
    """
    with opened(source, "image", max_pixels) as picture:
        return _fit(picture, width, height).tobytes()


@contextmanager
def opened(source: str | bytes, name: str, max_pixels: int) -> Iterator[Image.Image]:
    """The picture of field ``name``, not decoded yet; see ``read_start_picture``.

    Raises:
        ApiError: 400 for ``name``, also for what Pillow raises inside.
    """
    data = _decode_base64(source, name) if isinstance(source, str) else source
    if not data:
        raise bad_value(name, f"{name}: empty")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            _check_size(picture, name, max_pixels)
            yield picture
    except ApiError:
        raise
    except UnidentifiedImageError:
        raise bad_value(name, f"{name}: not a PNG, JPEG or WebP picture") from None
    except Exception as error:  # Pillow raises many kinds for broken files
        reason = str(error) or type(error).__name__
        raise bad_value(name, f"{name}: broken or truncated ({reason[:100]})") from None


def upright_size(picture: Image.Image) -> tuple[int, int]:
    """Width and height as the picture is to be viewed."""
    width, height = picture.size
    return (height, width) if _is_turned(picture) else (width, height)


def _decode_base64(text: str, name: str) -> bytes:
    if text.startswith("data:"):
        head = _DATA_URL.match(text[:200])
        if head is None:
            raise bad_value(name, f"{name}: the data URL must start 'data:image/png;base64,'")
        if head["mime"].lower() not in _MIMES:
            raise bad_value(
                name,
                f"{name}: the data URL says {head['mime']!r}; allowed: image/png, image/jpeg,"
                " image/webp",
            )
        text = text[head.end() :]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad_value(name, f"{name}: not valid base64 (standard alphabet, padded)") from None


def _check_size(picture: Image.Image, name: str, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise bad_value(
            name,
            f"{name}: {width}x{height} is {width * height} pixels; allowed: at most {max_pixels}",
        )
    # A phone's JPEG may hold a preview as a second frame; that is no animation.
    if picture.format in ("PNG", "WEBP") and getattr(picture, "n_frames", 1) != 1:
        raise bad_value(name, f"{name}: animated; allowed: one still picture")


def _is_turned(picture: Image.Image) -> bool:
    return picture.getexif().get(ExifTags.Base.Orientation, 1) in _QUARTER_TURNS


def _fit(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Decode, crop and resize, then turn upright and flatten to 8-bit RGB.

    What can wait until the picture is small does: a copy at full size is what costs memory.
    """
    size = (height, width) if _is_turned(picture) else (width, height)
    # A JPEG can be decoded at 1/2, 1/4 or 1/8; twice the target leaves Lanczos enough to work on.
    picture.draft(None, (2 * size[0], 2 * size[1]))
    small = ImageOps.fit(eight_bit(picture), size, Image.Resampling.LANCZOS)
    upright = ImageOps.exif_transpose(small)
    if upright.mode == "RGBA":
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright)
    return upright.convert("RGB")


def eight_bit(picture: Image.Image) -> Image.Image:
    """The picture as RGBA where it has transparency, else as RGB; itself where it is so."""
    picture.load()
    if picture.mode.startswith("I"):  # 16-bit grey: keep the high byte
        picture = picture.convert("I").point(lambda level: level * (1 / 256)).convert("L")
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)
