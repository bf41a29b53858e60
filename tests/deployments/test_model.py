"""What may be loaded, what is refused, and what the front door learns from JSON alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.model import _check_parts, load_pipeline
from deployments.model_info import ModelError, content_hash, load_model_info, local_folder
from tests.deployments.tiny_models import Kind

ModelFolder = Callable[[Kind], Path]


@pytest.fixture
def folder(tmp_path: Path, model_folder: ModelFolder) -> Path:
    """A model of its own for the test to spoil."""
    return Path(shutil.copytree(model_folder("sd1"), tmp_path / "model"))


def change(path: Path, **fields: Any) -> None:
    data = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps(data), encoding="utf-8")


def test_local_folder_with_diffusers_defaults(folder: Path) -> None:
    info = load_model_info(str(folder), None)
    assert info.name == str(folder)
    assert info.revision == content_hash(folder)
    assert info.size_multiple == 2
    assert (info.defaults.width, info.defaults.height) == (16, 16)
    assert (info.defaults.num_inference_steps, info.defaults.guidance_scale) == (50, 7.5)
    assert info.vocabulary is None


def test_the_lcm_scheduler_bounds_the_steps(model_folder: ModelFolder, tmp_path: Path) -> None:
    shutil.copytree(model_folder("lcm"), tmp_path / "lcm")
    info = load_model_info(str(tmp_path / "lcm"), None)
    assert (info.lcm_by_default, info.lcm_max_steps) == (True, 50)
    assert info.defaults.num_inference_steps == 4
    config = tmp_path / "lcm" / "scheduler" / "scheduler_config.json"
    fields = json.loads(config.read_text(encoding="utf-8")) | {"original_inference_steps": 20}
    config.write_text(json.dumps(fields), encoding="utf-8")
    assert load_model_info(str(tmp_path / "lcm"), None).lcm_max_steps == 20


def test_serving_json_says_what_suits_the_model(folder: Path) -> None:
    serving = {
        "width": 24,
        "height": 32,
        "num_inference_steps": 20,
        "guidance_scale": 3.5,
        "vocabulary": ["Red", "circle"],
    }
    (folder / "serving.json").write_text(json.dumps(serving), encoding="utf-8")
    info = load_model_info(str(folder), None)
    assert (info.defaults.width, info.defaults.height) == (24, 32)
    assert (info.defaults.num_inference_steps, info.defaults.guidance_scale) == (20, 3.5)
    assert info.vocabulary == {"red", "circle"}


@pytest.mark.parametrize(
    ("file", "fields", "named"),
    [
        ("serving.json", {"width": "wide"}, "serving.json: width"),
        ("serving.json", {"width": 17}, "serving.json: width"),
        ("serving.json", {"height": 0}, "serving.json: height"),
        ("serving.json", {"height": True}, "serving.json: height"),
        ("serving.json", {"num_inference_steps": 2.5}, "serving.json: num_inference_steps"),
        ("serving.json", {"guidance_scale": None}, "serving.json: guidance_scale"),
        ("serving.json", {"vocabulary": "red"}, "serving.json: vocabulary"),
        ("serving.json", {"vocabulary": [1]}, "serving.json: vocabulary"),
        (
            "scheduler/scheduler_config.json",
            {"original_inference_steps": 0},
            "scheduler/scheduler_config.json: original_inference_steps",
        ),
        ("unet/config.json", {"sample_size": None}, "unet/config.json: sample_size"),
        ("vae/config.json", {"block_out_channels": []}, "vae/config.json: block_out_channels"),
    ],
)
def test_an_unusable_field_is_named(
    folder: Path, file: str, fields: dict[str, Any], named: str
) -> None:
    if not (folder / file).exists():
        (folder / file).write_text("{}", encoding="utf-8")
    change(folder / file, **fields)
    with pytest.raises(ModelError) as caught:
        load_model_info(str(folder), None)
    assert named in str(caught.value)


def test_missing_and_broken_files_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "vae" / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"vae/config\.json"):
        load_model_info(str(folder), None)
    (folder / "unet" / "config.json").unlink()
    (folder / "vae" / "config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match=r"vae/config\.json: a JSON object"):
        load_model_info(str(folder), None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"model_index\.json"):
        load_model_info(str(tmp_path / "empty"), None)
    with pytest.raises(ModelError, match=r"model\.source: no folder"):
        load_model_info("./not-here", None)


def test_a_hub_model_needs_a_revision() -> None:
    with pytest.raises(ModelError, match=r"model\.revision"):
        load_model_info("someone/something", None)


def test_embedded_lies_beside_the_code() -> None:
    found = local_folder("embedded")
    assert found is not None
    assert found.parts[-2:] == ("models", "embedded")


def test_content_hash_follows_the_content(folder: Path) -> None:
    before = content_hash(folder)
    assert content_hash(folder) == before
    (folder / "serving.json").write_text("{}", encoding="utf-8")
    assert content_hash(folder) != before


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "lcm"])
def test_kinds_load(kind: Kind, model_folder: ModelFolder) -> None:
    pipe = load_pipeline(str(model_folder(kind)), None)
    assert pipe.unet.dtype == torch.float32
    assert getattr(pipe, "safety_checker", None) is None


@pytest.mark.parametrize("kind", ["inpaint", "xl_inpaint"])
def test_inpainting_models_load(kind: Kind, model_folder: ModelFolder) -> None:
    pipe = load_pipeline(str(model_folder(kind)), None)
    assert (pipe.unet.config.in_channels, pipe.vae.config.latent_channels) == (9, 4)


def test_other_editing_unets_are_refused(model_folder: ModelFolder) -> None:
    pipe = load_pipeline(str(model_folder("sd1")), None)
    pipe.unet.register_to_config(in_channels=8)  # as InstructPix2Pix has
    with pytest.raises(ModelError, match="in_channels is 8; needed: 4, or 9 for an inpainting"):
        _check_parts("somewhere", pipe)


def test_other_pipeline_classes_are_refused(folder: Path) -> None:
    change(folder / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(ModelError, match=r"'FluxPipeline'; supported: .*StableDiffusionPipeline"):
        load_pipeline(str(folder), None)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ],
)
def test_pickled_weights_are_refused(folder: Path, part: str, name: str) -> None:
    (folder / part / f"{name}.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.source"):
        load_pipeline(str(folder), None)
    pickled = "pytorch_model.bin" if part == "text_encoder" else f"{name}.bin"
    torch.save({}, folder / part / pickled)
    with pytest.raises(ModelError, match=r"model\.source"):
        load_pipeline(str(folder), None)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_index_is_named(folder: Path, content: str) -> None:
    (folder / "model_index.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=r"model_index\.json"):
        load_pipeline(str(folder), None)


def test_broken_weights_are_refused(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"model\.source"):
        load_pipeline(str(folder), None)


def test_a_model_without_its_text_encoder_is_refused(folder: Path) -> None:
    change(folder / "model_index.json", text_encoder=[None, None])
    with pytest.raises(ModelError, match="text_encoder"):
        load_pipeline(str(folder), None)
