"""Command line: ``relkernels info | demo | reproduce``."""
