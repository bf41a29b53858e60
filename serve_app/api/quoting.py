"""Values from outside, quoted in messages: short, and safe to print."""

from __future__ import annotations

import reprlib
from typing import Any

_BRIEF = reprlib.Repr()
_BRIEF.maxlevel = 3


def shorten(value: Any) -> str:
    """``value`` for an error message: at most some 80 characters, safe to print.

    Looks at no more of ``value`` than it shows, however long or deep that is.
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return "a huge number"
    text = ascii(value[:80]) if isinstance(value, str) else _BRIEF.repr(value)
    text = text.encode("ascii", "backslashreplace").decode()
    return f"{text[:77]}..." if len(text) > 80 else text


def shorten_name(name: str) -> str:
    """A field name from outside, safe for ``param`` and messages."""
    text = name.encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 64 else f"{text[:61]}..."
