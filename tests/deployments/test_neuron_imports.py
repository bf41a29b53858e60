"""optimum-neuron and AWS' packages are imported in few places, at build time only when used."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEURON = {
    "libneuronxla",
    "neuronx_distributed",
    "neuronxcc",
    "optimum",
    "torch_neuronx",
    "torch_xla",
}
BACKEND = "deployments/backends/neuron.py"
BUILD = ("compile/neuron/", "compile/exporters/neuron.py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level names of imported packages, also of those imported by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (
                one.value.partition(".")[0]
                for one in node.args
                if isinstance(one, ast.Constant) and isinstance(one.value, str)
            )


def sources() -> dict[str, ast.Module]:
    folders = ("serve_app", "deployments", "compile", "models", "loadtest", "benchmarks")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in paths}


def test_neuron_packages_stay_where_they_belong() -> None:
    using = {name for name, tree in sources().items() if NEURON & set(imported(tree))}
    assert {name for name in using if not name.startswith(BUILD)} == {BACKEND}
    assert "compile/exporters/neuron.py" in using


def test_build_time_code_imports_them_only_when_it_uses_them() -> None:
    for name, tree in sources().items():
        if name.startswith(BUILD):
            outside = [
                node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)
            ]
            assert not NEURON & set(imported(ast.Module(outside, []))), name
