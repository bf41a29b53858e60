"""What the client is ready to take: a small reading of the ``Accept`` header."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deployments.messages import MEDIA_TYPES, OutputFormat

JSON = "application/json"
_QUALITY = re.compile(r"\s*q\s*=\s*(0(\.[0-9]{0,3})?|1(\.0{0,3})?)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Accept:
    """The media ranges of an ``Accept`` header with their quality."""

    ranges: tuple[tuple[str, float], ...]

    @classmethod
    def parse(cls, header: str | None) -> Accept:
        """Read ``header``; an absent or empty one admits everything."""
        ranges = []
        for item in (header or "").split(","):
            media, *params = item.split(";")
            if media.strip():
                found = [m for m in map(_QUALITY.fullmatch, params) if m]
                ranges.append((media.strip().lower(), float(found[0][1]) if found else 1.0))
        return cls(tuple(ranges) or (("*/*", 1.0),))

    def quality(self, media_type: str) -> float:
        """How welcome ``media_type`` is, 0 to 1, by its most specific range."""
        family = media_type.split("/")[0] + "/*"
        for wanted in (media_type, family, "*/*"):
            found = [quality for media, quality in self.ranges if media == wanted]
            if found:
                return max(found)
        return 0.0

    @property
    def prefers_json(self) -> bool:
        """Whether JSON is asked for by name and no image type that can be sent is more welcome."""
        named = any(media == JSON for media, _ in self.ranges)
        quality = self.quality(JSON)
        return named and quality > 0 and quality >= max(map(self.quality, MEDIA_TYPES.values()))

    def first_image(self) -> OutputFormat | None:
        """The first output format that is admitted, png first; ``None`` if none is."""
        return next((name for name, media in MEDIA_TYPES.items() if self.quality(media)), None)
