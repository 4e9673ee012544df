"""`report`: measured errors of a model and the bounds that apply to it."""

import numpy as np
import pytest
import relkernels as rk
from relkernels import SymmetricRelation, bounds
from rich.console import Console


def gaussian(a, b):
    return np.exp(-np.square(a[:, None] - b[None]).sum(axis=2) / 2)


def test_a_fitted_model_is_between_the_bounds(rng):
    X = rng.uniform(-1, 1, (80, 2))
    model = SymmetricRelation(
        (24,), n_features=6, activation="relu", solver="lbfgs", max_iter=60, random_state=0
    )
    model.fit(X, gaussian)
    norm = bounds.kernel_norm("gaussian", 2)
    found = bounds.report(model, X, target=gaussian, norm=norm)
    assert found.n_neurons == 24
    assert [c.bound.name for c in found.comparisons] == [
        "rank",
        "symmetric_floor",
        "symmetric_floor",
        "symmetric",
    ]
    assert all(c.holds for c in found.comparisons), str(found)
    assert found.l2 <= found.sup_on_pairs <= found.found
    at = gaussian(found.worst[0][None], found.worst[1][None])[0, 0]
    measured = abs(model.relation_matrix(found.worst[0][None], found.worst[1][None])[0, 0] - at)
    assert measured == pytest.approx(found.found, rel=1e-9)
    for word in ("largest error found", "upper: error on these points that 24 neurons", "ratio"):
        assert word in str(found)
    console = Console(record=True, width=140, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(found)
    assert "symmetric_floor" in console.export_text()


def test_the_largest_error_is_searched_for_between_the_pairs():
    """The error (x + y)^2 / 4 between the points of a grid that misses the peak of a bump."""
    x = np.linspace(-1, 1, 6)[:, None]  # the bump at 0.1 is between points

    def bump(a, b):
        return np.exp(-200 * (a - 0.1) ** 2) * np.exp(-200 * (b - 0.1).T ** 2)

    zero = rk.MLP([np.zeros((1, 1))])
    found = bounds.report(zero, x, target=bump)
    assert found.sup_on_pairs < 0.5
    assert found.found == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.worst, 0.1, atol=1e-4)
    matrix = bounds.report(zero, x, target=bump(x, x))
    assert matrix.found == matrix.sup_on_pairs == found.sup_on_pairs


def test_bounds_hold_for_random_models(rng):
    """Lower bounds on 200 random networks and relations; upper bounds concern the best network."""
    for k in range(200):
        n, d = int(rng.integers(1, 12)), int(rng.integers(1, 4))
        X = rng.uniform(-1, 1, (n, 2))
        values = rng.standard_normal((n, n))
        if k % 2:
            model = rk.MLP.random([2, 4, d], seed=k, dtype="f8")
        else:
            model = (
                rk.MLP.random([2, 4, d], seed=k, dtype="f8"),
                rk.MLP.random([2, 3, d], seed=k, dtype="f8"),
            )
        found = bounds.report(model, X, target=values)
        assert all(c.holds for c in found.comparisons), str(found)
        assert len(found.comparisons) == (3 if k % 2 else 1)


def test_two_maps(rng):
    X, Y = rng.uniform(-1, 1, (30, 2)), rng.uniform(-1, 1, (40, 1))
    phi, psi = (
        rk.MLP.random([2, 8, 3], dtype="f8", random_state=0),
        rk.MLP.random([1, 5, 3], dtype="f8", random_state=0),
    )

    def exact(a, b):
        return rk.relation_matrix(a, b, phi, psi)

    found = bounds.report((phi, psi), X, Y, exact, norm=(1.0, 1.0))
    assert found.found == 0
    assert found.n_neurons == 13
    assert [c.bound.name for c in found.comparisons] == ["rank", "asymmetric"]
    assert found.comparisons[1].holds
    assert found.comparisons[1].ratio == 0


def test_float32_inputs(rng):
    X = rng.uniform(-1, 1, (20, 2)).astype("f4")
    found = bounds.report(rk.MLP.random([2, 4, 2], random_state=0), X, target=gaussian)
    assert found.found >= found.sup_on_pairs
    assert found.worst[0].dtype == np.float32


def test_bad_arguments(rng):
    X = rng.uniform(-1, 1, (5, 2))
    phi = rk.MLP.random([2, 3, 2], dtype="f8", random_state=0)
    with pytest.raises(TypeError, match=r"^model: expected an MLP.*got str"):
        bounds.report("model", X, target=gaussian)
    with pytest.raises(ValueError, match=r"^target: expected a kernel, a function"):
        bounds.report(phi, X)
    with pytest.raises(ValueError, match=r"^target: expected values of shape \(5, 5\), got \(2, 2\)"):
        bounds.report(phi, X, target=np.eye(2))
    with pytest.raises(ValueError, match=r"^target: expected finite"):
        bounds.report(phi, X, target=np.full((5, 5), np.nan))
    with pytest.raises(ValueError, match=r"^X: expected inputs in \[-1, 1\]"):
        bounds.report(phi, 3 * X, target=gaussian, norm=1.0)
    with pytest.raises(TypeError, match=r"^X: "):
        bounds.report(phi, X.tolist(), target=gaussian)
    with pytest.raises(ValueError, match=r"^X: expected at least one row"):
        bounds.report(phi, X[:0], target=gaussian)


def test_a_narrow_peak_between_many_wide_ones():
    """Searches from the worst of the pairs given end at wide peaks, half as high as the narrow one."""
    x = np.linspace(-1, 1, 9)[:, None]

    def peaks(a, b):
        z = (a + b.T) / 2
        narrow = np.exp(-np.square((a - b.T) / 0.05) / 2) * np.exp(-np.square((z - 0.37) / 0.03) / 2)
        return 0.5 * np.cos(8 * np.pi * a) * np.cos(8 * np.pi * b.T) + 0.8 * narrow

    found = bounds.report(rk.MLP([np.zeros((1, 1))]), x, target=peaks)
    z = np.linspace(-1, 1, 1001)
    assert found.found >= np.abs(peaks(z[:, None], z[:, None])).max() - 1e-6


def test_a_report_with_a_certificate(rng):
    X = rng.uniform(-1, 1, (60, 2))
    model = SymmetricRelation((12,), n_features=4, solver="lbfgs", max_iter=40, random_state=0)
    model.fit(X, gaussian)
    found = bounds.report(model, X, target="gaussian", length_scale=1.0)
    assert found.certificate.certified
    assert found.certificate.found - 1e-12 <= found.found <= found.certificate.upper
    assert "certainly at most" in str(found)
    line = rk.MLP.random([1, 4, 2], dtype="f8", random_state=0)
    promised = bounds.report(line, X[:, :1], target=gaussian, curvature=2.0)
    assert promised.certificate.upper >= promised.found > 0
    assert bounds.report(model, X, target=gaussian).certificate is None
    exact = type("Model", (), {"relation_matrix": staticmethod(gaussian)})()
    assert bounds.report(exact, X, target="gaussian").certificate is None
    with pytest.raises(ValueError, match=r"^target: expected a kernel or a function"):
        bounds.report(model, X, target=gaussian(X, X), curvature=2.0)
    with pytest.raises(ValueError, match=r"^target: expected one of 'gaussian'"):
        bounds.report(model, X, target="cosine")


def test_the_deprecated_name():
    found = bounds.report(rk.MLP([np.ones((1, 1))]), np.array([[0.5], [1.0]]), target=np.eye(2))
    with pytest.warns(FutureWarning, match="use found"):
        assert found.sup == found.found
    state = {("sup" if k == "found" else k): v for k, v in vars(found).items() if k != "certificate"}
    old = bounds.Report.__new__(bounds.Report)
    old.__setstate__(state)
    assert old == found
