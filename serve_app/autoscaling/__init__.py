"""How many replicas each pool gets."""
