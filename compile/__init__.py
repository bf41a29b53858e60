"""Build time: a model, compiled once per kind of accelerator, published and found again.

Nothing here imports torch until a graph is exported or run.
"""
