"""Takes the pictures of the page that the documentation shows: the shipped model, real requests.

``python -m tests.e2e.playground_pictures``; with ``--url`` of a service that already runs. The
accelerators are EMULATED (see ``serve_config.emulated.yaml``), and one of them is away.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Page, expect
from rich.progress import track

from loadtest.emulated_cluster import emulated_cluster
from tests.e2e.conftest import ROOT, free_port, is_up, wait_for
from tests.serve_app.playground.browser import PHONE, chromium, require_chromium, tab
from tests.serve_app.playground.hands import ask, brush, painted

AWAY = "g5_eager"
WARM_UP = 60
SEVERAL = "a sailboat on the sea at sunset"
HOUSE = "a house on green hills at noon"


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="of a running service; else one is started")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with running(options.url) as url, chromium(require_chromium()) as browser:
        warm_up(url)
        for name, (take, context) in track(SHOTS.items(), "pictures"):
            with tab(browser, url, **context) as one:
                expect(one.page.locator("li.pool").first).to_be_visible()
                take(one.page)
                save(one.page, options.out / f"playground-{name}.png")


@contextmanager
def running(url: str | None) -> Iterator[str]:
    """The address of a service with all pools but one available."""
    if url is not None:
        yield url
        return
    with emulated_cluster(port=free_port(), dashboard_port=free_port()) as cluster:
        cluster.kill(AWAY)
        with httpx.Client(base_url=cluster.url) as client:
            wait_for("the service", lambda: is_up(client))
            alive = set(cluster.alive)
            wait_for("all pools", lambda: available(client) == alive)
        yield f"{cluster.url}/"


def available(client: httpx.Client) -> set[str]:
    """Names of the pools that can paint."""
    pools: list[dict[str, Any]] = client.get("/pools").json()["pools"]
    return {pool["name"] for pool in pools if pool["available"]}


def warm_up(url: str) -> None:
    """Requests enough for the pools to have figures to show."""
    body = {"prompt": HOUSE}

    def send(seed: int) -> None:
        httpx.post(f"{url}imagine", json={**body, "seed": seed}, timeout=120).raise_for_status()

    with ThreadPoolExecutor(4) as threads:
        list(track(threads.map(send, range(WARM_UP)), "warming up", WARM_UP))


def gallery(page: Page) -> None:
    """A few pictures of before."""
    page.get_by_label("Pictures").select_option("4")
    for prompt in ("a red heart on a white background", "mountains at sunset with clouds"):
        ask(page, prompt)
        painted(page)


def several(page: Page) -> None:
    """Four pictures by whatever pools there are."""
    gallery(page)
    page.get_by_label("Seed", exact=True).fill("11")
    ask(page, SEVERAL)
    painted(page)


def under_way(page: Page) -> None:
    """One picture with a preview, two thirds done."""
    gallery(page)
    page.get_by_label("Pictures").select_option("1")
    page.get_by_label("Steps").fill("60")
    page.get_by_label("Seed", exact=True).fill("8")
    ask(page, "a yellow star above a blue square on a purple background")
    expect(page.locator(".tile[data-previews='3']")).to_be_visible()


def one_picture(page: Page) -> None:
    """One picture, done."""
    page.get_by_label("Seed", exact=True).evaluate("(input) => (input.value = 3)")
    ask(page, HOUSE)
    painted(page)


def inpainting(page: Page) -> None:
    """A picture, a mask over its sky, and what came of it."""
    page.get_by_label("Seed", exact=True).fill("3")
    ask(page, HOUSE)
    painted(page)
    page.get_by_role("button", name="Start from this").click()
    page.get_by_label("Brush size").fill("22")
    for line in (0.08, 0.22):
        brush(page, (0.04, line), (0.96, line))
    ask(page, "a house on green hills at night")
    expect(page.locator("#gallery li")).to_have_count(2)
    page.evaluate("scrollTo(0, 0)")


def save(page: Page, path: Path) -> None:
    """What the window shows."""
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    shot = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    shot.save(path, optimize=True)


Take = Callable[[Page], None]
SHOTS: dict[str, tuple[Take, dict[str, Any]]] = {
    "light": (several, {}),
    "dark": (under_way, {"color_scheme": "dark"}),
    "phone": (one_picture, {"viewport": PHONE, "device_scale_factor": 2, "has_touch": True}),
    "inpainting": (inpainting, {}),
}

if __name__ == "__main__":
    main()
