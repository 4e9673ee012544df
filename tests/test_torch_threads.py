"""`relkernels.torch`: its kernels run on the threads of PyTorch's operations, with the same results."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import relkernels as rk

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import relkernels.torch as rkt  # noqa: E402
from relkernels import _core  # noqa: E402
from relkernels.torch import FeatureMap  # noqa: E402

HAS_OPENMP = _core.find_openmp(torch._C.__file__)


def step(x, phi):
    """Results and gradients of one training step through every operator."""
    r = rkt.relation_matrix(x, None, phi, heads=2)
    attended = rkt.attention(x, x, x, phi)
    loss = rkt.relation_loss(x, None, torch.arange(len(x)) % 5, phi, loss="softmax")
    total = r.square().mean() + attended.square().mean() + loss
    return [r, attended, *torch.autograd.grad(total, [x, *phi.parameters()])]


@pytest.fixture
def case():
    torch.manual_seed(20240213)
    return torch.randn(400, 24, requires_grad=True), FeatureMap([24, 70, 16])


@pytest.fixture
def threads():
    """Set the number of threads of both libraries; they are set back."""
    before = rk.get_num_threads(), torch.get_num_threads()

    def of(ours, theirs):
        rk.set_num_threads(ours)
        torch.set_num_threads(theirs)

    yield of
    of(*before)


@pytest.mark.parametrize(("ours", "theirs"), [(2, 2), (4, 2)])
def test_teams_of_any_size_change_no_bit(case, threads, ours, theirs):
    threads(1, 1)
    expected = step(*case)
    threads(ours, theirs)
    found = step(*case)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    # The other operations of the step are PyTorch's, whose sums depend on its threads.
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_same_bits_as_on_our_own_threads(threads):
    threads(2, 2)
    x = torch.randn(900, 32)
    a = x.numpy()
    assert torch.equal(rkt.attention(x, x, x), torch.from_numpy(rk.attention(a, a, a)))
    assert torch.equal(rkt.relation_matrix(x), torch.from_numpy(rk.relation_matrix(a)))


def test_many_python_threads_at_once(case, threads):
    threads(2, 2)
    x, phi = case
    expected = rkt.attention(x, x, x, phi)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(rkt.attention, x, x, x, phi) for _ in range(12)]:
            assert torch.equal(future.result(timeout=60), expected)


def _in_child(x, expected, result):
    torch.set_num_threads(1)  # PyTorch's own operations would wait for threads that the child lacks
    result.put(torch.equal(rkt.attention(x, x, x), expected))


def test_a_forked_child_computes(threads):
    threads(2, 2)
    x = torch.randn(900, 32)
    expected = rkt.attention(x, x, x)  # the team has run before the fork
    fork = multiprocessing.get_context("fork")
    result = fork.SimpleQueue()
    child = fork.Process(target=_in_child, args=(x, expected, result))
    child.start()
    child.join(60)
    hangs = child.is_alive()
    if hangs:
        child.kill()
    assert not hangs
    assert result.get()


def run(code):
    """Start a process with the code."""
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
@pytest.mark.skipif(not HAS_OPENMP, reason="PyTorch's threads are not OpenMP's, or cannot be used")
def test_calls_start_no_threads_of_their_own():
    process = run(
        """
        import os, torch, relkernels as rk, relkernels.torch as rkt
        torch.set_num_threads(2), rk.set_num_threads(2)
        def threads():
            return len(os.listdir("/proc/self/task"))
        x = torch.randn(2000, 32, requires_grad=True)
        phi = rkt.FeatureMap([32, 64, 16])
        (x @ x.T).square().sum()
        before = threads()
        rkt.attention(x, x, x, phi).sum().backward()
        rkt.relation_matrix(x, x).sum().backward()
        print(threads() - before, end=" ")
        rk.relation_matrix(x.detach().numpy())  # not a call of relkernels.torch: on threads of our own
        print(threads() - before)
        """
    )
    out, _ = process.communicate(timeout=120)
    assert out == "0 1\n"


@pytest.mark.slow
def test_ctrl_c_stops_a_long_call():
    process = run(
        """
        import signal, torch, relkernels as rk, relkernels.torch as rkt
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(2), rk.set_num_threads(2)
        x = torch.ones(400_000, 64)
        print("begun", flush=True)
        try:
            rkt.attention(x, x, x)
        except KeyboardInterrupt:
            rkt.attention(x[:3000], x[:3000], x[:3000])  # still usable
            print("interrupted", flush=True)
        """
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


def test_a_library_without_openmp_is_not_used():
    assert not _core.find_openmp("/no/such/library.so")
    before = _core.use_openmp(True)
    assert _core.use_openmp(before)
