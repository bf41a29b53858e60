"""Settings of what has weights: the model, the safety checker, adapters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from serve_app.validation import Strict

EMBEDDED = "embedded"


class Sourced(Strict):
    """Something with weights.

    Attributes:
        source: where they are.
        revision: hub commit, tag or branch; required for a hub id, refused otherwise.
    """

    source: str = Field(min_length=1)
    revision: str | None = Field(default=None, min_length=1)

    @property
    def kind(self) -> Literal["embedded", "folder", "hub"]:
        """How ``source`` is read."""
        if self.source == EMBEDDED:
            return "embedded"
        if self.source.startswith((".", "/", "~")) or Path(self.source).is_dir():
            return "folder"
        return "hub"

    @model_validator(mode="after")
    def _revision_matches_source(self) -> Self:
        if self.kind == "hub" and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.source):
            raise ValueError(
                f"source {self.source!r} is not 'embedded', an existing folder or a hub id"
                " (owner/name)"
            )
        if self.kind == "hub" and self.revision is None:
            raise ValueError(
                f"revision is required for the hub id {self.source!r}: give a commit or tag, so"
                " that every replica and every restart loads the same weights"
            )
        if self.kind != "hub" and self.revision is not None:
            raise ValueError(
                f"revision {self.revision!r} is only for a hub id; source {self.source!r} is"
                f" {'the embedded model' if self.kind == 'embedded' else 'a local folder'}:"
                " leave revision out"
            )
        return self


class ModelSettings(Sourced):
    """Which model every pool paints with.

    Attributes:
        source: ``"embedded"``, a local folder (absolute, or starting with ``.`` or ``~``), or a
            Hugging Face hub id such as ``"stabilityai/sd-turbo"``.
    """

    source: str = Field(default=EMBEDDED, min_length=1)


class SafetySettings(Sourced):
    """The checker that every picture must pass: a ``StableDiffusionSafetyChecker``.

    Attributes:
        source: folder or hub id that holds the checker and its preprocessor's configuration,
            either in it or, as in a diffusers model, in ``safety_checker`` and
            ``feature_extractor``.
        revision: as of the model.
    """

    @field_validator("source")
    @classmethod
    def _is_elsewhere(cls, value: str) -> str:
        if value == EMBEDDED:
            raise ValueError("the embedded model has no checker; name a folder or a hub id")
        return value


class LoraSettings(Sourced):
    """A LoRA adapter for the model.

    Attributes:
        source: a local folder or a Hugging Face hub id.
        weight_name: its safetensors file there; may be left out for a folder that holds one.
        scale: how strongly it takes effect.
    """

    weight_name: str | None = Field(default=None, min_length=1)
    scale: float = Field(default=1.0, ge=-10, le=10, allow_inf_nan=False)

    @field_validator("source")
    @classmethod
    def _not_embedded(cls, value: str) -> str:
        if value == EMBEDDED:
            raise ValueError("there is no embedded adapter: a folder or a hub id is needed")
        return value

    @field_validator("weight_name")
    @classmethod
    def _safetensors(cls, value: str | None) -> str | None:
        if value is not None and not value.endswith(".safetensors"):
            raise ValueError(f"{value!r} is not a .safetensors file; nothing else is ever read")
        return value

    @model_validator(mode="after")
    def _file_of_a_repository(self) -> LoraSettings:
        if self.kind == "hub" and self.weight_name is None:
            raise ValueError(
                f"weight_name is required for the hub id {self.source!r}: name the file"
            )
        return self
