"""The running service's live settings: read, changed and put back through Serve's own API."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from serve_app.live import LiveSettings
from serve_app.settings import INGRESS, Settings

_PATH = "/api/serve/applications/"
# What a deploy says beside its applications, where the running service tells it.
_REST = ("proxy_location", "http_options", "grpc_options", "target_capacity")
# How often each ingress replica is asked, on average, before all are taken to have the settings.
ASKED = 10


class NotApplied(Exception):  # noqa: N818 - says what is the matter
    """The service did not take the settings; the message says why and what holds now."""


class LiveConfig:
    """One application's config in a running Serve instance.

    Args:
        dashboard: e.g. ``http://127.0.0.1:8265``.
        application: its name; ``None``: the only one that has an ingress of ours.
        transport: for tests.
    """

    def __init__(
        self,
        dashboard: str,
        application: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._dashboard = dashboard
        self._application = application
        self._transport = transport

    def merged(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The present ``user_config`` with other values, valid for the running service.

        Raises:
            NotApplied: Serve does not tell its config.
            SettingsError: the result would be refused.
        """
        _, application = self._present()
        return self._changed(application, changes)

    def apply(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change the ingress' ``user_config``, and nothing else; the new one.

        Raises:
            NotApplied: Serve does not take it.
            SettingsError: it would be refused; nothing is sent.
        """
        deployed, application = self._present()
        changed = self._changed(application, changes)
        _ingress(application)["user_config"] = changed
        try:
            with self._client() as client:
                client.put(_PATH, json=deployed).raise_for_status()
        except httpx.HTTPStatusError as error:
            why = error.response.text[:500]
            raise NotApplied(f"Serve refuses the config: {why}") from error
        except httpx.HTTPError as error:
            raise NotApplied(f"{self._dashboard}: {type(error).__name__}: {error}") from error
        return changed

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._dashboard, timeout=60, transport=self._transport)

    def _changed(
        self, application: Mapping[str, Any], changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        present = _ingress(application).get("user_config") or {}
        changed = with_changes(present, changes)
        LiveSettings.parse(changed, Settings.parse(application["args"]))
        return changed

    def _present(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What to deploy to change nothing, and the application in it."""
        try:
            with self._client() as client:
                details = client.get(_PATH).raise_for_status().json()
            running = details["applications"]
            configs = {name: one["deployed_app_config"] for name, one in running.items()}
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise NotApplied(
                f"{self._dashboard} is no Ray dashboard with Serve: {type(error).__name__}: {error}"
            ) from error
        unknown = [name for name, config in configs.items() if config is None]
        if unknown:
            raise NotApplied(
                f"application {unknown[0]} was not deployed from a config, so that Serve cannot"
                " tell it; deploy it with serve deploy, or serve run CONFIG.yaml"
            )
        ours = [name for name, config in configs.items() if _has_ingress(config)]
        name = self._application or (ours[0] if len(ours) == 1 else None)
        if name not in ours:
            raise NotApplied(
                f"no application {name or 'of ours alone'}; there are: {list(configs)}"
            )
        rest = {key: details[key] for key in _REST if details.get(key) is not None}
        return {**rest, "applications": list(configs.values())}, configs[name]


def shown_config(shown: Mapping[str, Any]) -> dict[str, Any]:
    """What ``/pools`` shows of the present ``user_config``.

    ``/pools`` does not tell a configured profile from one that a calibration found: both are there.
    """
    pools = {pool["name"]: pool for pool in shown["pools"]}
    # A rate of 0 is a calibration's word for "not within the objective"; settings cannot say it.
    profiles = {
        name: pool["profile"]
        for name, pool in pools.items()
        if pool["profile"] and pool["profile"]["images_per_minute"] > 0
    }
    prices = {name: pool["price_per_hour"] for name, pool in pools.items()}
    return {
        "policy": shown["policy"],
        "slo_s": shown["slo_s"],
        "weights": {name: pool["weight"] for name, pool in pools.items()},
        "prices": {name: price for name, price in prices.items() if price is not None},
        "profiles": profiles,
    }


def with_changes(present: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A ``user_config`` with other values; profiles of pools that were not measured stay."""
    changed = copy.deepcopy({**present, **changes})
    if "profiles" in changes:
        changed["profiles"] = {**present.get("profiles", {}), **changes["profiles"]}
    return changed


async def wait_until_applied(
    changed: Mapping[str, Any],
    pools: Callable[[], Awaitable[Mapping[str, Any]]],
    replicas: int = 1,
    timeout_s: float = 60.0,
) -> None:
    """Wait until ``/pools`` shows the weights, profiles and objective, whichever ingress answers.

    Answers do not tell which ingress replica they come from. So with ``n`` of them ``ASKED`` times
    ``n`` answers in a row must agree: one that is asked at random and lags is missed once in
    ``exp(ASKED)``, some 20,000. One that is never reached from here (a proxy prefers the replicas
    of its own node) is not seen.

    Args:
        changed: the new ``user_config``.
        pools: asks for ``/pools``, each time over another connection.
        replicas: of the ingress before; while they take settings, fewer are counted.
        timeout_s: how long, in seconds.

    Raises:
        NotApplied: it does not in time, or says that it does not take them.
    """
    end, agreed = time.monotonic() + timeout_s, 0
    while time.monotonic() < end:
        shown = await pools()
        if shown["config_problem"]:
            raise NotApplied(f"the ingress does not take the settings: {shown['config_problem']}")
        same_objective = shown["slo_s"] == changed.get("slo_s", shown["slo_s"])
        same = same_objective and all(_agrees(pool, changed) for pool in shown["pools"])
        agreed = agreed + 1 if same else 0
        replicas = max(replicas, shown["ingress_replicas"])
        if agreed >= (ASKED * replicas if replicas > 1 else 1):
            return
        await asyncio.sleep(0.05 if same else 0.5)
    raise NotApplied(
        f"/pools does not show the settings after {timeout_s:g} s, or not from every ingress"
        " replica; see serve status"
    )


def _agrees(pool: Mapping[str, Any], changed: Mapping[str, Any]) -> bool:
    name = pool["name"]
    weights, profiles = changed.get("weights", {}), changed.get("profiles", {})
    same_weight = name not in weights or pool["weight"] == weights[name]
    return same_weight and (name not in profiles or pool["profile"] == profiles[name])


def _has_ingress(config: Mapping[str, Any]) -> bool:
    return any(one["name"] == INGRESS for one in config.get("deployments", ()))


def _ingress(application: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(
        one for one in application["deployments"] if one["name"] == INGRESS
    )
    return found
