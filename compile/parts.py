"""Which graphs a model needs, and what goes in and comes out of each; from its JSON files alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compile.exporters.base import Component, DType, ExportError, ExportRequest, TensorSpec
from compile.snapshot import components

_TEXT_ENCODERS = frozenset({"CLIPTextModel", "CLIPTextModelWithProjection"})


@dataclass(frozen=True, slots=True)
class Part:
    """One component at one batch; named tensors in the order of ``compile.exporters.base``."""

    component: Component
    batch: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def name(self) -> str:
        """Unique among a model's parts."""
        return f"{self.component}-{self.batch}"


class ModelShape:
    """A Stable Diffusion 1.x, 2.x or XL model's parts.

    Args:
        folder: in diffusers layout.

    Raises:
        ExportError: a part is missing, or of a kind that is not compiled here.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.classes = components(folder)
        for part, known in (
            ("unet", frozenset({"UNet2DConditionModel"})),
            ("vae", frozenset({"AutoencoderKL"})),
            ("text_encoder", _TEXT_ENCODERS),
            ("text_encoder_2", _TEXT_ENCODERS | {""}),
        ):
            found = self.classes.get(part, "")
            if found not in known:
                raise ExportError(
                    f"--model: model_index.json: {part} is {found or 'missing'};"
                    f" {' or '.join(sorted(known - {''}))} needed"
                )
        self._unet = self._config("unet")
        self._vae = self._config("vae")
        self.size_conditioned = self._unet.get("addition_embed_type") == "text_time"
        if self.size_conditioned != ("text_encoder_2" in self.classes):
            raise ExportError("--model: a UNet with added conditioning needs text_encoder_2")

    @property
    def scale_factor(self) -> int:
        """Pixels per latent cell."""
        return int(2 ** (len(self._vae["block_out_channels"]) - 1))

    def vae_dtype(self, dtype: DType) -> DType:
        """SDXL's VAE overflows in half precision unless its configuration says otherwise."""
        upcast = self.size_conditioned and self._vae.get("force_upcast", True)
        return "float32" if upcast and dtype == "float16" else dtype

    def parts(self, request: ExportRequest) -> list[Part]:
        """Everything that a picture from text needs: text encoders, UNets, VAE decoder.

        Raises:
            ExportError: the size does not suit the model.
        """
        factor = self.scale_factor
        for side in ("height", "width"):
            if getattr(request, side) % factor:
                raise ExportError(
                    f"--{side}: got {getattr(request, side)}; a multiple of {factor} needed"
                )
        texts = [name for name in ("text_encoder", "text_encoder_2") if name in self.classes]
        return [
            *(self._text(name, request.dtype) for name in texts),
            *(self._denoiser(batch, request) for batch in request.batches),
            self._decoder(request),
        ]

    def _text(self, name: str, dtype: DType) -> Part:
        config, tokens = self._config(name), self._tokens(name)
        if config.get("use_attention_mask"):
            raise ExportError(f"--model: {name} wants an attention mask; not supported")
        outputs = [TensorSpec("hidden", (1, tokens, config["hidden_size"]), dtype)]
        if name == "text_encoder_2":
            outputs.append(TensorSpec("pooled", (1, config["projection_dim"]), dtype))
        return Part(
            "text_encoder" if name == "text_encoder" else "text_encoder_2",
            1,
            (TensorSpec("input_ids", (1, tokens), "int64"),),
            tuple(outputs),
        )

    def _denoiser(self, batch: int, request: ExportRequest) -> Part:
        unet, dtype = self._unet, request.dtype
        factor, tokens = self.scale_factor, self._tokens("text_encoder")
        shape = (batch, unet["in_channels"], request.height // factor, request.width // factor)
        inputs = [
            TensorSpec("sample", shape, dtype),
            TensorSpec("timestep", (batch,), "float32"),
            TensorSpec(
                "encoder_hidden_states", (batch, tokens, unet["cross_attention_dim"]), dtype
            ),
        ]
        if self.size_conditioned:
            pooled = self._config("text_encoder_2")["projection_dim"]
            inputs.append(TensorSpec("text_embeds", (batch, pooled), dtype))
            inputs.append(TensorSpec("time_ids", (batch, 6), dtype))
        if unet.get("time_cond_proj_dim"):
            inputs.append(TensorSpec("timestep_cond", (batch, unet["time_cond_proj_dim"]), dtype))
        outputs = (TensorSpec("prediction", (batch, unet["out_channels"], *shape[2:]), dtype),)
        return Part("unet", batch, tuple(inputs), outputs)

    def _decoder(self, request: ExportRequest) -> Part:
        batch, factor, dtype = request.vae_batch, self.scale_factor, self.vae_dtype(request.dtype)
        height, width = request.height, request.width
        latents = (batch, self._vae["latent_channels"], height // factor, width // factor)
        return Part(
            "vae_decoder",
            batch,
            (TensorSpec("latents", latents, dtype),),
            (TensorSpec("pixels", (batch, self._vae["out_channels"], height, width), dtype),),
        )

    def _tokens(self, encoder: str) -> int:
        """To what length the pipeline pads a prompt."""
        name = encoder.replace("text_encoder", "tokenizer") + "/tokenizer_config.json"
        tokens = _read(self._folder / name).get("model_max_length")
        if type(tokens) is not int or tokens > 10_000:  # absent, or transformers' "no limit"
            tokens = self._config(encoder)["max_position_embeddings"]
        return int(tokens)

    def _config(self, part: str) -> dict[str, Any]:
        return _read(self._folder / part / "config.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"--model: {path.parent.name}/{path.name}: {error}") from error
    if not isinstance(config, dict):
        raise ExportError(f"--model: {path.parent.name}/{path.name}: a JSON object needed")
    return config
