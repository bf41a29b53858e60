"""The whole service on a real Ray cluster without accelerators, over HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from deployments.messages import ImageRequest, ImageResult, Timings
from serve_app.routing.ray_handle import RayPoolHandle, fits_grpc
from tests.e2e.conftest import (
    BODY_TIMEOUT_S,
    ROOT,
    Service,
    assert_same_picture,
    replica_processes,
)

pytestmark = pytest.mark.e2e


def start_picture() -> str:
    out = io.BytesIO()
    Image.effect_noise((80, 48), 90).convert("RGB").save(out, "JPEG")
    return base64.b64encode(out.getvalue()).decode()


def test_quiet_and_healthy_without_the_hardware(service: Service) -> None:
    import ray
    from ray import serve

    ray.init(address=service.cluster.address, namespace="serve", log_to_driver=False)
    try:
        application = serve.status().applications["imagine"]
        assert application.status == "RUNNING"
        for name, deployment in application.deployments.items():
            assert deployment.status == "HEALTHY", (name, deployment.message)
            running = sum(deployment.replica_states.values())
            assert running == (1 if name in ("Ingress", "cpu") else 0), name
    finally:
        ray.shutdown()
    readiness = service.client.get("/readiness").json()
    assert [n for n, pool in readiness["pools"].items() if pool["available"]] == ["cpu"]


async def test_pictures_beyond_serves_messages_reach_a_pool_and_come_back(
    service: Service,
) -> None:
    """By gRPC up to its bounds, larger ones through Ray's objects, whatever they compress to."""
    import ray
    from ray import serve

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Echo:
        async def generate(self, asked: ImageRequest) -> ImageResult:
            # As a JPEG of noise at the best quality, larger than the raw bytes.
            size = asked.width * asked.height * 3 * 5 // 4
            nothing = Timings(queue=0, encode=0, denoise=0, decode=0, total=0)
            return ImageResult(
                image=bytes(size), media_type="image/jpeg", seed=asked.seed, timings=nothing
            )

    ray.init(address=service.cluster.address, namespace="serve", log_to_driver=False)
    try:
        handle = RayPoolHandle(serve.run(Echo.bind(), name="echo", route_prefix=None))
        for side in (1024, 1032, 2048):
            asked = ImageRequest(
                request_id="", prompt="a", negative_prompt="", width=side, height=side,
                num_inference_steps=1, guidance_scale=1.0, seed=7, strength=0.5,
                init_rgb=bytes(3 * side * side),
            )  # fmt: skip
            assert fits_grpc(asked) == (side == 1024)
            answer = await handle.generate(asked).result()
            assert isinstance(answer, ImageResult)
            assert len(answer.image) == side * side * 3 * 5 // 4
        serve.delete("echo")
    finally:
        ray.shutdown()


def readme_curl(url: str, out: Path) -> list[str]:
    """The README's first curl command for /imagine, aimed at ``url`` and writing to ``out``."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
    line = next(ln for ln in text.splitlines() if ln.startswith("curl ") and "/imagine" in ln)
    words = shlex.split(line.replace("http://127.0.0.1:8000", url))
    words[words.index("-o") + 1] = str(out)
    return words


def test_the_readmes_curl_gives_a_picture_that_reproduces_itself(
    service: Service, tmp_path: Path
) -> None:
    out = tmp_path / "out.png"
    subprocess.run(readme_curl(service.url, out), check=True, timeout=90)
    shown = Image.open(out)
    assert shown.format == "PNG"
    shown.load()
    recipe = json.loads(shown.text["imagine"])  # type: ignore[attr-defined]
    for key in ("model", "model_revision"):
        recipe.pop(key)
    again = service.client.post("/imagine", json=recipe)
    assert again.status_code == 200, again.text
    assert again.headers["x-seed"] == str(recipe["seed"])
    assert_same_picture(out.read_bytes(), again.content)


def test_the_contracts_headers(service: Service) -> None:
    response = service.post()
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    assert (response.headers["x-pool"], response.headers["x-accelerator"]) == ("cpu", "cpu")
    assert 0 <= int(response.headers["x-seed"]) < 2**32
    assert "@sha256:" in response.headers["x-model"]
    phases = [part.split(";")[0] for part in response.headers["server-timing"].split(", ")]
    assert phases == ["queue", "encode", "denoise", "decode", "total"]


def test_the_request_id_comes_back_once(service: Service) -> None:
    headers = {"X-Request-Id": "mine-1"}
    response = service.client.get("/health", headers=headers)
    assert response.headers.get_list("x-request-id") == ["mine-1"]
    assert len(service.client.get("/nope").headers.get_list("x-request-id")) == 1


def mixed_requests(count: int) -> list[dict[str, Any]]:
    chance = random.Random(3)
    requests = []
    for index in range(count):
        fields: dict[str, Any] = {
            "prompt": chance.choice(["a red circle", "two blue squares", "night", "a b c d"]),
            "seed": 1000 + index,
            "num_inference_steps": chance.randint(2, 5),
            "guidance_scale": chance.choice([1.0, 4.0, 7.5]),
            "width": chance.choice([64, 96]),
            "scheduler": chance.choice(["default", "ddim", "euler", "dpmpp_2m"]),
        }
        if index % 8 == 0:
            fields |= {"image": start_picture(), "strength": 0.8}
        requests.append(fields)
    return requests


async def test_mixed_requests_at_once_equal_their_solo_pictures(service: Service) -> None:
    requests = mixed_requests(64)
    async with httpx.AsyncClient(base_url=service.url, timeout=300) as client:
        together = await asyncio.gather(*(client.post("/imagine", json=r) for r in requests))
        for fields, response in zip(requests, together, strict=True):
            assert response.status_code == 200, response.text
            assert response.headers["x-seed"] == str(fields["seed"])
            alone = await client.post("/imagine", json=fields)
            assert_same_picture(alone.content, response.content)


async def test_bad_input_does_not_harm_a_good_request(service: Service) -> None:
    good = {"prompt": "a red circle", "seed": 5, "num_inference_steps": 60}
    async with httpx.AsyncClient(base_url=service.url, timeout=300) as client:
        alone = await client.post("/imagine", json=good)
        under_way = asyncio.ensure_future(client.post("/imagine", json=good))
        await asyncio.sleep(0.05)
        bad: list[tuple[dict[str, Any], int]] = [
            ({"json": {"prompt": "x" * 100_000}}, 400),
            ({"json": {"prompt": "a", "width": 65}}, 400),
            ({"json": {"prompt": "a", "image": "@@@@"}}, 400),
            ({"json": {"prompt": "a", "n": 10**6}}, 400),
            ({"content": b"\xff\xfe", "headers": {"content-type": "application/json"}}, 400),
            ({"json": {"prompt": "a", "image": "A" * 17 * 2**20}}, 413),
            ({"content": b"x"}, 415),
        ]
        answers = await asyncio.gather(*(client.post("/imagine", **b[0]) for b in bad))
        assert [answer.status_code for answer in answers] == [b[1] for b in bad]
        assert_same_picture(alone.content, (await under_way).content)


async def test_a_deadline_and_a_client_that_leaves_free_the_replica(service: Service) -> None:
    long = {"prompt": "a", "num_inference_steps": 100, "n": 4, "width": 256, "height": 256}
    async with httpx.AsyncClient(base_url=service.url, timeout=300) as client:
        late = await client.post("/imagine", json={**long, "deadline_ms": 300})
        assert late.status_code == 504
        assert late.json()["error"]["param"] == "deadline_ms"
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/imagine", json=long, timeout=1)
        # Had the replica gone on with 8 such pictures, this would wait for them.
        after = await client.post("/imagine", json={"prompt": "a", "deadline_ms": 30_000})
        assert after.status_code == 200, after.text


def test_an_upload_that_stalls_is_answered_and_hung_up_on(service: Service) -> None:
    head = "POST /imagine HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    half = b'{"prompt": "a red circle"'
    with socket.create_connection(("127.0.0.1", httpx.URL(service.url).port or 0)) as stalled:
        stalled.settimeout(BODY_TIMEOUT_S + 30)
        stalled.sendall(f"{head}Content-Length: {2 * len(half)}\r\n\r\n".encode() + half)
        answer = b"".join(iter(lambda: stalled.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 408"), answer
    assert json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"] == "body_timeout"


def mapped(pid: int, name: str) -> set[str]:
    """Files mapped by the process ``pid`` whose path contains ``name``."""
    lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
    return {path for line in lines if name in (path := line.split(maxsplit=5)[-1])}


def test_the_ingress_never_loads_libtorch(service: Service) -> None:
    # After every kind of request, so that late imports show too.
    assert service.post(image=start_picture(), output_format="webp").status_code == 200
    assert service.post(n=2, scheduler="unipc").status_code == 200
    assert service.post(width=65).status_code == 400
    (replica,), (ingress,) = replica_processes("cpu"), replica_processes("Ingress")
    # The replica shows that the search finds what it looks for.
    assert mapped(replica.pid, "libtorch")
    assert mapped(ingress.pid, "libtorch") == set()


def test_an_unavailable_pool_is_refused_at_once(service: Service) -> None:
    response = service.post(pool="gpu")
    assert response.status_code == 503
    assert response.json()["error"]["param"] == "pool"
    assert int(response.headers["retry-after"]) > 0
