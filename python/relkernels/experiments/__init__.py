"""Studies on real data that the command line runs."""
