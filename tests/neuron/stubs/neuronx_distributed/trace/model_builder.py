"""Stand-in: names that optimum-neuron imports."""


class BaseModelInstance:
    """Base of models that are built with tensor parallelism; none is here."""


class ModelBuilder:
    """Builds those."""
