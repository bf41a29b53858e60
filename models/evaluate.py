"""Measure the model: ``python -m models.evaluate [--model DIR] [--count N] [--report FILE]``.

Draws held-out prompts with the stock pipeline, judges every picture with `models.checker` and
writes a markdown report with a standard error for each share.
"""

import argparse
import math
import os
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from models import captions, checker
from models.checkpoint import TrainingError
from models.denoising import save_grid
from models.prompts import GRID
from models.scenes import KINDS, Kind, Picture, Scene, draw_scene, is_held_out
from models.serving import Defaults, read_defaults

EMBEDDED: Final = Path(__file__).parent / "embedded"
GROUPS: Final = ("trained combinations", "held-out combinations", "held-out phrasings")
_BATCH: Final = 16


@dataclass(frozen=True)
class Sample:
    """One prompt to draw, with what it means and the group it counts in."""

    group: str
    prompt: str
    scene: Scene
    seed: int


def load_pipeline(folder: Path) -> Any:
    """The stock `StableDiffusionPipeline` of a model folder, on the CPU, float32, silent."""
    from diffusers import StableDiffusionPipeline

    if not (folder / "model_index.json").is_file():
        raise TrainingError(f"{folder} is no model folder: it has no model_index.json")
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _scene(rng: random.Random, kind: Kind, held_out: bool) -> Scene:
    while True:
        scene = draw_scene(rng, kind)
        if is_held_out(scene) == held_out:
            return scene


def samples(count: int, seed: int) -> list[Sample]:
    """About `count` prompts, even over groups and kinds of scene; never those of training."""
    rng = random.Random(f"evaluate-{seed}")
    made = []
    for k in range(count):
        group, kind = GROUPS[k % 3], KINDS[k // 3 % 4]
        scene = _scene(rng, kind, group == "held-out combinations")
        write = captions.held_out_caption if group == "held-out phrasings" else captions.caption
        made.append(Sample(group, write(rng, scene), scene, seed * 1_000_003 + k))
    return made


def draw(pipeline: Any, prompts: list[str], seeds: list[int], defaults: Defaults) -> list[Picture]:
    """One picture per prompt, uint8 [64, 64, 3] each."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    made = pipeline(
        prompts,
        generator=generators,
        num_inference_steps=defaults.num_inference_steps,
        guidance_scale=defaults.guidance_scale,
        width=defaults.width,
        height=defaults.height,
        output_type="np",
    ).images
    return list((np.asarray(made) * 255).round().astype(np.uint8))


Shares = dict[tuple[str, str], list[bool]]


def judge(
    pictures: list[tuple[Sample, Picture]],
) -> tuple[Shares, dict[str, list[bool]], list[float]]:
    """((group, part) to results, shape to results, edge overlaps of right single shapes)."""
    parts: Shares = defaultdict(list)
    shapes: dict[str, list[bool]] = defaultdict(list)
    edges = []
    for sample, picture in pictures:
        scene = sample.scene
        verdict = checker.check(picture, scene)
        for part, right in vars(verdict).items():
            if right is not None:
                parts[sample.group, part].append(right)
        parts[sample.group, f"{scene.kind}: everything"].append(verdict.everything)
        parts[sample.group, "everything"].append(verdict.everything)
        if scene.kind == "single":
            shapes[scene.things[0].shape].append(bool(verdict.shape))
            if verdict.shape:
                edges.append(checker.edge_quality(picture, scene))
    return parts, shapes, edges


def share(results: list[bool]) -> str:
    """ "98.2 ± 0.7 (n 340)" in percent, with the binomial standard error.

    Where all or none are right the error is that of one more picture going the other way.
    """
    n = len(results)
    if not n:
        return "–"
    right = sum(results)
    p = right / n
    q = min(max(right, 1), n - 1) / n if n > 1 else 0.5
    return f"{100 * p:.1f} ± {100 * math.sqrt(q * (1 - q) / n):.1f} (n {n})"


def tables(parts: Shares, shapes: dict[str, list[bool]], edges: list[float]) -> list[str]:
    """The report's markdown tables."""
    names = list(dict.fromkeys(part for _, part in parts))
    lines = ["| part | " + " | ".join(GROUPS) + " | all |", "|" + "---|" * (len(GROUPS) + 2)]
    for name in names:
        cells = [parts.get((group, name), []) for group in GROUPS]
        whole = [right for cell in cells for right in cell]
        lines.append(f"| {name} | " + " | ".join(map(share, [*cells, whole])) + " |")
    lines += ["", "| single shape | right |", "|---|---|"]
    lines += [f"| {name} | {share(results)} |" for name, results in sorted(shapes.items())]
    if edges:
        low = sorted(edges)[len(edges) // 10]
        middle = statistics.median(edges)
        lines += [
            "",
            f"Edges: overlap with the perfect drawing, median {middle:.3f}, tenth percentile "
            f"{low:.3f} (n {len(edges)}, right single shapes).",
        ]
    return lines


def _drawn(
    pipeline: Any, batch: list[Sample], defaults: Defaults, say: Callable[[int], None]
) -> list[tuple[Sample, Picture]]:
    made: list[tuple[Sample, Picture]] = []
    for k in range(0, len(batch), _BATCH):
        some = batch[k : k + _BATCH]
        pictures = draw(pipeline, [s.prompt for s in some], [s.seed for s in some], defaults)
        made += zip(some, pictures, strict=True)
        say(len(made))
    return made


def _speed(pipeline: Any, defaults: Defaults) -> str:
    times = []
    for k in range(9):
        began = time.perf_counter()
        draw(pipeline, [GRID[k]], [k], defaults)
        times.append(time.perf_counter() - began)
    return (
        f"Seconds per picture alone, {torch.get_num_threads()} threads, median of {len(times) - 1}:"
        f" {statistics.median(times[1:]):.3f}."
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m models.evaluate", description=__doc__)
    made.add_argument("--model", type=Path, default=EMBEDDED)
    made.add_argument("--count", type=int, default=1008, help="prompts per number of steps")
    made.add_argument("--steps", type=int, nargs="*", help="steps (default: the model's own, 20)")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--report", type=Path, help="markdown file to write (default: print)")
    made.add_argument("--sheet", type=Path, help="PNG of the 32 example prompts to write")
    return made


def report(options: argparse.Namespace) -> str:
    """The whole report, markdown."""
    defaults = read_defaults(options.model)
    pipeline = load_pipeline(options.model)
    if options.sheet:
        save_grid(options.sheet, np.stack(draw(pipeline, list(GRID), [7] * len(GRID), defaults)))
    lines = []
    for steps in options.steps or (defaults.num_inference_steps, 20):
        chosen = defaults.with_steps(steps)

        def say(done: int, steps: int = steps) -> None:
            print(f"\r{steps} steps: {done} of {options.count}", end="", file=sys.stderr)

        made = _drawn(pipeline, samples(options.count, options.seed), chosen, say)
        print(file=sys.stderr)
        lines += [f"### {steps} steps, guidance {chosen.guidance_scale:g}", ""]
        lines += [*tables(*judge(made)), ""]
    lines.append(_speed(pipeline, defaults))
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0, 1 (cannot) or 130 (stopped)."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    try:
        if options.count < 1:
            raise TrainingError("--count must be greater than 0")
        if options.report and not options.report.parent.is_dir():
            raise TrainingError(f"there is no folder {options.report.parent} for --report")
        text = report(options)
        if options.report:
            options.report.write_text(text)
        else:
            print(text)
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
