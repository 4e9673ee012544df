"""Losses over all pairs on a device equal those of the CPU in float64, which are tested by differences."""

import numpy as np
import pytest
import relkernels as rk
from cuda_arrays import BF16, F16
from cuda_cases import F4, GRADIENT_BOUND, MANY, Draw, assert_gradients, cases, double, exact, flat
from relkernels.gradients import LOSSES
from strategies import mlp, normal


def wide(value):
    """Floats in float64."""
    if isinstance(value, tuple):
        return tuple(map(wide, value))
    floats = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return value.astype(np.float64) if floats else value


def check_loss(device, x, y, target, phi, psi, dtype, bound=10, **options):
    """Compare with the CPU. Gradients are times the number of terms, so that those have a size of about 1."""
    got = device.relation_loss(x, y, target, phi, psi, **options)
    expected = rk.relation_loss(*map(wide, (x, y, target)), double(phi), double(psi), **{
        name: wide(value) for name, value in options.items()
    })  # fmt: skip
    terms = len(x) * (1 if options["loss"] == "softmax" else len(x if y is None else y))
    bound *= GRADIENT_BOUND[dtype]
    for a, b in ((got.value, expected.value), (got.grad_scale, expected.grad_scale)):
        assert a.shape == ()
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=bound, atol=bound)
    named = ("grad_x", "grad_y", "grad_phi", "grad_psi")
    mine, theirs = (flat([getattr(result, name) for name in named]) for result in (got, expected))
    scaled = [a * a.dtype.type(terms) for a in mine]
    assert_gradients(scaled, [b * terms for b in theirs], dtype, bound)
    return got


def draw_target(draw, n, m):
    """A matrix of any layout, or labels of both sides, each of which the other side has."""
    if draw.one_of([True, False]):
        matrix = draw.array(n, m)
        return np.abs(matrix) / (1 + np.abs(matrix)) + matrix.dtype.type(0.01)
    kind = draw.one_of([np.int64, np.int32, np.uint8])
    return draw.rng.integers(1, size=n).astype(kind), (np.arange(m) % 3).astype(kind)


@exact
@pytest.mark.parametrize("loss", LOSSES)
def test_relation_loss(device, loss, dtype):
    def check(data, rng):
        draw = Draw(device, data, rng, dtype)
        n, m, d_x, d_y, width = draw.size(1), draw.size(1), draw.width(), draw.width(), draw.width()
        phi, psi = draw.maps(d_x, d_y, width, optional=d_x == d_y == width)
        if phi is None:
            d_x = d_y = width
        if psi is None:
            d_y = d_x
        options = {"loss": loss, "scale": draw.one_of([1.0, -0.3, 0.0])}
        shapes = [None, (n,)] if loss == "softmax" else [None, (n,), (n, m)]
        shape = draw.one_of(shapes)
        if shape is not None:
            weights = draw.array(*shape) if len(shape) == 2 else normal(rng, shape, dtype)
            options["sample_weight"] = np.abs(weights) + dtype(0.1)
        x, y = draw.array(n, d_x), draw.array(m, d_y)
        check_loss(device, x, y, draw_target(draw, n, m), phi, psi, dtype, 40, **options)

    cases(device, check)


@exact
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("maps", ["none", "one", "two"])
def test_relation_loss_of_rows_with_themselves(device, maps, loss, dtype, rng):
    x, labels = normal(rng, (67, 5), dtype), rng.integers(3, size=67)
    phi = None if maps == "none" else mlp(rng, [5, 9, 4], dtype, "tanh")
    psi = mlp(rng, [5, 7, 4], dtype, "gelu") if maps == "two" else None
    check_loss(device, x, None, labels, phi, psi, dtype, loss=loss, scale=0.4)
    # Twice the same rows: as many gradients as arrays.
    got = check_loss(device, x, x, labels, phi, psi, dtype, loss=loss, scale=0.4)
    assert got.grad_y is not got.grad_x


@exact
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("n", "m"), [(70, MANY), (MANY, 33), (1, 1)])
def test_relation_loss_over_several_chunks(device, n, m, loss, dtype, rng):
    x, y, target = normal(rng, (n, 5), dtype), normal(rng, (m, 5), dtype), rng.random((n, m)).astype(dtype)
    first = check_loss(device, x, y, target, None, None, dtype, loss=loss)
    for a, b in zip(flat(first), flat(device.relation_loss(x, y, target, loss=loss)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_weight": np.array([1, -1, 1], F4)}, r"^sample_weight: .* got minimum -1\.0, sum 1\.0$"),
        ({"sample_weight": np.full((3, 3), np.nan, F4)}, r"^sample_weight: .* got minimum nan, sum nan$"),
        ({"sample_weight": np.ones(2, F4)}, r"^sample_weight: expected shape \(3,\) or \(3, 3\)"),
        (
            {"target": np.zeros((3, 3), F4), "loss": "softmax"},
            "^target: expected a positive sum in every row",
        ),
        ({"target": np.zeros(2, np.int64)}, r"^target: expected labels of shape \(3,\)"),
        ({"loss": "square"}, "^loss: expected one of "),
    ],
)
def test_bad_arguments_are_refused(device, change, message, rng):
    arguments = {"x": normal(rng, (3, 4), F4), "y": None, "target": np.arange(3)} | change
    with pytest.raises(ValueError, match=message):
        device.relation_loss(**arguments)


def test_floats_of_16_bits_are_refused(device, rng):
    for dtype in (BF16, F16):
        with pytest.raises(TypeError, match=r"^x: expected float32 or float64"):
            device.relation_loss(normal(rng, (3, 4), F4).astype(dtype), None, np.arange(3))
