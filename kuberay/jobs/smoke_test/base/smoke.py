"""Asks running services for a picture, twice: it must be one, and the seed must decide it."""

from __future__ import annotations

import argparse
import io
import time

import httpx
from PIL import Image

_PROMPT = {"prompt": "a red circle on a blue background", "seed": 7}
# 404 too: the proxy knows no routes before the application is there.
_RETRY = frozenset({404, 429, 502, 503, 504})


def main(argv: list[str] | None = None) -> None:
    """Run the test.

    Raises:
        SystemExit: with what is wrong.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="+", help="such as http://imagine")
    parser.add_argument("--wait-s", type=float, default=600, help="for each one's first picture")
    options = parser.parse_args(argv)
    for url in options.url:
        ask(url, options.wait_s)


def ask(url: str, wait_s: float) -> None:
    """Test one service.

    Raises:
        SystemExit: with what is wrong.
    """
    with httpx.Client(base_url=url, timeout=320) as client:
        first = picture(client, time.monotonic() + wait_s)
        pool = first.headers["X-Pool"]
        # The same pool: pictures of unlike hardware are alike, not equal.
        second = picture(client, time.monotonic() + 120, pool=pool)
    size, colours = look(first.content)
    if colours < 2:
        raise SystemExit(f"the picture of pool {pool} has one colour only")
    if look(second.content) != (size, colours):
        raise SystemExit(f"pool {pool} painted two unlike pictures from one seed")
    print(f"ok: {url}: {size[0]}x{size[1]} pixels, pool {pool}, {first.headers['Server-Timing']}")


def picture(client: httpx.Client, until: float, **fields: str) -> httpx.Response:
    """The answer to the prompt; waits while the service says that it has no room yet."""
    while True:
        try:
            answer = client.post("/imagine", json={**_PROMPT, **fields})
        except httpx.TransportError as error:
            problem = f"{type(error).__name__}: {error}"
        else:
            if answer.status_code == httpx.codes.OK:
                return answer
            problem = f"{answer.status_code}: {answer.text[:300]}"
            if answer.status_code not in _RETRY:
                raise SystemExit(f"refused with {problem}")
        if time.monotonic() > until:
            raise SystemExit(f"no picture in time; last answer: {problem}")
        time.sleep(5)


def look(body: bytes) -> tuple[tuple[int, int], int]:
    """The picture's size in pixels and its number of colours."""
    with Image.open(io.BytesIO(body)) as image:
        found = image.convert("RGB").getcolors(maxcolors=1 << 24)
    return image.size, len(found or [])


if __name__ == "__main__":
    main()
