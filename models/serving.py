"""serving.json: what suits a model, kept with the model and not in code."""

import dataclasses
import json
from pathlib import Path

from models.checkpoint import TrainingError


@dataclasses.dataclass(frozen=True)
class Defaults:
    """Picture size in pixels, sampling steps, guidance, and the words the model knows."""

    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    vocabulary: tuple[str, ...] = ()

    def with_steps(self, steps: int) -> "Defaults":
        """The same with another number of steps."""
        return dataclasses.replace(self, num_inference_steps=steps)


def read_defaults(folder: Path) -> Defaults:
    """The defaults of a model folder."""
    path = folder / "serving.json"
    try:
        facts = json.loads(path.read_text())
        return Defaults(**{**facts, "vocabulary": tuple(facts.get("vocabulary", ()))})
    except FileNotFoundError as error:
        raise TrainingError(f"{path} is missing: --model must be a model folder") from error
    except (ValueError, TypeError) as error:
        raise TrainingError(f"{path} does not hold serving defaults: {error}") from error
