"""Command line: ``relkernels info | demo``."""
