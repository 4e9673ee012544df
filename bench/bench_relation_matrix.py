"""Relation matrices: the workloads of relkernels.benchmarks.relation_matrix."""


def test_relation_matrix(race, workload, threads, who):
    race(workload, threads, who)
