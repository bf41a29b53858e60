"""Live settings read and changed through Serve's API: everything else stays as it is."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from loadtest.breaking.live import (
    ASKED,
    LiveConfig,
    NotApplied,
    shown_config,
    wait_until_applied,
    with_changes,
)
from serve_app.validation import SettingsError
from tests.loadtest.painters import shown as shown_pool

ROOT = Path(__file__).resolve().parents[2]
CHANGES = {
    "slo_s": 0.9,
    "weights": {"inf2": 60, "trn1": 40, "g5_compiled": 0, "g6": 0, "g5_eager": 0},
    "profiles": {"inf2": {"latency_s": 0.6, "images_per_minute": 100}},
}


def config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "serve_config.emulated.yaml").read_text("utf-8"))
    return found


def details(**others: Any) -> dict[str, Any]:
    """What Serve shows of the emulated service, and of applications of other people."""
    deployed = config()
    (application,) = deployed["applications"]
    return {
        "controller_info": {"node_id": "x"},
        "proxy_location": "HeadOnly",
        "http_options": deployed["http_options"],
        "grpc_options": {"port": 9000},
        "target_capacity": None,
        "applications": {
            "imagine": {"status": "RUNNING", "deployed_app_config": application},
            **others,
        },
    }


class Dashboard:
    """Answers as Serve's API does, and keeps what is sent to it."""

    def __init__(self, shown: dict[str, Any], refuses: str = "") -> None:
        self.shown, self.refuses = shown, refuses
        self.sent: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/serve/applications/"
        if request.method == "GET":
            return httpx.Response(200, json=self.shown)
        if self.refuses:
            return httpx.Response(400, text=self.refuses)
        self.sent.append(json.loads(request.content))
        return httpx.Response(200)


def live(answer: Callable[[httpx.Request], httpx.Response], name: str | None = None) -> LiveConfig:
    return LiveConfig("http://dashboard", name, httpx.MockTransport(answer))


def test_the_settings_change_and_nothing_else_does() -> None:
    other = {"name": "other", "import_path": "x:y", "deployments": [{"name": "Z"}]}
    dashboard = Dashboard(details(other={"deployed_app_config": other}))
    before = copy.deepcopy(dashboard.shown)
    changed = live(dashboard).apply(CHANGES)
    (sent,) = dashboard.sent
    ingress = sent["applications"][0]["deployments"][0]
    was = before["applications"]["imagine"]["deployed_app_config"]["deployments"][0]["user_config"]
    assert ingress["user_config"] == changed == {**was, **CHANGES}
    ingress["user_config"] = was
    assert sent == {
        "proxy_location": "HeadOnly",
        "http_options": before["http_options"],
        "grpc_options": {"port": 9000},
        "applications": [one["deployed_app_config"] for one in before["applications"].values()],
    }


def test_profiles_of_pools_not_measured_stay() -> None:
    shown = details()
    ingress = shown["applications"]["imagine"]["deployed_app_config"]["deployments"][0]
    kept = {"latency_s": 1.0, "images_per_minute": 50}
    ingress["user_config"]["profiles"] = {"g6": kept, "inf2": kept}
    merged = live(Dashboard(shown)).merged(CHANGES)
    assert merged["profiles"] == {"g6": kept, "inf2": CHANGES["profiles"]["inf2"]}


def test_without_a_dashboard_what_pools_shows_stays_but_for_what_is_new() -> None:
    kept, slow = (
        {"latency_s": 1.0, "images_per_minute": 50.0},
        {"latency_s": 9.0, "images_per_minute": 0.0},
    )
    pools = [
        shown_pool("inf2", weight=70.0, profile=kept, price_per_hour=0.7),
        shown_pool("g6", weight=30.0, profile=kept, price_per_hour=None),
        shown_pool("trn1", weight=0.0, profile=slow),
        shown_pool("g5_eager", weight=0.0, profile=None),
    ]
    present = shown_config({"policy": "latency", "slo_s": 2.0, "pools": pools})
    # No pool keeps the objective, say: weights are not proposed.
    changes = {"slo_s": 0.9, "profiles": CHANGES["profiles"]}
    assert with_changes(present, changes) == {
        "policy": "latency",
        "slo_s": 0.9,
        "weights": {"inf2": 70.0, "g6": 30.0, "trn1": 0.0, "g5_eager": 0.0},
        "prices": {"inf2": 0.7, "trn1": 1.0, "g5_eager": 1.0},
        "profiles": {"inf2": CHANGES["profiles"]["inf2"], "g6": kept},
    }


def test_what_would_be_refused_is_not_sent() -> None:
    dashboard = Dashboard(details())
    with pytest.raises(SettingsError, match=r"weights\.tpu: no such pool"):
        live(dashboard).apply({"weights": {"tpu": 1}})
    assert dashboard.sent == []


@pytest.mark.parametrize(
    ("shown", "name", "words"),
    [
        ({"applications": {}}, None, "no application of ours"),
        (details(), "other", "no application other"),
        (details(two=details()["applications"]["imagine"]), None, "no application of ours alone"),
        (details(two={"deployed_app_config": None}), None, "serve deploy"),
        ({"detail": "not Serve"}, None, "no Ray dashboard"),
    ],
)
def test_what_cannot_be_changed_is_told(
    shown: dict[str, Any], name: str | None, words: str
) -> None:
    dashboard = Dashboard(shown)
    with pytest.raises(NotApplied, match=words):
        live(dashboard, name).apply(CHANGES)
    assert dashboard.sent == []


def test_serves_own_refusal_is_passed_on() -> None:
    with pytest.raises(NotApplied, match="bad schema"):
        live(Dashboard(details(), refuses="bad schema")).apply(CHANGES)


def shown_pools(weight: float, problem: str | None = None, replicas: int = 1) -> dict[str, Any]:
    profile = CHANGES["profiles"]["inf2"]
    pool = {"name": "inf2", "weight": weight, "profile": profile}
    return {"config_problem": problem, "slo_s": 0.9, "ingress_replicas": replicas, "pools": [pool]}


async def test_waiting_ends_when_the_service_shows_the_settings() -> None:
    answers = [shown_pools(40), shown_pools(60)]

    async def pools() -> dict[str, Any]:
        return answers.pop(0)

    await wait_until_applied(CHANGES, pools)
    assert answers == []


@pytest.mark.parametrize("told", [3, 1])  # those that take settings may not be counted now
async def test_one_ingress_replica_of_several_is_not_enough(told: int) -> None:
    """The second one has the old settings until both have been asked five times."""
    asked = 0

    async def pools() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        return shown_pools(40 if asked <= 10 and asked % 2 == 0 else 60, replicas=told)

    await wait_until_applied(CHANGES, pools, 3, timeout_s=30.0)
    assert asked == 10 + 3 * ASKED


@pytest.mark.parametrize(
    ("answer", "words"),
    [(shown_pools(40, "weights: no"), "weights: no"), (shown_pools(40), "after 0.2 s")],
)
async def test_waiting_in_vain_is_told(answer: dict[str, Any], words: str) -> None:
    async def pools() -> dict[str, Any]:
        await asyncio.sleep(0)
        return answer

    with pytest.raises(NotApplied, match=words):
        await wait_until_applied(CHANGES, pools, timeout_s=0.2)
