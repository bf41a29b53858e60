"""What optimum-neuron's exporter takes from around it, and leaves behind in the process."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compile.exporters.base import ExportError, Progress
from compile.neuron.graphs import TARGETS

# Lowerings that optimum-neuron's attention for Stable Diffusion is written for.
LOWERINGS = {"NEURON_FUSE_SOFTMAX": "1", "NEURON_CUSTOM_SILU": "1"}
# Would add to the compiler's flags unseen, or take graphs from a cache.
_UNSET = ("NEURON_CC_FLAGS", "NEURON_COMPILE_CACHE_URL", "CUSTOM_CACHE_REPO")
# optimum-neuron tells a part by words in its path, and gives it the flags of all it finds there.
_TELLING = ("text_encoder", "unet", "vae", "transformer", "controlnet", "lcm", "latent-consistency")


@contextmanager
def set_environment(instance_type: str) -> Iterator[None]:
    """What optimum-neuron and the compiler read from the environment, and nothing else."""
    wanted = {**LOWERINGS, "NEURON_PLATFORM_TARGET_OVERRIDE": TARGETS[instance_type]}
    before = {name: os.environ.get(name) for name in (*wanted, *_UNSET)}
    for name in _UNSET:
        os.environ.pop(name, None)
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def neutral_folder() -> Iterator[Path]:
    """A temporary folder whose path holds no word by which optimum-neuron tells parts.

    Raises:
        ExportError: the folder for temporary files has such a path.
    """
    base = Path(tempfile.gettempdir())
    if told := next((word for word in _TELLING if word in str(base).lower()), None):
        raise ExportError(f"TMPDIR: {base} holds the word {told!r}; choose another folder")
    # Digits alone: letters drawn at random could spell one of them.
    folder = base / f"neuron-{uuid.uuid4().int}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def observed_traces(progress: Progress, total: int) -> Iterator[dict[str, str]]:
    """Tell of each graph as it is done; yields the compiler's flags by component, as passed."""
    convert: Any = importlib.import_module("optimum.exporters.neuron.convert")
    original, flags = convert.trace_neuronx, dict[str, str]()

    def observed(**arguments: Any) -> None:
        original(**arguments)
        name = Path(arguments["output"]).parent.name
        flags[name] = re.sub(r"\s+", " ", arguments["compiler_args"]).strip()
        progress(name, len(flags), total)

    convert.trace_neuronx = observed
    try:
        yield flags
    finally:
        convert.trace_neuronx = original


@contextmanager
def attention_restored() -> Iterator[None]:
    """optimum-neuron replaces diffusers' attention in the whole process: put it back."""
    from diffusers.models.attention_processor import Attention

    original = Attention.get_attention_scores
    try:
        yield
    finally:
        Attention.get_attention_scores = original
