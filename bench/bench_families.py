"""Every workload of relkernels.benchmarks; for one family: `pytest bench/bench_families.py -k retrieve`."""


def test_workload(race, workload, threads, who):
    race(workload, threads, who)
