"""What people see when something is wrong."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from serve_app.routing.outcome import DispatchError
from tests.serve_app.playground.conftest import QUEUED, QUICK, REFUSED, House, OpenPage
from tests.serve_app.playground.hands import ask, painted


def test_an_error_stands_at_its_field(opened: OpenPage, house: House) -> None:
    with opened(expected=REFUSED) as tab:
        page = tab.page
        page.get_by_label("Seed", exact=True).fill("many")
        ask(page)
        seed = page.get_by_label("Seed", exact=True)
        expect(page.locator("#seed-error")).to_have_text("seed: must be an integer, got 'many'")
        expect(seed).to_be_focused()
        expect(seed).to_have_attribute("aria-invalid", "true")
        seed.fill("7")
        expect(page.locator("#seed-error")).to_be_hidden()
        page.get_by_label("Paint", exact=True).fill(" ")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#prompt-error")).to_have_text("Say what to paint.")
    assert house.painter.requests == []


@pytest.mark.parametrize("late", [False, True])
def test_an_error_is_told_in_the_services_words(opened: OpenPage, house: House, late: bool) -> None:
    house.painter.happens = QUICK if late else QUEUED[:1]
    house.painter.failure = DispatchError("overloaded", "too much is waiting", retry_after_s=7)
    with opened(expected=REFUSED) as tab:
        page = tab.page
        ask(page)
        again = "" if late else " Try again in 7 s."
        expect(page.get_by_role("alert")).to_have_text(f"too much is waiting{again}")
        expect(page.get_by_role("button", name="Paint", exact=True)).to_be_enabled()
        house.painter.failure = None
        page.keyboard.press("Control+Enter")
        painted(page)
        expect(page.get_by_role("alert")).to_be_hidden()


def test_text_from_outside_stays_text(opened: OpenPage, house: House) -> None:
    house.painter.happens = QUICK
    house.painter.unknown_words = ("<img/src=x>",)
    prompt = "<img src=x onerror=alert(1)> 'quoted' \"twice\""
    with opened() as tab:
        ask(tab.page, prompt)
        painted(tab.page)
        expect(tab.page.locator(".facts .prompt")).to_have_text(prompt)
        expect(tab.page.locator(".note")).to_have_text("The model does not know: <img/src=x>.")
