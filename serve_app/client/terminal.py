"""Pictures in terminals that can show them: kitty's and iTerm2's protocols, and sixels."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from typing import Literal

from PIL import Image

Protocol = Literal["kitty", "iterm", "sixel"]

_KITTY_CHUNK = 4096
_SIXEL_COLOURS = 64
_SHOWN_PIXELS = 320
_BAND = 6


def protocol_of(environ: Mapping[str, str]) -> Protocol | None:
    """What the terminal at hand understands; ``None`` for none that is known."""
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if environ.get("TMUX") or term.startswith(("screen", "tmux")):
        return None  # a multiplexer swallows them
    if "KITTY_WINDOW_ID" in environ or "kitty" in term or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm") or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm"
    if "sixel" in term or term.startswith(("foot", "mlterm", "contour")):
        return "sixel"
    return None


def drawn(image: bytes, protocol: Protocol) -> str:
    """What to print for an encoded picture, made small.

    Raises:
        OSError: it is not a picture.
    """
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    picture.thumbnail((_SHOWN_PIXELS, _SHOWN_PIXELS))
    if protocol == "sixel":
        return _sixels(picture)
    out = io.BytesIO()
    picture.save(out, "PNG")
    data = base64.b64encode(out.getvalue()).decode("ascii")
    if protocol == "iterm":
        return f"\x1b]1337;File=inline=1;size={len(out.getvalue())}:{data}\x07\n"
    return "".join(_kitty(data)) + "\n"


def _kitty(data: str) -> Iterator[str]:
    """Transmit and display (``a=T``) a PNG (``f=100``), in chunks."""
    for begin in range(0, len(data), _KITTY_CHUNK):
        keys = "a=T,f=100," if begin == 0 else ""
        more = int(begin + _KITTY_CHUNK < len(data))
        yield f"\x1b_G{keys}m={more};{data[begin : begin + _KITTY_CHUNK]}\x1b\\"


def _sixels(picture: Image.Image) -> str:
    """Bands of six rows; in each, one run of characters per colour."""
    indexed = picture.quantize(_SIXEL_COLOURS)
    palette, width = indexed.getpalette() or [], indexed.width
    pixels = indexed.tobytes()
    out = ["\x1bPq"]
    for colour in range(len(palette) // 3):
        red, green, blue = (palette[3 * colour + part] * 100 // 255 for part in range(3))
        out.append(f"#{colour};2;{red};{green};{blue}")
    for top in range(0, indexed.height, _BAND):
        rows = [pixels[y * width : (y + 1) * width] for y in range(top, top + _BAND)]
        for colour in sorted(set(b"".join(rows))):
            bits = (
                sum(1 << bit for bit, row in enumerate(rows) if row and row[x] == colour)
                for x in range(width)
            )
            out.append(f"#{colour}{''.join(chr(63 + bit) for bit in bits)}$")
        out.append("-")
    return "".join(out) + "\x1b\\\n"
