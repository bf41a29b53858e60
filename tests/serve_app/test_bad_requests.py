"""Bad requests: the right status and param, the common envelope, and no painter is ever asked."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image

from tests.serve_app.conftest import Stand


def png(width: int = 64, height: int = 64) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, height), 50).convert("RGB").save(out, "PNG")
    return out.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def picture(kind: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert(mode).save(out, kind)
    return out.getvalue()


def animated(kind: str) -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(out, kind, save_all=True, append_images=frames[1:])
    return out.getvalue()


def flat(colour: Any, mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return out.getvalue()


def bomb() -> bytes:
    """A small file of 20,000 x 20,000 pixels."""
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG", optimize=False, compress_level=9)
    return out.getvalue()


@dataclass(frozen=True)
class Bad:
    """A bad request and how it must be refused."""

    name: str
    param: str | None
    fields: dict[str, Any] | None = None  # with a good prompt unless it has its own
    raw: bytes | str | None = None  # the whole body instead
    status: int = 400
    says: str = ""
    headers: tuple[tuple[str, str], ...] = ()


JSON_TYPE = ("content-type", "application/json")
GOOD = '{"prompt": "a red circle"'

TABLE = [
    # prompt
    Bad("no prompt", "prompt", raw="{}", says="missing"),
    Bad("null prompt", "prompt", raw='{"prompt": null}', says="missing"),
    Bad("empty prompt", "prompt", {"prompt": ""}, says="1 to 2000"),
    Bad("blank prompt", "prompt", {"prompt": " \n\t "}, says="blank"),
    Bad("number prompt", "prompt", {"prompt": 5}, says="string"),
    Bad("list prompt", "prompt", {"prompt": ["a"]}, says="string"),
    Bad("100 kB prompt", "prompt", {"prompt": "x" * 100_000}, says="100000 characters"),
    Bad("100 kB emoji prompt", "prompt", {"prompt": "🎨" * 25_000}, says="25000 characters"),
    Bad("NUL in prompt", "prompt", {"prompt": "a\0b"}, says="NUL"),
    Bad("lone surrogate", "prompt", raw='{"prompt": "a \\ud800 b"}', says="surrogate"),
    Bad("negative prompt type", "negative_prompt", {"negative_prompt": 1}),
    Bad("negative prompt long", "negative_prompt", {"negative_prompt": "x" * 2001}),
    Bad("negative prompt NUL", "negative_prompt", {"negative_prompt": "\0"}),
    # sizes
    Bad("width multiple", "width", {"width": 65}, says="multiples of 16"),
    Bad("width of 8 only", "width", {"width": 72}, says="multiples of 16"),
    Bad("height multiple", "height", {"height": 100}, says="multiples of 16"),
    Bad("width small", "width", {"width": 16}, says="32 to 256"),
    Bad("width zero", "width", {"width": 0}),
    Bad("height negative", "height", {"height": -64}),
    Bad("height huge", "height", {"height": 10**9}, says="32 to 256"),
    Bad("width text", "width", {"width": "64"}, says="integer"),
    Bad("width bool", "width", {"width": True}, says="integer"),
    Bad("width fraction", "width", {"width": 64.5}, says="integer"),
    Bad("width 5000 digits", None, raw=GOOD + ', "width": 1' + "0" * 5000 + "}"),
    Bad("width 400 digits", "width", raw=GOOD + ', "width": 1' + "0" * 400 + "}", says="huge"),
    # steps, guidance, seed
    Bad("no steps", "num_inference_steps", {"num_inference_steps": 0}),
    Bad("too many steps", "num_inference_steps", {"num_inference_steps": 61}, says="1 to 60"),
    Bad(
        "lcm steps",
        "num_inference_steps",
        {"scheduler": "lcm", "num_inference_steps": 51},
        says="1 to 50",
    ),
    Bad("steps text", "num_inference_steps", {"num_inference_steps": "ten"}),
    Bad("negative guidance", "guidance_scale", {"guidance_scale": -0.1}),
    Bad("huge guidance", "guidance_scale", {"guidance_scale": 21}, says="0 to 20"),
    Bad("guidance bool", "guidance_scale", {"guidance_scale": True}, says="number"),
    Bad("guidance 1e999", "guidance_scale", raw=GOOD + ', "guidance_scale": 1e999}', says="finite"),
    Bad("NaN", None, raw=GOOD + ', "guidance_scale": NaN}', says="NaN"),
    Bad("Infinity", None, raw=GOOD + ', "guidance_scale": -Infinity}', says="Infinity"),
    Bad("negative seed", "seed", {"seed": -1}, says="0 to 4294967295"),
    Bad("seed 2^32", "seed", {"seed": 2**32}, says="0 to 4294967295"),
    Bad("seed fraction", "seed", {"seed": 1.5}, says="integer"),
    Bad("seed text", "seed", {"seed": "1"}),
    # scheduler, n, format, pool, deadline
    Bad("scheduler", "scheduler", {"scheduler": "eular"}, says="did you mean 'euler'"),
    Bad("scheduler type", "scheduler", {"scheduler": 1}, says="string"),
    Bad("scheduler case", "scheduler", {"scheduler": "DDIM"}, says="ddim"),
    Bad("n zero", "n", {"n": 0}),
    Bad("n huge", "n", {"n": 1_000_000}, says="1 to 4"),
    Bad("n bool", "n", {"n": True}),
    Bad("n as image", "n", {"n": 2}, headers=(("accept", "image/png"),), says="JSON"),
    Bad("format", "output_format", {"output_format": "gif"}, says="png, jpeg, webp"),
    Bad("format type", "output_format", {"output_format": ["png"]}),
    Bad("unknown pool", "pool", {"pool": "gpuu"}, status=404, says="did you mean 'gpu'"),
    Bad("empty pool", "pool", {"pool": ""}),
    Bad("pool type", "pool", {"pool": {}}),
    Bad("deadline zero", "deadline_ms", {"deadline_ms": 0}),
    Bad("deadline text", "deadline_ms", {"deadline_ms": "soon"}),
    # unknown fields
    Bad("typo", "promt", raw='{"promt": "a"}', says="did you mean 'prompt'"),
    Bad("steps by another name", "steps", {"steps": 3}, says="unknown field"),
    Bad("field with emoji", "\\U0001f3a8", {"🎨": 1}, says="unknown field"),
    Bad("field with surrogate", "\\ud800", raw=GOOD + ', "\\ud800": 1}', says="unknown field"),
    Bad("field of 10 kB", "x" * 61 + "...", {"x" * 10_000: 1}, says="unknown field"),
    Bad("given twice", "prompt", raw='{"prompt": "a", "prompt": "b"}', says="more than once"),
    # start picture
    Bad("strength alone", "strength", {"strength": 0.5}, says="image"),
    Bad("image null", "strength", {"strength": 0.5, "image": None}, says="image"),
    Bad("strength zero", "strength", {"image": b64(png()), "strength": 0}, says="above 0"),
    Bad("strength 1.1", "strength", {"image": b64(png()), "strength": 1.1}, says="to 1"),
    Bad(
        "no steps left",
        "strength",
        {"image": b64(png()), "strength": 0.1, "num_inference_steps": 9},
        says="leaves none",
    ),
    Bad("image type", "image", {"image": 7}),
    Bad("image empty", "image", {"image": ""}),
    Bad("broken base64", "image", {"image": "@@@@"}, says="base64"),
    Bad("base64 unpadded", "image", {"image": b64(png()).rstrip("=") + "A"}, says="base64"),
    Bad("base64 not ASCII", "image", {"image": "é" * 8}, says="base64"),
    Bad("no picture", "image", {"image": b64(b"hello world" * 20)}, says="not a PNG"),
    Bad("truncated PNG", "image", {"image": b64(png()[:2000])}, says="truncated"),
    Bad("truncated JPEG", "image", {"image": b64(picture("JPEG")[:900])}, says="truncated"),
    Bad("truncated WebP", "image", {"image": b64(picture("WEBP")[:300])}, says="image"),
    Bad("head of a PNG", "image", {"image": b64(png()[:20])}),
    Bad("GIF", "image", {"image": b64(picture("GIF", "P"))}, says="not a PNG"),
    Bad("TIFF", "image", {"image": b64(picture("TIFF"))}, says="not a PNG"),
    Bad("animated WebP", "image", {"image": b64(animated("WEBP"))}, says="animated"),
    Bad("animated PNG", "image", {"image": b64(animated("PNG"))}, says="animated"),
    Bad("bomb", "image", {"image": b64(bomb())}, says="400000000 pixels"),
    Bad("data URL of SVG", "image", {"image": "data:image/svg+xml;base64,AAAA"}, says="svg"),
    Bad("data URL not base64", "image", {"image": "data:image/png,AAAA"}, says="data URL"),
    Bad("data URL empty", "image", {"image": "data:image/png;base64,"}, says="empty"),
    Bad("web address", "image", {"image": "https://example.com/a.png"}, says="base64"),
    # mask
    Bad("mask alone", "mask", {"mask": b64(png())}, says="image"),
    Bad("mask, null image", "mask", {"mask": b64(png()), "image": None}, says="image"),
    Bad("mask type", "mask", {"image": b64(png()), "mask": 7}),
    Bad("mask empty", "mask", {"image": b64(png()), "mask": ""}),
    Bad(
        "mask base64", "mask", {"image": b64(png()), "mask": "@@@@"}, says="mask: not valid base64"
    ),
    Bad("mask GIF", "mask", {"image": b64(png()), "mask": b64(picture("GIF", "P"))}, says="not a"),
    Bad("mask bomb", "mask", {"image": b64(png()), "mask": b64(bomb())}, says="400000000 pixels"),
    Bad("mask truncated", "mask", {"image": b64(png()), "mask": b64(png()[:900])}, says="mask: b"),
    Bad(
        "mask size",
        "mask",
        {"image": b64(png(96, 80)), "mask": b64(png(80, 96))},
        says="80x96 pixels; allowed: the size of image, 96x80 or 64x64",
    ),
    Bad(
        "mask that marks nothing",
        "mask",
        {"image": b64(png()), "mask": b64(flat("black"))},
        says="nothing is white",
    ),
    Bad("broken image with a mask", "image", {"image": "@@@@", "mask": b64(png())}),
    # streams
    Bad("stream type", "stream", {"stream": "true"}, says="boolean"),
    Bad("stream number", "stream", {"stream": 1}, says="boolean"),
    Bad("previews without stream", "partial_images", {"partial_images": 1}, says="stream"),
    Bad("previews, no stream", "partial_images", {"partial_images": 1, "stream": False}),
    Bad("four previews", "partial_images", {"partial_images": 4, "stream": True}, says="0 to 3"),
    Bad("previews type", "partial_images", {"partial_images": True, "stream": True}),
    Bad("streamed, bad width", "width", {"width": 65, "stream": True}),
    # the body itself
    Bad("empty body", None, raw="", says="not JSON"),
    Bad("half JSON", None, raw='{"prompt": "a"', says="not JSON"),
    Bad("list", None, raw="[1]", says="object"),
    Bad("text", None, raw='"a red circle"', says="object"),
    Bad("null", None, raw="null", says="object"),
    Bad("not UTF-8", None, raw=b'{"prompt": "\xff"}', says="UTF-8"),
    Bad("UTF-16", None, raw='{"prompt": "a"}'.encode("utf-16"), says="UTF-8"),
    Bad("deep", None, raw="[" * 90_000, says="not JSON"),
    *(
        Bad(f"{depth} deep", "n", raw=f'{GOOD}, "n": {"[" * depth}{"]" * depth}}}', says="integer")
        for depth in (2, 100, 900)
    ),
    Bad("long list", "n", raw=f'{GOOD}, "n": [{"[]," * 50_000}1]}}', says="integer"),
    Bad("deep key", "n", raw=f'{GOOD}, "n": {{"🎨": [1]}}}}', says="\\U0001f3a8"),
    Bad("oversize", None, raw=GOOD + " " * 200_000 + "}", status=413, says="200000 bytes"),
    Bad("form", None, raw="prompt=a", status=415, headers=(("content-type", "text/plain"),)),
    Bad("gzip", None, raw="x", status=415, headers=(JSON_TYPE, ("content-encoding", "gzip"))),
    Bad("no type", None, raw=GOOD + "}", status=415, headers=(("content-type", ""),)),
    # Accept
    Bad("html only", None, {}, status=406, headers=(("accept", "text/html"),)),
    Bad(
        "jpeg only, png asked",
        "output_format",
        {"output_format": "png"},
        status=406,
        headers=(("accept", "image/jpeg"),),
    ),
]


def check_error(response: Any, status: int, param: str | None, says: str = "") -> None:
    assert response.status_code == status, response.text
    envelope = response.json()
    assert set(envelope) == {"error"}
    error = envelope["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    assert says in error["message"]
    assert len(error["message"]) < 600
    assert error["code"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("bad", TABLE, ids=[bad.name for bad in TABLE])
def test_bad_post(stand: Stand, bad: Bad) -> None:
    body = bad.raw
    if body is None:
        body = json.dumps({"prompt": "a red circle", **(bad.fields or {})}, ensure_ascii=False)
    headers = dict((JSON_TYPE, *bad.headers))
    response = stand.client.post("/imagine", content=body, headers=headers)
    check_error(response, bad.status, bad.param, bad.says)
    assert stand.painter.requests == []


def test_no_depth_is_an_internal_error(stand: Stand) -> None:
    # Around where the parser itself gives up, which is not the same depth everywhere.
    for depth in range(800, 1000, 2):
        body = f'{GOOD}, "n": {"[" * depth}{"]" * depth}}}'
        response = stand.client.post("/imagine", content=body, headers=dict([JSON_TYPE]))
        assert response.status_code == 400, depth
        assert response.json()["error"]["param"] in ("n", None)


GET_TABLE: list[tuple[str, str, int, str | None, str]] = [
    ("no prompt", "", 400, "prompt", "missing"),
    ("twice", "prompt=a&prompt=b", 400, "prompt", "more than once"),
    ("image", "prompt=a&image=AAAA", 400, "image", "POST"),
    ("strength", "prompt=a&strength=1", 400, "strength", "POST"),
    ("mask", "prompt=a&mask=AAAA", 400, "mask", "POST"),
    ("stream word", "prompt=a&stream=yes", 400, "stream", "boolean"),
    ("stream number", "prompt=a&stream=1", 400, "stream", "boolean"),
    ("previews alone", "prompt=a&partial_images=2", 400, "partial_images", "stream"),
    ("width text", "prompt=a&width=big", 400, "width", "integer"),
    ("width empty", "prompt=a&width=", 400, "width", "integer"),
    ("width fraction", "prompt=a&width=64.0", 400, "width", "integer"),
    ("arabic digits", "prompt=a&width=%D9%A6%D9%A4", 400, "width", "integer"),
    ("underscore digits", "prompt=a&seed=1_0", 400, "seed", "integer"),
    ("nan", "prompt=a&guidance_scale=nan", 400, "guidance_scale", "number"),
    ("inf", "prompt=a&guidance_scale=inf", 400, "guidance_scale", "number"),
    ("1e999", "prompt=a&guidance_scale=1e999", 400, "guidance_scale", "finite"),
    ("unknown", "prompt=a&sed=1", 400, "sed", "did you mean 'seed'"),
    ("not UTF-8", "prompt=%ff", 400, None, "query"),
    ("NUL", "prompt=a%00b", 400, "prompt", "NUL"),
    ("many fields", "&".join(f"f{i}=1" for i in range(99)), 400, None, "query"),
    (
        "lcm steps",
        "prompt=a&scheduler=lcm&num_inference_steps=51",
        400,
        "num_inference_steps",
        "50",
    ),
    ("unknown pool", "prompt=a&pool=tpu", 404, "pool", "declared: gpu, cpu"),
]


@pytest.mark.parametrize(
    ("query", "status", "param", "says"), [g[1:] for g in GET_TABLE], ids=[g[0] for g in GET_TABLE]
)
def test_bad_get(stand: Stand, query: str, status: int, param: str | None, says: str) -> None:
    check_error(stand.client.get(f"/imagine?{query}"), status, param, says)
    assert stand.painter.requests == []


def test_a_body_of_unknown_length_is_counted(stand: Stand) -> None:
    def parts() -> Any:
        yield GOOD.encode()
        for _ in range(300):
            yield b" " * 1000

    response = stand.client.post(
        "/imagine", content=parts(), headers={"content-type": "application/json"}
    )
    check_error(response, 413, None)
    assert stand.painter.requests == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/", 405),
        ("GET", "/imagine/", 404),
        ("GET", "/nope%0d%0aX-Evil: 1", 404),
        ("POST", "/v2/imagine", 404),
        ("PUT", "/imagine", 405),
        ("DELETE", "/imagine", 405),
        ("POST", "/health", 405),
        ("POST", "/pools", 405),
    ],
)
def test_routes_that_are_not(stand: Stand, method: str, path: str, status: int) -> None:
    response = stand.client.request(method, path)
    check_error(response, status, None)
    assert ("allow" in response.headers) == (status == 405)


def test_head_paints_nothing(stand: Stand) -> None:
    assert stand.client.head("/imagine?prompt=a").status_code == 405
    assert stand.painter.requests == []
    assert stand.client.head("/health").status_code == 200
