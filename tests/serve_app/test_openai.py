"""OpenAI's images API: what reaches the painter, what comes back, what is refused."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from PIL import Image

from deployments.messages import ImagePreview, ImageProgress
from serve_app.routing.outcome import DispatchError
from serve_app.routing.watching import Sent
from serve_app.settings import LimitSettings
from tests.serve_app.conftest import Stand, snapshot
from tests.serve_app.test_bad_requests import (
    GOOD,
    JSON_TYPE,
    animated,
    bomb,
    check_error,
    flat,
    picture,
    png,
)
from tests.serve_app.test_imagine import DISPATCH_ERRORS
from tests.serve_app.test_streaming import STORY, parse
from tests.serve_app.test_surfaces import Document

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
HOLE = flat((0, 0, 0, 0), "RGBA")


def generate(stand: Stand, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"prompt": "a red circle", **fields}
    return stand.client.post(GENERATIONS, json=body, headers=headers)


def edit(
    stand: Stand,
    image: Any = None,
    mask: bytes | None = None,
    headers: dict[str, str] | None = None,
    **texts: str,
) -> Any:
    files = {} if image is False else {"image": ("a.png", image or png())}
    if mask is not None:
        files["mask"] = ("m.png", mask)
    data = {"prompt": "a red circle", **texts}
    return stand.client.post(EDITS, data=data, files=files, headers=headers)


def shown(item: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))


def test_a_prompt_alone_is_enough(stand: Stand) -> None:
    response = generate(stand)
    assert response.status_code == 200
    answer = response.json()
    (item,) = answer["data"]
    assert (shown(item).size, shown(item).format) == ((64, 64), "PNG")
    (sent,) = stand.painter.requests
    assert item["seed"] == sent.seed
    assert (sent.num_inference_steps, sent.guidance_scale, sent.quality) == (8, 3.0, None)
    assert (answer["size"], answer["output_format"]) == ("64x64", "png")
    assert response.headers["x-seed"] == str(sent.seed)
    assert response.headers["x-pool"] == "cpu"


def test_everything_given_arrives(stand: Stand) -> None:
    response = generate(
        stand,
        model="tiny",
        n=2,
        size="128x96",
        quality="standard",
        background="opaque",
        moderation="low",
        output_format="webp",
        output_compression=40,
        response_format="b64_json",
        user="someone",
        safety_identifier="x",
        stream=False,
        partial_images=0,
        seed=5,
        negative_prompt="blur",
        num_inference_steps=3,
        guidance_scale=2,
        scheduler="euler",
        pool="gpu",
        deadline_ms=9000,
    )
    assert response.status_code == 200, response.text
    first, second = stand.painter.requests
    assert (first.width, first.height, first.output_format, first.quality) == (128, 96, "webp", 40)
    assert (first.seed, second.seed, first.negative_prompt) == (5, 6, "blur")
    assert (first.num_inference_steps, first.guidance_scale, first.scheduler) == (3, 2.0, "euler")
    assert first.time_left_s is not None
    assert [wishes.pin for wishes in stand.painter.wishes] == ["gpu", "gpu"]
    assert [item["seed"] for item in response.json()["data"]] == [5, 6]
    assert shown(response.json()["data"][0]).format == "WEBP"


def test_the_worst_compression_is_still_a_quality(stand: Stand) -> None:
    assert generate(stand, output_format="jpeg", output_compression=0).status_code == 200
    assert stand.painter.requests[0].quality == 1


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_an_edit_under_both_names(stand: Stand, name: str) -> None:
    data = {"prompt": "a", "strength": "0.6", "n": "2", "seed": "4", "size": "96x64", "user": "u"}
    files = [(name, ("x.png", png(96, 64), "image/png"))]
    response = stand.client.post(EDITS, data=data, files=files)
    assert response.status_code == 200, response.text
    first, second = stand.painter.requests
    assert (first.strength, first.seed, second.seed) == (0.6, 4, 5)
    assert (first.width, first.height, first.mask) == (96, 64, None)
    assert first.init_rgb == Image.open(io.BytesIO(files[0][1][1])).tobytes()


def test_a_mask_repaints_what_is_transparent(stand: Stand) -> None:
    hole = Image.new("RGBA", (64, 64), "white")
    hole.paste((0, 0, 0, 0), (0, 0, 32, 64))
    out = io.BytesIO()
    hole.save(out, "PNG")
    assert edit(stand, mask=out.getvalue()).status_code == 200
    (sent,) = stand.painter.requests
    assert sent.strength == 1.0
    assert sent.mask == (b"\xff" * 32 + b"\0" * 32) * 64


def test_models(stand: Stand) -> None:
    (model,) = stand.client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"]) == ("tiny", "model")
    assert stand.client.get("/v1/models/tiny").json() == model
    check_error(stand.client.get("/v1/models/dall-e-3"), 404, "model", "served here: tiny")
    check_error(stand.client.get("/v1/models/a/b%00"), 404, "model")


PREVIEW = ImagePreview(index=0, step=1, steps=4, image=b"jpeg", media_type="image/jpeg")
AGAIN = Sent(pool=snapshot("gpu"), attempt=2)


@pytest.mark.parametrize(
    ("path", "kind"), [(GENERATIONS, "image_generation"), (EDITS, "image_edit")]
)
def test_a_stream(stand: Stand, path: str, kind: str) -> None:
    second = ImagePreview(index=1, step=2, steps=4, image=b"more", media_type="image/jpeg")
    stand.painter.happens = (*STORY[:3], PREVIEW, AGAIN, PREVIEW, second, STORY[-1])
    if path == GENERATIONS:
        response = generate(stand, stream=True, partial_images=2, output_format="jpeg", seed=3)
    else:
        fields = {"stream": "true", "partial_images": "2", "output_format": "jpeg", "seed": "3"}
        response = edit(stand, **fields)
    assert response.status_code == 200, response.text
    events, comments = parse(response.text)
    assert comments == [
        "place 2 in the queue",
        "step 1/4",
        "painted again, by pool gpu",
        "step 4/4",
    ]
    names = [name for name, _ in events]
    # A client that is shown the same number twice would not know what to make of it.
    assert names == [f"{kind}.partial_image"] * 2 + [f"{kind}.completed"]
    assert all(name == data["type"] for name, data in events)
    partial, _, completed = (data for _, data in events)
    assert base64.b64decode(partial["b64_json"]) == b"jpeg"
    assert [data.get("partial_image_index") for _, data in events] == [0, 1, None]
    for data in (partial, completed):
        assert (data["size"], data["output_format"]) == ("64x64", "jpeg")
        assert {"created_at", "quality", "background"} <= set(data)
    assert completed["usage"]["total_tokens"] == 0
    assert completed["seed"] == 3
    assert shown(completed).format == "JPEG"
    assert stand.painter.requests[0].previews == 2


def test_an_error_in_the_middle_of_a_stream(stand: Stand) -> None:
    stand.painter.happens = STORY
    stand.painter.failure = DispatchError("lost", "twice")
    events, _ = parse(generate(stand, stream=True).text)
    assert events[-1][0] == "error"
    assert events[-1][1]["error"]["code"] == "lost"


@pytest.mark.parametrize(("code", "status", "again"), DISPATCH_ERRORS)
@pytest.mark.parametrize("fields", [{}, {"n": 2}, {"stream": True}], ids=str)
def test_dispatch_errors(
    stand: Stand, code: Any, status: int, again: bool, fields: dict[str, Any]
) -> None:
    wait = 5 if again else None
    stand.painter.failure = DispatchError(code, "why", param="pool", retry_after_s=wait)
    response = generate(stand, **fields)
    check_error(response, status, "pool", "why")
    assert response.headers.get("retry-after") == ("5" if again else None)
    assert response.headers["x-should-retry"] == ("true" if status in (429, 503) else "false")


@dataclass(frozen=True)
class Bad:
    """A bad generation and how it must be refused."""

    name: str
    param: str | None
    fields: dict[str, Any] | None = None
    raw: bytes | str | None = None
    status: int = 400
    says: str = ""


TABLE = [
    Bad("no prompt", "prompt", raw="{}", says="missing"),
    Bad("blank prompt", "prompt", {"prompt": "  "}),
    Bad("prompt type", "prompt", {"prompt": 7}, says="string"),
    Bad("other model", "model", {"model": "gpt-image-1"}, status=404, says="served here: tiny"),
    Bad("model type", "model", {"model": []}),
    Bad("n zero", "n", {"n": 0}),
    Bad("n five", "n", {"n": 5}, says="1 to 4"),
    Bad("n text", "n", {"n": "2"}),
    Bad("several in a stream", "n", {"n": 2, "stream": True}, says="with stream: 1"),
    Bad("size word", "size", {"size": "large"}, says="auto, or as"),
    Bad("size number", "size", {"size": 64}, says="string"),
    Bad("size one side", "size", {"size": "64"}),
    Bad("size negative", "size", {"size": "-64x64"}),
    Bad("size star", "size", {"size": "64*64"}),
    Bad("size newline", "size", {"size": "64x64\n"}),
    Bad("size arabic digits", "size", {"size": "٦٤x64"}),
    Bad("size multiple", "size", {"size": "65x64"}, says="multiples of 16"),
    Bad("size large", "size", {"size": "1024x1024"}, says="32 to 256"),
    Bad("size zero", "size", {"size": "0x64"}),
    Bad("quality", "quality", {"quality": "best"}, says="auto, standard"),
    Bad("style", "style", {"style": "noir"}, says="vivid, natural"),
    Bad("background", "background", {"background": "transparent"}),
    Bad("format gif", "output_format", {"output_format": "gif"}, says="png, jpeg, webp"),
    Bad("url", "response_format", {"response_format": "url"}, says="allowed: b64_json"),
    Bad("compression of a PNG", "output_compression", {"output_compression": 50}, says="jpeg"),
    Bad("compression 101", "output_compression", {"output_compression": 101}, says="0 to 100"),
    Bad("user type", "user", {"user": 7}),
    Bad("user long", "user", {"user": "x" * 300}),
    Bad("stream text", "stream", {"stream": "true"}, says="boolean"),
    Bad("previews alone", "partial_images", {"partial_images": 2}, says="stream"),
    Bad("four previews", "partial_images", {"partial_images": 4, "stream": True}),
    Bad("seed", "seed", {"seed": -1}),
    Bad("steps", "num_inference_steps", {"num_inference_steps": 61}),
    Bad("guidance", "guidance_scale", {"guidance_scale": 99}),
    Bad("strength without image", "strength", {"strength": 0.5}, says="unknown field"),
    Bad("image in JSON", "image", {"image": "AAAA"}, says="unknown field"),
    Bad("width", "width", {"width": 64}, says="unknown field"),
    Bad("pool", "pool", {"pool": "tpu"}, status=404, says="declared: gpu, cpu"),
    Bad("typo", "promt", raw='{"promt": "a"}', says="did you mean 'prompt'"),
    Bad("half JSON", None, raw=GOOD, says="not JSON"),
    Bad("oversize", None, raw=GOOD + " " * 200_000 + "}", status=413),
]


@pytest.mark.parametrize("bad", TABLE, ids=[bad.name for bad in TABLE])
def test_bad_generations(stand: Stand, bad: Bad) -> None:
    body = bad.raw if bad.raw is not None else json.dumps({"prompt": "a", **(bad.fields or {})})
    response = stand.client.post(GENERATIONS, content=body, headers=dict([JSON_TYPE]))
    check_error(response, bad.status, bad.param, bad.says)
    Document(stand).judge(response)
    assert stand.painter.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {"quality": q}
            for q in ["low", "medium", "high", "xhigh", "max", "standard", "hd", "auto"]
        ),
        {"style": "vivid"},
        {"style": "natural"},
    ],
    ids=str,
)
def test_what_other_models_know_is_accepted_and_changes_nothing(
    stand: Stand, fields: dict[str, str]
) -> None:
    assert generate(stand, seed=1).status_code == 200
    assert generate(stand, seed=1, **fields).status_code == 200
    plain, same = (replace(r, request_id="") for r in stand.painter.requests)
    assert plain == same


def test_ten_pictures_are_allowed_by_default() -> None:
    assert LimitSettings().max_n == 10  # as many as that API allows


@dataclass(frozen=True)
class BadEdit:
    """A bad edit and how it must be refused."""

    name: str
    param: str | None
    texts: dict[str, str] | None = None
    image: Any = None  # a good one; False for none
    mask: bytes | None = None
    status: int = 400
    says: str = ""


EDIT_TABLE = [
    BadEdit("no image", "image", image=False, mask=HOLE, says="missing"),
    BadEdit("empty image", "image", image=b"\n", says="not a PNG"),
    BadEdit("no picture", "image", image=b"hello" * 99, says="not a PNG"),
    BadEdit("truncated", "image", image=png()[:900], says="truncated"),
    BadEdit("GIF", "image", image=picture("GIF", "P")),
    BadEdit("animated", "image", image=animated("WEBP"), says="animated"),
    BadEdit("bomb", "image", image=bomb(), says="pixels"),
    BadEdit("mask is no picture", "mask", mask=b"hello" * 99, says="mask: not a PNG"),
    BadEdit("mask without transparency", "mask", mask=flat("white"), says="no transparency"),
    BadEdit("mask without a hole", "mask", mask=flat((0, 0, 0, 255), "RGBA"), says="nothing is"),
    BadEdit("mask size", "mask", mask=flat((0, 0, 0, 0), "RGBA", (80, 32)), says="80x32"),
    BadEdit("mask bomb", "mask", mask=bomb()),
    BadEdit("blank prompt", "prompt", {"prompt": " "}),
    BadEdit("n text", "n", {"n": "two"}, says="integer"),
    BadEdit("n float", "n", {"n": "1.0"}),
    BadEdit("stream 1", "stream", {"stream": "1"}, says="boolean"),
    BadEdit("stream True", "stream", {"stream": "True"}),
    BadEdit("strength 0", "strength", {"strength": "0"}),
    BadEdit("strength nan", "strength", {"strength": "nan"}),
    BadEdit("strength empty", "strength", {"strength": ""}),
    BadEdit("no steps left", "strength", {"strength": "0.01"}, says="leaves none"),
    BadEdit("size", "size", {"size": "65x64"}, says="multiples"),
    BadEdit("seed", "seed", {"seed": "4294967296"}),
    BadEdit("model", "model", {"model": "dall-e-2"}, status=404),
    BadEdit("unknown", "input_fidelity", {"input_fidelity": "high"}, says="unknown field"),
    BadEdit("null", "n", {"n": "null"}),
    BadEdit("oversize", None, image=b"x" * 250_000, status=413),
]


@pytest.mark.parametrize("bad", EDIT_TABLE, ids=[bad.name for bad in EDIT_TABLE])
def test_bad_edits(stand: Stand, bad: BadEdit) -> None:
    response = edit(stand, bad.image, bad.mask, **(bad.texts or {}))
    check_error(response, bad.status, bad.param, bad.says)
    Document(stand).judge(response)
    assert stand.painter.requests == []


PART = 'Content-Disposition: form-data; name="'
FORM = "multipart/form-data; boundary=x"
RAW_FORMS: list[tuple[str, str, bytes, int, str | None, str]] = [
    ("JSON", "application/json", b'{"prompt": "a"}', 415, None, "multipart/form-data"),
    ("no boundary", "multipart/form-data", b"--x--", 400, None, "boundary"),
    ("empty boundary", "multipart/form-data; boundary=", b"", 400, None, "boundary"),
    ("empty", FORM, b"", 400, None, "end is missing"),
    ("noise", FORM, b"hello", 400, None, "not a multipart form"),
    ("other boundary", FORM, b"--y\r\n\r\na\r\n--y--\r\n", 400, None, "not a multipart form"),
    ("no end", FORM, f'--x\r\n{PART}prompt"\r\n\r\na'.encode(), 400, None, "end is missing"),
    ("no name", FORM, b"--x\r\nA: b\r\n\r\na\r\n--x--\r\n", 400, None, "no name"),
    (
        "not UTF-8",
        FORM,
        f'--x\r\n{PART}prompt"\r\n\r\n'.encode() + b"\xff\r\n--x--\r\n",
        400,
        "prompt",
        "UTF-8",
    ),
    (
        "twice",
        FORM,
        f'--x\r\n{PART}prompt"\r\n\r\na\r\n'.encode() * 2 + b"--x--\r\n",
        400,
        "prompt",
        "more than once",
    ),
    ("parts", FORM, f'--x\r\n{PART}a"\r\n\r\n\r\n'.encode() * 99 + b"--x--\r\n", 400, "a", ""),
    (
        "many parts",
        FORM,
        "".join(f'--x\r\n{PART}p{i}"\r\n\r\n\r\n' for i in range(99)).encode() + b"--x--\r\n",
        400,
        None,
        "more than 64",
    ),
    (
        "image as text",
        FORM,
        f'--x\r\n{PART}image"\r\n\r\nAAAA\r\n--x--\r\n'.encode(),
        400,
        "image",
        "unknown field",
    ),
    (
        "other file",
        FORM,
        (
            f'--x\r\n{PART}prompt"\r\n\r\na\r\n'
            f'--x\r\n{PART}markup"; filename="a"\r\n\r\na\r\n--x--\r\n'
        ).encode(),
        400,
        "markup",
        "unknown file",
    ),
]


@pytest.mark.parametrize(
    ("content_type", "body", "status", "param", "says"),
    [form[1:] for form in RAW_FORMS],
    ids=[form[0] for form in RAW_FORMS],
)
def test_bad_forms(
    stand: Stand, content_type: str, body: bytes, status: int, param: str | None, says: str
) -> None:
    headers = {"content-type": content_type}
    check_error(stand.client.post(EDITS, content=body, headers=headers), status, param, says)
    assert stand.painter.requests == []


def test_two_pictures_are_refused(stand: Stand) -> None:
    files = [("image[]", ("a.png", png())), ("image[]", ("b.png", png()))]
    check_error(
        stand.client.post(EDITS, data={"prompt": "a"}, files=files), 400, "image", "2 files"
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", GENERATIONS), ("GET", EDITS), ("POST", "/v1/models"), ("DELETE", "/v1/models/tiny")],
)
def test_other_methods(stand: Stand, method: str, path: str) -> None:
    check_error(stand.client.request(method, path), 405, None)


def test_openapi_is_true_for_every_good_answer(stand: Stand) -> None:
    document = Document(stand)
    stand.painter.truncated, stand.painter.unknown_words = True, ("zebra",)
    for response in (
        generate(stand),
        generate(stand, n=2, output_format="jpeg"),
        generate(stand, stream=True),
        edit(stand),
        edit(stand, mask=HOLE),
        edit(stand, stream="true", partial_images="3"),
        stand.client.get("/v1/models"),
        stand.client.get("/v1/models/tiny"),
        stand.client.get("/v1/models/other"),
    ):
        document.judge(response)


# Contents that JSON Schema cannot judge.
BEYOND_SCHEMA = {
    "blank prompt",
    "other model",
    "several in a stream",
    "pool",
    "compression of a PNG",
}


@pytest.mark.parametrize(
    "bad",
    [
        bad
        for bad in TABLE
        if bad.fields and bad.name not in BEYOND_SCHEMA and not bad.name.startswith("size ")
    ],
    ids=lambda bad: bad.name,
)
def test_the_schema_refuses_what_the_service_refuses(stand: Stand, bad: Bad) -> None:
    document = Document(stand)
    schema = document.document["components"]["schemas"]["ImageGenerationRequest"]
    assert document.validator(schema).is_valid({"prompt": "a", "n": None, "size": "64x64"})
    assert not document.validator(schema).is_valid({"prompt": "a", **(bad.fields or {})})


def test_a_progress_event_alone_is_no_answer(stand: Stand) -> None:
    stand.painter.happens = (ImageProgress(step=1, steps=2),)
    events, comments = parse(generate(stand, stream=True).text)
    assert comments == ["step 1/2"]
    assert [name for name, _ in events] == ["image_generation.completed"]
