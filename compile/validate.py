"""Every graph once against the eager model, in single precision and row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from compile.examples import make_inputs
from compile.exporters.base import (
    CannotRunHereError,
    ExportedGraph,
    Exporter,
    ExportError,
    Progress,
)
from compile.manifest import GraphRecord
from compile.modules import load

# Other inputs than those that the graphs were traced with.
_SEED = 1


def validate(
    exporter: Exporter,
    snapshot: Path,
    target: Path,
    graphs: Sequence[ExportedGraph],
    progress: Progress,
) -> tuple[GraphRecord, ...]:
    """Run every graph and say how far from the eager model it is.

    Rows run one at a time in the eager model: a graph in which a row depends on its neighbours
    does not pass. A graph whose device is not here is recorded as not run.

    Raises:
        ExportError: a graph is farther off than its tolerance, or gives another shape.
    """
    eager = _Eager(snapshot)
    records = []
    for done, graph in enumerate(graphs):
        progress(graph.name, done, len(graphs))
        inputs = make_inputs(graph.inputs, snapshot, _SEED)
        try:
            with torch.no_grad():
                found = exporter.run(snapshot, target, graph, inputs)
        except CannotRunHereError as reason:
            records.append(GraphRecord(graph=graph, not_run=str(reason)))
            continue
        records.append(GraphRecord(graph=graph, error=_error(graph, found, eager, inputs)))
    progress("done", len(graphs), len(graphs))
    return tuple(records)


class _Eager:
    """The reference; keeps one part loaded."""

    def __init__(self, snapshot: Path) -> None:
        self._snapshot = snapshot
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._part: tuple[str, torch.nn.Module] | None = None

    def __call__(
        self, graph: ExportedGraph, inputs: Mapping[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        if self._part is None or self._part[0] != graph.component:
            self._part = None
            module = load(self._snapshot, graph.component, "float32", self._device)
            self._part = (graph.component, module)
        given = [
            x.float() if x.is_floating_point() else x
            for x in (inputs[one.name].to(self._device) for one in graph.inputs)
        ]
        with torch.no_grad():
            rows = [self._part[1](*(x[row : row + 1] for x in given)) for row in range(graph.batch)]
        return [torch.cat(outputs).cpu() for outputs in zip(*rows, strict=True)]


def _error(
    graph: ExportedGraph,
    found: Mapping[str, torch.Tensor],
    eager: _Eager,
    inputs: Mapping[str, torch.Tensor],
) -> float:
    """The largest error over the largest value, of the worst output."""
    worst = 0.0
    # The modules give their outputs in the order of the protocol; a graph may lack the last.
    for spec, reference in zip(graph.outputs, eager(graph, inputs), strict=False):
        output = found[spec.name].float()
        if output.shape != reference.shape:
            raise ExportError(
                f"{graph.name}: {spec.name} is {list(output.shape)}, eager {list(reference.shape)}"
            )
        error = float((output - reference).abs().max() / reference.abs().max())
        if not error <= graph.tolerance:  # NaN too
            raise ExportError(
                f"{graph.name}: {spec.name} is {error:.2g} off the eager model;"
                f" at most {graph.tolerance:g} allowed"
            )
        worst = max(worst, error)
    return worst
