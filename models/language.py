"""The text stage: a text encoder that learns to tell what a caption describes."""

import random
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import captions, networks, tokenizer
from models.loop import Loop, cosine
from models.scenes import (
    AXES,
    COLOURS,
    KINDS,
    LANDS,
    POSITIONS,
    SHAPES,
    SIZES,
    TIMES,
    WEATHERS,
    Scene,
    draw_training_scene,
)

_NONE: Final = ("none",)
# Things are given left to right and top to bottom, not in the order of mention: "A right of B" and
# "B left of A" get the same labels, so the text encoder resolves them and the UNet need not.
LABELS: Final[dict[str, tuple[str, ...]]] = {
    "kind": KINDS,
    "count": ("0", "1", "2", "3", "4"),
    "shape": _NONE + SHAPES,
    "colour": _NONE + tuple(COLOURS),
    "second shape": _NONE + SHAPES,
    "second colour": _NONE + tuple(COLOURS),
    "background": _NONE + tuple(COLOURS),
    "size": SIZES,
    "position": tuple(POSITIONS),
    "axis": _NONE + AXES,
    "time": _NONE + TIMES,
    "weather": _NONE + WEATHERS,
    "land": _NONE + LANDS,
    "extra": ("none", "house", "tree", "boat"),
}


def labels(scene: Scene) -> list[int]:
    """The scene's value of each of `LABELS`, as an index."""
    first = scene.things[0] if scene.things else None
    second = scene.things[1] if scene.kind == "relation" else None
    words = {
        "kind": scene.kind,
        "count": str(len(scene.things)),
        "shape": first.shape if first else "none",
        "colour": first.colour if first else "none",
        "second shape": second.shape if second else "none",
        "second colour": second.colour if second else "none",
        "background": scene.background,
        "size": scene.size,
        "position": scene.position,
        "axis": scene.axis,
        "time": scene.time,
        "weather": scene.weather,
        "land": scene.land,
        "extra": scene.extra,
    }
    return [values.index(words[name]) for name, values in LABELS.items()]


class Reader(nn.Module):
    """A text encoder with one linear head per label; the heads are thrown away afterwards."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleList(nn.Linear(networks.WIDTH, len(v)) for v in LABELS.values())

    def forward(self, ids: Tensor, where: Tensor) -> list[Tensor]:
        """Logits per label from the states at positions `where`, int64 [N]."""
        states = self.encoder(input_ids=ids).last_hidden_state
        picked = states[torch.arange(len(ids)), where]
        return [head(picked) for head in self.heads]


def new_encoder(reader: Any) -> Any:
    """An untrained text encoder for this tokenizer."""
    return networks.text_encoder(len(reader), reader.eos_token_id, reader.bos_token_id)


def train(folder: Path, budget: float, seed: int) -> None:
    """Train to `folder`/text.safetensors; the tokenizer goes to `folder`/tokenizer."""
    if not (folder / "tokenizer" / "tokenizer_config.json").exists():
        tokenizer.write(folder / "tokenizer", captions.words())
    words = tokenizer.load(folder / "tokenizer")
    torch.manual_seed(seed)
    model = Reader(new_encoder(words))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.5e-3, betas=(0.9, 0.98), fused=True)
    loop = Loop("text", folder / "text.safetensors", model, optimizer, budget, cosine)
    rng = random.Random(seed + loop.step)

    def loss(_share: float) -> Tensor:
        ids, target = batch(rng, words, 64)
        end = (ids == words.eos_token_id).int().argmax(1)
        # Most places are padding; it is cheaper to see the last of them only now and then.
        width = tokenizer.LENGTH if rng.random() < 0.2 else int(end.max()) + 2
        ids = ids[:, :width]
        # Half from the end mark, half from a random place after it: cross-attention sees both.
        later = end + (torch.rand(len(ids)) * (width - end)).long()
        where = torch.where(torch.rand(len(ids)) < 0.5, end, later)
        parts = [
            functional.cross_entropy(logits, target[:, k])
            for k, logits in enumerate(model(ids, where))
        ]
        return torch.stack(parts).mean()

    loop.run(loss)


def batch(rng: random.Random, words: Any, size: int, held_out: bool = False) -> tuple[Any, Any]:
    """Token ids int64 [size, 32] and labels int64 [size, 14] of fresh scenes."""
    write = captions.held_out_caption if held_out else captions.caption
    texts, target = [], []
    for _ in range(size):
        scene = draw_training_scene(rng)
        text = write(rng, scene)
        if not held_out and rng.random() < 0.1:
            text = captions.with_stranger(rng, text)
        texts.append(text)
        target.append(labels(scene))
    return tokenizer.encode(words, texts), torch.tensor(target)


@torch.no_grad()
def encode(encoder: Any, words: Any, texts: list[str]) -> Tensor:
    """Hidden states float32 [N, 32, 128], the longest run in blocks of 256."""
    encoder.eval()
    blocks = [
        encoder(input_ids=tokenizer.encode(words, texts[k : k + 256])).last_hidden_state
        for k in range(0, len(texts), 256)
    ]
    return torch.cat(blocks)


def load_trained(folder: Path) -> tuple[Any, Any]:
    """(text encoder, tokenizer) as `train` left them."""
    from models import checkpoint

    words = tokenizer.load(folder / "tokenizer")
    encoder = new_encoder(words)
    found = checkpoint.load(folder / "text.safetensors")
    if found is None:
        raise checkpoint.TrainingError(f"{folder}/text.safetensors is missing: run stage 'text'")
    encoder.load_state_dict(checkpoint.under("module/encoder.", found[0]))
    return encoder.eval(), words


class States:
    """The hidden states of captions, each computed when first asked for and then kept (float16).

    Training can so begin at once; a full set takes 8 KiB of memory a caption.
    """

    def __init__(self, encoder: Any, words: Any, texts: list[str]) -> None:
        self._encoder, self._words, self._texts = encoder, words, texts
        self._kept = np.empty((len(texts), tokenizer.LENGTH, networks.WIDTH), np.float16)
        self._done = np.zeros(len(texts), np.bool_)

    def __call__(self, rows: Any) -> Tensor:
        """States float32 [len(rows), 32, 128] for row numbers int64 [n]."""
        missing = np.unique(rows[~self._done[rows]])
        if len(missing):
            texts = [self._texts[k] for k in missing]
            self._kept[missing] = encode(self._encoder, self._words, texts).numpy()
            self._done[missing] = True
        return torch.from_numpy(self._kept[rows]).float()


@torch.no_grad()
def accuracy(folder: Path, count: int = 1000, held_out: bool = False) -> dict[str, float]:
    """Share of fresh captions whose label is read right, per label."""
    words = tokenizer.load(folder / "tokenizer")
    model = Reader(new_encoder(words))
    from models import checkpoint

    found = checkpoint.load(folder / "text.safetensors")
    if found is None:
        raise checkpoint.TrainingError(f"{folder}/text.safetensors is missing: run stage 'text'")
    model.load_state_dict(checkpoint.under("module/", found[0]))
    ids, target = batch(random.Random(777), words, count, held_out)
    end = (ids == words.eos_token_id).int().argmax(1)
    right = [
        float((logits.argmax(1) == target[:, k]).float().mean())
        for k, logits in enumerate(model.eval()(ids, end))
    ]
    return dict(zip(LABELS, right, strict=True))
