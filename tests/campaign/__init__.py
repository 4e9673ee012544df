"""Random good and bad calls of every public operation, in child processes: see CONTRIBUTING.md."""
