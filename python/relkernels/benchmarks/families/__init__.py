"""One module per family of workloads; each has a list `WORKLOADS`."""
