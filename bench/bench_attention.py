"""Attention: the workloads of relkernels.benchmarks.attention."""


def test_attention(race, workload, threads, who):
    race(workload, threads, who)
