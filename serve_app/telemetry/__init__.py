"""Metrics, where operators look for them."""
