"""``python -m loadtest breaking-point``: where each pool breaks, and the settings that follow."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from loadtest.breaking.live import (
    LiveConfig,
    NotApplied,
    shown_config,
    wait_until_applied,
    with_changes,
)
from loadtest.breaking.plot import plot
from loadtest.breaking.result import Result, settings_yaml
from loadtest.breaking.search import Search, SearchOptions
from loadtest.command import (
    add_service,
    api_key,
    interruptible,
    positive,
    started_at,
    write_json,
)
from loadtest.exits import Exit
from loadtest.service import LoadedService, Unreachable
from serve_app.live import LiveSettings
from serve_app.validation import SettingsError, parse

_ABOUT = "where each pool breaks, and the settings that follow"

DASHBOARD = "http://127.0.0.1:8265"
_WEIGHTED = "weighted"  # the only policy whose shares follow the weights; the default


def add_to(commands: Any) -> None:
    """Add the command to argparse's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "breaking-point", help=_ABOUT, description=_ABOUT
    )
    add_service(parser)
    parser.add_argument("--pools", default="all", help="names, comma between (default: all)")
    parser.add_argument(
        "--slo-ms", type=positive, help="objective in milliseconds (default: the service's)"
    )
    parser.add_argument(
        "--percentile", type=_percent, default=95.0, help="of latency that must meet it"
    )
    parser.add_argument("--minutes", type=positive, default=10.0, help="for all pools, about")
    parser.add_argument(
        "--side-by-side",
        type=int,
        default=1,
        help="pools measured at the same time; more is for pools that share no machine",
    )
    parser.add_argument(
        "--apply",
        action="store_true",
        help="put the settings into force, live; the policy stays, and shares follow the weights"
        " only under policy weighted",
    )
    parser.add_argument(
        "--dashboard", help=f"Ray's dashboard, to read and change settings ({DASHBOARD})"
    )
    parser.add_argument("--application", help="its name in Serve, if there are several")
    parser.set_defaults(command=lambda options: command(parser, options))


def command(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Exit:
    """Carry it out."""
    if options.side_by_side < 1:
        parser.error(f"--side-by-side: got {options.side_by_side}; allowed: at least 1")
    console = Console(stderr=True)
    try:
        key = api_key(options)
    except OSError as error:
        parser.error(str(error))
    try:
        return asyncio.run(_measure(parser, options, key, console))
    except Unreachable as error:
        console.print(str(error), style="red", markup=False)
        return Exit.UNREACHABLE
    except (NotApplied, SettingsError) as error:
        console.print(f"not applied: {error}", style="red", markup=False)
        return Exit.NOT_APPLIED


async def _measure(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    key: str | None,
    console: Console,
) -> Exit:
    out: Path = options.out or Path("breaking-point")
    live = _live(options)
    if live is not None:
        # Before minutes are spent: whether the settings can be read at all.
        await asyncio.to_thread(live.merged, {})
    async with LoadedService(options.url, key, options.timeout) as service:
        shown = await service.pools()
        names = _names(parser, options.pools, shown)
        if options.apply:  # before minutes are spent, and again at the end
            _say_who_shares(shown["policy"], console)
        slo_s = shown["slo_s"] if options.slo_ms is None else options.slo_ms / 1000
        asked = {
            "url": options.url,
            "slo_ms": slo_s * 1000,
            "percentile": options.percentile,
            "minutes": options.minutes,
            "side_by_side": options.side_by_side,
            "seed": options.seed,
            "started_at": started_at(),
        }
        search = Search(
            service,
            names,
            SearchOptions(
                slo_s=slo_s,
                percent=options.percentile,
                minutes=options.minutes,
                side_by_side=options.side_by_side,
                seed=options.seed,
            ),
        )
        partial = await _with_progress(search, console)
        result = await search.result(asked, partial=partial)
        if options.pools == "all":
            absent = [
                f"{pool['name']}: no ready replica, not measured; its weight and profile stay"
                for pool in shown["pools"]
                if not pool["available"]
            ]
            result = replace(result, problems=[*result.problems, *absent])
        # What was measured is kept, whatever the dashboard says.
        _write(result, out, console)
        if result.changes:
            _write_settings(result, _merged(result, shown, live), live is not None, out, console)
        if partial:
            return Exit.INTERRUPTED
        if options.apply and live is not None and result.changes:
            changed = await asyncio.to_thread(live.apply, result.changes)
            await wait_until_applied(
                changed, lambda: service.pools(anew=True), shown["ingress_replicas"]
            )
            console.print("applied: /pools shows the new weights and profiles")
    whole = not result.failed and all(one.capacity for one in result.proposals.values())
    return Exit.DONE if whole else Exit.NOT_FOUND


def _live(options: argparse.Namespace) -> LiveConfig | None:
    if options.dashboard is None and not options.apply:
        return None
    return LiveConfig(options.dashboard or DASHBOARD, options.application)


async def _with_progress(search: Search, console: Console) -> bool:
    """Run the search under a progress bar; whether it was interrupted."""
    stop = asyncio.Event()
    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns, console=console) as bar, interruptible(stop):
        tasks = {
            name: bar.add_task(name, total=search.budget_s, words="", start=False)
            for name in search.names
        }

        def told(name: str, words: str) -> None:
            if not bar.tasks[tasks[name]].started:
                bar.start_task(tasks[name])
            bar.update(tasks[name], words=words)
            if words == "done":
                bar.update(tasks[name], completed=search.budget_s)
                bar.stop_task(tasks[name])

        async def tick() -> None:
            while True:
                await asyncio.sleep(0.5)
                for task in bar.tasks:
                    if task.started and task.stop_time is None:
                        bar.update(task.id, completed=task.elapsed)

        search.told = told
        work = asyncio.create_task(search.run())
        others = (asyncio.create_task(tick()), asyncio.create_task(stop.wait()))
        await asyncio.wait((work, others[1]), return_when=asyncio.FIRST_COMPLETED)
        for other in others:
            other.cancel()
        if not stop.is_set():
            await work
            return False
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work
        return True


def _names(parser: argparse.ArgumentParser, wanted: str, shown: dict[str, Any]) -> list[str]:
    """The pools to measure: those named, or all that can paint now."""
    ready = [pool["name"] for pool in shown["pools"] if pool["available"]]
    if wanted == "all":
        names = ready
    else:
        names = [name.strip() for name in wanted.split(",") if name.strip()]
        missing = [name for name in names if name not in ready]
        if missing:
            parser.error(f"--pools: got {missing[0]!r}; ready are: {', '.join(ready) or 'none'}")
    if not names:
        raise Unreachable("no pool has a ready replica; see /readiness")
    return list(dict.fromkeys(names))


def _merged(result: Result, shown: dict[str, Any], live: LiveConfig | None) -> dict[str, Any]:
    """The whole ``user_config`` with what is new in it, checked as the service would.

    Without a dashboard it holds what ``/pools`` shows of the present one.

    Raises:
        SettingsError: the service would refuse it.
        NotApplied: Serve does not tell the present one.
    """
    if live is not None:
        return live.merged(result.changes)
    config = with_changes(shown_config(shown), result.changes)
    parse(LiveSettings, config, what="user_config of the ingress")
    return config


def _write(result: Result, out: Path, console: Console) -> None:
    Console().print(result.table())
    for name, why in result.failed.items():
        console.print(f"{name}: not measured: {why}", style="red", markup=False)
    for problem in result.problems:
        console.print(problem, style="yellow", markup=False, highlight=False)
    write_json(out / "breaking-point.json", result.as_json())
    files = ["breaking-point.json"]
    if result.proposals:
        plot(result, out / "breaking-point.png")
        files.append("breaking-point.png")
    console.print(f"{out}: {', '.join(files)}", highlight=False)


def _write_settings(
    result: Result, config: dict[str, Any], whole: bool, out: Path, console: Console
) -> None:
    head = [
        f"Measured {result.load['started_at']} at {result.load['url']}: p"
        f"{result.load['percentile']:g} within {result.load['slo_ms']:g} ms.",
        "The ingress deployment's user_config; take it as it is."
        if whole
        else "For the ingress deployment's user_config: what /pools shows of it (pools that"
        " were not measured: profiles configured or calibrated). Keep the rest (admission,"
        " fairness, recovery, ...) that yours has, or ask with --dashboard.",
    ]
    if result.partial:
        head.append("PARTIAL: the search was interrupted.")
    text = settings_yaml(config, head)
    (out / "user_config.yaml").write_text(text, encoding="utf-8")
    console.print(f"{out}: user_config.yaml", highlight=False)
    _say_who_shares(config.get("policy", _WEIGHTED), console)


def _say_who_shares(policy: str, console: Console) -> None:
    """Say so where the traffic will not follow the proposed weights."""
    if policy == _WEIGHTED:
        return
    if policy == "cost":
        note = "policy is cost: it makes its shares of profiles and prices, and looks at no weights"
    else:
        note = (
            f"policy is {policy}: traffic will NOT follow the proposed weights, and the policy"
            " is left as it is. Set policy: weighted in the ingress' user_config, or policy: cost,"
            " which makes such shares of profiles and prices"
        )
    console.print(note, style="bold yellow", markup=False, highlight=False)


def _percent(text: str) -> float:
    value = float(text)
    if not 0 < value < 100:
        raise argparse.ArgumentTypeError(f"got {text}; allowed: above 0 and below 100")
    return value
