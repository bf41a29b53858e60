"""Debian's Chromium, driven by Playwright's client; Playwright's own browsers are not used."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
PATIENCE_MS = 30_000  # on two busy cores
DESKTOP = {"width": 1360, "height": 900}
PHONE = {"width": 390, "height": 844}
_SERIOUS = ("serious", "critical")


def require_chromium() -> str:
    """The browser's path; skips the test, and says how to get it, where there is none."""
    if CHROMIUM is None:
        pytest.skip("NO BROWSER TESTS: chromium is missing; apt-get install chromium")
    return CHROMIUM


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """A headless browser. While it is open, this thread counts as running an event loop."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            # Tests run as root in containers, where the sandbox cannot be set up.
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Tab:
    """One page, and everything it complained about."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def axe(self) -> list[str]:
        """Serious accessibility findings on the page as it is now."""
        # By the debugger, not by the page, whose policy refuses foreign scripts.
        self.page.evaluate(Path(AXE_FILE_PATH).read_text("utf-8"))
        found: dict[str, Any] = self.page.evaluate(
            "axe.run(document, {resultTypes: ['violations']})"
        )
        assert len(found["passes"]) > 10, "axe has looked at nothing"
        return [
            f"{one['id']}: {[node['html'][:120] for node in one['nodes']]}"
            for one in found["violations"]
            if one["impact"] in _SERIOUS
        ]

    def sticking_out(self) -> list[str]:
        """What reaches beyond the right edge of the window; nothing if it cannot be scrolled to."""
        found: list[str] = self.page.evaluate(
            """() => {
                const edge = document.documentElement.clientWidth;
                if (document.documentElement.scrollWidth <= edge) return [];
                return [...document.body.querySelectorAll("*")]
                    .filter((one) => one.getBoundingClientRect().right > edge)
                    .map((one) => one.cloneNode(false).outerHTML);
            }"""
        )
        return found


@contextmanager
def tab(
    browser: Browser, url: str, *, expected: tuple[str, ...] = (), **context: Any
) -> Iterator[Tab]:
    """A fresh profile with ``url`` open; fails at its end if the page complained.

    Args:
        browser: where.
        url: what.
        expected: beginnings of complaints that belong to the test.
        context: of Playwright's ``new_context``.
    """
    opened = browser.new_context(**{"viewport": DESKTOP, **context})
    try:
        opened.set_default_timeout(PATIENCE_MS)
        page = opened.new_page()
        one = Tab(page)
        page.on("console", lambda said: _note(one, f"{said.type}: {said.text}", said.type))
        page.on("pageerror", lambda error: one.complaints.append(f"exception: {error}"))
        page.on("requestfailed", lambda request: _note_failed(one, request))
        page.on("request", lambda request: _note_foreign(one, request, url))
        page.add_init_script(
            "addEventListener('securitypolicyviolation',"
            " (event) => console.error('policy', event.violatedDirective, event.blockedURI))"
        )
        page.goto(url)
        yield one
        unexpected = [text for text in one.complaints if not text.startswith(expected or "\0")]
        assert unexpected == [], unexpected
    finally:
        opened.close()


def _note(one: Tab, text: str, kind: str) -> None:
    if kind in ("error", "warning"):
        one.complaints.append(text)


def _note_failed(one: Tab, request: Any) -> None:
    if request.failure != "net::ERR_ABORTED":  # what the page itself gave up
        one.complaints.append(f"failed: {request.url} {request.failure}")


def _note_foreign(one: Tab, request: Any, url: str) -> None:
    if not request.url.startswith((url, "blob:", "data:")):
        one.complaints.append(f"foreign: {request.url}")
