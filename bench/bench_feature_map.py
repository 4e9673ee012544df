"""Feature maps: the workloads of relkernels.benchmarks.feature_map."""


def test_feature_map(race, workload, threads, who):
    race(workload, threads, who)
