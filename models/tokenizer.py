"""A CLIP tokenizer whose vocabulary is our own words plus single bytes for all others."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

LENGTH: Final = 32
"""Token positions of a prompt, begin and end marks included."""
BEGIN: Final = "<|startoftext|>"
END: Final = "<|endoftext|>"


def byte_letters() -> list[str]:
    """The 256 printable stand-ins that CLIP's byte-level BPE uses for bytes, by byte."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in kept}
    spare = 256
    for b in range(256):
        if b not in table:
            table[b] = chr(spare)
            spare += 1
    return [table[b] for b in range(256)]


def _apply(parts: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair merging as the tokenizer does it: lowest rank first."""
    while len(parts) > 1:
        pairs = [
            (ranks.get((a, b), 1 << 30), i) for i, (a, b) in enumerate(itertools.pairwise(parts))
        ]
        rank, at = min(pairs)
        if rank == 1 << 30:
            break
        parts = [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]
    return parts


def merges_for(words: Iterable[str]) -> list[tuple[str, str]]:
    """Merges under which each (ASCII) word becomes one token.

    Each word is first merged with what earlier words need, so later merges never undo one.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        parts = _apply([*word[:-1], word[-1] + "</w>"], ranks)
        while len(parts) > 1:
            ranks[(parts[0], parts[1])] = len(ranks)
            parts = _apply(parts, ranks)
    return list(ranks)


def write(folder: Path, words: Iterable[str]) -> None:
    """Write vocab.json, merges.txt and the configs that `CLIPTokenizer` of either profile reads."""
    letters = byte_letters()
    merges = merges_for(words)
    entries = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges), BEGIN, END]
    vocabulary = {token: k for k, token in enumerate(dict.fromkeys(entries))}
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": BEGIN,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": LENGTH,
    }
    special = {k: config[k] for k in ("bos_token", "eos_token", "unk_token", "pad_token")}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def load(folder: Path) -> Any:
    """The stock `CLIPTokenizer` of a folder that `write` made."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder))


def encode(tokenizer: Any, texts: list[str]) -> Any:
    """Token ids, int64 [N, LENGTH], padded and cut as the pipeline does it."""
    batch = tokenizer(
        texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    )
    return batch.input_ids
