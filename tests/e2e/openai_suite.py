"""What users of OpenAI's official client do, against the running service.

Not collected by itself: ``test_openai_clients.py`` runs it once with each major version of the
client, in a process of its own.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from PIL import Image

from tests.e2e.flaky_proxy import FlakyProxy, flaky_proxy

PROMPT = "a red circle"
# What takes the tiny model long enough to be cut short.
LONG: dict[str, Any] = {"size": "128x128", "extra_body": {"num_inference_steps": 60}}
# The tiny model's own 50 steps would take most of the suite's time.
FEW = {"num_inference_steps": 3}
URL = os.environ["OPENAI_BASE_URL"]


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    with OpenAI(max_retries=0) as client:
        yield client


@pytest.fixture
def proxy() -> Iterator[FlakyProxy]:
    with flaky_proxy(URL.removesuffix("/v1")) as proxy:
        yield proxy


def through(proxy: FlakyProxy, **more: Any) -> OpenAI:
    return OpenAI(base_url=f"{proxy.url}/v1", **more)


def pool() -> dict[str, Any]:
    """The pool ``cpu`` as ``/pools`` shows it."""
    headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    pools = httpx.get(f"{URL.removesuffix('/v1')}/pools", headers=headers).json()["pools"]
    found: dict[str, Any] = next(pool for pool in pools if pool["name"] == "cpu")
    return found


def sent_to_the_pool() -> int:
    """Pictures sent to it so far."""
    return sum(pool()["decisions"].values())


@pytest.fixture(scope="module")
def long_s(client: OpenAI) -> float:
    """Seconds that one long picture takes alone; several together take longer."""
    began = time.monotonic()
    client.images.generate(prompt=PROMPT, **LONG)
    return time.monotonic() - began


def assert_cut_short(long_s: float) -> None:
    """Nothing is left of long work that has just been left: long before it could have ended."""
    began = time.monotonic()
    while pool()["queue"]["requests"]:
        assert time.monotonic() - began < long_s / 2
        time.sleep(0.02)


def shown(item: Any) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item.b64_json)))


def png(size: tuple[int, int] = (64, 64), mode: str = "RGB", colour: Any = "red") -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, "PNG")
    return out.getvalue()


def hole() -> bytes:
    """A mask whose left half is transparent."""
    mask = Image.new("RGBA", (64, 64), "white")
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    out = io.BytesIO()
    mask.save(out, "PNG")
    return out.getvalue()


def test_the_version_is_the_one_asked_for() -> None:
    assert openai.__version__.split(".")[0] == os.environ["EXPECTED_MAJOR"]


# Models.


def test_models_are_listed(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.object, model.owned_by) == ("model", "imagine")


def test_a_model_is_retrieved_and_used(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id
    assert client.images.generate(prompt=PROMPT, model=model.id, extra_body=FEW).data


def test_an_unknown_model(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-image-1")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


# Generations.


def test_a_prompt_alone(client: OpenAI) -> None:
    response = client.images.generate(prompt=PROMPT)
    (item,) = response.data
    assert (shown(item).format, shown(item).size) == ("PNG", (64, 64))
    assert response.created > 1_600_000_000
    assert response._request_id
    assert response.usage is not None
    assert response.usage.total_tokens == 0
    assert (response.size, response.output_format) == ("64x64", "png")


@pytest.mark.parametrize("size", ["64x64", "128x96", "auto"])
def test_sizes(client: OpenAI, size: Any) -> None:
    (item,) = client.images.generate(prompt=PROMPT, size=size, extra_body=FEW).data
    wanted = (64, 64) if size == "auto" else tuple(map(int, size.split("x")))
    assert shown(item).size == wanted


def test_several_pictures(client: OpenAI) -> None:
    items = client.images.generate(prompt=PROMPT, n=3, extra_body=FEW | {"seed": 10}).data
    assert [item.seed for item in items] == [10, 11, 12]
    assert len({item.b64_json for item in items}) == 3


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_formats(client: OpenAI, output_format: Any) -> None:
    response = client.images.generate(prompt=PROMPT, output_format=output_format, extra_body=FEW)
    assert (shown(response.data[0]).format or "").lower() == output_format
    assert response.output_format == output_format


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_compression(client: OpenAI, output_format: Any) -> None:
    poor, rich = (
        client.images.generate(
            prompt=PROMPT,
            output_format=output_format,
            output_compression=quality,
            extra_body=FEW | {"seed": 1},
        )
        .data[0]
        .b64_json
        for quality in (5, 95)
    )
    assert len(poor) < len(rich)


def test_a_seed_gives_the_picture_again(client: OpenAI) -> None:
    extra = {"seed": 7, "num_inference_steps": 3, "guidance_scale": 4.5, "negative_prompt": "blue"}
    first, again = (
        client.images.generate(prompt=PROMPT, extra_body=extra).data[0] for _ in range(2)
    )
    assert first.b64_json == again.b64_json
    other = client.images.generate(prompt=PROMPT, extra_body=extra | {"seed": 8}).data[0]
    assert other.b64_json != first.b64_json


def test_the_drawn_seed_is_told_and_paints_the_picture_again(client: OpenAI) -> None:
    first = client.images.generate(prompt=PROMPT, extra_body=FEW).data[0]
    again = client.images.generate(prompt=PROMPT, extra_body=FEW | {"seed": first.seed}).data[0]
    assert again.b64_json == first.b64_json


def test_a_pinned_pool(client: OpenAI) -> None:
    (item,) = client.images.generate(prompt=PROMPT, extra_body=FEW | {"pool": "cpu"}).data
    assert (item.pool, item.accelerator) == ("cpu", "cpu")


def test_fields_that_change_nothing(client: OpenAI) -> None:
    response = client.images.generate(
        prompt=PROMPT,
        quality="auto",
        background="auto",
        moderation="auto",
        response_format="b64_json",
        user="someone",
        extra_body=FEW,
    )
    assert response.data


def test_raw_responses_have_our_headers(client: OpenAI) -> None:
    raw = client.images.with_raw_response.generate(
        prompt=PROMPT, extra_headers={"X-Request-Id": "mine-7"}, extra_body=FEW
    )
    assert raw.headers["x-request-id"] == "mine-7"
    assert raw.headers["x-pool"] == "cpu"
    assert raw.headers["x-seed"] == str(raw.parse().data[0].seed)


# Edits.


@pytest.mark.parametrize("how", ["bytes", "file", "named", "list"])
def test_an_edit(client: OpenAI, how: str, tmp_path: Any) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png())
    with path.open("rb") as file:
        image: Any = {
            "bytes": png(),
            "file": file,
            "named": ("a.png", png(), "image/png"),
            "list": [("a.png", png())],
        }[how]
        extra = {"strength": 0.6, "seed": 3, "num_inference_steps": 5}
        response = client.images.edit(image=image, prompt=PROMPT, extra_body=extra)
    (item,) = response.data
    assert item.seed == 3
    assert shown(item).size == (64, 64)


def test_strength_tells(client: OpenAI) -> None:
    little, much = (
        client.images.edit(
            image=("a.png", png()),
            prompt=PROMPT,
            extra_body={"strength": strength, "seed": 3, "num_inference_steps": 10},
        )
        .data[0]
        .b64_json
        for strength in (0.1, 1.0)
    )
    assert little != much


def test_a_mask(client: OpenAI) -> None:
    response = client.images.edit(
        image=("a.png", png()), mask=("m.png", hole()), prompt=PROMPT, n=2, size="64x64",
        output_format="webp", extra_body=FEW | {"seed": 3},
    )  # fmt: skip
    first, second = map(shown, response.data)
    # What is kept is the same in both, what is repainted is not: the VAE blurs the border.
    kept, painted = (48, 0, 64, 64), (0, 0, 16, 64)
    assert difference(first.crop(kept), second.crop(kept)) < 3
    assert difference(first.crop(painted), second.crop(painted)) > 3


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean over all values, in levels."""
    a, b = one.convert("RGB").tobytes(), other.convert("RGB").tobytes()
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)


# Streams.


@pytest.mark.parametrize("partial_images", [0, 1, 2, 3])
def test_a_stream_of_a_generation(client: OpenAI, partial_images: int) -> None:
    extra = {"seed": 9, "num_inference_steps": 12}
    stream = client.images.generate(
        prompt=PROMPT, stream=True, partial_images=partial_images, extra_body=extra
    )
    *partials, completed = stream
    assert completed.type == "image_generation.completed"
    assert completed.usage.total_tokens == 0
    assert [event.type for event in partials] == (
        ["image_generation.partial_image"] * partial_images
    )
    assert [event.partial_image_index for event in partials] == list(range(partial_images))
    assert all(shown(event).size == (64, 64) for event in partials)
    plain = client.images.generate(prompt=PROMPT, extra_body=extra).data[0]
    assert completed.b64_json == plain.b64_json


def test_previews_differ(client: OpenAI) -> None:
    stream = client.images.generate(
        prompt=PROMPT, stream=True, partial_images=3, extra_body={"num_inference_steps": 40}
    )
    assert len({event.b64_json for event in stream}) == 4


@pytest.mark.parametrize("masked", [False, True])
def test_a_stream_of_an_edit(client: OpenAI, masked: bool) -> None:
    more: dict[str, Any] = {"mask": ("m.png", hole())} if masked else {}
    stream = client.images.edit(
        image=("a.png", png()), prompt=PROMPT, stream=True, partial_images=2,
        extra_body={"num_inference_steps": 12}, **more,
    )  # fmt: skip
    types = [event.type for event in stream]
    assert types == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]


def test_a_stream_left_early_leaves_the_service_free(client: OpenAI, long_s: float) -> None:
    with ExitStack() as streams:
        for _ in range(4):
            stream = client.images.generate(prompt=PROMPT, stream=True, partial_images=3, **LONG)
            streams.enter_context(stream)
            assert next(iter(stream)).type == "image_generation.partial_image"
        assert pool()["queue"]["requests"]
    assert_cut_short(long_s)


# Errors.

BAD: list[tuple[str, dict[str, Any], type[openai.APIStatusError], str, str]] = [
    ("size", {"size": "65x64"}, openai.BadRequestError, "size", "invalid_value"),
    ("size word", {"size": "huge"}, openai.BadRequestError, "size", "invalid_value"),
    ("n", {"n": 99}, openai.BadRequestError, "n", "invalid_value"),
    ("prompt", {"prompt": "  "}, openai.BadRequestError, "prompt", "invalid_value"),
    ("format", {"output_format": "gif"}, openai.BadRequestError, "output_format", "invalid_value"),
    ("url", {"response_format": "url"}, openai.BadRequestError, "response_format", "invalid_value"),
    (
        "compression",
        {"output_compression": 50},
        openai.BadRequestError,
        "output_compression",
        "invalid_value",
    ),
    ("seed", {"extra_body": {"seed": -1}}, openai.BadRequestError, "seed", "invalid_value"),
    ("type", {"extra_body": {"seed": "x"}}, openai.BadRequestError, "seed", "invalid_type"),
    ("unknown", {"extra_body": {"stepz": 1}}, openai.BadRequestError, "stepz", "unknown_field"),
    ("model", {"model": "dall-e-3"}, openai.NotFoundError, "model", "model_not_found"),
    ("pool", {"extra_body": {"pool": "tpu"}}, openai.NotFoundError, "pool", "pool_not_found"),
    (
        "several in a stream",
        {"stream": True, "n": 2},
        openai.BadRequestError,
        "n",
        "invalid_value",
    ),
    (
        "deadline",
        {"extra_body": {"deadline_ms": 1}},
        openai.InternalServerError,
        "deadline_ms",
        "deadline_exceeded",
    ),
    (
        "unavailable",
        {"extra_body": {"pool": "gpu"}},
        openai.InternalServerError,
        "pool",
        "unavailable",
    ),
    (
        "unavailable, streamed",
        {"stream": True, "extra_body": {"pool": "gpu"}},
        openai.InternalServerError,
        "pool",
        "unavailable",
    ),
]


@pytest.mark.parametrize(
    ("asked", "kind", "param", "code"), [bad[1:] for bad in BAD], ids=[bad[0] for bad in BAD]
)
def test_errors_of_generations(
    client: OpenAI, asked: dict[str, Any], kind: type[Exception], param: str, code: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.images.generate(**({"prompt": PROMPT} | asked))
    error = caught.value
    assert type(error) is kind
    assert (error.param, error.code) == (param, code)
    assert error.request_id
    assert error.type in ("invalid_request_error", "server_error")


BAD_EDITS: list[tuple[str, dict[str, Any], str]] = [
    ("no picture", {"image": ("a.png", b"hello")}, "image"),
    ("two pictures", {"image": [("a.png", png()), ("b.png", png())]}, "image"),
    ("opaque mask", {"mask": ("m.png", png())}, "mask"),
    ("mask of another size", {"mask": ("m.png", png((32, 80), "RGBA", (0, 0, 0, 0)))}, "mask"),
    ("strength", {"extra_body": {"strength": 7}}, "strength"),
]


@pytest.mark.parametrize(
    ("asked", "param"), [bad[1:] for bad in BAD_EDITS], ids=[bad[0] for bad in BAD_EDITS]
)
def test_errors_of_edits(client: OpenAI, asked: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(**({"image": ("a.png", png()), "prompt": PROMPT} | asked))
    assert caught.value.param == param


def test_a_body_that_is_too_large(client: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.images.edit(image=("a.png", bytes(13 * 2**20)), prompt=PROMPT)
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")


def test_a_client_that_gives_up(client: OpenAI, long_s: float) -> None:
    before = sent_to_the_pool()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=long_s / 4).images.generate(prompt=PROMPT, n=4, **LONG)
    assert sent_to_the_pool() - before == 4
    assert_cut_short(long_s)


def test_a_wrong_key() -> None:
    with OpenAI(api_key="im-wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.images.generate(prompt=PROMPT, extra_body=FEW)
    assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")
    assert caught.value.type == "invalid_request_error"


def test_a_key_that_asks_too_often() -> None:
    """One picture at once and six a minute: of two the second is too many, if not the first."""
    with OpenAI(api_key=os.environ["HASTY_KEY"], max_retries=0) as client:
        with suppress(openai.RateLimitError):
            client.images.generate(prompt=PROMPT, extra_body=FEW)
        with pytest.raises(openai.RateLimitError) as caught:
            client.images.generate(prompt=PROMPT, extra_body=FEW)
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 10


# Retries.


def test_a_lost_answer_is_fetched_and_not_painted_again(proxy: FlakyProxy) -> None:
    proxy.mishaps = ["lose", "lose"]
    before = sent_to_the_pool()
    with through(proxy) as client:
        response = client.images.generate(prompt=PROMPT, n=2, extra_body=FEW)
    assert proxy.attempts == ["0", "1", "2"]
    assert proxy.statuses == [200] * 3
    assert sent_to_the_pool() - before == 2
    seeds = [item.seed for item in response.data]
    answers = [json.loads(body)["data"] for body in proxy.bodies]
    assert [[item["seed"] for item in answer] for answer in answers] == [seeds] * 3
    assert len({json.dumps([item["b64_json"] for item in answer]) for answer in answers}) == 1


def test_a_lost_answer_to_a_named_call(proxy: FlakyProxy) -> None:
    headers = {"Idempotency-Key": os.urandom(8).hex()}
    with through(proxy) as client:
        first, again = (
            client.images.generate(prompt=PROMPT, extra_headers=headers, extra_body=FEW).data[0]
            for _ in "ab"
        )
        assert first.b64_json == again.b64_json
        with pytest.raises(openai.BadRequestError) as caught:
            client.images.generate(prompt="a blue square", extra_headers=headers)
    assert caught.value.code == "idempotency_key_reused"
    assert proxy.attempts == ["0"] * 3


@pytest.mark.parametrize("mishap", ["429", "500"])
def test_refusals_are_tried_again(proxy: FlakyProxy, mishap: Any) -> None:
    proxy.mishaps = [mishap]
    with through(proxy) as client:
        assert client.images.edit(image=("a.png", png()), prompt=PROMPT, extra_body=FEW).data
    assert proxy.attempts == ["0", "1"]


def test_an_unavailable_pool_is_asked_for_again_after_the_time_told(proxy: FlakyProxy) -> None:
    with through(proxy, max_retries=1) as client, pytest.raises(openai.InternalServerError):
        client.images.generate(prompt=PROMPT, extra_body={"pool": "gpu"})
    assert proxy.attempts == ["0", "1"]
    told_s = int(proxy.headers[0]["retry-after"])
    assert told_s > 2  # more than the client would wait by itself after a first attempt
    assert proxy.at[1] - proxy.at[0] >= told_s


@pytest.mark.parametrize("extra", [{"deadline_ms": 1}, {"seed": -1}, {"pool": "tpu"}])
def test_what_is_final_is_not_tried_again(proxy: FlakyProxy, extra: dict[str, Any]) -> None:
    with through(proxy) as client, pytest.raises(openai.APIStatusError):
        client.images.generate(prompt=PROMPT, extra_body=extra)
    assert proxy.attempts == ["0"]


# The same with asyncio.


async def test_many_at_once() -> None:
    async with AsyncOpenAI() as client:
        together = await asyncio.gather(
            *(client.images.generate(prompt=PROMPT, extra_body=FEW | {"seed": s}) for s in range(6))
        )
    assert [one.data[0].seed for one in together] == list(range(6))


async def test_streams_at_once() -> None:
    async def read(client: AsyncOpenAI, seed: int) -> tuple[int, int]:
        extra = {"seed": seed, "num_inference_steps": 12}
        stream = await client.images.generate(
            prompt=PROMPT, stream=True, partial_images=2, extra_body=extra
        )
        events = [event async for event in stream]
        return len(events), events[-1].seed

    async with AsyncOpenAI() as client:
        ends = await asyncio.gather(*(read(client, seed) for seed in range(4)))
    assert ends == [(3, seed) for seed in range(4)]


async def test_edits_and_errors() -> None:
    async with AsyncOpenAI(max_retries=0) as client:
        response = await client.images.edit(
            image=[("a.png", png())], mask=("m.png", hole()), prompt=PROMPT, extra_body=FEW
        )
        assert response.data
        (model,) = (await client.models.list()).data
        assert (await client.models.retrieve(model.id)).id == model.id
        with pytest.raises(openai.BadRequestError) as caught:
            await client.images.generate(prompt=PROMPT, n=0)
        assert caught.value.param == "n"
        with pytest.raises(openai.NotFoundError):
            await client.images.edit(
                image=("a.png", png()), prompt=PROMPT, extra_body={"pool": "tpu"}
            )


async def test_a_stream_left_early(long_s: float) -> None:
    async with AsyncOpenAI() as client:
        stream = await client.images.generate(prompt=PROMPT, stream=True, partial_images=3, **LONG)
        async for event in stream:
            assert event.type == "image_generation.partial_image"
            break
        await stream.close()
        await asyncio.to_thread(assert_cut_short, long_s)


async def test_refusals_of_keys() -> None:
    async with AsyncOpenAI(api_key="im-wrong") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.images.generate(prompt=PROMPT)
    async with AsyncOpenAI(api_key=os.environ["HASTY_KEY"], max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as limited:
            await asyncio.gather(
                *(client.images.generate(prompt=PROMPT, extra_body=FEW) for _ in "ab")
            )
        assert limited.value.code == "rate_limit_exceeded"
