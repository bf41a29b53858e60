"""Live settings: what is refused, as a whole and with what message."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.live import LiveSettings
from serve_app.settings import Settings
from serve_app.validation import SettingsError

SETTINGS = Settings.parse(
    {
        "pools": {
            "g6": {"accelerator": "l4", "framework": "cpu"},
            "inf2": {"accelerator": "inf2", "framework": "cpu"},
        },
        "limits": {"request_timeout_s": 100},
    }
)
PRICES = {"g6": 0.8048, "inf2": 0.7582}
KEY = "a665a45920422f9d"

BAD: list[tuple[str, Any, list[str]]] = [
    ("not a mapping", [1], ["[1]", "mapping"]),
    ("unknown key", {"weight": {}}, ["weight", "did you mean 'weights'"]),
    ("negative weight", {"weights": {"g6": -1}}, ["weights.g6", "-1", "at least 0"]),
    ("NaN weight", {"weights": {"g6": float("nan")}}, ["weights.g6", "finite"]),
    ("weights no mapping", {"weights": 3}, ["weights", "3", "mapping"]),
    ("all zero", {"weights": {"g6": 0, "inf2": 0}}, ["weights", "every pool", "positive"]),
    ("unknown pool", {"weights": {"g66": 1}}, ["weights.g66", "did you mean 'g6'"]),
    ("unknown pool's price", {"prices": {"p4": 1}}, ["prices.p4", "allowed: g6, inf2"]),
    (
        "unknown pool's profile",
        {"profiles": {"x": {"latency_s": 1, "images_per_minute": 60}}},
        ["profiles.x", "no such pool"],
    ),
    ("unknown pool's limit", {"admission": {"pools": {"x": 1}}}, ["admission.pools.x"]),
    ("unknown policy", {"policy": "latencies"}, ["policy", "did you mean 'latency'", "cost"]),
    ("policy no text", {"policy": 3}, ["policy", "3", "text"]),
    ("cost without prices", {"policy": "cost"}, ["prices.g6: missing", "prices.inf2: missing"]),
    (
        "failover without a price",
        {"policy": "failover", "prices": {"g6": 1}},
        ["prices.inf2: missing", "'failover'"],
    ),
    ("free", {"prices": {"g6": 0}}, ["prices.g6", "0", "above 0"]),
    ("price text", {"prices": {"g6": "cheap"}}, ["prices.g6", "'cheap'", "number"]),
    (
        "no rate",
        {"profiles": {"g6": {"latency_s": 1}}},
        ["profiles.g6.images_per_minute", "required"],
    ),
    (
        "negative latency",
        {"profiles": {"g6": {"latency_s": -1, "images_per_minute": 60}}},
        ["profiles.g6.latency_s", "-1", "above 0"],
    ),
    ("SLO 0", {"slo_s": 0}, ["slo_s", "0", "above 0"]),
    ("SLO beyond the time limit", {"slo_s": 101}, ["slo_s", "101", "request_timeout_s 100"]),
    ("sticky for no time", {"stickiness": {"duration_s": 0}}, ["duration_s", "at least 1"]),
    ("sticky without duration", {"stickiness": {}}, ["stickiness.duration_s", "required"]),
    (
        "cookie name",
        {"stickiness": {"duration_s": 9, "cookie": "a b;"}},
        ["stickiness.cookie", "'a b;'", "letters"],
    ),
    (
        "pool limit above the total",
        {"admission": {"max_wait_s": 5, "pools": {"g6": 6}}},
        ["admission.pools.g6", "6", "above the limit for all pools, 5"],
    ),
    (
        "wait beyond the time limit",
        {"admission": {"max_wait_s": 101}},
        ["admission.max_wait_s", "101", "request_timeout_s 100"],
    ),
    ("wait for 0 s", {"admission": {"max_wait_s": 0}}, ["admission.max_wait_s", "above 0"]),
    ("key in plain", {"fairness": {"weights": {"sk-secret": 2}}}, ["fairness", "SHA-256"]),
    ("share of 0", {"fairness": {"weights": {KEY: 0}}}, ["fairness.weights", "above 0"]),
    (
        "breaker times crossed",
        {"recovery": {"breaker_open_s": 9, "breaker_max_open_s": 3}},
        ["recovery.breaker_open_s", "9", "3"],
    ),
    ("no failures", {"recovery": {"breaker_failures": 0}}, ["breaker_failures", "at least 1"]),
    ("never hung", {"recovery": {"hang_after_s": 0}}, ["recovery.hang_after_s", "above 0"]),
    (
        "hung after the time limit",
        {"recovery": {"hang_after_s": 200}},
        ["recovery.hang_after_s", "200", "request_timeout_s 100"],
    ),
    ("back in time", {"failover": {"return_after_s": -1}}, ["failover.return_after_s", "-1"]),
]


@pytest.mark.parametrize(("raw", "words"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_live_settings_are_explained(raw: Any, words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        LiveSettings.parse(raw, SETTINGS)
    for word in ("user_config of the ingress", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "fairness",
    [
        {"weights": {"sk-very-secret-key": 2}},
        {"weights": {"sk-very-secret-key": "x"}},
        {"weights": "sk-very-secret-key"},
        {"weights": ["sk-very-secret-key"]},
        {"sk-very-secret-key": 2},
        {"default_weight": "sk-very-secret-key"},
        "sk-very-secret-key",
    ],
)
def test_what_may_be_a_key_is_never_shown(fairness: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        LiveSettings.parse({"fairness": fairness}, SETTINGS)
    assert "fairness" in str(caught.value)
    assert "very-secret" not in str(caught.value)


def test_without_a_limit_no_wait_may_exceed_the_time_limit() -> None:
    assert LiveSettings().wait_limits(100).of("g6") == 100


def test_every_problem_is_told_at_once() -> None:
    raw = {"policy": "cost", "admission": {"pools": {"x": 1}}, "weights": {"y": 1}}
    with pytest.raises(SettingsError) as caught:
        LiveSettings.parse(raw, SETTINGS)
    assert len(str(caught.value).splitlines()) == 5


def test_nothing_given_is_fine() -> None:
    live = LiveSettings.parse(None, SETTINGS)
    assert (live.policy, live.weights, live.stickiness, live.fairness) == (
        "weighted",
        {},
        None,
        None,
    )
    assert LiveSettings.parse({}, SETTINGS) == live


def test_a_full_configuration() -> None:
    live = LiveSettings.parse(
        {
            "policy": "cost",
            "slo_s": 0.9,
            "weights": {"g6": 3},
            "prices": PRICES,
            "profiles": {"inf2": {"latency_s": 0.67, "images_per_minute": 105}},
            "stickiness": {"duration_s": 3600},
            "admission": {"max_wait_s": 20, "pools": {"g6": 5}},
            "fairness": {"weights": {KEY: 3}},
            "recovery": {"breaker_failures": 5},
        },
        SETTINGS,
    )
    limits = live.wait_limits(100)
    assert (limits.of("g6"), limits.of("inf2")) == (5, 20)
    assert live.profiles["inf2"].profile().images_per_minute == 105
    assert live.recovery.breaker().failures == 5


def test_the_default_objective_contradicts_nothing() -> None:
    brief = SETTINGS.model_copy(
        update={"limits": SETTINGS.limits.model_copy(update={"request_timeout_s": 5})}
    )
    LiveSettings.parse({}, brief)


def test_an_elastic_pool_needs_a_price() -> None:
    pools = {
        "g6": {"accelerator": "l4", "framework": "cpu", "elastic": {}},
        "inf2": {"accelerator": "inf2", "framework": "cpu"},
    }
    elastic = Settings.parse({"pools": pools})
    with pytest.raises(SettingsError, match=r"prices\.g6: missing; the pool is elastic"):
        LiveSettings.parse({}, elastic)
    assert LiveSettings.parse({"prices": {"g6": 0.8}}, elastic).prices == {"g6": 0.8}
    with pytest.raises(SettingsError) as caught:
        LiveSettings.parse({"policy": "cost"}, elastic)
    assert str(caught.value).count("prices.g6") == 1


def test_a_negative_hold_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"admission\.hold_s: got -1; allowed: at least 0"):
        LiveSettings.parse({"admission": {"hold_s": -1}}, SETTINGS)
