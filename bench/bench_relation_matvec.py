"""Matrix-free products: the workloads of relkernels.benchmarks.relation_matvec."""


def test_relation_matvec(race, workload, threads, who):
    race(workload, threads, who)
