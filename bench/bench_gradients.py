"""Gradients: the workloads of relkernels.benchmarks.gradients."""


def test_gradients(race, workload, threads, who):
    race(workload, threads, who)
