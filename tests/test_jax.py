"""relkernels.jax beside plain formulas of jax.numpy: values, gradients, batches, dtypes, messages."""

import doctest
import importlib
import subprocess
import sys

import numpy as np
import pytest
import relkernels as rk

jax = pytest.importorskip("jax", reason="jax is not installed")

import jax.numpy as jnp  # noqa: E402
import relkernels.jax as rkj  # noqa: E402
from relkernels.jax import MLP  # noqa: E402


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float64)


def smooth_map(seed=0, widths=(3, 6, 4)):
    return MLP.random(jax.random.key(seed), widths, "tanh", dtype=jnp.float64)


def plain(phi, x):
    for i, (w, b) in enumerate(zip(phi.weights, phi.biases, strict=True)):
        x = x @ w + b
        if i < len(phi.weights) - 1:
            x = jnp.tanh(x)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True) if phi.normalize else x


def plain_scores(x, y, phi, psi, scale, bias, mask=True):
    r = scale * plain(phi, x) @ jnp.swapaxes(plain(psi, y), -1, -2) + bias
    r = 2.0 * jnp.tanh(r / 2.0)
    return jnp.where(mask, r, -jnp.inf)


def plain_gaussian(f, g, scale):
    squares = ((f[..., :, None, :] - g[..., None, :, :]) ** 2).sum(-1)
    return jnp.exp(-scale * squares / 2)


# 2 heads and 3 relations; all heads have one matrix of values.
def relational_sides(x, y):
    q, k = jnp.stack([x, jnp.sin(x)], -3), jnp.stack([y, y**2], -3)
    q_rel, k_rel = (jnp.stack([a, a + 1, jnp.cos(a)], -3)[..., :2] for a in (x, y))
    return q, k, q_rel, k_rel, y[..., None, :, :]


def plain_relational(q, k, q_rel, k_rel, v, scale, mask):
    weights = jax.nn.softmax(jnp.where(mask, scale * q @ jnp.swapaxes(k, -1, -2), -jnp.inf), -1)
    z = jnp.tanh(-scale * q_rel @ jnp.swapaxes(k_rel, -1, -2))
    relations = (weights[..., :, None, :, :] * z[..., None, :, :, :]).sum(-1)
    return jnp.swapaxes(relations, -1, -2), weights @ v


MASK = jnp.tril(jnp.ones((5, 7), bool))

# Functions of x (5, 3), y (7, 3), two maps, a scale and a bias (5, 7): ours, and the formula.
PAIRS = {
    "feature_map": (
        lambda x, y, phi, psi, s, b: rkj.feature_map(x, phi),
        lambda x, y, phi, psi, s, b: plain(phi, x),
    ),
    "relation_matrix": (
        lambda x, y, phi, psi, s, b: rkj.relation_matrix(x, y, phi, psi, scale=s),
        lambda x, y, phi, psi, s, b: s * plain(phi, x) @ jnp.swapaxes(plain(psi, y), -1, -2),
    ),
    "symmetric": (
        lambda x, y, phi, psi, s, b: rkj.relation_matrix(x, None, phi, scale=s, link="square"),
        lambda x, y, phi, psi, s, b: (s * plain(phi, x) @ jnp.swapaxes(plain(phi, x), -1, -2)) ** 2,
    ),
    "heads": (
        lambda x, y, phi, psi, s, b: rkj.relation_matrix(x, y, phi, psi, scale=s, heads=2),
        lambda x, y, phi, psi, s, b: (
            s
            * jnp.stack(
                [
                    plain(phi, x)[..., h : h + 2] @ jnp.swapaxes(plain(psi, y)[..., h : h + 2], -1, -2)
                    for h in (0, 2)
                ],
                -3,
            )
        ),
    ),
    "relation_matvec": (
        lambda x, y, phi, psi, s, b: rkj.relation_matvec(x, y, y, phi, psi, scale=s, link="gaussian"),
        lambda x, y, phi, psi, s, b: plain_gaussian(plain(phi, x), plain(psi, y), s) @ y,
    ),
    "vector": (
        lambda x, y, phi, psi, s, b: rkj.relation_matvec(x, y, y[..., 0], phi, scale=s),
        lambda x, y, phi, psi, s, b: (s * plain(phi, x) @ jnp.swapaxes(plain(phi, y), -1, -2) @ y[..., :1])[
            ..., 0
        ],
    ),
    "attention": (
        lambda x, y, phi, psi, s, b: rkj.attention(
            x, y, y, phi, psi, scale=s, bias=b, softcap=2.0, mask=MASK
        ),
        lambda x, y, phi, psi, s, b: jax.nn.softmax(plain_scores(x, y, phi, psi, s, b, MASK), -1) @ y,
    ),
    "lse": (
        lambda x, y, phi, psi, s, b: rkj.attention(
            x, y, y, phi, psi, scale=s, bias=b, softcap=2.0, return_lse=True
        )[1],
        lambda x, y, phi, psi, s, b: jax.nn.logsumexp(plain_scores(x, y, phi, psi, s, b), -1),
    ),
    "attention_scores": (
        lambda x, y, phi, psi, s, b: rkj.attention_scores(
            x, y, phi, psi, scale=s, bias=b, softcap=2.0, causal=True
        ),
        lambda x, y, phi, psi, s, b: jax.nn.softmax(plain_scores(x, y, phi, psi, s, b, MASK), -1),
    ),
    "relational_attention": (
        lambda x, y, phi, psi, s, b: jnp.concatenate(
            rkj.relational_attention(
                *relational_sides(x, y), rel_activation="tanh", scale=s, rel_scale=-s, mask=MASK
            ),
            -1,
        ),
        lambda x, y, phi, psi, s, b: jnp.concatenate(plain_relational(*relational_sides(x, y), s, MASK), -1),
    ),
    "lse of relational attention": (
        lambda x, y, phi, psi, s, b: rkj.relational_attention(
            *relational_sides(x, y), scale=s, return_lse=True, window=(None, 2)
        )[2],
        lambda x, y, phi, psi, s, b: jax.nn.logsumexp(
            jnp.where(
                jnp.tril(jnp.ones((5, 7), bool), 2),
                s * relational_sides(x, y)[0] @ jnp.swapaxes(relational_sides(x, y)[1], -1, -2),
                -jnp.inf,
            ),
            -1,
        ),
    ),
    "relation_loss": (
        lambda x, y, phi, psi, s, b: rkj.relation_loss(x, y, b, phi, psi, scale=s),
        lambda x, y, phi, psi, s, b: (
            (s * plain(phi, x) @ plain(psi, y).T - jax.lax.stop_gradient(b)) ** 2
        ).mean(),
    ),
    "retrieve": (
        lambda x, y, phi, psi, s, b: rkj.retrieve(x, y, 3, phi, psi)[0],
        lambda x, y, phi, psi, s, b: jax.lax.top_k(plain(phi, x) @ jnp.swapaxes(plain(psi, y), -1, -2), 3)[0],
    ),
}


def arguments():
    phi, psi = smooth_map(0), smooth_map(1)
    return normal(2, 5, 3), normal(3, 7, 3), phi, psi, jnp.float64(0.7), normal(4, 5, 7)


def close(a, b):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-9, atol=1e-9), a, b)


@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients(name):
    ours, formula = PAIRS[name]
    given = arguments()
    expected = formula(*given)
    above = normal(9, *expected.shape)

    def loss(function):
        return lambda *a: (function(*a) * above).sum()

    close(ours(*given), expected)
    close(jax.jit(ours)(*given), expected)
    everything = tuple(range(6))
    right = jax.grad(loss(formula), everything)(*given)
    close(jax.grad(loss(ours), everything)(*given), right)
    close(jax.jit(jax.grad(loss(ours), everything))(*given), right)


@pytest.mark.parametrize("name", PAIRS)
def test_batches_are_those_of_vmap(name):
    ours, formula = PAIRS[name]
    x, y, phi, psi, s, b = arguments()
    many_x, many_b = normal(5, 4, 5, 3), normal(6, 4, 5, 7)
    maps = jax.tree.map(lambda w: jnp.stack([w, 2 * w, w, -w]), phi)
    batches = [
        ((many_x, y, phi, psi, s, b), (0, None, None, None, None, None)),
        ((many_x, y, phi, psi, s, many_b), (0, None, None, None, None, 0)),
        ((x, y, maps, psi, jnp.arange(1.0, 5), b), (None, None, 0, None, 0, None)),
    ]
    for given, axes in batches:
        close(jax.vmap(ours, axes)(*given), jax.vmap(formula, axes)(*given))

        def gradient(function, given=given, axes=axes):
            loss = jax.grad(lambda *a: (jnp.sin(function(*a))).sum(), tuple(range(6)))
            return jax.vmap(loss, axes)(*given)

        close(gradient(ours), gradient(formula))
    nested = jax.vmap(jax.vmap(ours, (0, None, None, None, None, None)), (None, None, 0, None, 0, None))
    right = jax.vmap(jax.vmap(formula, (0, None, None, None, None, None)), (None, None, 0, None, 0, None))
    close(*(f(many_x, y, maps, psi, jnp.arange(1.0, 5), b) for f in (nested, right)))


def test_leading_dimensions_under_vmap_are_aligned():
    x, y = normal(0, 4, 2, 5, 3), normal(1, 4, 7, 3)  # (2, 5, 3) and (7, 3) for each of 4 items
    close(jax.vmap(rkj.relation_matrix)(x, y), jnp.einsum("biad,bcd->biac", x, y))
    v = normal(2, 4, 7)
    close(jax.vmap(rkj.relation_matvec)(x, y, v), jnp.einsum("biad,bcd,bc->bia", x, y, v))
    values, indices = jax.vmap(lambda q, k: rkj.retrieve(q, k, 2))(x, y)
    right = jax.lax.top_k(jnp.einsum("biad,bcd->biac", x, y), 2)
    close((values, indices), tuple(right))


def test_grouped_queries_and_empty_batches():
    q, k, v = normal(0, 2, 4, 5, 3), normal(1, 2, 1, 7, 3), normal(2, 2, 1, 7, 2)
    out = rkj.attention(q, k, v, scale=1.0)
    close(out, jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2), -1) @ v)
    grads = jax.grad(lambda k: rkj.attention(q, k, v, scale=1.0).sum())(k)
    assert grads.shape == k.shape
    assert rkj.attention(q[:0], k[:0], v[:0]).shape == (0, 4, 5, 2)
    assert jax.vmap(rkj.relation_matrix)(q[:0]).shape == (0, 4, 5, 5)


def test_search_options():
    q, k = normal(0, 5, 3), normal(1, 7, 3)
    exclude, mask = jnp.arange(5), MASK
    values, indices = rkj.retrieve(q, k, 4, exclude=exclude, mask=mask, pad=True)
    close(
        (values, indices),
        rk.retrieve(*map(np.asarray, (q, k)), 4, exclude=np.arange(5), mask=np.asarray(mask), pad=True),
    )
    found = jax.grad(
        lambda k: jnp.where(
            indices >= 0, rkj.retrieve(q, k, 4, exclude=exclude, mask=mask, pad=True)[0], 0
        ).sum()
    )(k)
    kept = jnp.zeros((5, 7)).at[jnp.arange(5)[:, None], jnp.maximum(indices, 0)].add(indices >= 0)
    close(found, kept.T @ q)


@pytest.mark.parametrize("loss", ["logistic", "hinge", "softmax"])
def test_losses_of_labels(loss):
    x, labels = normal(0, 12, 3), jnp.arange(12) % 4
    phi = smooth_map()
    value, grads = jax.value_and_grad(lambda p: rkj.relation_loss(x, None, labels, p, loss=loss))(phi)
    right = rk.relation_loss(np.asarray(x), None, np.asarray(labels), phi.to_mlp(), loss=loss)
    close(value, right.value)
    close(list(grads.weights), list(right.grad_phi.weights))


def test_kernels_of_wide_networks():
    x = normal(0, 2, 5, 3)
    options = {"depth": 2, "activation": "erf", "kind": "ntk"}
    close(rkj.nngp_kernel(x, x[0], **options), rk.nngp_kernel(np.asarray(x), np.asarray(x[0]), **options))
    close(jax.vmap(rkj.nngp_kernel)(x), rk.nngp_kernel(np.asarray(x)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_other_dtypes(dtype):
    x, y = normal(0, 5, 3).astype(dtype), normal(1, 7, 3).astype(dtype)
    phi = MLP.random(jax.random.key(0), [3, 6, 4], dtype=jnp.float32)
    wide = [a.astype(jnp.float32) for a in (x, y)]
    for function in (
        lambda x, y: rkj.relation_matrix(x, y, phi),
        lambda x, y: rkj.attention(x, y, y, phi),
        lambda x, y: rkj.relation_matvec(x, y, y[:, 0], phi),
        lambda x, y: rkj.feature_map(x, phi),
        lambda x, y: rkj.retrieve(x, y, 2, phi)[0],
        lambda x, y: rkj.nngp_kernel(x, y),
        lambda x, y: rkj.relational_attention(*(a[None] for a in (x, y, x, y, y)))[0],
    ):
        got, expected = function(x, y), function(*wide)
        assert got.dtype == dtype
        assert (got == expected.astype(dtype)).all()
    halves = jax.tree.map(lambda w: w.astype(dtype), phi)
    assert rkj.relation_matrix(x, y, halves).dtype == dtype


def test_maps_are_pytrees():
    phi = MLP.random(jax.random.key(0), [3, 6, 2], "gelu", normalize=True)
    assert jax.tree.structure(phi) == jax.tree.structure(jax.tree.map(lambda w: w + 1, phi))
    mlp = phi.to_mlp()
    assert mlp.normalize
    assert mlp.activation.name == "gelu"
    x = np.ones((4, 3), np.float32)
    again = MLP.from_mlp(mlp)
    close(again(x), rk.feature_map(x, mlp))
    close(rkj.relation_matrix(x, None, mlp), rk.relation_matrix(x, None, mlp))  # an MLP of relkernels too
    stepped = jax.tree.map(lambda w, g: w - 0.1 * g, phi, jax.grad(lambda p: p(x).sum())(phi))
    assert isinstance(stepped, MLP)
    assert "gelu" in repr(phi)


def test_any_function_is_a_map():
    x, w = normal(0, 5, 3), normal(1, 3, 4)
    loss = jax.grad(lambda w: (rkj.relation_matrix(x, None, lambda a: jnp.tanh(a @ w)) ** 2).sum())
    right = jax.grad(lambda w: ((jnp.tanh(x @ w) @ jnp.tanh(x @ w).T) ** 2).sum())
    close(loss(w), right(w))


def test_large_arrays_do_not_deadlock():
    code = (
        "import jax, relkernels.jax as rkj\n"
        "x = jax.random.normal(jax.random.key(0), (3000, 64))\n"
        "f = jax.jit(jax.grad(lambda x: rkj.attention(x, x, rkj.relation_matrix(x)[:, :64]).sum()))\n"
        "print(f(f(x)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "(3000, 64)", done.stderr


def test_what_is_not_provided_is_an_error():
    x = normal(0, 5, 3)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(rkj.relation_matrix, (x,), (x,))
    with pytest.raises(ValueError, match=r"JVP|differentiat"):
        jax.grad(lambda x: rkj.nngp_kernel(x).sum())(x)


BAD = [
    ("x: expected an array of float32", TypeError, lambda x, y: rkj.relation_matrix([1.0])),
    (
        "x: expected float32, .*int64",
        TypeError,
        lambda x, y: rkj.relation_matrix(jnp.arange(6).reshape(2, 3)),
    ),
    ("x: expected at least 2 dimensions", ValueError, lambda x, y: rkj.relation_matrix(x[0])),
    ("x: expected rows of at least one", ValueError, lambda x, y: rkj.relation_matrix(x[:, :0])),
    ("y: expected features as wide", ValueError, lambda x, y: rkj.relation_matrix(x, y[:, :2])),
    ("y: expected float64, the dtype of x", TypeError, lambda x, y: rkj.relation_matrix(x, y.astype("f4"))),
    ("link: expected one of", ValueError, lambda x, y: rkj.relation_matrix(x, y, link="cube")),
    ("heads: expected a divisor", ValueError, lambda x, y: rkj.relation_matrix(x, y, heads=2)),
    ("scale: expected a finite", ValueError, lambda x, y: rkj.relation_matrix(x, y, scale=np.inf)),
    ("phi: expected an MLP or a function", TypeError, lambda x, y: rkj.relation_matrix(x, y, 3)),
    (
        "x: expected rows of 4 features",
        ValueError,
        lambda x, y: rkj.relation_matrix(x, y, smooth_map(0, (4, 2))),
    ),
    (r"phi\(x\): expected shape", ValueError, lambda x, y: rkj.relation_matrix(x, y, lambda a: a[:1])),
    ("v: expected 7 rows", ValueError, lambda x, y: rkj.attention(x, y, x)),
    (
        "mask: expected an array of bool",
        TypeError,
        lambda x, y: rkj.attention(x, y, y, mask=jnp.ones((5, 7))),
    ),
    ("mask: expected a shape", ValueError, lambda x, y: rkj.attention(x, y, y, mask=jnp.ones((7, 5), bool))),
    ("bias: expected a shape", ValueError, lambda x, y: rkj.attention(x, y, y, bias=jnp.ones((7, 5)))),
    ("window: expected", ValueError, lambda x, y: rkj.attention(x, y, y, window=-1)),
    ("softcap: expected", ValueError, lambda x, y: rkj.attention(x, y, y, softcap=0.0)),
    (
        "q_rel: expected 5 rows",
        ValueError,
        lambda x, y: rkj.relational_attention(x[None], y[None], y[None], y[None], y[None]),
    ),
    (
        "rel_activation: expected one of",
        ValueError,
        lambda x, y: rkj.relational_attention(*relational_sides(x, y), rel_activation="cube"),
    ),
    (
        "rel_scale: expected a finite",
        ValueError,
        lambda x, y: rkj.relational_attention(*relational_sides(x, y), rel_scale=np.nan),
    ),
    ("k: expected at most 7", ValueError, lambda x, y: rkj.retrieve(x, y, 8)),
    ("loss: expected one of", ValueError, lambda x, y: rkj.relation_loss(x, y, jnp.ones((5, 7)), loss="l1")),
    ("y: expected 3 columns", ValueError, lambda x, y: rkj.nngp_kernel(x, y[:, :2])),
    ("depth: expected", ValueError, lambda x, y: rkj.nngp_kernel(x, depth=-1)),
    ("widths: expected", ValueError, lambda x, y: MLP.random(jax.random.key(0), [3])),
]


@pytest.mark.parametrize(("words", "error", "call"), BAD, ids=[words for words, _, _ in BAD])
def test_bad_arguments_are_named_when_traced(words, error, call):
    with pytest.raises(error, match=f"^{words}"):
        jax.jit(call)(normal(0, 5, 3), normal(1, 7, 3))


def test_values_are_checked_when_run():
    with pytest.raises(Exception, match="scale: expected a finite"):
        jax.block_until_ready(rkj.relation_matrix(normal(0, 5, 3), scale=jnp.float64(np.nan)))
    with pytest.raises(Exception, match=r"exclude: .* from"):
        jax.block_until_ready(rkj.retrieve(normal(0, 5, 3), normal(1, 7, 3), 1, exclude=jnp.full(5, 9)))


@pytest.mark.parametrize("name", ["maps", "relations", "attentions"])
def test_examples_of_the_docstrings(name):
    module = importlib.import_module(f"relkernels.jax.{name}")
    with jax.enable_x64(False):
        result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0
