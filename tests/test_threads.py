"""Calls from many threads, after a fork, and interrupted: the pool keeps working, with the same results."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import relkernels as rk
from strategies import mlp, normal
from threadpoolctl import threadpool_info, threadpool_limits


def test_many_python_threads_at_once(rng):
    phi = mlp(rng, [16, 64, 16], np.float32, "gelu")
    x, v = normal(rng, (400, 16), np.float32), normal(rng, (400, 8), np.float32)
    operations = [
        lambda: phi(x),
        lambda: rk.relation_matrix(x, phi=phi),
        lambda: rk.attention(x, x, v, phi),
        lambda: rk.retrieve(x, x, 7, phi)[1],
        lambda: rk.feature_map_vjp(x, phi, x)[1].weights[0],
    ]
    expected = [f() for f in operations]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            futures = [pool.submit(operations[i % 5]) for i in range(40)]
            for i, future in enumerate(futures):
                np.testing.assert_array_equal(future.result(timeout=60), expected[i % 5])


def test_the_first_vjp_of_a_map_from_many_threads(rng):
    """The transposed weights are computed once, at the first gradient."""
    x = normal(rng, (64, 16), np.float32)
    for _ in range(20):
        phi = mlp(rng, [16, 64, 16], np.float32)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(rk.feature_map_vjp, [x] * 4, [phi] * 4, [x] * 4))
        for result in results:
            np.testing.assert_array_equal(result[0], results[0][0])


def test_the_gil_is_released():
    """Another Python thread counts while a call runs."""
    x = np.ones((6000, 64), np.float32)
    count, running = 0, True

    def counter():
        nonlocal count
        while running:
            count += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=counter)
    thread.start()
    time.sleep(0.01)
    before = count
    for _ in range(3):
        rk.attention(x, x, x)
    during = count - before
    running = False
    thread.join()
    assert during > 3


def test_a_forked_child_computes(rng):
    x = normal(rng, (500, 16), np.float32)
    expected = rk.relation_matrix(x)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"y" if np.array_equal(rk.relation_matrix(x), expected) else b"n")
        os._exit(0)
    os.close(write)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the child hangs")
    assert status == 0
    assert os.read(read, 1) == b"y"
    np.testing.assert_array_equal(rk.relation_matrix(x), expected)


@pytest.mark.parametrize(
    "call",
    [
        "rk.attention(x, x, x)",
        "rk.retrieve(x, x, 10)",
        # Slow: the vector's 4 GB are copied before the first product.
        pytest.param(
            "m = 10**9; "
            "rk.relation_matvec(x[:1], np.broadcast_to(x[0], (m, 64)), np.broadcast_to(x[0, 0], m))",
            marks=pytest.mark.slow,
        ),
        "[rk.relation_matrix(x[:6000]) for _ in range(10_000)]",
        "rk.feature_map_vjp(np.broadcast_to(x, (40, *x.shape)), phi, np.broadcast_to(x, (40, *x.shape)))",
        "ids = sparse.csr_array((np.ones(10**7), np.arange(10**7) % 64, np.arange(0, 10**7 + 1, 10)));"
        "wide = rk.MLP.random([64, 1024, 64], dtype='float64'); [wide(ids) for _ in range(1000)]",
    ],
)
@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ctrl_c_stops_a_long_call(call, threads):
    code = f"""
    import signal, sys
    import numpy as np, relkernels as rk
    from scipy import sparse
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    x = np.ones((400_000, 64), np.float32)
    phi = rk.MLP.random([64, 64], random_state=0)
    rk.set_num_threads({threads})
    print("begun", flush=True)
    try:
        {call}
    except KeyboardInterrupt:
        rk.relation_matrix(np.ones((300, 4)))  # still usable
        print("interrupted", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    try:
        rest, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail("the call goes on")
    assert rest == "interrupted\n"


def test_threadpoolctl_reaches_us():
    before = rk.get_num_threads()
    (ours,) = [lib for lib in threadpool_info() if lib["user_api"] == "relkernels"]
    assert ours["num_threads"] == before
    with threadpool_limits(limits=1):
        assert rk.get_num_threads() == 1
    assert rk.get_num_threads() == before


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"RELKERNELS_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, "3"),
        ({"OMP_NUM_THREADS": "5"}, "5"),
        ({"OMP_NUM_THREADS": "5,2"}, "5"),
        ({"OMP_NUM_THREADS": " 5 , 2"}, "5"),
        ({"OMP_NUM_THREADS": "five"}, str(len(os.sched_getaffinity(0)))),
        ({"OMP_NUM_THREADS": "0"}, str(len(os.sched_getaffinity(0)))),
        ({"OMP_NUM_THREADS": "5 threads"}, str(len(os.sched_getaffinity(0)))),
    ],
)
def test_environment_sets_the_number_of_threads(environment, expected):
    kept = {k: v for k, v in os.environ.items() if k not in ("RELKERNELS_NUM_THREADS", "OMP_NUM_THREADS")}
    code = "import relkernels as rk; print(rk.get_num_threads())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


WRONG_ENVIRONMENTS = [
    *(("RELKERNELS_NUM_THREADS", value) for value in ("abc", "0", "-1", "1e3", "", "4097", "9" * 30, " 4")),
    ("RELKERNELS_ISA", "nonsense"),
    ("RELKERNELS_ISA", ""),
]


@pytest.mark.parametrize(("name", "value"), WRONG_ENVIRONMENTS)
def test_a_wrong_variable_is_refused_at_import(name, value):
    done = subprocess.run(
        [sys.executable, "-c", "import relkernels"],
        env=os.environ | {name: value},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: {name}: expected ")
    assert last.endswith(f", got '{value}'")


@pytest.mark.parametrize(("name", "value"), [WRONG_ENVIRONMENTS[0], WRONG_ENVIRONMENTS[-2]])
def test_the_command_line_says_it_in_one_line(name, value, tmp_path):
    script = tmp_path / "relkernels"
    script.write_text("import sys; from relkernels.cli.main import main; sys.exit(main())")
    for command in ([sys.executable, "-m", "relkernels", "info"], [sys.executable, script, "info"]):
        done = subprocess.run(command, env=os.environ | {name: value}, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"relkernels: {name}: expected ")


# Prints how many threads each call started, in a process of two threads.
_COUNT = """
import os, numpy as np, relkernels as rk
rk.set_num_threads(2)
phi = rk.MLP.random([16, 32, 16], random_state=0)
def threads():
    return len(os.listdir("/proc/self/task"))
def started(n, lead=()):
    x = np.ones((*lead, n, 16), np.float32)
    before = threads()
    rk.relation_matrix(x, x, phi), rk.relation_matrix(x), rk.attention(x, x, x), rk.retrieve(x, x, 1)
    rk.relation_matvec(x, x, x), rk.attention_scores(x, x), rk.feature_map(x, phi)
    if not lead:
        rk.nngp_kernel(x), rk.feature_map_vjp(x, phi, x), rk.attention_vjp(x, x, x, x)
    return threads() - before
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
@pytest.mark.skipif(
    "tsan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer has a thread of its own"
)
@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ("started(1), started(64), started(16, (3, 2))", "(0, 0, 0)"),
        ("started(2000),", "(1,)"),
        ("started(16, (200,)),", "(1,)"),
    ],
)
def test_a_second_thread_starts_only_where_the_work_pays_for_it(calls, expected):
    code = f"{_COUNT}print(({calls}))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout.strip() == expected


def test_many_short_jobs_in_succession(rng):
    """Workers join and leave many short jobs, and each task is done once."""
    x = normal(rng, (64, 40, 16), np.float32)
    expected = rk.relation_matrix(x)
    for _ in range(300):
        np.testing.assert_array_equal(rk.relation_matrix(x), expected)
