"""Good requests: what reaches the painter, and what comes back."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import pytest
from PIL import Image

from serve_app.routing.outcome import DispatchError
from tests.serve_app.conftest import Stand
from tests.serve_app.test_bad_requests import b64, check_error, picture, png


def post(stand: Stand, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    return stand.client.post("/imagine", json={"prompt": "a red circle", **fields}, headers=headers)


def test_defaults_are_the_models(stand: Stand) -> None:
    response = post(stand)
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(response.content)).size == (64, 64)
    (sent,) = stand.painter.requests
    assert (sent.width, sent.height, sent.num_inference_steps) == (64, 64, 8)
    assert (sent.guidance_scale, sent.scheduler, sent.negative_prompt) == (3.0, "default", "")
    assert (sent.init_rgb, sent.strength, sent.time_left_s) == (None, None, None)
    assert response.headers["x-seed"] == str(sent.seed)


def test_everything_given_arrives(stand: Stand) -> None:
    fields: dict[str, Any] = {
        "negative_prompt": "blur",
        "width": 128,
        "height": 96.0,
        "num_inference_steps": 5,
        "guidance_scale": 7,
        "seed": 2**32 - 1,
        "scheduler": "dpmpp_2m",
        "output_format": "webp",
        "pool": "gpu",
        "deadline_ms": 5000,
        "n": None,
    }
    response = post(stand, **fields)
    assert response.headers["content-type"] == "image/webp"
    (sent,) = stand.painter.requests
    for name in fields.keys() - {"pool", "deadline_ms", "n"}:
        assert getattr(sent, name) == fields[name]
    assert isinstance(sent.height, int)
    assert isinstance(sent.guidance_scale, float)
    assert sent.time_left_s is not None
    assert [wishes.pin for wishes in stand.painter.wishes] == ["gpu"]


def test_the_contracts_headers(stand: Stand) -> None:
    headers = post(stand, {"X-Request-Id": "mine-1"}, seed=7).headers
    assert headers["x-request-id"] == "mine-1"
    assert headers["x-seed"] == "7"
    assert headers["x-pool"] == "cpu"
    assert headers["x-accelerator"] == "cpu-card"
    assert headers["x-model"] == "tiny@r1"
    phases = r"queue;dur=1\.0, encode;dur=2\.0, denoise;dur=3\.0, decode;dur=4\.0, total;dur=[\d.]+"
    assert re.fullmatch(phases, headers["server-timing"])
    assert "x-prompt-truncated" not in headers
    assert "x-unknown-words" not in headers


def test_truncation_and_unknown_words_are_told_safely(stand: Stand) -> None:
    stand.painter.truncated = True
    stand.painter.unknown_words = ("zebra", "日本", "a,b\r\nX-Evil: 1")
    headers = post(stand).headers
    assert headers["x-prompt-truncated"] == "true"
    assert headers["x-unknown-words"] == "zebra,%E6%97%A5%E6%9C%AC,a%2Cb%0D%0AX-Evil%3A%201"


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, "é".encode().decode("latin-1"), "a\tb"])
def test_an_unsafe_request_id_is_replaced(stand: Stand, bad: str) -> None:
    response = stand.client.get("/health", headers={b"X-Request-Id": bad.encode("latin-1")})
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


def test_two_calls_with_one_request_id_have_two_keys(stand: Stand) -> None:
    for _ in range(2):
        post(stand, {"X-Request-Id": "same"})
    first, second = stand.painter.requests
    assert first.request_id != second.request_id
    assert first.request_id.startswith("same-")


def test_several_pictures(stand: Stand) -> None:
    response = post(stand, n=3, seed=2**32 - 2)
    seeds = [2**32 - 2, 2**32 - 1, 0]
    assert sorted(r.seed for r in stand.painter.requests) == sorted(seeds)
    assert len({r.request_id for r in stand.painter.requests}) == 3
    answer = response.json()
    assert [item["seed"] for item in answer["data"]] == seeds
    assert answer["model"] == "tiny@r1"
    assert response.headers["x-seed"] == str(seeds[0])
    for item in answer["data"]:
        shown = Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))
        assert shown.getpixel((0, 0)) == (item["seed"] % 256, 0, 0)
        assert item["timings"] == {
            "queue": 1,
            "encode": 2,
            "denoise": 3,
            "decode": 4,
            "total": 10,
        }


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/webp", "image/webp"),
        ("image/png;q=0, image/*", "image/jpeg"),
        ("text/html,image/avif,image/webp,*/*;q=0.8", "image/png"),
        ("application/json", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("image/png, application/json;q=0.5", "image/png"),
        ("image/png;q=0.5, application/json", "application/json"),
        ("application/json;q=0, */*", "image/png"),
        ("application/json;q=0.5, */*", "image/png"),
        ("application/json;q=0.5, image/*;q=0.6", "image/png"),
        ("application/json;q=0.5, */*;q=0.4", "application/json"),
        ("image/avif, application/json;q=0.5", "application/json"),
        ("application/*", "application/json"),
        ("APPLICATION/JSON", "application/json"),
        ("application/json;q=banana", "application/json"),
    ],
)
def test_accept(stand: Stand, accept: str, media_type: str) -> None:
    response = post(stand, {"Accept": accept})
    assert response.headers["content-type"] == media_type


@pytest.mark.parametrize("prompt", ["🎨 a red circle 🟥", "日本の山", "x" * 2000, "a\nb\tc"])
def test_odd_prompts_are_fine(stand: Stand, prompt: str) -> None:
    assert post(stand, prompt=prompt).status_code == 200
    assert stand.painter.requests[0].prompt == prompt


def test_get_is_the_same(stand: Stand) -> None:
    query = "prompt=a%20red+circle&width=128&seed=7&guidance_scale=1.5e0&output_format=jpeg"
    response = stand.client.get(f"/imagine?{query}")
    assert response.headers["content-type"] == "image/jpeg"
    (sent,) = stand.painter.requests
    assert (sent.prompt, sent.width, sent.seed) == ("a red circle", 128, 7)
    assert sent.guidance_scale == 1.5


def test_a_start_picture_of_the_right_size_is_untouched(stand: Stand) -> None:
    data = png(96, 64)
    response = post(stand, image=b64(data), width=96, height=64)
    assert response.status_code == 200
    (sent,) = stand.painter.requests
    assert sent.init_rgb == Image.open(io.BytesIO(data)).tobytes()
    assert sent.strength == 0.8


@pytest.mark.parametrize(("steps", "strength"), [(1, 1.0), (2, 0.8), (50, 0.8)])
def test_the_default_strength_leaves_a_step_to_run(
    stand: Stand, steps: int, strength: float
) -> None:
    assert post(stand, image=b64(png()), num_inference_steps=steps).status_code == 200
    assert stand.painter.requests[0].strength == strength


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_data_urls(stand: Stand, kind: str) -> None:
    url = f"data:image/{kind.lower()};base64,{b64(picture(kind))}"
    assert post(stand, image=url, strength=1).status_code == 200
    assert stand.painter.requests[0].init_rgb is not None


def start_picture(stand: Stand, image: Image.Image, width: int, height: int, **save: Any) -> Any:
    out = io.BytesIO()
    image.save(out, save.pop("kind", "PNG"), **save)
    assert post(stand, image=b64(out.getvalue()), width=width, height=height).status_code == 200
    init = stand.painter.requests[-1].init_rgb
    assert init is not None
    return Image.frombytes("RGB", (width, height), init)


def test_a_wide_start_picture_is_cropped_about_its_centre(stand: Stand) -> None:
    wide = Image.new("RGB", (256, 64), "red")
    wide.paste("blue", (96, 0, 160, 64))
    assert start_picture(stand, wide, 64, 64).getcolors() == [(4096, (0, 0, 255))]


def test_a_small_start_picture_is_enlarged(stand: Stand) -> None:
    small = Image.new("RGB", (8, 8), "green")
    assert start_picture(stand, small, 64, 96).getcolors() == [(64 * 96, (0, 128, 0))]


def test_transparency_lies_over_white(stand: Stand) -> None:
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    assert start_picture(stand, clear, 64, 64).getcolors() == [(4096, (255, 255, 255))]
    palette = Image.new("P", (64, 64), 0)
    assert start_picture(stand, palette, 64, 64, transparency=0).getcolors() == [
        (4096, (255, 255, 255))
    ]


def test_sixteen_bit_grey_keeps_its_range(stand: Stand) -> None:
    grey = Image.new("I;16", (64, 64), 0x8000)
    assert start_picture(stand, grey, 64, 64).getcolors() == [(4096, (128, 128, 128))]


def test_exif_orientation_is_applied(stand: Stand) -> None:
    tall = Image.new("RGB", (64, 128), "white")
    tall.paste("black", (0, 0, 64, 64))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right to view
    shown = start_picture(stand, tall, 128, 64, exif=exif)
    assert shown.getpixel((10, 32)) == (255, 255, 255)
    assert shown.getpixel((120, 32)) == (0, 0, 0)


DISPATCH_ERRORS = [
    ("unavailable", 503, True),
    ("lost", 503, True),
    ("device_error", 503, True),
    ("overloaded", 429, True),
    ("timeout", 504, False),
    ("deadline_exceeded", 504, False),
    ("generation_failed", 500, False),
    ("invalid_request", 400, False),
]


@pytest.mark.parametrize(("code", "status", "again"), DISPATCH_ERRORS)
@pytest.mark.parametrize("n", [1, 3])
def test_dispatch_errors(stand: Stand, code: Any, status: int, again: bool, n: int) -> None:
    wait = 5 if again else None
    stand.painter.failure = DispatchError(code, "why", param="pool", retry_after_s=wait)
    response = post(stand, n=n)
    check_error(response, status, "pool", "why")
    assert response.json()["error"]["code"] == code
    assert response.headers.get("retry-after") == ("5" if again else None)


@pytest.mark.parametrize("n", [1, 2])
def test_nothing_of_the_inside_leaks(stand: Stand, n: int) -> None:
    stand.painter.failure = RuntimeError("password is hunter2")
    response = post(stand, {"X-Request-Id": "mine-2"}, n=n)
    check_error(response, 500, None, "mine-2")
    assert "hunter2" not in response.text


def test_when_one_of_several_fails_the_others_stop() -> None:
    import asyncio

    from serve_app.api.painting import paint_all
    from tests.serve_app.test_dispatcher import request

    stopped = []

    class Painter:
        calls = 0

        async def paint(self, request: Any, *_: Any) -> Any:
            self.calls += 1
            if self.calls == 2:
                raise DispatchError("generation_failed", "second")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                stopped.append(request)
                raise

    async def run() -> None:
        with pytest.raises(DispatchError):
            await paint_all(Painter(), [request()] * 3, None)

    asyncio.run(run())
    assert len(stopped) == 2
