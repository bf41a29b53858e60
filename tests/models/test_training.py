"""The training and evaluation commands: stopped, resumed, refused; nothing is ever lost."""

import json
import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from models import (
    checkpoint,
    corpus,
    denoising,
    encoding,
    evaluate,
    language,
    latents,
    loop,
    networks,
    train,
)
from models.checkpoint import TrainingError
from models.scenes import draw_training_scene, is_held_out, render
from tests.models.test_checker import BASE


def _loop(path: Path, budget: float) -> loop.Loop:
    torch.manual_seed(0)
    module = torch.nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    return loop.Loop("test", path, module, optimizer, budget, loop.late_decay, average=0.9)


def _run(one: loop.Loop, stop_after: int | None = None) -> None:
    def loss(_share: float) -> torch.Tensor:
        if stop_after is not None and one.step >= stop_after:
            signal.raise_signal(signal.SIGTERM)
        time.sleep(0.001)
        return one.module(torch.ones(2, 4)).square().mean()

    one.run(loss)


def test_a_stopped_loop_resumes_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    first = _loop(path, 60.0)
    with pytest.raises(loop.InterruptedTrainingError, match="all saved"):
        _run(first, stop_after=20)
    second = _loop(path, first.spent + 0.05)
    assert (second.step, second.spent) == (first.step, first.spent)
    for name, tensor in first.module.state_dict().items():
        assert torch.equal(tensor, second.module.state_dict()[name])
    for name, tensor in first.ema.items():
        assert torch.equal(tensor, second.ema[name])
    before, after = map(checkpoint.optimizer_tensors, (first.optimizer, second.optimizer))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    _run(second)
    assert second.step > first.step
    assert not list(tmp_path.glob("*.part"))


def test_a_loss_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    one = _loop(tmp_path / "x.safetensors", 60.0)
    with pytest.raises(TrainingError, match="nan"):
        one.run(lambda _share: one.module(torch.full((1, 4), torch.nan)).mean())
    assert not (tmp_path / "x.safetensors").exists()


def test_no_space_leaves_the_old_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.save(path, {"a": torch.ones(3)}, {"step": 1})

    def full(_tensors: object, part: Path, **_: object) -> None:
        Path(part).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(TrainingError, match=r"No space left.*still whole"):
        checkpoint.save(path, {"a": torch.zeros(3)}, {"step": 2})
    found = checkpoint.load(path)
    assert found is not None
    assert found[1] == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"rubbish")
    with pytest.raises(TrainingError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "x.safetensors")
    assert checkpoint.load(tmp_path / "none.safetensors") is None


def test_too_little_space_is_said_before_work(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="MiB free"):
        corpus.need_space(tmp_path, 1 << 60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "greater than 0"),
        (["--init", "/nowhere"], "no model folder"),
        (["--stage", "unet"], "is missing"),
        (["--stage", "export"], "is missing"),
    ],
)
def test_the_train_command_refuses_clearly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert train.main(["--out", str(tmp_path / "out"), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_an_out_that_cannot_be_written_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert train.main(["--out", str(tmp_path / "file" / "out")]) == 1
    assert "cannot write to --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "/nowhere"], "serving.json is missing"),
        (["--count", "0"], "greater than 0"),
        (["--report", "/nowhere/report.md"], "no folder"),
    ],
)
def test_the_evaluate_command_refuses_clearly(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert evaluate.main(arguments) == 1
    assert message in capsys.readouterr().err


def test_linear_latents_are_exact_enough_and_local() -> None:
    torch.manual_seed(0)
    unit = latents.to_unit(torch.from_numpy(np.stack([render(BASE)] * 2)))
    basis = latents.fit(unit + 0.3 * torch.randn_like(unit))
    codes = basis.encode(unit)
    assert codes.shape == (2, 16, 8, 8)
    again = basis.encode(basis.decode(codes))
    assert torch.allclose(codes, again, atol=1e-3)
    assert torch.equal(latents.to_bytes(unit)[0], torch.from_numpy(render(BASE).copy()))


def test_the_encoder_set_by_algebra_computes_the_latents() -> None:
    rng = random.Random(2)
    pictures = np.stack([render(draw_training_scene(rng)) for _ in range(24)])
    unit = latents.to_unit(torch.from_numpy(pictures))
    basis = latents.fit(unit)
    vae = networks.autoencoder()
    encoding.set_encoder(vae, basis)
    with torch.no_grad():
        spread = vae.encode(unit).latent_dist
    assert (spread.mean - basis.encode(unit)).square().mean() < 1e-4
    assert spread.std.max() < 0.01


def test_a_share_states_its_error() -> None:
    assert evaluate.share([True] * 96 + [False] * 4) == "96.0 ± 2.0 (n 100)"
    assert evaluate.share([True] * 100) == "100.0 ± 1.0 (n 100)"
    assert evaluate.share([]) == "–"


def test_evaluation_prompts_are_held_out_and_repeatable() -> None:
    first, again = evaluate.samples(120, 3), evaluate.samples(120, 3)
    assert first == again
    for sample in first:
        assert is_held_out(sample.scene) == (sample.group == "held-out combinations")
    assert {s.group for s in first} == set(evaluate.GROUPS)


def test_labels_do_not_depend_on_the_order_of_mention() -> None:
    values = language.labels(BASE)
    assert len(values) == len(language.LABELS)
    assert all(
        0 <= v < len(names) for v, names in zip(values, language.LABELS.values(), strict=True)
    )


def _stop_once_training() -> None:
    """Send this process ctrl-C as soon as a loop listens for it."""
    while signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.SIG_IGN):
        time.sleep(0.05)
    time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_run_is_resumed_from_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    monkeypatch.setattr(denoising, "_BATCH", 4)
    monkeypatch.setattr(denoising, "GRID", ("a red circle",))
    command = ["--out", str(out), "--pictures", "24", "--init", str(evaluate.EMBEDDED)]
    assert train.main([*command, "--stage", "scenes"]) == 0
    assert len(json.loads((out / "captions.json").read_text())) == 24
    threading.Thread(target=_stop_once_training, daemon=True).start()
    assert train.main([*command, "--minutes", "30", "--stage", "unet"]) == 130
    assert "go on" in capsys.readouterr().err
    found = checkpoint.load(out / "unet.safetensors")
    assert found is not None
    step, spent = found[1]["step"], found[1]["spent"]
    assert step > 0
    minutes = str((spent + 0.5) / 60)
    assert train.main([*command, "--minutes", minutes, "--stage", "unet"]) == 0
    resumed = checkpoint.load(out / "unet.safetensors")
    assert resumed is not None
    assert resumed[1]["step"] > step
    assert list((out / "samples").glob("step-*.png"))
