"""For everybody: assistive technology, phones, keyboards, dark rooms; and nothing from outside."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.serve_app.playground.browser import PHONE
from tests.serve_app.playground.conftest import QUICK, REFUSED, House, OpenPage
from tests.serve_app.playground.hands import ask, brush, choose_picture, painted

LONG = "a" * 300 + " " + "b c " * 100
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": PHONE, "has_touch": True, "is_mobile": True},
}


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_serious(opened: OpenPage, house: House, look: str) -> None:
    with opened(expected=REFUSED, reduced_motion="reduce", **LOOKS[look]) as tab:
        page = tab.page
        expect(page.locator("li.pool").first).to_be_visible()
        page.locator("#settings").evaluate("(details) => (details.open = true)")
        assert tab.axe() == [], "at first"
        ask(page)
        expect(page.locator(".tile")).to_contain_text("waiting")
        assert tab.axe() == [], "while it waits"
        page.get_by_role("button", name="Cancel").click()
        house.painter.happens = QUICK
        choose_picture(page)
        page.get_by_label("Pictures").select_option("2")
        page.get_by_role("button", name="Let gpu paint").click()
        ask(page)
        painted(page)
        page.locator("#key-box").evaluate("(box) => (box.hidden = false)")
        page.get_by_label("Seed", exact=True).fill("many")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#seed-error")).to_be_visible()
        assert tab.axe() == [], "with pictures, editor and an error"


def test_axe_would_find_something(opened: OpenPage) -> None:
    with opened() as tab:
        tab.page.locator("#prompt").evaluate("(field) => (field.labels[0].remove())")
        tab.page.locator("#prompt").evaluate("(field) => field.removeAttribute('placeholder')")
        assert "label" in [found.split(":")[0] for found in tab.axe()]


@pytest.mark.parametrize("width", [320, 390, 768, 1000, 1360])
def test_nothing_scrolls_sideways(opened: OpenPage, house: House, width: int) -> None:
    house.painter.happens = QUICK
    house.painter.unknown_words = ("b" * 64,)
    with opened(viewport={"width": width, "height": 844}) as tab:
        page = tab.page
        page.locator("#settings").evaluate("(details) => (details.open = true)")
        choose_picture(page)
        page.get_by_label("Pictures").select_option("2")
        ask(page, LONG)
        painted(page)
        page.locator("#key-box").evaluate("(box) => (box.hidden = false)")
        assert tab.sticking_out() == []


def test_on_a_phone_the_picture_comes_into_view(opened: OpenPage, house: House) -> None:
    with opened(**LOOKS["phone"]) as tab:
        page = tab.page
        expect(page.locator("#settings")).not_to_have_attribute("open", "")
        page.locator("#settings summary").click()
        expect(page.locator("#welcome")).not_to_be_in_viewport()
        ask(page)
        expect(page.locator(".tile")).to_be_in_viewport()
        expect(page.get_by_role("button", name="Cancel")).to_be_in_viewport()
        house.painter.go_on()
        house.painter.go_on()
        painted(page)
        choose_picture(page)
        page.get_by_label("Steps").focus()
        expect(page.get_by_label("Steps")).to_be_in_viewport()


def test_all_of_it_by_keyboard(opened: OpenPage, house: House) -> None:
    house.painter.happens = QUICK
    with opened() as tab:
        page = tab.page
        expect(page.get_by_role("button", name="Paint", exact=True)).to_be_enabled()
        for what in ("Skip to the picture", "API"):
            page.keyboard.press("Tab")
            expect(page.get_by_role("link", name=what)).to_be_focused()
        page.keyboard.press("Tab")
        page.keyboard.type("a red circle")
        page.keyboard.press("Tab")
        outline = page.locator(":focus").evaluate("(it) => getComputedStyle(it).outlineStyle")
        assert outline == "solid"
        page.keyboard.press("Enter")
        painted(page)
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate("(({id, textContent}) => id || textContent)(document.activeElement)")
            )
        needed = "image negative_prompt width height num_inference_steps guidance_scale seed dice n"
        needed += " pool scheduler output_format Download Pin"
        assert set(needed.split()) - reached == set()


def test_a_mask_is_seen_while_it_is_brushed(opened: OpenPage) -> None:
    with opened(expected=["warning: Canvas2D: Multiple readback"]) as tab:  # our own
        page = tab.page
        choose_picture(page)
        pixel = """(canvas) => [...canvas.getContext("2d").getImageData(
            canvas.width / 4, canvas.height / 4, 1, 1).data]"""
        assert page.locator("#mask").evaluate(pixel) == [255, 255, 255, 255]
        brush(page, (0.1, 0.25), (0.4, 0.25))
        red, green, _, _ = page.locator("#mask").evaluate(pixel)
        assert red > green + 80


def test_motion_can_be_had_without(opened: OpenPage) -> None:
    script = "(it) => getComputedStyle(it).animationName"
    for wish, name in (("no-preference", "settle"), ("reduce", "none")):
        with opened(reduced_motion=wish) as tab:
            ask(tab.page)
            expect(tab.page.locator(".noise")).to_be_visible()
            assert tab.page.locator(".noise").evaluate(script) == name


def test_the_policy_is_in_force(opened: OpenPage) -> None:
    expected = ("error: policy", "error: Applying inline style", "error: This document requires")
    with opened(expected=expected) as tab:
        page = tab.page
        page.evaluate("document.head.append(Object.assign(document.createElement('style'), {}))")
        page.evaluate(
            """() => {
                const script = document.createElement("script");
                try { script.text = "window.hacked = true"; } catch {}
                document.head.append(script);
                document.body.setAttribute("style", "display: none");
            }"""
        )
        assert page.evaluate("window.hacked") is None
        expect(page.locator("body")).to_be_visible()
        page.wait_for_function("true")
        assert any(said.startswith("error: policy style-src-attr") for said in tab.complaints)
