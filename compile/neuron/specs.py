"""What a compiled graph takes and gives, in the words of the exporters' protocol."""

from __future__ import annotations

from pathlib import Path

from compile.exporters.base import Component, ExportedGraph, ExportRequest, TensorSpec
from compile.neuron.graphs import GRAPH_FILE, CompiledPart, read_part

# Relative to the largest value; of bfloat16 matrix products in a deep network, and of none.
_TOLERANCE_CAST, _TOLERANCE_FLOAT32 = 5e-2, 1e-3


def describe_graph(target: Path, name: Component, request: ExportRequest) -> ExportedGraph:
    """The graph of a component in ``target``.

    Raises:
        NeuronGraphError: there is none, or not as asked for.
    """
    part = read_part(target, name)
    inputs, outputs = _SPECS[name](part, request)
    cast = request.options["auto_cast"] != "none"
    return ExportedGraph(
        name=f"{name}-{part.batch}",
        component=name,
        batch=part.batch,
        path=f"{name}/{GRAPH_FILE}",
        inputs=inputs,
        outputs=outputs,
        tolerance=_TOLERANCE_CAST if cast else _TOLERANCE_FLOAT32,
    )


Specs = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


def _text(part: CompiledPart, request: ExportRequest) -> Specs:
    shape = (part.batch, part.tokens or 0)
    outputs = [TensorSpec("hidden", (*shape, part.config["hidden_size"]), "float32")]
    if part.component == "text_encoder_2":
        pooled = (part.batch, part.config["projection_dim"])
        outputs.append(TensorSpec("pooled", pooled, "float32"))
    return (TensorSpec("input_ids", shape, "int64"),), tuple(outputs)


def _unet(part: CompiledPart, request: ExportRequest) -> Specs:
    config, rows = part.config, part.batch
    sample = (rows, config["in_channels"], part.height or 0, part.width or 0)
    inputs = [
        TensorSpec("sample", sample, "float32"),
        TensorSpec("timestep", (rows,), "float32"),
        TensorSpec(
            "encoder_hidden_states",
            (rows, part.tokens or 0, config["cross_attention_dim"]),
            "float32",
        ),
    ]
    if config.get("addition_embed_type") == "text_time":
        # What the embedding takes is the pooled text and six numbers of so many features each.
        six = 6 * config["addition_time_embed_dim"]
        pooled = config["projection_class_embeddings_input_dim"] - six
        inputs.append(TensorSpec("text_embeds", (rows, pooled), "float32"))
        inputs.append(TensorSpec("time_ids", (rows, 6), "float32"))
    return tuple(inputs), (TensorSpec("prediction", sample, "float32"),)


def _decoder(part: CompiledPart, request: ExportRequest) -> Specs:
    latents = (part.batch, part.config["latent_channels"], part.height or 0, part.width or 0)
    pixels = (part.batch, part.config["out_channels"], request.height, request.width)
    return (
        (TensorSpec("latents", latents, "float32"),),
        (TensorSpec("pixels", pixels, "float32"),),
    )


def _encoder(part: CompiledPart, request: ExportRequest) -> Specs:
    pixels = (part.batch, part.config["in_channels"], request.height, request.width)
    factor = 2 ** (len(part.config["block_out_channels"]) - 1)
    moments = (
        part.batch,
        2 * part.config["latent_channels"],
        request.height // factor,
        request.width // factor,
    )
    return (
        (TensorSpec("pixels", pixels, "float32"),),
        (TensorSpec("moments", moments, "float32"),),
    )


_SPECS = {
    "text_encoder": _text,
    "text_encoder_2": _text,
    "unet": _unet,
    "vae_decoder": _decoder,
    "vae_encoder": _encoder,
}
