"""This service's own front with pools that paint nothing: what the way to a pool costs.

The proxy, the ingress, its routing and Serve's handles are the real ones. A replica answers at once
with a ready picture and loads no model, so that fifty fit one machine.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from PIL import Image
from ray import serve
from ray.serve import Application

from deployments.messages import ImageRequest, ImageResult, Timings
from serve_app.ingress import Ingress
from serve_app.settings import INGRESS, Settings

NOTHING = Timings(queue=0, encode=0, denoise=0, decode=0, total=0)


@serve.deployment(max_ongoing_requests=2048)
class LightReplica:
    """Answers at once."""

    def __init__(self) -> None:
        out = io.BytesIO()
        Image.effect_noise((64, 64), 80).convert("RGB").save(out, "PNG")
        self._png = out.getvalue()

    async def generate(self, request: ImageRequest) -> ImageResult:
        """The ready picture."""
        return ImageResult(
            image=self._png, media_type="image/png", seed=request.seed, timings=NOTHING
        )

    async def describe(self) -> dict[str, Any]:
        """As ``PoolReplica.describe``."""
        return {
            "step_cost_ms": {1: 0.1, 16: 0.2},
            "max_rows": 16,
            "sizes": None,
            "rows": 0,
            "waiting": 0,
            "open": 0,
            "device": "none",
            "dtype": "float32",
            "graphs": "none",
            "startup_s": {},
        }


def build(args: Mapping[str, int]) -> Application:
    """``args``: numbers of ``pools`` and of ``ingress`` replicas."""
    pool = {
        "accelerator": "none",
        "framework": "emulated",
        "emulation": {"step_s": 0.001},
        "resources": {"num_cpus": 0},
    }
    names = [f"pool{number}" for number in range(args["pools"])]
    settings = Settings.parse({"pools": dict.fromkeys(names, pool)})
    pools = {
        name: LightReplica.options(name=name, ray_actor_options={"num_cpus": 0}).bind()
        for name in names
    }
    ingress = serve.deployment(Ingress).options(
        name=INGRESS,
        num_replicas=args["ingress"],
        max_ongoing_requests=settings.ingress.max_ongoing_requests,
        ray_actor_options={"num_cpus": 0},
    )
    return ingress.bind(settings, pools)
