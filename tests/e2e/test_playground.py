"""The page against the real service: its requests, its events, its pools."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.e2e.conftest import Service, wait_for
from tests.serve_app.playground.browser import chromium, require_chromium, tab
from tests.serve_app.playground.hands import ask, brush, painted

pytestmark = pytest.mark.e2e


def test_the_page_paints_with_the_service(service: Service) -> None:
    with chromium(require_chromium()) as browser, tab(browser, f"{service.url}/") as one:
        page = one.page
        expect(page.locator("#pools-state")).to_contain_text("1 of 5 available")
        expect(page.get_by_label("Painted by")).to_contain_text("made_up (away)")

        page.get_by_label("Seed", exact=True).fill("7")
        page.get_by_label("Steps").fill("40")
        ask(page)
        expect(page.locator(".tile")).to_contain_text("on cpu")
        expect(page.locator(".preview")).to_be_visible()
        painted(page)
        expect(page.locator(".facts")).to_contain_text("cpu pool cpu, chosen by the routing policy")
        with page.expect_download() as started:
            page.get_by_role("button", name="Download").click()
        shown = Image.open(started.value.path())
        plain = service.post(prompt="a red circle", seed=7, num_inference_steps=40)
        assert shown.tobytes() == Image.open(io.BytesIO(plain.content)).tobytes()

        page.get_by_role("button", name="Start from this").click()
        brush(page, (0.1, 0.3), (0.9, 0.3))
        ask(page, "a blue square")
        expect(page.locator("#gallery li")).to_have_count(2)

        page.get_by_role("button", name="Remove").click()
        page.get_by_label("Pictures").select_option("4")
        page.get_by_label("Steps").fill("100")
        for side in ("Width", "Height"):
            page.get_by_label(side).fill("256")
        ask(page)
        expect(page.locator(".tile")).to_have_count(4)
        expect(page.get_by_text(re.compile("step [0-9]+ of 100 on cpu")).first).to_be_visible()
        assert service.pool("cpu")["queue"]["requests"] > 0
        page.keyboard.press("Escape")
        wait_for("a free pool", lambda: service.pool("cpu")["queue"]["requests"] == 0, 30)
        expect(page.locator("#gallery li")).to_have_count(2)
