"""The workloads of relkernels.benchmarks as pytest-benchmark cases, for relkernels and the installed peers.

Each case first checks its result against ours. With `--benchmark-disable` only this check runs, on the
workloads that are small enough.
"""

from functools import lru_cache

import pytest
from relkernels.benchmarks import peers, timing, workloads
from relkernels.benchmarks.workload import OURS, AbsentError
from relkernels.config import get_num_threads


def pytest_generate_tests(metafunc):
    """Parametrise a test of workloads: by workload, then threads, then contestant."""
    if "workload" not in metafunc.fixturenames:
        return
    check_only = metafunc.config.getoption("benchmark_disable")
    threads = [get_num_threads()] if check_only else sorted({1, get_num_threads()})
    cases = [
        pytest.param(workload, n, who, id=f"{workload.name}-{n}-{who}")
        for workload in workloads(quick=check_only)
        for n in threads
        for who in workload.contestants
    ]
    metafunc.parametrize(("workload", "threads", "who"), cases)


@lru_cache(maxsize=1)  # cases of a workload are consecutive
def _data_and_reference(name):
    workload = next(w for w in workloads([name]) if w.name == name)
    data = workload.data()
    for who in workload.contestants:
        try:
            return data, timing.prepare(workload, who, data)[1]
        except AbsentError:
            continue
    pytest.skip("no contestant is here")


@pytest.fixture
def race(benchmark):
    """Check a contestant's result, then time it."""

    def run(workload, threads, who):
        data, reference = _data_and_reference(workload.name)
        with peers.threads(threads):
            try:
                entry, arrays = timing.prepare(workload, who, data)
            except AbsentError as reason:
                pytest.skip(f"{who}: {reason}")
        assert timing.difference(arrays, reference) <= workload.tolerance, f"{who} differs from {OURS}"
        benchmark.group = f"{workload.label()}, {threads} threads"
        with peers.threads(threads):
            benchmark(entry.call)

    return run
