"""The command line: what it takes, checked before anything is loaded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from compile.exporters.base import Accelerator, DType

COMMANDS = ("list", "show", "verify", "prune", "publish")
_DTYPES: dict[str, DType] = {"cpu": "float32", "cuda": "bfloat16", "neuron": "float32"}


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """``python -m compile …``; ``command`` is ``compile`` or one of ``COMMANDS``.

    Raises:
        SystemExit: after printing what is wrong.
    """
    if argv and argv[0] in COMMANDS:
        return _registry_parser().parse_args(argv)
    arguments = _compile_parser().parse_args(argv)
    arguments.command = "compile"
    if arguments.dtype is None:
        arguments.dtype = _DTYPES[arguments.accelerator]
    return arguments


def _compile_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m compile",
        description="Compile a model for one kind of accelerator and publish the artifact.",
        epilog=f"Artifacts: python -m compile {{{','.join(COMMANDS)}}} --help",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, help="'embedded', a folder, or a Hugging Face id")
    add("--revision", help="commit, tag or branch; required for a Hugging Face id")
    add("--accelerator", required=True, choices=get_args(Accelerator))
    add("--height", required=True, type=_positive, help="pixels")
    add("--width", required=True, type=_positive, help="pixels")
    add(
        "--batch",
        required=True,
        type=_batches,
        help="rows of the UNet's graphs, one graph each: 2,4,8 (a guided picture takes two rows)",
    )
    add("--vae-batch", type=_positive, default=1, help="pictures decoded at once (default 1)")
    add("--dtype", choices=get_args(DType), help="default: float32 on cpu, else bfloat16")
    add(
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="NAME=VALUE",
        help="of the accelerator's exporter; repeat for more",
    )
    add("--lora", metavar="SOURCE", help="fuse this LoRA adapter (neuron): a folder or a hub id")
    add("--lora-revision", help="commit or tag; required for a hub id")
    add("--lora-weight-name", help="its .safetensors file; required for a hub id")
    add("--lora-scale", type=float, default=1.0, help="factor of its effect (default 1)")
    add("--cache-bundle", action="store_true", help="add torch's compile cache (cpu, cuda)")
    add("--out", type=Path, help="keep the build in this folder, which must be empty")
    add("--publish", metavar="WHERE", help="registry: a folder or a hub repository (owner/name)")
    return parser


def _registry_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m compile", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.add_argument("registry", help="a folder or a hub repository (owner/name)")
        return made

    command("list", "Name every artifact of a registry.")
    command("show", "Show what an artifact says of itself.").add_argument("tag")
    verify = command("verify", "Fetch artifacts, check every file, and say whether they run here.")
    verify.add_argument("tag", nargs="*", help="default: all")
    prune = command("prune", "Remove superseded artifacts and what interrupted uploads left.")
    prune.add_argument("--keep", type=_positive, default=1, help="newest of each kind that stay")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")
    command("publish", "Publish a build kept with --out.").add_argument("build", type=Path)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text}; at least 1 needed")
    return value


def _batches(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({_positive(one) for one in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}; numbers like 2,4,8 needed") from None


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"got {text!r}; NAME=VALUE needed")
    return name, value
