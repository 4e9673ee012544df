"""A cluster of two worker processes: one is killed, data exceed their memory, threads, maps.

Takes about 20 seconds; CI runs this file once, with Dask installed (see .ci/run).
"""

import os
import signal
import time

import numpy as np
import pytest
import relkernels as rk

dask = pytest.importorskip("dask", reason="Dask is not installed")
distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")

import dask.array as da  # noqa: E402
import relkernels.dask as rd  # noqa: E402

LIMIT = 320 << 20  # bytes per worker
ROWS, DIM = 2_800_000, 64


@pytest.fixture(scope="module")
def client():
    with (
        dask.config.set({"distributed.worker.memory.terminate": 0.95}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=LIMIT, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file of keys larger than the memory of both workers."""
    path = tmp_path_factory.mktemp("keys") / "keys.npy"
    keys = np.lib.format.open_memmap(path, "w+", np.float32, (ROWS, DIM))
    rng = np.random.default_rng(0)
    for first in range(0, ROWS, 100_000):
        keys[first : first + 100_000] = rng.random((100_000, DIM), dtype=np.float32) - np.float32(0.5)
    del keys
    assert os.path.getsize(path) > 2 * LIMIT
    yield path
    path.unlink()


def memory_of(dask_worker):
    """Return the peak memory of the process, and the bytes it spilled to disk."""
    from relkernels.demos.retrieval import peak_memory

    counts = dask_worker.data.cumulative_metrics
    return peak_memory(), sum(n for (what, *_), n in counts.items() if what == "disk-write")


def test_workers_compute_with_a_thread_for_each_task(client):
    assert set(client.run(rk.get_num_threads).values()) == {1}


def test_data_larger_than_the_memory_of_the_workers(client, large, rng):
    client.wait_for_workers(2)
    keys = rd.from_npy(large, rows=32_768)
    q = rng.standard_normal((96, DIM), dtype=np.float32)
    phi = rk.MLP.random([DIM, 32], seed=1)
    queries = da.from_array(q, chunks=(48, DIM))
    v = keys[:, :2]
    values, indices = dask.compute(*rd.retrieve(queries, keys, 7, phi))
    # Two arrays from one source: Dask creates its blocks in separate tasks, and keeps them for all rows.
    sums = rd.relation_matvec(queries, keys, v, phi, link="relu").compute()
    for worker, (peak, written) in client.run(memory_of).items():
        assert peak < LIMIT, worker
        assert written == 0, worker
    expected = rk.retrieve_blocks(q, rk.NpyBlocks(large), 7, phi)
    np.testing.assert_array_equal(values, expected[0])
    np.testing.assert_array_equal(indices, expected[1])
    whole = np.load(large, mmap_mode="r")
    reference = rk.relation_matvec(q, whole, whole[:, :2], phi, link="relu")
    assert np.linalg.norm(sums - reference) <= 5e-6 * np.linalg.norm(reference)


def test_ridge_regression_on_data_larger_than_memory(client, large):
    client.wait_for_workers(2)
    x = rd.from_npy(large, rows=32_768)[:, :8]
    y = (x[:, 0] - 2 * x[:, 1]).astype(np.float64)
    features = rk.MultiLayerRandomFeatures((32,), "identity", random_state=0)
    model = rd.fit(rk.RandomFeatureRidge(features, alpha=1e-6), x, y)
    for worker, (peak, written) in client.run(memory_of).items():
        assert peak < LIMIT, worker
        assert written == 0, worker
    here = np.load(large, mmap_mode="r")[:1000, :8]
    np.testing.assert_allclose(model.predict(here), here[:, 0] - 2 * here[:, 1], atol=1e-5)


def test_maps_travel_once_to_a_worker(client, rng):
    client.wait_for_workers(2)

    def count_maps():
        import relkernels

        rebuilt, make = [], relkernels.MLP.__init__
        relkernels.MLP.__init__ = lambda *arguments: (rebuilt.append(1), make(*arguments))[1]
        relkernels.MLP._rebuilt = rebuilt

    def rebuilt():
        import relkernels

        return len(relkernels.MLP._rebuilt)

    client.run(count_maps)
    phi, psi = rk.MLP.random([8, 64, 4], seed=1), rk.MLP.random([8, 64, 4], seed=2)
    x, y = (da.from_array(rng.random((n, 8), dtype=np.float32), chunks=(50, 8)) for n in (200, 2000))
    dask.compute(rd.retrieve(x, y, 3, phi, psi), rd.relation_matrix(x, y, phi, psi))
    counts = client.run(rebuilt).values()
    assert 1 <= max(counts) <= 2  # of the two maps, in 160 + 160 + 44 tasks


def test_a_worker_killed_on_the_way_changes_nothing(client, rng):
    client.wait_for_workers(2)
    before = client.run(os.getpid)
    q, keys, v = (rng.standard_normal((n, 8), dtype=np.float32) for n in (200, 12_000, 12_000))

    def slowly(block):
        time.sleep(0.05)
        return block

    source = da.from_array(keys, chunks=(200, 8)).map_blocks(slowly, meta=np.empty((0, 0), np.float32))
    lazy = [*rd.retrieve(q, source, 20), rd.attention(q, source, v)]
    futures = client.compute(lazy)

    def done(dask_scheduler):
        return sum(
            task.state in ("memory", "released") and bool(task.who_has)
            for task in dask_scheduler.tasks.values()
        )

    deadline = time.monotonic() + 30
    while client.run_on_scheduler(done) < 15 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(future.done() for future in futures)
    pid = next(iter(before.values()))
    os.kill(pid, signal.SIGKILL)
    values, indices, out = client.gather(futures)
    client.wait_for_workers(2, timeout=30)
    assert pid not in client.run(os.getpid).values()
    expected_values, expected_indices = rk.retrieve(q, keys, 20)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(indices, expected_indices)
    expected = rk.attention(q, keys, v)
    assert np.linalg.norm(out - expected) <= 5e-6 * np.linalg.norm(expected)
