"""The factorisation norm: both bounds against their definitions and known values."""

import numpy as np
import pytest
from relkernels import MLP, spectra
from relkernels.spectra import gamma2

X = np.linspace(-1, 1, 20)[:, None]


def checked(R, **options):
    """Return gamma2 of a matrix, after checking what proves both of its bounds."""
    R = np.asarray(R, float)
    found = gamma2(R, **options)
    np.testing.assert_allclose(found.left @ found.right.T, R, atol=1e-9 * np.abs(R).max(initial=0))
    lengths = [np.linalg.norm(side, axis=1).max() for side in (found.left, found.right)]
    assert lengths[0] * lengths[1] == pytest.approx(found.upper, rel=1e-9)
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-9)
    weighted = found.row_weights[:, None] * R * found.column_weights
    assert np.linalg.norm(found.row_weights) == pytest.approx(1)
    assert np.linalg.norm(found.column_weights) == pytest.approx(1)
    assert np.linalg.svd(weighted, compute_uv=False).sum() == pytest.approx(found.lower, rel=1e-9)
    assert found.lower <= found.upper * (1 + 1e-12)
    return found


def test_known_values():
    found = checked(np.exp(-((X - X.T) ** 2) / 2))
    assert (found.lower, found.upper) == pytest.approx((1, 1))
    assert checked([[1, 1], [1, -1]]).upper == pytest.approx(2**0.5, rel=1e-3)  # Hadamard: sqrt(n)
    assert checked(np.outer([1, -3, 2], [2, 0.5])).upper == pytest.approx(
        6, rel=1e-3
    )  # rank one: sup |u| sup |v|
    assert checked(np.diag([1.0, 5.0, 2.0])).upper == pytest.approx(5, rel=1e-3)
    assert checked(-np.abs(X - X.T)).upper == pytest.approx(2, rel=1e-3)
    tanh = checked(np.tanh(4 * (X.T - X)))
    assert tanh.lower <= 1.6634
    assert tanh.upper >= 1.6628
    assert tanh.upper <= tanh.lower * 1.0005
    assert checked(X < X.T).upper == pytest.approx(1.754, rel=1e-3)
    assert (checked(np.zeros((2, 3))).lower, checked(np.zeros((2, 3))).upper) == (0, 0)


def test_zero_rows_and_single_points():
    R = np.array([[0.0, 0, 0], [0, 2, 1]])
    found = checked(R)
    assert found.upper == pytest.approx(2, rel=1e-3)
    assert (found.left[0] == 0).all()
    assert checked([[-3.0]]).upper == pytest.approx(3)
    assert checked(np.ones((1, 5))).upper == pytest.approx(1)


def test_it_is_a_norm_that_grows_with_the_points(rng):
    for _ in range(5):
        n, m = rng.integers(1, 12, 2)
        R, S = rng.standard_normal((2, n, m))
        a, b, c = checked(R), checked(S), checked(R + S)
        assert c.lower <= a.upper + b.upper
        assert checked(R[: max(n - 1, 1)]).lower <= a.upper
        assert checked(-1e-200 * R).upper == pytest.approx(1e-200 * a.upper, rel=1e-2)
        assert np.abs(R).max() <= a.upper
        assert a.lower <= np.linalg.norm(R, axis=1).max() * (1 + 1e-9)  # phi = rows of R
        assert checked(R.T).lower <= a.upper
        assert checked(R * S).lower <= a.upper * b.upper  # Schur products


def test_stopping_early_keeps_the_bounds():
    R = np.tanh(4 * (X.T - X))
    early, late = checked(R, max_steps=2), checked(R)
    assert early.steps == 2
    assert early.lower <= late.upper
    assert early.upper >= late.lower
    assert early.upper - early.lower > late.upper - late.lower


def test_relations_and_bad_arguments():
    by_function = gamma2(lambda a, b: np.tanh(a - b.T), X, X[:5])
    assert by_function.upper == gamma2(np.tanh(X - X[:5].T)).upper
    with pytest.raises(ValueError, match=r"^x: expected points"):
        gamma2(lambda a, b: a @ b.T)
    with pytest.raises(TypeError, match=r"^relation: expected a callable of two arrays, got MLP"):
        gamma2(MLP([np.eye(1)]), X)
    for relation in (np.zeros(3), np.zeros((0, 3)), np.array([[np.nan]])):
        with pytest.raises(ValueError, match=r"^relation: expected"):
            gamma2(relation)
    with pytest.raises(ValueError, match=r"^tolerance: "):
        gamma2(np.eye(2), tolerance=0)
    with pytest.raises(ValueError, match=r"^max_steps: "):
        gamma2(np.eye(2), max_steps=0)
    assert repr(spectra.gamma2(np.eye(2))) == "Gamma2(1 to 1, 2 x 2 points)"
