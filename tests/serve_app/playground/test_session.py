"""The pictures of a session, and their recipes."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Download, Page, expect

from tests.serve_app.playground.conftest import QUICK, House, OpenPage
from tests.serve_app.playground.hands import ask, brush, choose_picture, painted


def test_the_gallery_brings_a_picture_and_its_recipe_back(opened: OpenPage, house: House) -> None:
    house.painter.happens = QUICK
    with opened() as tab:
        page = tab.page
        for seed, prompt in ((1, "first"), (2, "second")):
            page.get_by_label("Seed", exact=True).fill(str(seed))
            page.get_by_label("Steps").fill(str(10 * seed))
            ask(page, prompt)
            expect(page.locator(".facts .prompt")).to_have_text(prompt)
        page.get_by_role("button", name=re.compile("^first; seed 1, painted by cpu-card")).click()
        expect(page.locator(".facts .prompt")).to_have_text("first")
        page.get_by_role("button", name="Same again").click()
        expect(page.get_by_label("Paint", exact=True)).to_have_value("first")
        expect(page.get_by_label("Steps")).to_have_value("10")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#gallery li")).to_have_count(3)
    first, _, third = house.painter.requests
    assert (first.prompt, first.seed, first.num_inference_steps) == (
        third.prompt, third.seed, third.num_inference_steps,
    )  # fmt: skip


def test_a_picture_can_be_downloaded(opened: OpenPage, house: House, tmp_path: Path) -> None:
    house.painter.happens = QUICK
    with opened() as tab:
        tab.page.get_by_label("Seed", exact=True).fill("9")
        ask(tab.page, "A red/circle!")
        painted(tab.page)
        with tab.page.expect_download() as started:
            tab.page.get_by_role("button", name="Download").click()
        assert started.value.suggested_filename == "a-red-circle-9.png"
        started.value.save_as(tmp_path / "it.png")
    assert Image.open(tmp_path / "it.png").getpixel((0, 0)) == (9, 0, 0)


def copied(page: Page, button: str) -> str:
    """What the button puts into the clipboard."""
    page.get_by_role("button", name=button).click()
    expect(page.locator("#toast")).to_contain_text("Copied")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


HARD = """it's "$HOME" `id` \\ ünï \U0001f600"""


@pytest.mark.parametrize("way", ["curl", "Python"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_recipe_paints_the_same_picture_elsewhere(
    opened: OpenPage, house: House, tmp_path: Path, way: str, masked: bool
) -> None:
    house.painter.happens = QUICK
    with opened(permissions=["clipboard-read", "clipboard-write"]) as tab:
        page = tab.page
        page.get_by_label("Steer away from").fill(HARD)
        if masked:
            choose_picture(page)
            brush(page, (0.2, 0.2), (0.8, 0.2))
        ask(page, f"a red circle {HARD}")
        painted(page)
        downloads: list[Download] = []
        page.on("download", lambda one: downloads.append(one))
        text = copied(page, f"Copy as {way}")
        expect(page.locator("#toast")).to_have_text(
            "Copied; it reads start.png and mask.png, downloaded too" if masked else "Copied"
        )
        for one in downloads:
            one.save_as(tmp_path / one.suggested_filename)
        assert len(downloads) == (2 if masked else 0)
    command = ["bash", "-c", text] if way == "curl" else [sys.executable, "-c", text]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=60)
    first, again = (
        dataclasses.replace(sent, request_id="", previews=0) for sent in house.painter.requests
    )
    assert first == again
    assert (first.mask is not None) == masked
    assert (tmp_path / f"a-red-circle-it-s-home-id-n-{first.seed}.png").stat().st_size > 0
