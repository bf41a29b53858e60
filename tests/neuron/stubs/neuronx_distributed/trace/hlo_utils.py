"""Stand-in: a name that optimum-neuron looks up."""

NXD_LAYOUT_TRANSFORMATION_OPTIONS = "NXD_LAYOUT_TRANSFORMATION_OPTIONS"
