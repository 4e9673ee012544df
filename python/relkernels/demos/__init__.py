"""The parts of `relkernels demo`: relations learned from real data."""
