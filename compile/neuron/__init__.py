"""AWS Neuron: what optimum-neuron is told, what it makes, and how that is loaded."""
