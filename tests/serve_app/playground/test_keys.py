"""Where the service asks for API keys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.api.application import create_app
from serve_app.api.errors import ApiError
from tests.serve_app.conftest import Stand
from tests.serve_app.playground.browser import tab
from tests.serve_app.playground.conftest import QUICK, REFUSED, House, serving
from tests.serve_app.playground.hands import ask, painted

GUARDED = ("/imagine", "/pools")


class Guard:
    """Lets none but holders of one key at what is guarded."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        given = Headers(scope=scope).get("authorization")
        if scope["path"] not in GUARDED or given == "Bearer sesame":
            await self._app(scope, receive, send)
            return
        error = ApiError(401, "an API key is needed", code="missing_api_key")
        await error.response()(scope, receive, send)


@pytest.fixture
def guarded(stand: Stand) -> Iterator[House]:
    """The page over a service that wants a key."""
    with serving(stand, Guard(create_app(stand.front))) as house:
        house.painter.happens = QUICK
        yield house


def test_a_key_is_asked_for_and_sent(browser: Browser, guarded: House) -> None:
    with tab(browser, guarded.url, expected=REFUSED) as one:
        page = one.page
        key = page.get_by_label("API key")
        expect(key).to_be_visible()
        expect(page.locator("#pools-state")).to_have_text("an API key is needed")
        ask(page)
        expect(page.get_by_role("alert")).to_have_text("an API key is needed")
        expect(key).to_be_focused()
        key.fill("sesame")
        key.press("Tab")
        expect(page.locator("li.pool")).to_have_count(2)
        ask(page)
        painted(page)
        assert page.evaluate("[sessionStorage.length, localStorage.length]") == [0, 0]
        assert page.evaluate("document.cookie") == ""
        page.reload()
        expect(page.locator("#pools-state")).to_have_text("an API key is needed")


def test_a_key_is_kept_for_the_tab_if_one_wishes(browser: Browser, guarded: House) -> None:
    with tab(browser, guarded.url, expected=REFUSED) as one:
        page = one.page
        page.get_by_label("API key").fill("sesame")
        page.get_by_label("keep for this tab").check()
        expect(page.locator("li.pool")).to_have_count(2)
        page.reload()
        expect(page.locator("li.pool")).to_have_count(2)
        ask(page)
        painted(page)
        page.get_by_label("keep for this tab").uncheck()
        assert page.evaluate("sessionStorage.length") == 0


def test_no_key_is_asked_for_where_none_is_needed(browser: Browser, house: House) -> None:
    with tab(browser, house.url) as one:
        expect(one.page.locator("li.pool")).to_have_count(2)
        expect(one.page.get_by_label("API key")).to_be_hidden()
