"""What ``kubectl apply -k`` would apply, as ``kubectl kustomize`` renders it."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.kuberay.manifest import Manifest, Object

ROOT = Path(__file__).resolve().parents[2]
KUBERAY = ROOT / "kuberay"
EXAMPLE = Path(__file__).with_name("example.yaml")


@functools.cache
def roots() -> list[Path]:
    """Folders made to be applied: kustomizations that no other one takes in."""
    found, taken = set(), set()
    for path in KUBERAY.rglob("kustomization.yaml"):
        read = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        for entry in [*read.get("resources", []), *read.get("components", [])]:
            taken.add((path.parent / entry).resolve())
        if read.get("kind", "Kustomization") == "Kustomization":
            found.add(path.parent)
    return sorted(found - taken)


def overlays() -> list[str]:
    """Overlays, each a whole system, by their folder's name."""
    return sorted(path.parent.name for path in KUBERAY.glob("overlays/*/kustomization.yaml"))


def additions() -> list[str]:
    """What is applied besides an overlay: Jobs and the like, by their path under ``kuberay/``."""
    rest = (str(path.relative_to(KUBERAY)) for path in roots())
    return [path for path in rest if not path.startswith("overlays/")]


def kubectl() -> str | None:
    """The kubectl of the development dependencies, or else one that the machine has."""
    beside = Path(sys.executable).with_name("kubectl")
    return str(beside) if beside.is_file() else shutil.which("kubectl")


@functools.cache
def build(path: str) -> Manifest:
    """Build the folder ``path`` under ``kuberay/``.

    Raises:
        RuntimeError: kubectl refuses it; the message is kubectl's.
    """
    command = kubectl()
    assert command, "no kubectl"
    built = subprocess.run(
        [command, "kustomize", str(KUBERAY / path)], capture_output=True, text=True, check=False
    )
    if built.returncode:
        raise RuntimeError(f"kubectl kustomize {path}: {built.stderr}")
    return _manifest(list(yaml.load_all(built.stdout, yaml.CSafeLoader)), path)


def overlay(name: str) -> Manifest:
    """One overlay; see ``build``."""
    return build(f"overlays/{name}")


@functools.cache
def with_addition(path: str, base: str = "eks-all") -> Manifest:
    """An addition on top of the overlay that has every family."""
    objects = list(overlay(base).objects)
    return Manifest(objects + [o for o in build(path).objects if o not in objects], path)


@functools.cache
def example() -> Manifest:
    """The small sound manifest beside this file."""
    return _manifest(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")), "example")


def _manifest(objects: list[Object], name: str) -> Manifest:
    """As JSON, so that what an anchor repeats is not one and the same object."""
    return Manifest(json.loads(json.dumps(objects)), name)
