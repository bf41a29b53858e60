"""What the measured servers are asked; free of torch, for the processes that need none."""

from __future__ import annotations

from pydantic import BaseModel


class Prompt(BaseModel):
    """What the samples accept."""

    prompt: str
    seed: int = 0
    num_inference_steps: int = 8
    width: int = 64
    height: int = 64


def kind(prompt: Prompt) -> tuple[int, int, int]:
    """What prompts of one pipeline call have in common."""
    return prompt.num_inference_steps, prompt.width, prompt.height


def timing(took_ms: float) -> dict[str, str]:
    """The header that tells the pipeline's time."""
    return {"Server-Timing": f"pipeline;dur={took_ms:.2f}"}
