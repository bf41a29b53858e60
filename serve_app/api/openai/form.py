"""Reading a ``multipart/form-data`` body that is in memory already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serve_app.api.errors import ApiError, bad_value
from serve_app.api.quoting import shorten_name

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MOST_PARTS = 64


@dataclass(frozen=True, slots=True)
class Form:
    """The parts of a form.

    Attributes:
        texts: by name.
        files: by name; there may be several of one.
    """

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)


def parse_form(raw: bytearray, content_type: str) -> Form:
    """Read a whole body, and empty ``raw``; ``content_type`` holds the boundary.

    Raises:
        ApiError: 400: not such a form, cut short, more than 64 parts, a text given twice or not
            UTF-8.
    """
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if not boundary:
        raise _broken("Content-Type names no boundary")
    parts = _Parts()
    whole = bytes(raw)
    raw.clear()  # so that only one copy is held beside the parts
    try:
        parser = MultipartParser(boundary, parts.callbacks())
        parser.write(whole)
        parser.finalize()
    except FormParserError as error:
        raise _broken(str(error)[:100]) from None
    if not parts.complete:
        raise _broken("the end is missing")
    return parts.form


class _Parts:
    """Collects the parts as the parser meets them."""

    def __init__(self) -> None:
        self.form = Form()
        self.complete = False
        self._count = 0
        self._name = self._value = self._disposition = b""
        self._data = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._more,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._count += 1
        if self._count > _MOST_PARTS:
            raise _broken(f"more than {_MOST_PARTS} parts")
        self._disposition, self._data = b"", bytearray()

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _more(self, data: bytes, start: int, end: int) -> None:
        self._data += data[start:end]

    def _end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if not name:
            raise _broken("a part has no name")
        if b"filename" in options:
            self.form.files.setdefault(name, []).append(bytes(self._data))
            return
        short = shorten_name(name)
        if name in self.form.texts:
            raise bad_value(short, f"{short}: given more than once")
        try:
            self.form.texts[name] = self._data.decode("utf-8")
        except UnicodeDecodeError:
            raise bad_value(short, f"{short}: not UTF-8") from None

    def _finish(self) -> None:
        self.complete = True


def _broken(why: str) -> ApiError:
    return bad_value(None, f"the body is not a multipart form: {why}", code="invalid_form")
