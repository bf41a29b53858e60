"""What optimum-neuron's exporter is told: our options, and every argument spelt out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compile.exporters.base import ExportError, ExportRequest

# Allowed values of each option; the first is the default.
CHOICES: dict[str, tuple[str, ...]] = {
    "instance_type": ("inf2", "trn1", "trn1n", "trn2"),
    "auto_cast": ("matmul", "all", "none"),
    "auto_cast_type": ("bf16", "fp16", "tf32"),
    "optlevel": ("2", "1", "3"),
    "inline_weights": ("true", "false"),
}
# Parts of a pipeline that main_export takes the shapes of, under these names.
SHAPED = ("text_encoder", "unet_or_transformer", "vae_encoder", "vae_decoder")


def complete_options(given: Mapping[str, str]) -> dict[str, str]:
    """All options with their values, defaults filled in.

    Raises:
        ExportError: an unknown option or a bad value.
    """
    for name, value in given.items():
        if name not in CHOICES:
            raise ExportError(f"option {name!r} is unknown; known: {', '.join(CHOICES)}")
        if value not in CHOICES[name]:
            allowed = ", ".join(sorted(CHOICES[name]))
            raise ExportError(f"option {name}: got {value!r}; allowed: {allowed}")
    chosen = {name: given.get(name, values[0]) for name, values in CHOICES.items()}
    if chosen["auto_cast"] == "none" and "auto_cast_type" in given:
        raise ExportError("option auto_cast_type: has no effect with auto_cast none")
    return chosen


def export_arguments(
    source: Path, target: Path, work: Path, tokens: int, request: ExportRequest
) -> dict[str, Any]:
    """Every argument of optimum-neuron's ``main_export`` for this request.

    Args:
        source: model folder, at a path that says nothing of parts.
        target: where the graphs go.
        work: for the compiler's intermediate files.
        tokens: length of text.
        request: complete options.
    """
    from optimum.exporters.neuron import normalize_diffusers_input_shapes
    from optimum.neuron.utils import IPAdapterArguments, LoRAAdapterArguments

    def shapes(batch: int) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = normalize_diffusers_input_shapes(
            {
                "batch_size": batch,
                "sequence_length": tokens,
                "height": request.height,
                "width": request.width,
                "num_images_per_prompt": 1,
            }
        )
        return found

    options = request.options
    cast = None if options["auto_cast"] == "none" else options["auto_cast"]
    # One command, two batch sizes: a finished picture must not wait for others to be decoded.
    unet = {"unet_or_transformer": shapes(request.batches[0])["unet_or_transformer"]}
    return {
        "model_name_or_path": str(source),
        "output": target,
        "compiler_kwargs": {
            "auto_cast": cast,
            "auto_cast_type": options["auto_cast_type"],
            "instance_type": options["instance_type"],
        },
        "torch_dtype": request.dtype,
        "tensor_parallel_size": 1,
        "model": None,
        "task": "text-to-image",
        "dynamic_batch_size": False,
        "atol": None,
        "cache_dir": None,
        "disable_neuron_cache": True,
        "compiler_workdir": work,
        "inline_weights_to_neff": options["inline_weights"] == "true",
        "optlevel": options["optlevel"],
        "trust_remote_code": False,
        "subfolder": "",
        "revision": "main",
        "force_download": False,
        "local_files_only": True,
        "token": False,
        "do_validation": False,
        "submodels": None,
        "output_attentions": False,
        "output_hidden_states": False,
        "library_name": "diffusers",
        "controlnet_ids": None,
        "lora_args": LoRAAdapterArguments(),
        "ip_adapter_args": IPAdapterArguments(),
        **shapes(1),
        **unet,
    }


def check_arguments(arguments: Mapping[str, Any], main_export: Callable[..., Any]) -> None:
    """Refuse what ``main_export`` would drop without a word, or fill in by itself.

    Raises:
        ExportError: optimum-neuron takes other arguments than those written down here.
    """
    named = {
        name
        for name, parameter in inspect.signature(main_export).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    wrong = set(arguments) ^ (named | set(SHAPED))
    if wrong:
        raise ExportError(
            "optimum-neuron: main_export's arguments are not those of 0.4.5 (left out or unknown:"
            f" {', '.join(sorted(wrong))}); install the pinned version"
        )
