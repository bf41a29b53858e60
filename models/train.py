"""Make the model: ``python -m models.train --out DIR --minutes N``.

The stages are scenes and text (side by side), then decoder and unet (side by side), then
export. Each keeps its checkpoint in DIR, so the same command goes on where an earlier one stopped;
a larger --minutes trains on. Two CPU threads are used in all.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from models import (
    captions,
    checkpoint,
    corpus,
    decoding,
    denoising,
    export,
    language,
    tokenizer,
)
from models.checkpoint import TrainingError
from models.loop import InterruptedTrainingError

STAGES: Final = ("scenes", "text", "decoder", "unet", "export")
_INTERRUPTED: Final = 130  # the shells' exit status for ctrl-C


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m models.train", description=__doc__)
    made.add_argument("--out", type=Path, required=True, help="folder for checkpoints and samples")
    made.add_argument("--minutes", type=float, default=40.0, help="training time over all runs")
    made.add_argument("--pictures", type=int, default=96_000, help="how many to train on")
    made.add_argument(
        "--wobble", type=int, default=2, help="pixels that things may lie off their usual place"
    )
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--init", type=Path, help="model folder to go on from (models/embedded)")
    made.add_argument("--export", type=Path, help="model folder to write (default: OUT/model)")
    made.add_argument("--stage", choices=("all", *STAGES), default="all", help="only this stage")
    return made


def _shares(minutes: float) -> dict[str, float]:
    """Seconds per timed stage; unet gets what the ones before it leave."""
    total = 60 * minutes
    text = min(0.08 * total, 360.0)
    return {"text": text, "decoder": min(0.4 * total, 1500.0), "unet": total - text}


def prepare(out: Path, init: Path | None) -> None:
    """Make the folder and, where training starts from a model folder, take over its parts."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".write-test"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise TrainingError(f"cannot write to --out {out}: {error}") from error
    if init is None:
        return
    needed = ("latents.safetensors", "unet", "vae", "text_encoder", "tokenizer")
    missing = [name for name in needed if not (init / name).exists()]
    if missing:
        raise TrainingError(f"--init {init} is no model folder of this program: no {missing[0]}")
    if (out / "text.safetensors").exists():
        return
    from transformers import CLIPTextModel

    words = tokenizer.load(init / "tokenizer")
    strangers = [w for w in captions.words() if len(words(w).input_ids) != 3]
    if strangers:
        raise TrainingError(
            f"the captions have words that --init {init} was not trained on "
            f"({', '.join(strangers[:5])}); train without --init"
        )
    shutil.copytree(init / "tokenizer", out / "tokenizer", dirs_exist_ok=True)
    encoder = CLIPTextModel.from_pretrained(str(init / "text_encoder")).float()
    own = language.new_encoder(words)
    own.load_state_dict(encoder.state_dict())
    weights = checkpoint.named("module/encoder.", own.state_dict())
    checkpoint.save(out / "text.safetensors", weights, {"step": 0, "spent": 0, "taken": True})


def _taken(out: Path) -> bool:
    """Whether the text encoder came from --init and is not to be trained."""
    found = checkpoint.load(out / "text.safetensors")
    return bool(found and found[1].get("taken"))


def run_stage(stage: str, options: argparse.Namespace) -> None:
    """One stage, in this process."""
    out, seconds, init = options.out, _shares(options.minutes), options.init
    if stage == "scenes":
        basis = corpus.load_basis(init / "latents.safetensors") if init else None
        corpus.build(out, options.pictures, options.seed, basis, options.wobble)
    elif stage == "text":
        if not _taken(out):
            language.train(out, seconds["text"], options.seed)
    elif stage == "decoder":
        decoding.train(out, seconds["decoder"], options.seed, init)
    elif stage == "unet":
        denoising.train(out, seconds["unet"], options.seed, init)
    else:
        export.export(out, options.export or out / "model")


def _start(stage: str, options: argparse.Namespace) -> "subprocess.Popen[bytes]":
    """The same command for one stage in a process beside this one; it logs to OUT/STAGE.log."""
    command = [sys.executable, "-m", "models.train", "--stage", stage, "--out", str(options.out)]
    command += ["--minutes", str(options.minutes), "--pictures", str(options.pictures)]
    command += ["--seed", str(options.seed), "--wobble", str(options.wobble)]
    if options.init:
        command += ["--init", str(options.init)]
    with (options.out / f"{stage}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - our own words


def _wait(stage: str, process: "subprocess.Popen[bytes]", out: Path) -> None:
    code = process.wait()
    if code == _INTERRUPTED:
        raise InterruptedTrainingError(f"stage {stage} was stopped; all saved")
    if code:
        log = (out / f"{stage}.log").read_text(errors="replace").splitlines()
        raise TrainingError(f"stage {stage} failed: {log[-1] if log else f'exit status {code}'}")


def _beside(helper: str, main: str, options: argparse.Namespace) -> None:
    """Run two stages side by side; if one fails or is stopped, so is the other, saving its work."""
    process = _start(helper, options)
    try:
        run_stage(main, options)
        _wait(helper, process, options.out)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 0, 1 (cannot), or 130 (stopped, all saved)."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(1)
    try:
        if options.minutes <= 0 or options.pictures < 1:
            raise TrainingError("--minutes and --pictures must be greater than 0")
        prepare(options.out, options.init)
        if options.stage != "all":
            run_stage(options.stage, options)
            return 0
        _beside("scenes", "text", options)
        _beside("decoder", "unet", options)
        run_stage("export", options)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (InterruptedTrainingError, KeyboardInterrupt) as error:
        print(f"{error or 'stopped'}. Run the same command to go on.", file=sys.stderr)
        return _INTERRUPTED
    print(f"the model is in {options.export or options.out / 'model'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
