"""What a person does on the page."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from playwright.sync_api import Page, expect

Place = tuple[float, float]


def ask(page: Page, prompt: str = "a red circle") -> None:
    """Type a prompt and paint."""
    page.get_by_label("Paint", exact=True).fill(prompt)
    page.get_by_role("button", name="Paint", exact=True).click()


def painted(page: Page) -> None:
    """Wait until the picture is there."""
    expect(page.locator(".facts")).to_be_visible()


def choose_picture(page: Page, width: int = 96, height: int = 64) -> None:
    """Give a start picture, white on the left and black on the right."""
    out = io.BytesIO()
    picture = Image.new("RGB", (width, height), "black")
    picture.paste("white", (0, 0, width // 2, height))
    picture.save(out, "PNG")
    file: Any = {"name": "start.png", "mimeType": "image/png", "buffer": out.getvalue()}
    page.locator("#image").set_input_files(file)
    expect(page.locator("#mask")).to_be_visible()


def brush(page: Page, start: Place, end: Place) -> None:
    """Draw over the start picture, from one place to another in parts of its width and height."""
    canvas = page.locator("#mask")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    (x0, y0), (x1, y1) = (
        (box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)
    )
    page.mouse.move(x0, y0)
    page.mouse.down()
    page.mouse.move(x1, y1, steps=5)
    page.mouse.up()
