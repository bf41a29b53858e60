"""Compiling just in time, where there is no artifact."""

from __future__ import annotations

from collections.abc import Callable

import torch


def compile_module(module: torch.nn.Module) -> Callable[..., tuple[torch.Tensor, ...]]:
    """A module that compiles itself when first called with a shape.

    Each shape gets its own static graph, as in an artifact: few shapes, so torch's limit of graphs
    per function (8) is not met; if it were, that is an error and not a silent fall into eager.
    """
    # Not module.compile(): the pipeline's own part stays eager, for sizes that are not compiled.
    compiled: Callable[..., tuple[torch.Tensor, ...]] = torch.compile(
        module, dynamic=False, fullgraph=True
    )
    return compiled
