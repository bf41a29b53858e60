"""The mask: which pixels it marks, however it is given."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve_app.api.errors import ApiError
from serve_app.api.masks import MaskStyle, read_mask
from tests.serve_app.conftest import Stand
from tests.serve_app.test_bad_requests import b64, flat, png
from tests.serve_app.test_imagine import post


def encoded(image: Image.Image, kind: str = "PNG", **save: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **save)
    return out.getvalue()


def read(
    mask: bytes, image: bytes, width: int = 64, height: int = 64, style: MaskStyle = "white"
) -> Any:
    marked = read_mask(mask, image, width, height, 100_000, style)
    found = np.frombuffer(marked, np.uint8).reshape(height, width)
    assert set(np.unique(found)) <= {0, 255}
    return found > 0


def half(mode: str = "L", bright: Any = 255, dark: Any = 0) -> Image.Image:
    """The left half bright."""
    mask = Image.new(mode, (64, 64), dark)
    mask.paste(bright, (0, 0, 32, 64))
    return mask


LEFT = np.zeros((64, 64), bool)
LEFT[:, :32] = True


@pytest.mark.parametrize(
    "mask",
    [
        half(),
        half(bright=128, dark=127),
        half("1", 1, 0),
        half("RGB", "white", "black"),
        half("I;16", 0xFFFF, 0),
        half("RGBA", "white", (255, 255, 255, 0)),
        half("LA", (255, 255), (255, 0)),
        half("P", 255, 0),
    ],
    ids=lambda mask: mask.mode,
)
def test_white_is_repainted_and_transparent_counts_as_black(mask: Image.Image) -> None:
    if mask.mode == "P":
        mask.putpalette([level for grey in range(256) for level in (grey, grey, grey)])
    assert np.array_equal(read(encoded(mask), png()), LEFT)


def test_transparent_is_repainted_where_the_api_says_so() -> None:
    mask = half("RGBA", (9, 9, 9, 0), (200, 10, 10, 255))
    assert np.array_equal(read(encoded(mask), png(), style="transparent"), LEFT)
    for colour in ("white", "black"):
        with pytest.raises(ApiError, match="no transparency"):
            read(flat(colour), png(), style="transparent")
    with pytest.raises(ApiError, match="nothing is transparent"):
        read(flat((0, 0, 0, 255), "RGBA"), png(), style="transparent")


def test_it_is_cropped_as_the_start_picture_is() -> None:
    image = png(128, 64)  # its middle 64 are kept
    mask = Image.new("L", (128, 64))
    mask.paste(255, (0, 0, 64, 64))
    assert np.array_equal(read(encoded(mask), image), LEFT)
    # Or it is made for the target.
    assert np.array_equal(read(encoded(half()), image), LEFT)


def test_it_is_resized_as_the_start_picture_is() -> None:
    mask = half().resize((32, 32))
    assert np.array_equal(read(encoded(mask), png(32, 32)), LEFT)


def test_both_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    lying = Image.new("RGB", (96, 64))
    image = encoded(lying, exif=exif)
    mask = Image.new("L", (96, 64))
    mask.paste(255, (0, 0, 96, 32))  # above as stored, to the right as viewed
    marked = read(encoded(mask, exif=exif), image, 64, 96)
    assert marked[:, 32:].all()
    assert not marked[:, :32].any()
    upright = Image.new("L", (64, 96))
    upright.paste(255, (32, 0, 64, 96))
    assert np.array_equal(read(encoded(upright), image, 64, 96), marked)


def test_mask_and_strength_reach_the_painter(stand: Stand) -> None:
    fields = {"image": b64(png()), "mask": b64(encoded(half()))}
    assert post(stand, **fields).status_code == 200
    assert post(stand, **fields, strength=0.5, n=2).status_code == 200
    first, *others = stand.painter.requests
    assert first.mask == (LEFT * np.uint8(255)).tobytes()
    assert (first.strength, {one.strength for one in others}) == (1.0, {0.5})
    assert {one.mask for one in others} == {first.mask}
