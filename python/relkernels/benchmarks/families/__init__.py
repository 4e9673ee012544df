"""One module for each family of workloads; each has a list `WORKLOADS`."""
