"""The start picture: what decoding costs, and that saving memory does not change the picture."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageOps

from serve_app.api.errors import ApiError
from serve_app.api.pictures import read_start_picture
from serve_app.settings import LimitSettings

ROOT = Path(__file__).resolve().parents[2]
MAX_PIXELS = LimitSettings().max_image_pixels


def b64(image: Image.Image, kind: str, **save: Any) -> str:
    out = io.BytesIO()
    image.save(out, kind, **save)
    return base64.b64encode(out.getvalue()).decode()


def photo(width: int, height: int) -> Image.Image:
    """Smooth, unlike everywhere, unlike on every side."""
    across = Image.linear_gradient("L").rotate(90).resize((width, height))
    down = Image.linear_gradient("L").resize((width, height))
    return Image.merge("RGB", (across, down, Image.radial_gradient("L").resize((width, height))))


def largest_difference(one: Image.Image, other: Image.Image) -> int:
    bands = ImageChops.difference(one, other).getextrema()
    return max(int(high) for _low, high in bands)  # type: ignore[misc]


def test_a_large_picture_is_refused_by_default() -> None:
    text = b64(Image.new("RGBA", (4096, 4096)), "PNG")
    with pytest.raises(ApiError, match="16777216 pixels"):
        read_start_picture(text, 512, 512, MAX_PIXELS)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")
@pytest.mark.parametrize(("mode", "kind", "megabytes"), [("RGBA", "PNG", 50), ("RGBA", "WEBP", 85)])
def test_decoding_the_largest_picture_takes_little_memory(
    mode: str, kind: str, megabytes: float
) -> None:
    code = rf"""
import base64, io, re
from PIL import Image
from serve_app.api.pictures import read_start_picture
def peak():
    # Not ru_maxrss, which a child inherits from its parent.
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024
out = io.BytesIO()
Image.new({mode!r}, (64, 64)).save(out, {kind!r})
read_start_picture(base64.b64encode(out.getvalue()).decode(), 64, 64, 4096)
text = input()
before = peak()
read_start_picture(text, 512, 512, {MAX_PIXELS})
print(peak() - before)
"""
    side = int(MAX_PIXELS**0.5)
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=b64(Image.new(mode, (side, side)), kind),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert float(done.stdout) < megabytes


def test_a_large_jpeg_decoded_small_looks_the_same() -> None:
    large = photo(1600, 1200)
    text = b64(large, "JPEG", quality=95)
    shown = Image.frombytes("RGB", (96, 64), read_start_picture(text, 96, 64, MAX_PIXELS))
    wanted = ImageOps.fit(large, (96, 64), Image.Resampling.LANCZOS)
    assert largest_difference(shown, wanted) <= 6


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(kind: str, orientation: int) -> None:
    stored = photo(400, 300)
    exif = Image.Exif()
    exif[0x0112] = orientation
    text = b64(stored, kind, exif=exif, quality=95)
    shown = Image.frombytes("RGB", (64, 96), read_start_picture(text, 64, 96, MAX_PIXELS))
    with Image.open(io.BytesIO(base64.b64decode(text))) as saved:
        upright = ImageOps.exif_transpose(saved).convert("RGB")
    wanted = ImageOps.fit(upright, (64, 96), Image.Resampling.LANCZOS)
    assert largest_difference(shown, wanted) <= 6


def test_transparency_is_laid_over_white_after_resizing() -> None:
    clear = photo(300, 300).convert("RGBA")
    clear.putalpha(Image.radial_gradient("L").resize((300, 300)))
    shown = Image.frombytes(
        "RGB", (64, 64), read_start_picture(b64(clear, "PNG"), 64, 64, MAX_PIXELS)
    )
    flat = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    assert largest_difference(shown, ImageOps.fit(flat, (64, 64), Image.Resampling.LANCZOS)) <= 4
