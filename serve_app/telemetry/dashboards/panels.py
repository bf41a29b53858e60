"""What the dashboard shows: one row per panel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Unit = Literal["short", "s", "reqps", "percentunit", "currencyUSD"]


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph.

    Attributes:
        title: with what the numbers are per.
        unit: Grafana's word.
        queries: legend -> PromQL.
        about: one sentence for those who look.
        quiet: whether there is normally nothing to see.
    """

    title: str
    unit: Unit
    queries: dict[str, str]
    about: str
    quiet: bool = False


_RATE = "[$__rate_interval]"
_PAINTING = 'route=~"/imagine|/v1/images/.*"'


def _rate(metric: str, *labels: str) -> str:
    return f"sum by ({', '.join(labels)}) (rate({metric}{_RATE}))"


def _quantile(share: float, metric: str, *labels: str, which: str = "") -> str:
    bucket = f"{metric}_bucket{{{which}}}" if which else f"{metric}_bucket"
    return f"histogram_quantile({share}, {_rate(bucket, 'le', *labels)})"


_DOLLARS = "max by (pool) (ray_imagine_pool_dollars_per_hour)"
_IMAGES = _rate("ray_imagine_images_total", "pool")

ROWS: dict[str, tuple[Panel, ...]] = {
    "Users": (
        Panel(
            "Pictures a minute",
            "short",
            {"{{pool}}": f"60 * {_IMAGES}"},
            "Painted for users, by pool.",
        ),
        Panel(
            "Answer, from request to last byte",
            "s",
            {
                "p50": _quantile(0.5, "ray_imagine_http_seconds", which=_PAINTING),
                "p95": _quantile(0.95, "ray_imagine_http_seconds", which=_PAINTING),
                "p99": _quantile(0.99, "ray_imagine_http_seconds", which=_PAINTING),
            },
            "All requests for pictures, refused ones included.",
        ),
        Panel(
            "Answers by status",
            "reqps",
            {"{{status}} {{code}}": _rate("ray_imagine_http_requests_total", "status", "code")},
            "499: the client left before its answer.",
        ),
        Panel(
            "Refusals",
            "reqps",
            {"{{code}}": _rate("ray_imagine_routing_refusals_total", "code")},
            "Before any pool saw the request.",
            quiet=True,
        ),
    ),
    "Pools": (
        Panel(
            "Picture, p95",
            "s",
            {"{{pool}}": _quantile(0.95, "ray_imagine_took_seconds", "pool")},
            "From the ingress to the pool and back.",
        ),
        Panel(
            "Phases, p95",
            "s",
            {"{{pool}} {{phase}}": _quantile(0.95, "ray_imagine_phase_seconds", "pool", "phase")},
            "In the replica: queue, encode, denoise, decode.",
        ),
        Panel(
            "Pictures under way",
            "short",
            {"{{pool}}": "max by (pool) (ray_imagine_pool_requests)"},
            "Sent to the pool and not yet answered.",
        ),
        Panel(
            "Waiting in the ingress",
            "short",
            {"{{for}}": "sum by (for) (ray_imagine_waiting)"},
            "For a fair turn, or for a first replica.",
        ),
        Panel(
            "Replicas",
            "short",
            {
                "{{pool}} ready": "max by (pool) (ray_imagine_pool_ready)",
                "{{pool}} starting": "max by (pool) (ray_imagine_pool_starting)",
            },
            "Ready: takes requests.",
        ),
        Panel(
            "Wanted by the policy",
            "short",
            {"{{pool}}": "max by (pool) (ray_imagine_autoscaling_target)"},
            "Replica targets.",
        ),
        Panel(
            "Lost, failed, sent again",
            "reqps",
            {
                "{{pool}} {{cause}}": _rate("ray_imagine_routing_failures_total", "pool", "cause"),
                "{{pool}} again": _rate("ray_imagine_routing_retries_total", "pool"),
            },
            "What was sent again was lost elsewhere.",
            quiet=True,
        ),
        Panel(
            "Hardware not to be had",
            "short",
            {"{{pool}}": "max by (pool) (ray_imagine_autoscaling_short)"},
            "1: of an elastic pool, the nodes do not come.",
            quiet=True,
        ),
        Panel(
            "Actual over predicted time, median",
            "short",
            {"{{pool}}": _quantile(0.5, "ray_imagine_prediction_ratio", "pool")},
            "Far from 1: profiles or calibration are off.",
        ),
    ),
    "Engines": (
        Panel(
            "Steps a second",
            "short",
            {"{{pool}}": _rate("ray_imagine_engine_steps_total", "pool")},
            "Denoising steps of whole batches.",
        ),
        Panel(
            "Rows in a step",
            "short",
            {
                "{{pool}}": f"{_rate('ray_imagine_engine_row_steps_total', 'pool')} / "
                f"({_rate('ray_imagine_engine_steps_total', 'pool')} > 0)"
            },
            "The mean batch; a guided picture has two rows.",
        ),
        Panel(
            "Slots in use",
            "percentunit",
            {
                "{{pool}}": "sum by (pool) (ray_imagine_engine_slots_used) / "
                "sum by (pool) (ray_imagine_engine_slots)"
            },
            "Rows in use over rows there are.",
        ),
        Panel(
            "Waiting in the replicas",
            "short",
            {"{{pool}}": "sum by (pool) (ray_imagine_engine_waiting)"},
            "Prepared pictures without a slot.",
        ),
        Panel(
            "Start of a replica",
            "s",
            {"{{pool}} {{phase}}": "max by (pool, phase) (ray_imagine_startup_seconds)"},
            "By phase; the newest replicas' slowest.",
        ),
    ),
    "Money": (
        Panel(
            "Dollars an hour",
            "currencyUSD",
            {"{{pool}}": _DOLLARS},
            "Of the replicas there are, where prices are set.",
        ),
        Panel(
            "Dollars for 1,000 pictures",
            "currencyUSD",
            {"{{pool}}": f"{_DOLLARS} / ({_IMAGES} > 0) / 3.6"},
            "What is paid over what is painted: idle replicas count.",
        ),
        Panel(
            "Dollars for 1,000 pictures at the full rate",
            "currencyUSD",
            {"{{pool}}": "max by (pool) (ray_imagine_pool_cost_per_1000)"},
            "What the pool costs when it is never idle.",
        ),
        Panel(
            "CloudWatch",
            "short",
            {
                "sent": "sum(ray_imagine_cloudwatch_sent)",
                "dropped": "sum(ray_imagine_cloudwatch_dropped)",
                "failed batches": "sum(ray_imagine_cloudwatch_failures)",
            },
            "Since the ingress started; nothing where it is off.",
            quiet=True,
        ),
    ),
}
