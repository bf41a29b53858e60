"""From the prompt to the picture."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from serve_app.routing.watching import Sent
from tests.serve_app.conftest import snapshot
from tests.serve_app.playground.conftest import QUICK, STORY, House, OpenPage
from tests.serve_app.playground.hands import ask, painted


def shown_colour(page: Page, selector: str) -> tuple[int, ...]:
    """RGB in the middle of an image."""
    return tuple(
        page.locator(selector).evaluate(
            """async (image) => {
                await image.decode();
                const canvas = new OffscreenCanvas(1, 1);
                const pen = canvas.getContext("2d");
                pen.drawImage(image, 0, 0, 1, 1);
                return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
            }"""
        )
    )


def test_prompt_progress_preview_picture(opened: OpenPage, house: House) -> None:
    with opened() as tab:
        page = tab.page
        page.get_by_label("Seed", exact=True).fill("200")
        ask(page)
        tile, bar = page.locator(".tile"), page.get_by_role("progressbar")
        expect(tile).to_contain_text("waiting at cpu, place 2")
        expect(page.locator(".tile .noise")).to_be_visible()
        expect(page.get_by_role("button", name="Paint", exact=True)).to_be_disabled()
        house.painter.go_on()
        expect(tile).to_contain_text("step 2 of 4 on cpu")
        expect(bar).to_have_js_property("position", 0.5)
        expect(page.locator(".preview")).to_be_visible()
        assert shown_colour(page, ".preview") == (0, 128, 128)
        expect(page.get_by_role("status").last).to_contain_text("Painting")
        house.painter.go_on()
        painted(page)
        assert shown_colour(page, ".finished") == (200, 0, 0)
        expect(page.locator(".facts")).to_contain_text(
            "cpu-card pool cpu, chosen by the routing policy"
        )
        expect(page.get_by_role("status").last).to_have_text(
            "The picture is done, painted by cpu-card"
        )
        expect(page.locator("#gallery li")).to_have_count(1)
        (sent,) = house.painter.requests
        assert (sent.prompt, sent.seed, sent.previews, sent.init_rgb) == (
            "a red circle",
            200,
            3,
            None,
        )


def test_every_setting_is_sent(opened: OpenPage, house: House) -> None:
    house.painter.happens = QUICK
    with opened() as tab:
        page = tab.page
        page.get_by_label("Steer away from").fill("blue, 'quoted' ünïcödé")
        page.get_by_title("Wide", exact=False).first.click()
        page.get_by_label("Steps").fill("20")
        page.get_by_label("Guidance").fill("7.5")
        page.get_by_role("button", name="Roll a seed").click()
        seed = int(page.get_by_label("Seed", exact=True).input_value())
        page.get_by_label("Scheduler").select_option("euler")
        page.get_by_label("File").select_option("webp")
        page.get_by_label("Painted by").select_option("cpu")
        ask(page, "a green hill")
        painted(page)
    (sent,) = house.painter.requests
    assert sent.negative_prompt == "blue, 'quoted' ünïcödé"
    assert (sent.width, sent.height) == (80, 48)
    assert (sent.num_inference_steps, sent.guidance_scale, sent.seed) == (20, 7.5, seed)
    assert (sent.scheduler, sent.output_format) == ("euler", "webp")
    assert house.painter.wishes[0].pin == "cpu"


def test_the_bounds_are_the_services(opened: OpenPage, house: House) -> None:
    with opened() as tab:
        steps = tab.page.get_by_label("Steps")
        expect(steps).to_have_attribute("max", "60")
        expect(steps).to_have_value("8")
        expect(tab.page.get_by_label("Guidance")).to_have_value("3")
        width = tab.page.get_by_label("Width")
        width.fill("1000")
        width.blur()
        expect(width).to_have_value("256")
        width.fill("70")
        width.blur()
        expect(width).to_have_value("64")


def test_several_pictures_side_by_side(opened: OpenPage, house: House) -> None:
    house.painter.happens = QUICK
    with opened() as tab:
        page = tab.page
        page.get_by_label("Pictures").select_option("3")
        page.get_by_label("Seed", exact=True).fill("5")
        ask(page)
        painted(page)
        expect(page.locator("#gallery li")).to_have_count(3)
        expect(page.locator(".tile")).to_have_count(3)
        expect(page.locator(".facts")).to_contain_text("Seed5")
        page.locator(".tile button").nth(2).click()
        expect(page.locator(".facts")).to_contain_text("Seed7")
        expect(page.locator(".tile button").nth(2)).to_have_attribute("aria-pressed", "true")


@pytest.mark.parametrize("way", ["button", "key"])
def test_cancel_frees_what_painted(opened: OpenPage, house: House, way: str) -> None:
    with opened() as tab:
        page = tab.page
        ask(page)
        expect(page.locator(".tile")).to_contain_text("waiting")
        assert not house.painter.left.is_set()
        if way == "button":
            page.get_by_role("button", name="Cancel").click()
        else:
            page.keyboard.press("Escape")
        assert house.painter.left.wait(30)
        expect(page.locator(".tile")).to_contain_text("Cancelled")
        expect(page.locator("#gallery li")).to_have_count(0)
        house.painter.happens = QUICK
        page.keyboard.press("Control+Enter")
        painted(page)


def test_a_picture_begun_anew_shows_its_new_pool(opened: OpenPage, house: House) -> None:
    again = Sent(pool=snapshot("gpu"), attempt=2)
    house.painter.happens = (*STORY[:4], again, *STORY[2:])
    house.painter.moved_to = "gpu"
    with opened() as tab:
        page = tab.page
        ask(page)
        house.painter.go_on()
        expect(page.locator(".tile")).to_contain_text("begun again on gpu")
        house.painter.go_on()
        expect(page.locator(".tile")).to_contain_text("step 2 of 4 on gpu")
        house.painter.go_on()
        expect(page.locator(".facts")).to_contain_text("gpu-card pool gpu")
