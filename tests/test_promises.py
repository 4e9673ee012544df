"""The numerical promises: the same bits for all threads and batches, NaN contained, memory bounded."""

import subprocess
import sys
import textwrap
from functools import partial

import numpy as np
import pytest
import reference
import relkernels as rk
from strategies import mlp, normal


@pytest.fixture
def threads():
    """`set_num_threads`; the previous number is restored afterwards."""
    before = rk.get_num_threads()
    yield rk.set_num_threads
    rk.set_num_threads(before)


def flat(result):
    """Return all arrays of a result, including nested tuples and MLPGradients."""
    if isinstance(result, np.ndarray):
        return [result]
    if isinstance(result, (tuple, list)):
        return [a for part in result for a in flat(part)]
    return [] if result is None else [np.array(result)]


def assert_same(a, b):
    for left, right in zip(flat(a), flat(b), strict=True):
        np.testing.assert_array_equal(left, right)


def calls(dtype, n, m, rng):
    """Return every operation and gradient, on n rows and m columns, by name."""
    phi, psi = mlp(rng, [6, 40, 9], dtype, "gelu"), mlp(rng, [5, 24, 9], dtype, "tanh")
    x, y = normal(rng, (n, 6), dtype), normal(rng, (m, 5), dtype)
    v, grad_v = normal(rng, (m, 7), dtype), normal(rng, (n, 7), dtype)
    grad_f, grad_r = normal(rng, (n, 9), dtype), normal(rng, (n, m), dtype)
    mask = rng.random((n, m)) < 0.7
    labels = rng.integers(0, 3, n), np.concatenate([np.arange(3), rng.integers(0, 3, m - 3)])
    table = {
        "feature_map": lambda: rk.feature_map(x, phi),
        "relation_matrix": lambda: rk.relation_matrix(x, y, phi, psi, heads=3),
        "symmetric relation_matrix": lambda: rk.relation_matrix(x, phi=phi),
        "attention_scores": lambda: rk.attention_scores(x, y, phi, psi, mask=mask),
        "attention": lambda: rk.attention(x, y, v, phi, psi, mask=mask, return_lse=True),
        "causal attention": lambda: rk.attention(x, y, v, phi, psi, causal=True),
        "retrieve": lambda: rk.retrieve(x, y, 3, phi, psi, mask=mask),
        "feature_map_vjp": lambda: rk.feature_map_vjp(x, phi, grad_f),
        "relation_matrix_vjp": lambda: rk.relation_matrix_vjp(x, y, grad_r, phi, psi),
        "attention_vjp": lambda: rk.attention_vjp(x, y, v, grad_v, phi, psi, mask=mask, causal=True),
    }
    table["relation_matvec_vjp"] = lambda: rk.relation_matvec_vjp(x, y, v, grad_v, phi, psi, link="gaussian")
    for link in ("identity", "exp", "relu", "square", "gaussian", "matern52"):
        table[f"relation_matvec {link}"] = lambda link=link: rk.relation_matvec(x, y, v, phi, psi, link=link)
        table[f"relation_matvec {link}, one vector"] = lambda link=link: rk.relation_matvec(
            x, y, v[:, 0], phi, psi, link=link
        )
    for loss in ("squared", "logistic", "hinge", "softmax"):
        table[f"relation_loss {loss}"] = lambda loss=loss: rk.relation_loss(x, y, labels, phi, psi, loss=loss)
    return table


NAMES = list(calls(np.float32, 2, 4, np.random.default_rng(0)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_threads_do_not_change_a_bit(name, dtype, threads, rng):
    # A few rows over many chunks of columns (threads share out chunks), and many rows (they share rows).
    for n, m in [(3, 9000), (700, 2500)]:
        call = calls(dtype, n, m, rng)[name]
        threads(1)
        alone = call()
        for number in (2, 3, 8):
            threads(number)
            assert_same(call(), alone)


ROW_WISE = {
    "feature_map": lambda x, y, v, phi: rk.feature_map(x, phi),
    "relation_matrix": lambda x, y, v, phi: rk.relation_matrix(x, y, phi),
    "attention_scores": lambda x, y, v, phi: rk.attention_scores(x, y, phi),
    "attention": lambda x, y, v, phi: rk.attention(x, y, v, phi),
    "log-sum-exp": lambda x, y, v, phi: rk.attention(x, y, v, phi, return_lse=True)[1],
    "retrieve": lambda x, y, v, phi: rk.retrieve(x, y, 5, phi)[0],
    "exp matvec": lambda x, y, v, phi: rk.relation_matvec(x, y, v, phi, link="exp"),
    "relu matvec of a vector": lambda x, y, v, phi: rk.relation_matvec(x, y, v[:, 0], phi, link="relu"),
    "gradient of x": lambda x, y, v, phi: rk.feature_map_vjp(x, phi, x[:, :4] * 2)[0],
    "gradient of the relation": lambda x, y, v, phi: rk.relation_matrix_vjp(x, y, x[:, :1] * y[:, 0])[0],
    "gradient of q": lambda x, y, v, phi: rk.attention_vjp(x, y, v, x[:, :3].copy())[0],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ROW_WISE)
def test_a_row_does_not_depend_on_the_batch(name, dtype, rng):
    operation = ROW_WISE[name]
    phi = mlp(rng, [6, 33, 4], dtype, "silu")
    for m in (70, 4500):
        x, y, v = (
            normal(rng, (205, 6), dtype),
            normal(rng, (m, 6), dtype),
            normal(rng, (m, 3), dtype),
        )
        whole = operation(x, y, v, phi)
        for rows in [
            slice(0, 1),
            slice(17, 18),
            slice(3, 6),
            slice(100, 113),
            slice(9, 206),
            slice(0, 97),
        ]:
            np.testing.assert_array_equal(operation(x[rows], y, v, phi), whole[rows])
        order = rng.permutation(205)
        np.testing.assert_array_equal(operation(x[order], y, v, phi), whole[order])


def test_causal_rows_do_not_depend_on_later_ones(rng):
    q, k, v = (normal(rng, (500, 16), np.float32) for _ in range(3))
    whole = rk.attention(q, k, v, causal=True)
    for end in (1, 13, 96, 97, 257, 400):
        np.testing.assert_array_equal(rk.attention(q[:end], k[:end], v[:end], causal=True), whole[:end])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_causal_rule_is_a_mask(dtype, rng):
    """Tiles end at the rule's limit; with a mask they are complete."""
    for n, d in [(1, 3), (65, 16), (300, 5), (513, 64)]:
        q, k, v, grad = (normal(rng, (n, d), dtype) for _ in range(4))
        lower = np.tri(n, dtype=bool)
        for precision in [None, "bf16"] if dtype == np.float32 else [None]:
            call = partial(rk.attention, q, k, v, precision=precision, return_lse=True)
            assert_same(call(causal=True), call(mask=lower))
        call = partial(rk.attention_vjp, q, k, v, grad)
        assert_same(call(causal=True), call(mask=lower))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("depth", [1, 6, 16, 33, 60, 255, 513])
@pytest.mark.parametrize("apart", [0, 3])
def test_columns_read_in_place_are_those_packed(apart, depth, dtype, rng):
    """Calls with few rows read columns in place; calls with more rows pack them first."""
    m, heads = 2 * 2048 + 77, 3 if depth % 3 == 0 else 1
    x, v = normal(rng, (40, depth), dtype), normal(rng, (m, 5), dtype)
    y = normal(rng, (m, depth + apart), dtype)[:, :depth]
    table = {
        "relation_matrix": lambda x: np.moveaxis(rk.relation_matrix(x, y, heads=heads), -2, 0),
        "attention": lambda x: rk.attention(x, y, v, return_lse=True),
        "retrieve": lambda x: rk.retrieve(x, y, 5),
        "relation_matvec": lambda x: rk.relation_matvec(x, y, v, link="exp", scale=0.1),
    }
    for name, call in table.items():
        whole = flat(call(x))
        for rows in [slice(0, 1), slice(5, 6), slice(20, 22), slice(11, 14)]:
            for part, of_all in zip(flat(call(x[rows])), whole, strict=True):
                np.testing.assert_array_equal(part, of_all[rows], err_msg=name)


def test_items_of_a_batch_are_those_computed_alone(rng):
    phi = mlp(rng, [8, 16, 8], np.float32)
    x, v = normal(rng, (20, 33, 8), np.float32), normal(rng, (20, 33, 5), np.float32)
    r, o = rk.relation_matrix(x, phi=phi), rk.attention(x, x, v, phi)
    for i in range(20):
        np.testing.assert_array_equal(r[i], rk.relation_matrix(x[i], phi=phi))
        np.testing.assert_array_equal(o[i], rk.attention(x[i], x[i], v[i], phi))


@pytest.mark.slow
def test_rows_and_columns_beyond_the_workspace(rng):
    """More features than the 16 MiB held at a time: super-blocks change no bit of a row's result."""
    phi, psi = mlp(rng, [3, 1600], np.float64), mlp(rng, [5, 1600], np.float64)
    x, y, v = (normal(rng, shape, np.float64) for shape in [(2500, 3), (4500, 5), (4500, 2)])
    out = rk.attention(x, y, v, phi, psi)
    found = rk.retrieve(x, y, 3, phi, psi)
    product = rk.relation_matvec(x, y, v, phi, psi, link="relu")
    r = rk.relation_matrix(x, y, phi, psi)
    assert reference.relative_error(r, reference.relation_matrix(x, y, phi, psi)) <= 1e-14
    np.testing.assert_array_equal(found[1], np.argsort(-r, axis=1, kind="stable")[:, :3])
    np.testing.assert_allclose(product, np.maximum(r, 0) @ v, rtol=1e-9, atol=1e-7)
    assert reference.relative_error(out, reference.attention(x, y, v, phi, psi)[0]) <= 1e-12
    for rows in (slice(0, 1), slice(2000, 2100)):
        np.testing.assert_array_equal(rk.attention(x[rows], y, v, phi, psi), out[rows])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_reaches_what_depends_on_it_and_nothing_else(dtype, bad, rng):
    phi = mlp(rng, [4, 9, 5], dtype, "tanh")
    x, y, v = (
        normal(rng, (140, 4), dtype),
        normal(rng, (310, 4), dtype),
        normal(rng, (310, 6), dtype),
    )
    clean = {
        "map": phi(x), "relation": rk.relation_matrix(x, y, phi), "attention": rk.attention(x, y, v, phi),
        "matvec": rk.relation_matvec(x, y, v, phi, link="exp"), "best": rk.retrieve(x, y, 4, phi)[0],
        "gradient": rk.feature_map_vjp(x, phi, np.ones((140, 5), dtype))[0],
    }  # fmt: skip
    others = np.arange(140) != 77
    row = x.copy()
    row[77, 2] = np.nan
    for name, got in {
        "map": phi(row), "relation": rk.relation_matrix(row, y, phi),
        "attention": rk.attention(row, y, v, phi),
        "matvec": rk.relation_matvec(row, y, v, phi, link="exp"), "best": rk.retrieve(row, y, 4, phi)[0],
        "gradient": rk.feature_map_vjp(row, phi, np.ones((140, 5), dtype))[0],
    }.items():  # fmt: skip
        assert np.isnan(got[77]).all(), name
        np.testing.assert_array_equal(got[others], clean[name][others])
    column = y.copy()
    column[200] = np.nan
    got = rk.relation_matrix(x, column, phi)
    assert np.isnan(got[:, 200]).all()
    np.testing.assert_array_equal(np.delete(got, 200, 1), np.delete(clean["relation"], 200, 1))
    values = v.copy()
    values[5, 3] = bad
    got = rk.attention(x, y, values, phi)
    assert not np.isfinite(got[:, 3]).any()
    np.testing.assert_array_equal(np.delete(got, 3, 1), np.delete(clean["attention"], 3, 1))
    symmetric = rk.relation_matrix(row, phi=phi)
    assert np.isnan(symmetric[77]).all()
    np.testing.assert_array_equal(
        symmetric[others][:, others], rk.relation_matrix(x, phi=phi)[others][:, others]
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("causal", [False, True])
def test_what_is_masked_cannot_be_seen(causal, bad, rng):
    q, k, v = (normal(rng, (300, 8), np.float32) for _ in range(3))
    grad = normal(rng, (300, 8), np.float32)
    hidden = 250  # column; visible from row 250 on if causal, from no row if masked
    mask = None if causal else np.broadcast_to(np.arange(300) != hidden, (300, 300))
    blind = np.arange(300) < hidden if causal else np.ones(300, bool)
    options = {"mask": mask, "causal": causal}
    clean = rk.attention(q, k, v, return_lse=True, **options)
    scores = rk.attention_scores(q, k, **options)
    grad_q, grad_k, grad_v = rk.attention_vjp(q, k, v, grad, **options)[:3]
    k2, v2 = k.copy(), v.copy()
    k2[hidden] = bad
    v2[hidden] = bad
    for keys, values in [(k2, v), (k, v2), (k2, v2)]:
        out, lse = rk.attention(q, keys, values, return_lse=True, **options)
        np.testing.assert_array_equal(out[blind], clean[0][blind])
        np.testing.assert_array_equal(lse[blind], clean[1][blind])
        np.testing.assert_array_equal(rk.attention_scores(q, keys, **options)[blind], scores[blind])
        got_q, got_k, got_v = rk.attention_vjp(q, keys, values, grad, **options)[:3]
        np.testing.assert_array_equal(got_q[blind], grad_q[blind])
        if not causal:
            np.testing.assert_array_equal(got_k, grad_k)
            np.testing.assert_array_equal(got_v, grad_v)


def test_impossible_outputs_are_refused_before_they_begin():
    x = np.broadcast_to(np.ones((1, 2), np.float32), (10**8, 2))
    with pytest.raises(MemoryError, match=r"relation_matrix.*needs 40000000000000000 bytes"):
        rk.relation_matrix(x)
    with pytest.raises(MemoryError, match=r"attention_scores.*\(100000000, 100000000\).*bytes"):
        rk.attention_scores(x, x)
    assert rk.relation_matrix(np.ones((2, 2))).tolist() == [[2, 2], [2, 2]]


def python(code):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300
    )


def test_a_memory_error_leaves_the_library_usable():
    done = python(
        """
        import resource
        import numpy as np, relkernels as rk
        x = np.ones((300, 8), np.float32)
        before = rk.attention(x, x, x)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        keys = np.broadcast_to(x[:1], (2_000_000, 8))
        resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), resource.RLIM_INFINITY))
        failures = 0
        for call in (lambda: rk.relation_matrix(np.broadcast_to(x[:1], (9000, 8))),
                     lambda: rk.relation_loss(keys, None, np.zeros((1, 1), np.float32)),
                     lambda: rk.feature_map(keys, rk.MLP([np.ones((8, 64), np.float32)]))):
            try:
                call()
            except MemoryError as error:
                failures += 1
        assert failures == 3, failures
        assert np.array_equal(rk.attention(x, x, x), before)
        print("usable")
        """
    )
    assert done.stdout == "usable\n", done.stderr


@pytest.mark.parametrize(
    "call",
    [
        "rk.attention(x, y, y)",
        "rk.attention(x, y, y, causal=True)",
        "rk.retrieve(x, y, 10)",
        "rk.relation_matvec(x, y, y, link='exp')",
        "rk.relation_matvec(x, y, y, phi, link='exp')",
        "rk.attention_vjp(x, y, y, x)",
        "rk.relational_attention(x[None], y[None], x[None], y[None], y[None], rel_activation='relu')",
        "rk.relational_attention_vjp(x[None], y[None, :4000], x[None], y[None, :4000], y[None, :4000], "
        "x[None, :, :1], x[None])",
        "rk.relation_loss(x, y, (np.arange(16000), np.arange(20000)), phi)",
        "rk.feature_map_vjp(y, phi, y)",
    ],
)
def test_memory_does_not_grow_with_the_pairs(call):
    """16,000 x 20,000 pairs would take 1.28 GB; the calls need only the memory of a few blocks."""
    done = python(
        f"""
        import resource
        import numpy as np, relkernels as rk
        x, y = np.ones((16000, 4), np.float32), np.ones((20000, 4), np.float32)
        phi = rk.MLP.random([4, 64, 4], random_state=0)
        rk.attention(x[:10], y[:10], y[:10])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        {call}
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
        """
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 80, f"{done.stdout} MiB"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_a_call_leaves_in_its_scratch_reaches_no_other(dtype, rng):
    """Calls of a few rows and columns after calls that filled every workspace with NaN."""
    nan = np.full((300, 40), np.nan, dtype)
    phi = mlp(rng, [40, 64, 40], dtype)
    for n, m in [(1, 1), (2, 1), (1, 3), (3, 2), (3, 300)]:
        q, k, v = normal(rng, (n, 40), dtype), normal(rng, (m, 40), dtype), normal(rng, (m, 40), dtype)
        same = np.broadcast_to(v[0], (m, 40))
        for x in (nan, nan[:2]):
            rk.attention(x, nan, nan, phi)
            rk.relation_loss(x, nan, x @ nan.T, phi)
            rk.feature_map_vjp(x, phi, x)
        out = rk.attention(q, k, v, phi)
        assert reference.relative_error(out, reference.attention(q, k, v, phi)[0]) <= 1e-4
        np.testing.assert_allclose(rk.attention(q, k, same), np.broadcast_to(v[0], (n, 40)), rtol=1e-5)
        u = rk.relation_matvec(q, k, v, link="square")
        np.testing.assert_allclose(u, np.square(q @ k.T) @ v, rtol=1e-3, atol=1e-3)
        value, grad, _ = rk.relation_loss(q, k, np.zeros((n, m), dtype), phi)
        assert np.isfinite(value)
        assert all(np.isfinite(a).all() for a in [*grad.weights, *grad.biases])
        gradients = rk.attention_vjp(q, k, v, np.ones((n, 40), dtype))
        assert all(np.isfinite(a).all() for a in gradients[:3])
        x_grad, grad = rk.feature_map_vjp(q, phi, normal(rng, (n, 40), dtype))
        assert all(np.isfinite(a).all() for a in [x_grad, *grad.weights, *grad.biases])
