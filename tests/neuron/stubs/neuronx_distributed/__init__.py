"""Stand-in: imported by optimum-neuron; nothing of it is used without tensor parallelism."""

from . import parallel_layers, trace  # noqa: F401
