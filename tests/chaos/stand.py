"""A running service, requests with known pictures, and ways to hurt the pools."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.chaos.ledger import Entry, Ledger
from tests.e2e import tiny_model
from tests.e2e.conftest import replica_processes, wait_for

POOLS = ("alpha", "beta", "gamma")
INGRESS = "Ingress"
REQUESTS = 300
AT_ONCE = 16
# What is under way when a replica dies is sent again, and a few that were on their way to it.
MOST_RETRIES = 2 * AT_ONCE
# Of a replica that starts anew on this machine while others work.
BACK_WITHIN_S = 120.0


def resource(pool: str) -> str:
    """The made-up Ray resource of the pool's node."""
    return f"{pool}_card"


def request(seed: int) -> dict[str, Any]:
    """The request whose picture is known: one to three steps, guided or not."""
    return {
        "prompt": "a b c",
        "seed": seed,
        "num_inference_steps": 1 + seed % 3,
        "guidance_scale": 4.0 if seed % 4 else 1.0,
    }


def row_steps(seeds: Iterable[int]) -> int:
    """Rows of the batch times steps that the requests of these seeds take."""
    asked = map(request, seeds)
    return sum(
        one["num_inference_steps"] * (2 if one["guidance_scale"] > 1 else 1) for one in asked
    )


Ask = Callable[[httpx.AsyncClient, int], Awaitable[httpx.Response]]


async def imagine(client: httpx.AsyncClient, seed: int) -> httpx.Response:
    """Ask once for the picture of ``seed``."""
    return await client.post("/imagine", json=request(seed))


@dataclass
class Outcome:
    """What came of one run of requests.

    Attributes:
        count: requests: the seeds from 0.
        answers: status, body and pool by seed; each request has one answer, left or was lost.
        left: requests whose client left.
        lost: requests that got no answer, by seed: what came instead.
        seconds: how long the run took.
        sent: requests that were sent to pools, those sent again counted again.
        retried: requests that were sent again.
        resent: attempts of clients beyond the first, by what was wrong with the one before.
    """

    count: int
    answers: dict[int, httpx.Response] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    lost: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0
    sent: int = 0
    retried: int = 0
    resent: Counter[str] = field(default_factory=Counter)

    @property
    def statuses(self) -> Counter[int]:
        """How often each status was answered."""
        return Counter(answer.status_code for answer in self.answers.values())

    @property
    def pools(self) -> Counter[str]:
        """How many pictures each pool painted."""
        return Counter(
            answer.headers["x-pool"]
            for answer in self.answers.values()
            if answer.status_code == 200
        )


@dataclass
class Stand:
    """The running service, its nodes, and the known pictures."""

    url: str
    dashboard: str
    cluster: Any
    config: dict[str, Any]
    targets: Path
    ledger: Ledger
    pools: tuple[str, ...] = POOLS
    nodes: dict[str, Any] = field(default_factory=dict)
    pictures: dict[int, bytes] = field(default_factory=dict)

    def get(self, path: str) -> Any:
        """A JSON answer of the service."""
        return httpx.get(self.url + path, timeout=30).json()

    def pool(self, name: str) -> dict[str, Any]:
        """One pool as ``/pools`` shows it."""
        pools: list[dict[str, Any]] = self.get("/pools")["pools"]
        return next(pool for pool in pools if pool["name"] == name)

    def deploy(self) -> None:
        """Send the config as ``serve deploy`` does."""
        url = f"{self.dashboard}/api/serve/applications/"
        httpx.put(url, json=self.config, timeout=60).raise_for_status()

    def deployment(self, name: str) -> dict[str, Any]:
        """A deployment's entry in the config."""
        entries = self.config["applications"][0]["deployments"]
        return next(entry for entry in entries if entry["name"] == name)

    def configure(self, **live: Any) -> None:
        """Put a new ``user_config`` into force, and wait until it is."""
        self.deployment("Ingress")["user_config"] = live
        self.deploy()
        slo = live["slo_s"]
        wait_for("the live settings", lambda: self.get("/pools")["slo_s"] == slo, 60)

    def scale(self, **counts: int) -> None:
        """Set replica counts."""
        wanted = {**json.loads(self.targets.read_text("utf-8")), **counts}
        spare = self.targets.with_suffix(".new")
        spare.write_text(json.dumps(wanted), encoding="utf-8")
        spare.replace(self.targets)

    def add_node(self, pool: str) -> None:
        """Give ``pool`` its node."""
        self.nodes[pool] = self.cluster.add_node(num_cpus=0, resources={resource(pool): 1})

    def process(self, pool: str) -> psutil.Process:
        """The pool's one replica."""
        (process,) = replica_processes(pool)
        return process

    def replica_ids(self) -> dict[str, list[str]]:
        """Deployment -> ids of its running replicas, as Serve tells."""
        details = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=30).json()
        found = details["applications"]["imagine"]["deployments"]
        return {
            name: [r["replica_id"] for r in deployment["replicas"] if r["state"] == "RUNNING"]
            for name, deployment in found.items()
        }

    def all_up(self) -> bool:
        """Whether every pool can serve and is in rotation; asks for a picture, as probes need."""
        httpx.post(f"{self.url}/imagine", json=request(0), timeout=60)
        pools = [pool for pool in self.get("/pools")["pools"] if pool["name"] in self.pools]
        return all(pool["available"] and pool["breaker"] == "closed" for pool in pools)

    async def run(
        self,
        during: Callable[[], Any] | None = None,
        *,
        count: int = REQUESTS,
        after: int | None = None,
        at_once: int = AT_ONCE,
        leaving: frozenset[int] = frozenset(),
        ask: Ask = imagine,
        counted: bool = True,
    ) -> Outcome:
        """All requests, ``at_once`` at a time; ``during`` runs in a thread after ``after`` answers.

        The clients of ``leaving`` hang up a little while after they have asked. ``counted`` is
        false where the ingress, which counts, does not outlive the run.
        """
        outcome, began = Outcome(count), time.monotonic()
        sent, retried = self.counts() if counted else (0, 0)
        due = count // 4 if after is None else after
        gate, reached = asyncio.Semaphore(at_once), asyncio.Event()
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, timeout=120, limits=limits) as client:

            async def one(seed: int) -> None:
                async with gate:
                    asked = ask(client, seed)
                    try:
                        if seed in leaving:
                            async with asyncio.timeout(0.01 * (1 + seed % 10)):
                                answer = await asked
                        else:
                            answer = await asked
                    except TimeoutError:
                        outcome.left.add(seed)
                    except httpx.TransportError as error:
                        # Not raised: the others go on, and the ledger shall hear of it.
                        outcome.lost[seed] = repr(error)
                    else:
                        assert seed not in outcome.answers
                        outcome.answers[seed] = answer
                if len(outcome.answers) + len(outcome.left) + len(outcome.lost) >= due:
                    reached.set()

            async with asyncio.TaskGroup() as group:
                for seed in range(count):
                    group.create_task(one(seed))
                if during is not None:
                    await reached.wait()
                    await asyncio.to_thread(during)
        outcome.seconds = time.monotonic() - began
        if counted:
            outcome.sent, outcome.retried = (
                after - before for after, before in zip(self.counts(), (sent, retried), strict=True)
            )
        return outcome

    def counts(self) -> tuple[int, int]:
        """Requests sent to pools so far, and those of them that were sent again."""
        pools = self.get("/pools")["pools"]
        sent = sum(sum(pool["decisions"].values()) for pool in pools)
        return sent, sum(pool["retries"] for pool in pools)

    def check(
        self,
        scenario: str,
        outcome: Outcome,
        *,
        refused: frozenset[int] = frozenset(),
        counted: bool = True,
        retries: int = MOST_RETRIES,
    ) -> None:
        """Every request has one answer; each picture is right; nothing else but ``refused``.

        At most ``retries`` were sent again: none where nothing dies, stops or hangs.
        """
        wrong = [
            seed
            for seed, answer in outcome.answers.items()
            if answer.status_code == 200 and picture(answer) != self.pictures[seed]
        ]
        # None was painted twice but for a retry; those that left may not have been sent at all.
        whole = counted and outcome.statuses == {200: outcome.count}
        entry = Entry(
            scenario,
            outcome.count,
            answered=outcome.statuses[200],
            refused=len(outcome.answers) - outcome.statuses[200],
            left=len(outcome.left),
            retried=outcome.retried,
            resent=outcome.resent.total(),
            lost=outcome.count - len(outcome.answers) - len(outcome.left),
            duplicated=outcome.sent - outcome.count - outcome.retried if whole else 0,
            wrong=len(wrong),
            seconds=outcome.seconds,
        )
        self.ledger.add(entry)
        print(f"\n{entry}, {dict(outcome.statuses)}, by pool {dict(outcome.pools)}")
        assert set(outcome.statuses) <= {200} | refused, outcome.statuses
        assert (wrong, entry.lost, entry.duplicated) == ([], 0, 0), outcome.lost
        assert entry.retried <= retries, "more was sent again than can have been lost"

    def learn(self, count: int = REQUESTS) -> None:
        """Every picture, painted alone (one at a time) by one pool."""

        def of_pool(index: int) -> None:
            with httpx.Client(base_url=self.url, timeout=60) as client:
                for seed in range(index, count, len(self.pools)):
                    asked = request(seed) | {"pool": self.pools[index]}
                    answer = client.post("/imagine", json=asked)
                    assert answer.status_code == 200, answer.text
                    self.pictures[seed] = answer.content

        with ThreadPoolExecutor() as threads:
            list(threads.map(of_pool, range(len(self.pools))))
        assert len(set(self.pictures.values())) == count, "a swap of two alike could not be seen"

    def settle(self) -> None:
        """Wait until no work is left anywhere."""

        def idle() -> bool:
            shown = self.get("/pools")
            return shown["waiting_turns"] == 0 and all(
                pool["queue"]["requests"] == 0 for pool in shown["pools"]
            )

        wait_for("idle pools", idle, 30)


def picture(answer: httpx.Response) -> bytes:
    """The picture of an answer, whichever of the two ways it was asked for."""
    if answer.headers["content-type"].startswith("image/"):
        return answer.content
    (one,) = answer.json()["data"]
    return base64.b64decode(one["b64_json"])


@asynccontextmanager
async def sampling(stand: Stand, every_s: float = 0.05) -> AsyncIterator[list[tuple[float, Any]]]:
    """``/pools``, again and again, with the time of each answer."""
    seen: list[tuple[float, Any]] = []

    async def look() -> None:
        async with httpx.AsyncClient(base_url=stand.url, timeout=30) as client:
            while True:
                shown = (await client.get("/pools")).json()
                seen.append((time.monotonic(), {p["name"]: p for p in shown["pools"]}))
                await asyncio.sleep(every_s)

    task = asyncio.create_task(look())
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def serve_config(
    folder: Path,
    port: int,
    pools: dict[str, Any],
    policy: tuple[str, dict[str, Any]],
    user_config: dict[str, Any],
    *,
    host: str = "127.0.0.1",
    proxy: str = "HeadOnly",
    **bounds: float,
) -> dict[str, Any]:
    """A Serve config with pools of the tiny model, at zero until a policy of ``scaling`` acts.

    Args:
        folder: the model is made in it.
        port: for HTTP.
        pools: their settings.
        policy: class in ``tests.chaos.scaling``, and its arguments.
        user_config: the ingress' live settings.
        host: on which HTTP is listened for.
        proxy: Serve's ``proxy_location``.
        bounds: of the pools' ``autoscaling_config``, beside the least and the delays.
    """
    tiny_model.build(folder / "model")
    scaling = {
        "min_replicas": 0,
        "initial_replicas": 0,
        "upscale_delay_s": 0.1,
        "downscale_delay_s": 0.1,
        "downscale_to_zero_delay_s": 0.1,
    }
    return {
        "proxy_location": proxy,
        "http_options": {"host": host, "port": port, "request_timeout_s": 600},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [
            {
                "name": "imagine",
                "route_prefix": "/",
                "import_path": "serve_app.app:build",
                "args": {
                    "model": {"source": str(folder / "model")},
                    "pools": pools,
                    # Not on a node that will be lost: its requests would be lost with it.
                    "ingress": {"resources": {"front": 0.1}},
                },
                "autoscaling_policy": {
                    "policy_function": f"tests.chaos.scaling:{policy[0]}",
                    "policy_kwargs": policy[1],
                },
                "deployments": [
                    {"name": "Ingress", "user_config": user_config},
                    *({"name": pool, "autoscaling_config": scaling | bounds} for pool in pools),
                ],
            }
        ],
    }
