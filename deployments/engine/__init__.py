"""The step-level batching engine."""
