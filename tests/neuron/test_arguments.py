"""Every argument that optimum-neuron is given exists there: it drops others without a word."""

from __future__ import annotations

import argparse
import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from optimum.commands.export.neuronx import parse_args_neuronx
from optimum.exporters.neuron import convert, main_export, normalize_diffusers_input_shapes
from optimum.neuron import NeuronStableDiffusionPipeline
from optimum.neuron.utils import InputShapesArguments, NeuronArgumentParser

from compile.exporters.base import ExportError, ExportRequest
from compile.neuron import arguments as ours
from compile.neuron.arguments import CHOICES, check_arguments, complete_options, export_arguments

# main_export's name -> the command line's, where they differ.
COMMAND_LINE = {
    "model_name_or_path": "model",
    "inline_weights_to_neff": "inline_weights_neff",
    "do_validation": "disable_validation",
    "submodels": "unet",
    "optlevel": "O2",
    "lora_args": "lora_model_ids",
    "ip_adapter_args": "ip_adapter_id",
}
# What the command line has no word for.
PYTHON_ONLY = {
    "model",
    "revision",
    "force_download",
    "local_files_only",
    "token",
    "library_name",
    "compiler_kwargs",
}


@pytest.fixture(scope="module")
def parser() -> dict[str, argparse.Action]:
    """The real parser's actions by destination."""
    made = argparse.ArgumentParser()
    parse_args_neuronx(made)
    return {action.dest: action for action in made._actions}


def given(**options: str) -> dict[str, Any]:
    request = ExportRequest("neuron", 32, 16, (6,), options=complete_options(options))
    return export_arguments(Path("in"), Path("out"), Path("work"), 77, request)


def test_every_argument_is_passed_and_exists() -> None:
    check_arguments(given(), main_export)
    assert set(ours.SHAPED) == set(
        normalize_diffusers_input_shapes({"batch_size": 1, "height": 8, "width": 8})
    )


@pytest.mark.parametrize("change", [{"disable_neuron_cach": True}, {"disable_neuron_cache": None}])
def test_a_misspelt_or_forgotten_argument_is_refused(change: dict[str, Any]) -> None:
    changed = {k: v for k, v in (given() | change).items() if v is not None or k not in change}
    with pytest.raises(ExportError, match="disable_neuron_cach"):
        check_arguments(changed, main_export)


def test_every_argument_is_one_of_the_real_command_line(parser: dict[str, argparse.Action]) -> None:
    passed = set(given()) - set(ours.SHAPED) - PYTHON_ONLY
    assert {COMMAND_LINE.get(name, name) for name in passed} <= set(parser)
    assert set(given()["compiler_kwargs"]) <= set(parser)


def test_compiler_arguments_are_those_of_the_real_export() -> None:
    taken = set(inspect.signature(convert.export).parameters)
    assert set(given()["compiler_kwargs"]) <= taken
    runtime = set(inspect.signature(NeuronStableDiffusionPipeline._export).parameters)
    assert set(given()["compiler_kwargs"]) <= runtime
    shared = set(given()) & set(inspect.signature(main_export).parameters) & runtime
    assert {"disable_neuron_cache", "inline_weights_to_neff", "optlevel", "torch_dtype"} <= shared


def test_shapes_are_named_as_the_real_shapes(
    parser: dict[str, argparse.Action], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    monkeypatch.setattr(
        "optimum.exporters.neuron.normalize_diffusers_input_shapes",
        lambda shapes: seen.append(set(shapes)) or normalize_diffusers_input_shapes(shapes),
        raising=False,
    )
    given()
    assert seen
    known = {field.name for field in fields(InputShapesArguments)}
    for names in seen:
        assert names <= known
        assert names <= set(parser)


def test_the_library_itself_drops_a_misspelt_shape() -> None:
    """Why all this is checked; when it no longer does, this may go."""
    parsed = NeuronArgumentParser(batch_size=1, heigth=64)
    assert parsed.input_shapes.batch_size == 1
    assert parsed.input_shapes.height is None


def test_choices_are_those_of_the_real_command_line(parser: dict[str, argparse.Action]) -> None:
    for name in ("instance_type", "auto_cast", "auto_cast_type"):
        assert set(parser[name].choices or ()) == set(CHOICES[name]), name
    assert {f"O{level}" for level in CHOICES["optlevel"]} <= set(parser)


def test_the_unet_has_all_rows_and_the_rest_one() -> None:
    arguments = given(auto_cast="none", inline_weights="false", optlevel="3")
    assert arguments["unet_or_transformer"]["batch_size"] == 6
    assert {arguments[name]["batch_size"] for name in ours.SHAPED if "unet" not in name} == {1}
    assert arguments["unet_or_transformer"]["height"] == 32
    assert arguments["unet_or_transformer"]["width"] == 16
    assert arguments["compiler_kwargs"]["auto_cast"] is None
    assert (arguments["inline_weights_to_neff"], arguments["optlevel"]) == (False, "3")
    assert arguments["disable_neuron_cache"] is True


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"autocast": "none"}, "option 'autocast' is unknown; known: instance_type"),
        ({"auto_cast": "matmult"}, "option auto_cast: got 'matmult'; allowed: all, matmul, none"),
        ({"auto_cast": "none", "auto_cast_type": "bf16"}, "auto_cast_type: has no effect"),
    ],
)
def test_bad_options_are_refused(options: dict[str, str], told: str) -> None:
    with pytest.raises(ExportError, match=told):
        complete_options(options)
