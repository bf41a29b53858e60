"""Where metrics go besides Ray's: ``telemetry`` in the settings."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from serve_app.validation import Strict

_NAMESPACE = re.compile(r"[A-Za-z0-9_./#-]{1,255}")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]")
_OWN_DIMENSIONS = frozenset({"Pool", "Accelerator"})


class CloudWatchSettings(Strict):
    """Counts and latencies of users' pictures, for CloudWatch.

    Credentials come from where boto3 finds them: a role of the pod or instance, the environment.

    Attributes:
        mode: ``api``: PutMetricData, from a thread; ``emf``: lines of the embedded metric format,
            to be picked up by the CloudWatch agent or Fluent Bit.
        region: AWS region; for mode ``api``.
        namespace: of the metrics.
        dimensions: fixed dimensions besides Pool and Accelerator, e.g. ``{Cluster: a}``. Each
            combination of values is a metric that is paid for.
        period_s: seconds between two batches.
        max_waiting: pictures kept for the next batches while the API is out; more are dropped
            and counted.
        endpoint_url: another endpoint than the region's own, e.g. a VPC endpoint.
        file: where EMF lines are appended; ``None``: standard output. For mode ``emf``.
    """

    mode: Literal["api", "emf"] = "api"
    region: str | None = None
    namespace: str = "Imagine"
    dimensions: dict[str, str] = Field(default_factory=dict, max_length=10)
    period_s: Annotated[float, Field(ge=0.1, le=3600, allow_inf_nan=False)] = 60
    max_waiting: Annotated[int, Field(ge=100, le=10_000_000)] = 100_000
    endpoint_url: str | None = Field(default=None, pattern=r"^https?://")
    file: str | None = Field(default=None, min_length=1)

    @field_validator("namespace")
    @classmethod
    def _is_a_namespace(cls, value: str) -> str:
        if not _NAMESPACE.fullmatch(value) or value.startswith("AWS/"):
            raise ValueError("1 to 255 letters, digits and '_./#-', not starting with 'AWS/'")
        return value

    @field_validator("region")
    @classmethod
    def _is_a_region(cls, value: str | None) -> str | None:
        if value is not None and not _REGION.fullmatch(value):
            raise ValueError("not a region, such as us-east-1")
        return value

    @field_validator("dimensions")
    @classmethod
    def _are_dimensions(cls, value: dict[str, str]) -> dict[str, str]:
        for name, text in value.items():
            plain = (name + text).isascii() and (name + text).isprintable()
            if name in _OWN_DIMENSIONS or not name or not text or not plain or name[0] == ":":
                raise ValueError(f"{name!r}: not a dimension of its own, or no plain text")
        return value

    @model_validator(mode="after")
    def _goes_with_its_mode(self) -> CloudWatchSettings:
        if self.mode == "api" and self.region is None:
            raise ValueError("mode 'api' needs region, e.g. us-east-1")
        if self.mode == "api" and self.file is not None:
            raise ValueError("file is for mode 'emf' only")
        if self.mode == "emf" and self.endpoint_url is not None:
            raise ValueError("endpoint_url is for mode 'api' only")
        return self


class TelemetrySettings(Strict):
    """Where metrics go besides Ray's own export.

    Attributes:
        cloudwatch: ``None``: not there.
    """

    cloudwatch: CloudWatchSettings | None = None
