"""Image to image, and the mask brush."""

from __future__ import annotations

import base64
import dataclasses
import io

from PIL import Image
from playwright.sync_api import expect

from tests.serve_app.playground.conftest import QUICK, House, OpenPage
from tests.serve_app.playground.hands import ask, brush, choose_picture, painted


def test_image_to_image(opened: OpenPage, house: House) -> None:
    house.painter.happens = QUICK
    with opened() as tab:
        page = tab.page
        choose_picture(page)
        page.get_by_label("Strength").fill("0.5")
        ask(page)
        painted(page)
        (sent,) = house.painter.requests
        assert (sent.strength, sent.mask) == (0.5, None)
        # The middle of the 96 x 64 picture: half white, half black.
        assert sent.init_rgb is not None
        start = Image.frombytes("RGB", (64, 64), sent.init_rgb)
        assert start.getpixel((20, 32)) == (255, 255, 255)
        assert start.getpixel((44, 32)) == (0, 0, 0)
        page.get_by_role("button", name="Remove").click()
        house.painter.requests.clear()
        ask(page, "without it")
        expect(page.locator("#gallery li")).to_have_count(2)
        assert house.painter.requests[0].init_rgb is None


def test_a_finished_picture_starts_the_next(opened: OpenPage, house: House) -> None:
    house.painter.happens = QUICK
    with opened() as tab:
        page = tab.page
        page.get_by_label("Seed", exact=True).fill("180")
        ask(page)
        painted(page)
        page.get_by_role("button", name="Start from this").click()
        expect(page.locator("#mask")).to_be_focused()
        ask(page)
        expect(page.locator("#gallery li")).to_have_count(2)
        assert house.painter.requests[1].init_rgb == bytes([180, 0, 0]) * 64 * 64


def test_a_picture_can_be_dropped(opened: OpenPage, house: House) -> None:
    with opened() as tab:
        page = tab.page
        drop = """(text) => {
            const data = new DataTransfer();
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            data.items.add(new File([bytes], "it.png", {type: "image/png"}));
            const how = {dataTransfer: data, bubbles: true, cancelable: true};
            const events = ["dragover", "drop"].map((name) => new DragEvent(name, how));
            return events.map((event) => document.body.dispatchEvent(event));
        }"""
        out = io.BytesIO()
        Image.new("RGB", (32, 32), "red").save(out, "PNG")
        went_on = page.evaluate(drop, base64.b64encode(out.getvalue()).decode())
        assert went_on == [False, False], "the browser would open the picture in place of the page"
        expect(page.locator("#mask")).to_be_visible()
        page.evaluate(drop, base64.b64encode(b"no picture").decode())
        expect(page.locator("#image-error")).to_contain_text("it.png is not a picture")


def mask_of(house: House) -> Image.Image:
    """The mask of the one request there was."""
    (sent,) = house.painter.requests
    assert sent.mask is not None
    return Image.frombytes("L", (sent.width, sent.height), sent.mask)


def test_the_mask_is_where_one_brushed(opened: OpenPage, house: House) -> None:
    house.painter.happens = QUICK
    with opened() as tab:
        page = tab.page
        choose_picture(page)
        brush(page, (0.1, 0.25), (0.9, 0.25))
        page.get_by_role("button", name="Eraser").click()
        brush(page, (0.5, 0.25), (0.5, 0.25))
        expect(page.get_by_label("Strength")).to_have_value("1")
        ask(page)
        painted(page)
    mask = mask_of(house)
    row = [mask.getpixel((column, 16)) for column in (8, 20, 32, 44, 56)]
    assert row == [255, 255, 0, 255, 255]
    assert [mask.getpixel((32, line)) for line in (2, 32, 60)] == [0, 0, 0]


def test_the_mask_can_be_brushed_by_keys(opened: OpenPage, house: House) -> None:
    house.painter.happens = QUICK
    with opened() as tab:
        page = tab.page
        choose_picture(page)
        page.get_by_label("Brush size").focus()
        page.keyboard.press("Shift+Tab")  # past Remove, Clear, Eraser and Brush
        for _ in range(4):
            page.keyboard.press("Shift+Tab")
        expect(page.locator("#mask")).to_be_focused()
        for _ in range(3):
            page.keyboard.press("Shift+ArrowUp")
        page.keyboard.down(" ")
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.up(" ")
        page.keyboard.press("Shift+ArrowDown")
        page.keyboard.press("Control+Enter")
        if not page.get_by_label("Paint", exact=True).input_value():
            ask(page)
        painted(page)
    mask = mask_of(house)
    assert mask.getpixel((32, 13)) == mask.getpixel((44, 13)) == 255
    assert mask.getpixel((44, 32)) == mask.getpixel((12, 13)) == 0


def test_one_tap_is_a_mask_and_erased_it_is_none(opened: OpenPage, house: House) -> None:
    house.painter.happens = QUICK
    with opened() as tab:
        page = tab.page
        choose_picture(page)
        page.get_by_label("Brush size").fill("20")
        page.locator("#mask").click()
        ask(page)
        painted(page)
        mask = mask_of(house)
        assert (mask.getpixel((32, 32)), mask.getpixel((32, 10))) == (255, 0)
        page.get_by_role("button", name="Eraser").click()
        page.get_by_label("Brush size").fill("30")
        page.locator("#mask").click()
        house.painter.requests.clear()
        ask(page)
        expect(page.locator("#gallery li")).to_have_count(2)
        assert house.painter.requests[0].mask is None


def test_clearing_the_mask_leaves_image_to_image(opened: OpenPage, house: House) -> None:
    house.painter.happens = QUICK
    with opened() as tab:
        page = tab.page
        choose_picture(page)
        page.locator("#mask").click()
        page.get_by_role("button", name="Clear").click()
        ask(page)
        painted(page)
    (sent,) = house.painter.requests
    assert (sent.mask, sent.strength) == (None, 0.8)


def test_the_same_again_with_its_start_picture(opened: OpenPage, house: House) -> None:
    house.painter.happens = QUICK
    with opened() as tab:
        page = tab.page
        choose_picture(page)
        brush(page, (0.1, 0.25), (0.9, 0.25))
        page.get_by_label("Strength").fill("0.7")
        ask(page)
        painted(page)
        page.get_by_role("button", name="Remove").click()
        expect(page.locator("#image")).to_be_focused()
        page.get_by_role("button", name="Same again").click()
        expect(page.locator("#mask")).to_be_visible()
        expect(page.locator("#prompt")).to_be_focused()
        page.keyboard.press("Control+Enter")
        expect(page.locator("#gallery li")).to_have_count(2)
    first, again = (dataclasses.replace(r, request_id="") for r in house.painter.requests)
    assert first == again
    assert (first.mask is not None) & (first.strength == 0.7)
