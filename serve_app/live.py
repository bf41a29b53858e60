"""The ingress deployment's ``user_config``: what changes in a running service, whole or not at all.

Ray Serve hands a new ``user_config`` to the running replicas without restarting any.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from serve_app.pool_settings import PoolSettings, Weight
from serve_app.routing.breaker import BreakerOptions
from serve_app.routing.policies import POLICIES
from serve_app.routing.router import WaitLimits
from serve_app.routing.speed import Profile
from serve_app.settings import Settings
from serve_app.validation import UNSHOWN, SettingsError, Strict, did_you_mean, parse

Price = Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]

_COOKIE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KEY_DIGEST = re.compile(r"[0-9a-f]{16}")


class ProfileSettings(Strict):
    """What one replica of a pool was measured to do with the model's default request.

    Attributes:
        latency_s: seconds for one picture, alone.
        images_per_minute: most pictures a minute in batches in which each takes at most the
            latency objective, waiting before a batch not counted; see ``Profile``.
    """

    latency_s: Seconds
    images_per_minute: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]

    def profile(self) -> Profile:
        """The same as the router has it."""
        return Profile(self.latency_s, self.images_per_minute)


class FailoverSettings(Strict):
    """Hysteresis of the ``failover`` policy.

    Attributes:
        leave_after_s: seconds a pool may miss the objective before traffic leaves it.
        return_after_s: seconds a cheaper pool must hold it before traffic returns.
    """

    leave_after_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 3
    return_after_s: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = 30


class StickinessSettings(Strict):
    """A cookie that sends a client to the pool that painted for it before.

    Attributes:
        duration_s: seconds the cookie lives; every answer renews it.
        cookie: its name.
    """

    duration_s: Annotated[int, Field(ge=1, le=604_800)]
    cookie: str = "imagine-pool"

    @field_validator("cookie")
    @classmethod
    def _is_a_token(cls, value: str) -> str:
        if not _COOKIE_NAME.fullmatch(value):
            raise ValueError("a cookie's name is 1 to 64 letters, digits, '_' or '-'")
        return value


class AdmissionSettings(Strict):
    """Longest predicted waits before a request is refused with 429.

    Attributes:
        max_wait_s: on any pool; ``None``: as long as a request may take at all
            (``limits.request_timeout_s``).
        pools: on single pools, at most ``max_wait_s``.
        hold_s: how long a request waits for a first replica while no pool has any, if one is
            elastic; 0: it is refused at once.
    """

    max_wait_s: Seconds | None = None
    hold_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 300
    pools: dict[str, Seconds] = Field(default_factory=dict)


class FairnessSettings(Strict):
    """Fair sharing between API keys when there is more to do than fits in the pools.

    Keys are told apart, not checked: have something in front of the service refuse unknown ones.

    Attributes:
        default_weight: share of a key not named, and of all callers without a key together.
        weights: share by the first 16 hex digits of the key's SHA-256
            (``printf %s "$KEY" | sha256sum | cut -c1-16``), so that no key stands in a file.
    """

    default_weight: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] = 1
    weights: dict[str, Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )

    # Before anything else looks at the mapping, so that no message shows what may be a key.
    @field_validator("weights", mode="before")
    @classmethod
    def _keys_are_digests(cls, value: Any) -> Any:
        for key in value if isinstance(value, dict) else ():
            if not (isinstance(key, str) and _KEY_DIGEST.fullmatch(key)):
                raise PydanticCustomError(
                    UNSHOWN,
                    "names must be the first 16 hex digits of a key's SHA-256; never write a key"
                    " itself here",
                )
        return value


class RecoverySettings(Strict):
    """What is done about pools that fail.

    Attributes:
        hang_after_s: seconds beyond its predicted time after which a request without an answer is
            taken elsewhere.
        breaker_failures: failures in a row that take a pool out of rotation.
        breaker_open_s: seconds until one request probes it; doubled after each failed probe.
        breaker_max_open_s: most seconds between two probes.
    """

    hang_after_s: Seconds = 60
    breaker_failures: Annotated[int, Field(ge=1, le=1000)] = 3
    breaker_open_s: Seconds = 5
    breaker_max_open_s: Seconds = 60

    def breaker(self) -> BreakerOptions:
        """The same as the breakers have it."""
        return BreakerOptions(
            failures=self.breaker_failures,
            open_s=self.breaker_open_s,
            max_open_s=self.breaker_max_open_s,
        )


class LiveSettings(Strict):
    """Everything under the ingress' ``user_config``.

    Attributes:
        policy: how pools are ranked: ``weighted``, ``cost``, ``capacity``, ``failover``,
            ``latency``.
        slo_s: latency objective in seconds, for ``cost`` and ``failover`` and the rates in
            ``/pools``.
        weights: pool name -> weight; pools left out keep the weight of their pool settings.
        prices: pool name -> US dollars per hour for one replica.
        profiles: pool name -> what one replica was measured to do; pools left out are taken as
            their replicas' calibration found them.
        failover: hysteresis of that policy.
        stickiness: ``None`` for none.
        admission: limits on predicted waiting.
        fairness: ``None``: first come, first served.
        recovery: hung requests and circuit breakers.
    """

    policy: str = "weighted"
    slo_s: Seconds = 30
    weights: dict[str, Weight] = Field(default_factory=dict)
    prices: dict[str, Price] = Field(default_factory=dict)
    profiles: dict[str, ProfileSettings] = Field(default_factory=dict)
    failover: FailoverSettings = Field(default_factory=FailoverSettings)
    stickiness: StickinessSettings | None = None
    admission: AdmissionSettings = Field(default_factory=AdmissionSettings)
    fairness: FairnessSettings | None = None
    recovery: RecoverySettings = Field(default_factory=RecoverySettings)

    @field_validator("policy")
    @classmethod
    def _is_registered(cls, value: str) -> str:
        if value not in POLICIES:
            raise ValueError(
                f"no such policy; allowed: {', '.join(sorted(POLICIES))}"
                f"{did_you_mean(value, list(POLICIES))}"
            )
        return value

    @classmethod
    def parse(cls, raw: Any, settings: Settings) -> LiveSettings:
        """Validate a ``user_config`` against the settings it is to change.

        Raises:
            SettingsError: one line per error; nothing of a bad config is used.
        """
        what = "user_config of the ingress"
        live = parse(cls, {} if raw is None else raw, what=what)
        problems = [*_unknown_pools(live, settings.pools), *_contradictions(live, settings)]
        if problems:
            lines = "\n  ".join(problems)
            raise SettingsError(f"{what}:\n  {lines}")
        return live

    def wait_limits(self, request_timeout_s: float) -> WaitLimits:
        """The admission limits as the router has them."""
        most_s = self.admission.max_wait_s
        total = request_timeout_s if most_s is None else most_s
        return WaitLimits(total=total, pools=self.admission.pools)


def _unknown_pools(live: LiveSettings, pools: Mapping[str, PoolSettings]) -> list[str]:
    named: dict[str, Mapping[str, Any]] = {
        "weights": live.weights,
        "prices": live.prices,
        "profiles": live.profiles,
        "admission.pools": live.admission.pools,
    }
    return [
        f"{key}.{name}: no such pool; allowed: {', '.join(sorted(pools))}"
        f"{did_you_mean(name, pools)}"
        for key, names in named.items()
        for name in names
        if name not in pools
    ]


def _contradictions(live: LiveSettings, settings: Settings) -> list[str]:
    problems = []
    weights = {name: live.weights.get(name, pool.weight) for name, pool in settings.pools.items()}
    if live.policy == "weighted" and not any(weights.values()):
        problems.append(
            f"weights: every pool has weight 0 ({', '.join(weights)}); give at least one a"
            " positive weight"
        )
    if POLICIES[live.policy].needs_prices:
        problems += [
            f"prices.{name}: missing; policy {live.policy!r} needs the price of every pool, in"
            " US dollars per replica and hour"
            for name, pool in settings.pools.items()
            if name not in live.prices and pool.elastic is None
        ]
    problems += [
        f"prices.{name}: missing; the pool is elastic, so that its replicas are planned by price,"
        " in US dollars per replica and hour"
        for name, pool in settings.pools.items()
        if pool.elastic is not None and name not in live.prices
    ]
    limit_s = settings.limits.request_timeout_s
    most_s = live.admission.max_wait_s
    if most_s is not None and most_s > limit_s:
        problems.append(
            f"admission.max_wait_s: got {most_s:g}, but no request may take longer than"
            f" limits.request_timeout_s {limit_s:g}"
        )
    bound = min(limit_s, limit_s if most_s is None else most_s)
    problems += [
        f"admission.pools.{name}: got {wait_s:g}, above the limit for all pools, {bound:g}"
        for name, wait_s in live.admission.pools.items()
        if wait_s > bound
    ]
    if "slo_s" in live.model_fields_set and live.slo_s > limit_s:
        problems.append(
            f"slo_s: got {live.slo_s:g}, but no request may take longer than"
            f" limits.request_timeout_s {limit_s:g}"
        )
    recovery = live.recovery
    if "hang_after_s" in recovery.model_fields_set and recovery.hang_after_s > limit_s:
        problems.append(
            f"recovery.hang_after_s: got {recovery.hang_after_s:g}, but no request may take longer"
            f" than limits.request_timeout_s {limit_s:g}"
        )
    if recovery.breaker_open_s > recovery.breaker_max_open_s:
        problems.append(
            f"recovery.breaker_open_s: got {recovery.breaker_open_s:g}, above"
            f" breaker_max_open_s {recovery.breaker_max_open_s:g}"
        )
    return problems
