"""Two ingress replicas behind one proxy: a retry is not painted twice, whichever it reaches."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
import yaml

from tests.e2e.conftest import (
    Service,
    free_port,
    is_up,
    replica_processes,
    serving,
    shipped_config,
    wait_for,
    with_tiny_model,
)

pytestmark = pytest.mark.e2e

# The proxy draws lots: that as many in a row reach one of the two is one in 32,000.
MANY = 16
LONG = {"size": "128x128", "num_inference_steps": 20}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder, port = tmp_path_factory.mktemp("pair"), free_port()
    config = with_tiny_model(shipped_config(port), folder)
    config["applications"][0]["args"]["ingress"] = {"replicas": 2}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    others = len(replica_processes("Ingress"))  # of the service that the whole run shares
    with serving(path, port) as running:
        wait_for("both", lambda: len(replica_processes("Ingress")) == others + 2, 60)
        wait_for("both to know", lambda: all(is_up(running.client) for _ in range(MANY)), 30)
        yield running


def painted(pair: Service) -> int:
    """Pictures sent to the pool, by both ingress replicas: each tells of its own."""
    counts = {sum(pair.pool("cpu")["decisions"].values()) for _ in range(2 * MANY)}
    return sum(counts) if len(counts) == 2 else 2 * counts.pop()


def body(**more: Any) -> dict[str, Any]:
    return {"prompt": "a red circle", "num_inference_steps": 3, **more}


def ask(pair: Service, number: int, headers: dict[str, str] | None = None, **more: Any) -> Any:
    numbered = {"x-stainless-retry-count": str(number), **(headers or {})}
    answer = pair.client.post("/v1/images/generations", json=body(**more), headers=numbered)
    assert answer.status_code == 200, answer.text
    return answer


def ledgers() -> list[psutil.Process]:
    """The processes of the shared ledger."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ray::LedgerActor" in " ".join(process.cmdline()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # gone since it was listed
    return found


def test_a_retry_is_painted_once(pair: Service) -> None:
    pictures = {ask(pair, number).json()["data"][0]["b64_json"] for number in range(MANY)}
    assert len(pictures) == 1
    assert painted(pair) == 1
    ends = {
        ask(pair, number, prompt="a b", stream=True).text.partition("completed")[2]
        for number in range(MANY)
    }
    assert len({end.partition("b64_json")[2].partition(",")[0] for end in ends}) == 1
    assert painted(pair) == 2
    assert len(ledgers()) == 1


def test_calls_named_alike_at_once_are_painted_once(pair: Service) -> None:
    before = painted(pair)

    async def run() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=pair.url, timeout=60) as client:
            headers = {"Idempotency-Key": os.urandom(8).hex()}
            fields = {"json": body(**LONG), "headers": headers}
            return await asyncio.gather(
                *(client.post("/v1/images/generations", **fields) for _ in range(MANY))  # type: ignore[arg-type]
            )

    answers = asyncio.run(run())
    assert [answer.status_code for answer in answers] == [200] * MANY
    assert len({answer.json()["data"][0]["b64_json"] for answer in answers}) == 1
    assert painted(pair) == before + 1


def test_without_the_ledger_pictures_are_painted_all_the_same(pair: Service) -> None:
    (ledger,) = ledgers()
    ledger.kill()
    began = time.monotonic()
    for number in range(3):
        ask(pair, number, prompt="without")
    assert time.monotonic() - began < 30
    prompts = iter(f"again {index}" for index in range(100))

    def known_again() -> bool:
        prompt = next(prompts)
        seeds = {ask(pair, number, prompt=prompt).json()["data"][0]["seed"] for number in (0, 1)}
        return len(seeds) == 1

    wait_for("another ledger", known_again, 30)
    before = painted(pair)
    pictures = {
        ask(pair, number, prompt="again").json()["data"][0]["b64_json"] for number in range(MANY)
    }
    assert len(pictures) == 1
    assert painted(pair) == before + 1
