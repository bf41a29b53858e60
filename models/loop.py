"""One training loop for all stages: a time budget, checkpoints, progress, interruption."""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from models import checkpoint

_SAVE_EVERY = 60.0  # seconds
_WARM_UP = 100  # steps
_LONGEST = 5.0  # seconds a step can count; one that takes longer was suspended meanwhile


class InterruptedTrainingError(Exception):
    """Someone asked to stop; everything is saved."""


@contextmanager
def polite_stop() -> Iterator[Callable[[], bool]]:
    """Yields a question "was a stop asked for?"; ctrl-C and SIGTERM answer it with yes."""
    asked: list[int] = []

    def note(number: int, _frame: Any) -> None:
        if asked:  # asked twice: they mean it
            raise KeyboardInterrupt
        asked.append(number)

    old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@dataclass
class Loop:
    """Trains `module` for `budget` seconds, counted over all runs of the same `path`.

    `rate(share)` is the learning rate as a multiple of the optimizer's own, by the share of the
    budget spent; `average` is the decay of the weights' moving average, or None for none.
    """

    name: str
    path: Path
    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    budget: float
    rate: Callable[[float], float]
    average: float | None = None
    step: int = 0
    spent: float = 0.0
    ema: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._base = [group["lr"] for group in self.optimizer.param_groups]
        found = checkpoint.load(self.path)
        if found:
            tensors, facts = found
            self.module.load_state_dict(checkpoint.under("module/", tensors))
            checkpoint.restore_optimizer(self.optimizer, checkpoint.under("optimizer/", tensors))
            self.step, self.spent = int(facts["step"]), float(facts["spent"])
            self.ema = checkpoint.under("ema/", tensors)
        if self.average is not None and not self.ema:
            self.ema = {k: v.detach().clone() for k, v in self.module.state_dict().items()}

    def save(self) -> None:
        """Write the checkpoint now."""
        tensors = {
            **checkpoint.named("module/", self.module.state_dict()),
            **checkpoint.named("optimizer/", checkpoint.optimizer_tensors(self.optimizer)),
            **checkpoint.named("ema/", self.ema),
        }
        checkpoint.save(self.path, tensors, {"step": self.step, "spent": self.spent})

    def run(
        self,
        loss: Callable[[float], Tensor],
        each: Callable[[], None] | None = None,
        every: float = 180.0,
    ) -> None:
        """Train to the end of the budget; `loss(share)` makes one batch's loss.

        `each` is called about every so many seconds and at the end, and is not counted.
        """
        said = saved = shown = time.monotonic()
        recent = math.nan
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("step {task.fields[step]} loss {task.fields[loss]:.4f}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        with polite_stop() as stop, bar:
            task = bar.add_task(self.name, total=self.budget, step=self.step, loss=recent)
            while self.spent < self.budget:
                began = time.monotonic()
                share = self.spent / self.budget
                warm = min(1.0, (self.step + 1) / _WARM_UP)
                for group, base in zip(self.optimizer.param_groups, self._base, strict=True):
                    group["lr"] = base * warm * self.rate(share)
                value = loss(share)
                self.optimizer.zero_grad(set_to_none=True)
                value.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                self.optimizer.step()
                self.step += 1
                if self.average is not None:
                    decay = min(self.average, (1 + self.step) / (10 + self.step))
                    state = self.module.state_dict()
                    torch._foreach_lerp_(
                        list(self.ema.values()), [state[k] for k in self.ema], 1 - decay
                    )
                now = time.monotonic()
                self.spent += min(now - began, _LONGEST)
                one = float(value.detach())
                recent = one if math.isnan(recent) else 0.98 * recent + 0.02 * one
                if not math.isfinite(one):
                    raise checkpoint.TrainingError(f"{self.name}: the loss is {one}; not saved")
                bar.update(task, completed=self.spent, step=self.step, loss=recent)
                if bar.disable and now - said > 30:
                    said = now
                    print(
                        f"{self.name}: step {self.step}, loss {recent:.4f}, "
                        f"{self.spent:.0f} of {self.budget:.0f} s",
                        file=sys.stderr,
                        flush=True,
                    )
                if stop():
                    self.save()
                    raise InterruptedTrainingError(
                        f"{self.name}: stopped at step {self.step}, all saved"
                    )
                if now - saved > _SAVE_EVERY:
                    self.save()
                    saved = time.monotonic()
                if each and now - shown > every:
                    each()
                    shown = time.monotonic()
        self.save()
        if each:
            each()


def late_decay(share: float) -> float:
    """Constant, then linear to a fiftieth over the last 30 %."""
    return max(0.02, min(1.0, (1 - share) / 0.3))


def cosine(share: float) -> float:
    """Half a cosine, down to a hundredth."""
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
