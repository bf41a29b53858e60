"""The service on a cluster with made-up accelerators, and what it does when replicas die.

It changes the cluster of ``test_serve.py``, so it comes after it.
"""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from tests.e2e.conftest import (
    KEY,
    MADE_UP,
    Service,
    assert_same_picture,
    replica_processes,
    wait_for,
)
from tests.e2e.test_streaming import Event, parsed

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def pools(service: Service) -> Service:
    """The service after a node with the hardware of both made-up pools has appeared."""
    service.cluster.add_node(num_cpus=1, resources=dict.fromkeys(MADE_UP.values(), 2))
    for name in MADE_UP:
        wait_for(f"the pool {name}", lambda name=name: bool(service.pool(name)["available"]))
    return service


def test_hardware_that_appears_is_used(pools: Service) -> None:
    # These pools have weight and cpu has none: they take all traffic, without any edit.
    before = pools.post(seed=11, pool="cpu")
    seen = []
    for _ in range(4):
        response = pools.post(seed=11)
        seen.append(response.headers["x-pool"])
        assert response.headers["x-accelerator"] == f"{seen[-1]}-card"
        assert_same_picture(before.content, response.content)
    assert sorted(seen) == ["made_up", "made_up", "twin", "twin"]
    # The real neuron pool stays at zero: its settings name no artifact.
    assert pools.pool("neuron")["ready_replicas"] == 0
    assert pools.pool("neuron")["starting_replicas"] == 0
    assert "no artifact" in pools.pool("neuron")["reason"]


def long_requests(count: int, **fields: Any) -> list[dict[str, Any]]:
    """Unlike requests that take some tenths of a second each."""
    return [
        {"prompt": "a b", "seed": seed, "num_inference_steps": 30 + 3 * (seed % 5), **fields}
        for seed in range(count)
    ]


async def kill_at_work(pool: str) -> None:
    """``kill -9`` the pool's one replica once it has begun to paint what it was just sent."""
    (process,) = replica_processes(pool)
    begin = process.cpu_times().user
    async with asyncio.timeout(30):
        while process.cpu_times().user < begin + 0.2:  # noqa: ASYNC110 - nothing sets an event
            await asyncio.sleep(0.01)
    process.kill()


async def ask_around_a_death(
    service: Service, pool: str, requests: list[dict[str, Any]], before: int
) -> list[tuple[httpx.Response, float]]:
    """Answers and how long each took; the first ``before`` are sent before the replica dies.

    The others come at once after it, while the ingress may still believe that it lives.
    """
    async with httpx.AsyncClient(base_url=service.url, timeout=90) as client:

        async def ask(fields: dict[str, Any]) -> tuple[httpx.Response, float]:
            began = time.monotonic()
            return await client.post("/imagine", json=fields), time.monotonic() - began

        under_way = [asyncio.ensure_future(ask(fields)) for fields in requests[:before]]
        await kill_at_work(pool)
        under_way += [asyncio.ensure_future(ask(fields)) for fields in requests[before:]]
        return await asyncio.gather(*under_way)


def test_a_killed_replicas_requests_are_painted_by_the_other_pool(pools: Service) -> None:
    """Every request is answered, with 200 and with the bits of its solo picture."""
    requests = long_requests(12)
    alone = [pools.post(**fields, pool="twin").content for fields in requests]
    answers = asyncio.run(ask_around_a_death(pools, "made_up", requests, before=8))
    assert [answer.status_code for answer, _ in answers] == [200] * 12
    assert [answer.content for answer, _ in answers] == alone
    # The pools share alike: without a retry, four of the first eight were made_up's.
    painters = [answer.headers["x-pool"] for answer, _ in answers[:8]]
    assert painters.count("twin") > 4

    def replaced() -> bool:
        return pools.post(**requests[0], pool="made_up").status_code == 200

    wait_for("a replacement", replaced)
    assert pools.post(**requests[0], pool="made_up").content == alone[0]


def test_a_stream_goes_on_when_its_replica_is_killed(pools: Service) -> None:
    """The client sees a comment, steps from the beginning, and the bits of the solo picture."""
    fields = {"prompt": "a b", "seed": 77, "num_inference_steps": 100, "partial_images": 3}
    wait_for("both pools", lambda: all(pools.pool(name)["available"] for name in MADE_UP))
    alone = pools.post(**fields | {"partial_images": 0, "pool": "twin"}).content
    for _ in range(4):  # until one is painted by the pool that is killed
        seen: list[Event] = []
        killed = False
        with pools.client.stream("POST", "/imagine", json=fields | {"stream": True}) as response:
            for event in parsed(response.iter_lines()):
                seen.append(event)
                if event[0] == "step" and seen[0][1]["pool"] == "made_up" and not killed:
                    (process,) = replica_processes("made_up")
                    process.kill()
                    killed = True
        name, done = seen[-1]
        assert name == "done", seen[-1]
        assert base64.b64decode(done["data"][0]["b64_json"]) == alone
        if killed:
            break
    assert (":", {"text": "picture 0 is painted again, by pool twin"}) in seen
    assert done["data"][0]["pool"] == "twin"
    assert done["data"][0]["route_reason"] == "retry"
    told = next(i for i, (name, data) in enumerate(seen) if "painted again" in data.get("text", ""))
    before = [data["step"] for name, data in seen[:told] if name == "step"]
    after = [data["step"] for name, data in seen[told:] if name == "step"]
    assert after[0] <= before[-1]
    assert after[-1] > before[-1]

    def replaced() -> bool:
        return pools.post(**fields | {"partial_images": 0, "pool": "made_up"}).status_code == 200

    wait_for("a replacement", replaced)


def test_where_no_other_replica_exists_the_answer_is_a_clear_503(pools: Service) -> None:
    requests = long_requests(8, pool="cpu")
    alone = pools.post(**requests[0]).content
    with OpenAI(base_url=f"{pools.url}/v1", api_key=KEY, max_retries=0) as client:
        stream = client.images.generate(
            prompt="a b",
            stream=True,
            partial_images=3,
            size="128x128",  # type: ignore[arg-type] - the service's own
            extra_body={"pool": "cpu", "num_inference_steps": 100},
        )
        assert next(iter(stream)).type == "image_generation.partial_image"
        answers = asyncio.run(ask_around_a_death(pools, "cpu", requests, before=5))
        # What is said inside a stream is an error of the official client's too.
        with pytest.raises(openai.APIError) as caught:
            list(stream)
    assert caught.value.code in ("lost", "unavailable")
    refused = [(answer, took) for answer, took in answers if answer.status_code != 200]
    assert refused
    for answer, took in refused:
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] in ("lost", "unavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert took < 30
    wait_for("a replacement", lambda: pools.post(**requests[0]).status_code == 200)
    assert_same_picture(pools.post(**requests[0]).content, alone)
