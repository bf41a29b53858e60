"""The one settings object: everything ``serve_config.yaml`` may say under ``args``.

Every model refuses unknown keys. ``Settings.parse`` turns validation errors into one line per
error that names the key, the value it got and what is allowed.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from serve_app.access.settings import AccessSettings
from serve_app.pool_settings import Drain, PoolSettings
from serve_app.sources import LoraSettings, ModelSettings, SafetySettings
from serve_app.telemetry.settings import TelemetrySettings
from serve_app.validation import Strict, parse

INGRESS = "Ingress"
_POOL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class LimitSettings(Strict):
    """What a request may ask for.

    Attributes:
        max_n: most pictures per request.
        min_width, max_width, min_height, max_height: picture size in pixels.
        max_steps: most denoising steps.
        max_guidance: highest guidance scale.
        max_prompt_chars: longest prompt and longest negative prompt, in characters.
        max_body_bytes: largest request body in bytes.
        body_timeout_s: seconds within which a request's body must have arrived.
        max_image_pixels: largest input picture in pixels, checked before it is decoded.
        request_timeout_s: seconds from receipt to answer, all retries included.
    """

    max_n: int = Field(default=10, ge=1, le=64)
    min_width: int = Field(default=64, ge=8, le=8192)
    max_width: int = Field(default=1024, ge=8, le=8192)
    min_height: int = Field(default=64, ge=8, le=8192)
    max_height: int = Field(default=1024, ge=8, le=8192)
    max_steps: int = Field(default=100, ge=1, le=1000)
    max_guidance: float = Field(default=30, ge=1, le=1000, allow_inf_nan=False)
    max_prompt_chars: int = Field(default=2000, ge=1, le=100_000)
    max_body_bytes: int = Field(default=12 * 2**20, ge=1024, le=2**30)
    body_timeout_s: float = Field(default=30, gt=0, le=86_400, allow_inf_nan=False)
    max_image_pixels: int = Field(default=2**22, ge=64, le=2**28)
    request_timeout_s: float = Field(default=300, gt=0, le=86_400, allow_inf_nan=False)

    @model_validator(mode="after")
    def _sizes_in_order(self) -> LimitSettings:
        for side in ("width", "height"):
            low, high = getattr(self, f"min_{side}"), getattr(self, f"max_{side}")
            if low > high:
                raise ValueError(f"min_{side} {low} is above max_{side} {high}")
        return self


class IngressSettings(Strict):
    """The ingress deployment itself.

    Attributes:
        replicas: how many there are; each spreads its own requests over all pools.
        num_cpus: Ray cores reserved for one.
        resources: other Ray resources for one. An ingress takes its requests down with its node:
            give the nodes that stay a resource of their own, and name a small part of it here.
        max_ongoing_requests: most requests in one ingress replica at once. A quarter of them, and
            a sixteenth from one caller, may have bodies that take more than a second to arrive.
        drain_s: seconds that an ingress being stopped has to finish its requests.
        poll_interval_s: seconds between two looks at the pools' replica states.
        heartbeat_s: longest silence of a stream of events in seconds; well below the idle time
            after which what stands in front hangs up.
    """

    replicas: int = Field(default=1, ge=1, le=100)
    num_cpus: float = Field(default=0, ge=0, le=64, allow_inf_nan=False)
    resources: dict[str, Annotated[float, Field(gt=0, le=4096, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    max_ongoing_requests: int = Field(default=1024, ge=1, le=100_000)
    drain_s: Drain = 5
    poll_interval_s: float = Field(default=0.5, ge=0.1, le=60, allow_inf_nan=False)
    heartbeat_s: float = Field(default=10, ge=0.1, le=300, allow_inf_nan=False)


class Settings(Strict):
    """Everything under ``args``; see each part."""

    model: ModelSettings = Field(default_factory=ModelSettings)
    pools: dict[str, PoolSettings] = Field(min_length=1)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    ingress: IngressSettings = Field(default_factory=IngressSettings)
    access: AccessSettings = Field(default_factory=AccessSettings)
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    safety: SafetySettings | None = None

    @field_validator("pools")
    @classmethod
    def _names_are_identifiers(cls, value: dict[str, PoolSettings]) -> dict[str, PoolSettings]:
        for name in value:
            if not _POOL_NAME.fullmatch(name):
                raise ValueError(
                    f"the pool name {name!r} is not an identifier: letters, digits and '_', not"
                    " starting with a digit, at most 63"
                )
            if name.lower() == INGRESS.lower():
                raise ValueError(f"the pool name {name!r} is taken by the ingress deployment")
        return value

    @model_validator(mode="after")
    def _one_meaning_for_each_adapter(self) -> Settings:
        seen: dict[str, tuple[str, LoraSettings]] = {}
        for name, pool in self.pools.items():
            for lora, told in pool.loras.items():
                other, before = seen.setdefault(lora, (name, told))
                if before != told:
                    raise ValueError(
                        f"the adapter {lora!r} of pools {other!r} and {name!r} differs: a picture"
                        " must not depend on the pool that paints it; give one another name"
                    )
        return self

    @property
    def loras(self) -> list[str]:
        """Every declared adapter, by name."""
        return sorted({lora for pool in self.pools.values() for lora in pool.loras})

    @classmethod
    def parse(cls, raw: Any) -> Settings:
        """Validate ``raw`` (the mapping under ``args``).

        Raises:
            SettingsError: one line per error: key, value, what is allowed.
        """
        return parse(cls, raw, what="settings")
