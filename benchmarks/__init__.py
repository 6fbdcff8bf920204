"""Measurements: each module prints what it measured, and `python -m benchmarks` runs them in turn."""
