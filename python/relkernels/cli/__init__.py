"""Command line: ``relkernels info | demo | bench | reproduce``."""
