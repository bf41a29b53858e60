"""What the tests of the model share."""

from typing import Any

import numpy as np
import pytest
import torch

from models import evaluate, serving
from models.scenes import Picture


class Painter:
    """The embedded model at its own defaults, on one thread."""

    def __init__(self) -> None:
        self.pipeline = evaluate.load_pipeline(evaluate.EMBEDDED)
        self.defaults = serving.read_defaults(evaluate.EMBEDDED)

    def __call__(self, prompt: str, seed: int = 1, **changes: Any) -> Picture:
        """One picture, uint8 [64, 64, 3]."""
        arguments = {
            "num_inference_steps": self.defaults.num_inference_steps,
            "guidance_scale": self.defaults.guidance_scale,
            "width": self.defaults.width,
            "height": self.defaults.height,
            **changes,
        }
        image = self.pipeline(
            prompt, generator=torch.Generator().manual_seed(seed), output_type="np", **arguments
        ).images[0]
        return np.asarray(image * 255).round().astype(np.uint8)


@pytest.fixture(scope="package")
def painter() -> Painter:
    """The embedded model, loaded once."""
    return Painter()
