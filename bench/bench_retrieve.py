"""Retrieval: the workloads of relkernels.benchmarks.retrieve."""


def test_retrieve(race, workload, threads, who):
    race(workload, threads, who)
