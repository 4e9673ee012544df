"""Random features: wide networks' spectra, error against width, Barron's count, and functions beyond both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .. import bounds, spectra
from ..bounds.funk_hecke import funk_hecke_of_relu_power
from ..estimators import MultiLayerRandomFeatures
from ..ops.nngp import nngp_kernel
from .fitting import function
from .study import Criterion, Row, Verdict, groups, slope

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..plot.panels import Panel

CLAIM = (
    "Random features with a trained last layer approximate functions in the NNGP's RKHS with a number of "
    "neurons determined by their norm; on S^(n-1) they need fewer than Barron's theorem if eigenvalues decay "
    "slower than k^(-n-2/3); and networks learn functions that neither theorem covers (Takhanov, arXiv "
    "2404.17461)."
)
ACTIVATIONS = ("step", "relu", "erf", "gelu", "cos")
WEIGHT = math.sqrt(2)
DEGREES = 60


def pieces(quick: bool) -> list[Row]:
    """Return spectra, widths and depths, frequencies for both theorems, and widths beyond both."""
    found: list[Row] = [
        {"part": "spectrum", "activation": a, "dimension": n, "depth": depth}
        for a in ACTIVATIONS
        for n in ((3,) if quick else (3, 4, 6))
        for depth in ((1, 2) if quick else (1, 2, 3))
    ]
    widths = [16, 64, 256] if quick else [16, 32, 64, 128, 256, 512, 1024]
    draws = 3 if quick else 10
    found += [
        {"part": "error", "activation": a, "dimension": 4, "depth": depth, "width": w, "draws": draws}
        for a in ("relu", "erf")
        for depth in ((1, 2) if quick else (1, 2, 3))
        for w in widths
    ]
    found += [
        {"part": "barron", "activation": a, "dimension": n, "frequency": f}
        for a in ("step", "relu")
        for n in (3, 5)
        for f in (0.5, 1.0, 2.0, 4.0)
    ]
    widths = [8, 32, 128] if quick else [8, 16, 32, 64, 128, 256]
    points = 4000 if quick else 8000
    return found + [{"part": "beyond", "dimension": 5, "width": w, "points": points} for w in widths]


def sphere(rng: np.random.Generator, n: int, dimension: int) -> np.ndarray:
    """Return n random points on the sphere."""
    x = rng.standard_normal((n, dimension))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def profile(activation: str, dimension: int, depth: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return the NNGP kernel as a function of t = <x, y> on the unit sphere."""

    def of(t: np.ndarray) -> np.ndarray:
        x, y = np.zeros((len(t), dimension)), np.zeros((1, dimension))
        x[:, 0], x[:, 1], y[0, 0] = t, np.sqrt(np.maximum(1 - t * t, 0)), 1
        return nngp_kernel(x, y, depth=depth, activation=activation, weight_std=WEIGHT)[:, 0]

    return of


def features(x: np.ndarray, width: int, depth: int, activation: str, seed: int) -> np.ndarray:
    """Return the features of a random network."""
    network = MultiLayerRandomFeatures([width] * depth, activation, WEIGHT, random_state=seed)
    return network.fit_transform(x)


def measure(piece: Row) -> list[Row]:
    """Return the figures of one part."""
    return {"spectrum": _spectrum, "error": _error, "barron": _barron, "beyond": _beyond}[piece["part"]](
        piece
    )


def _spectrum(piece: Row) -> list[Row]:
    n = piece["dimension"]
    spectrum = spectra.mercer_sphere(profile(piece["activation"], n, piece["depth"]), n, DEGREES)
    k = np.arange(DEGREES)
    # Use the high degrees above rounding; even and odd degrees may differ in size, or be absent. Smooth
    # activations have few degrees above rounding: then use all but the constant.
    used = (spectrum.values > 1e-13 * spectrum.trace) & (k >= 1)
    if (used & (k >= 6)).sum() >= 4:
        used &= k >= 6
    values = np.minimum.accumulate(spectrum.values[used])
    decay = spectra.fit_decay(values, "auto", indices=k[used])
    power = spectra.fit_decay(values, "power", indices=k[used])
    return [
        {
            "decay": decay.kind,
            "exponent": power.rate,
            "exponent_low": power.interval[0],
            "exponent_high": power.interval[1],
            "threshold": n + 2 / 3,
            "fewer": "random features" if decay.kind == "power" and power.rate < n + 2 / 3 else "Barron",
            "absent_degrees": int((spectrum.values[6:] == 0).sum()),
        }
    ]


def least_squares(train: np.ndarray, y: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the predictions on test features of a nearly unregularised ridge regression."""
    gram = train.T @ train
    gram[np.diag_indices_from(gram)] += 1e-12 * np.trace(gram)
    return test @ np.linalg.solve(gram, train.T @ y)


def _error(piece: Row) -> list[Row]:
    n, depth, activation, width = (piece[k] for k in ("dimension", "depth", "activation", "width"))
    rng = np.random.default_rng(7)
    centers = sphere(rng, 20, n)
    c = rng.standard_normal(20)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return nngp_kernel(a, b, depth=depth, activation=activation, weight_std=WEIGHT)

    norm = math.sqrt(c @ kernel(centers, centers) @ c)
    train, test = sphere(rng, 2500, n), sphere(rng, 2500, n)
    y, truth = kernel(train, centers) @ c, kernel(test, centers) @ c
    errors = []
    for draw in range(piece["draws"]):
        h = features(np.concatenate([train, test]), width, depth, activation, draw)
        errors.append(np.sqrt(np.mean((least_squares(h[:2500], y, h[2500:]) - truth) ** 2)))
    error = float(np.sqrt(np.mean(np.square(errors))))
    options = {"dimension": n, "weight_std": WEIGHT}
    low, high = 1e-6 * norm, 1e3 * norm
    for _ in range(40):
        middle = math.sqrt(low * high)
        fits = bounds.random_features(activation, depth, norm, middle, **options).value <= width
        low, high = (low, middle) if fits else (middle, high)
    return [{"norm": norm, "error": error, "rms": float(np.sqrt(np.mean(truth**2))), "error_by_bound": high}]


def _barron(piece: Row) -> list[Row]:
    """Evaluate both theorems on a wave of x_1, whose norms are known: C = f, and sum_k c_k^2 N_k / mu_k.

    A cosine for relu and a sine for step: beyond the first degrees their spaces are even and odd.
    """
    n, frequency, activation = piece["dimension"], piece["frequency"], piece["activation"]
    wave = np.cos if activation == "relu" else np.sin
    spectrum = spectra.mercer_sphere(profile(activation, n, 1), n, 30)
    c = spectra.funk_hecke(lambda t: wave(frequency * t), n, 30)
    used = (spectrum.values > 1e-13) & (np.abs(c) > 1e-14)
    norm = math.sqrt(float((c[used] ** 2 * spectrum.multiplicities[used] / spectrum.values[used]).sum()))
    barron = spectra.barron_norm_trigonometric(np.array([[frequency] + [0.0] * (n - 1)]), np.ones(1))
    bound = bounds.random_features(
        activation, 1, norm, 0.1, dimension=n, weight_std=WEIGHT, barron_norm=float(barron)
    )
    return [
        {
            "norm": norm,
            "barron_norm": float(barron),
            "neurons_random_features": bound.value,
            "neurons_barron": bound.details["barron"],
            "fewer": bound.details["fewer"],
        }
    ]


def _beyond(piece: Row) -> list[Row]:
    """Learn |x_1|^(1/2): its gradient is unbounded, and so are Barron's norm and the RKHS norm.

    Its transform in the direction of x_1 decays like w^(-3/2), so int w |F| dw diverges; the RKHS norm
    is shown to grow with the number of degrees included.
    """
    rng = np.random.default_rng(3)
    m, n, width = piece["points"], piece["dimension"], piece["width"]
    train, test = sphere(rng, m, n), sphere(rng, 4000, n)
    y, truth = (np.sqrt(np.abs(p[:, 0])) for p in (train, test))
    network = function(train, y, width, "relu", 0, 200)
    trained = float(np.sqrt(np.mean((network(test)[:, 0] - truth) ** 2)))
    h = features(np.concatenate([train, test]), width, 1, "relu", 0)
    fixed = float(np.sqrt(np.mean((least_squares(h[:m], y, h[m:]) - truth) ** 2)))
    spectrum = spectra.mercer_sphere(profile("relu", n, 1), n, DEGREES)
    # |t|^(1/2) is relu^(1/2) of t and of -t: twice its coefficients in even degrees, none in odd ones.
    c = 2 * funk_hecke_of_relu_power(0.5, n - 1, np.arange(DEGREES))
    used = (spectrum.values > 0) & (np.arange(DEGREES) % 2 == 0)
    parts = np.zeros(DEGREES)
    parts[used] = c[used] ** 2 * spectrum.multiplicities[used] / spectrum.values[used]
    norms = np.sqrt(np.cumsum(parts))
    return [
        {
            "error": trained,
            "error_random_features": fixed,
            "norm_to_degree_10": norms[10],
            "norm_to_degree_40": norms[40],
        }
    ]


def judge(rows: list[Row]) -> Verdict:
    """Check errors against the bound, spectra against the threshold, and learning beyond both theorems."""
    by = {name: [r for r in rows if r["part"] == name] for name in ("spectrum", "error", "barron", "beyond")}
    decays = []
    for (activation,), some in groups([r for r in by["spectrum"] if r["depth"] == 1], "activation").items():
        first = some[0]
        how = f"k^-{first['exponent']:.2f}" if first["decay"] == "power" else "exponential"
        decays.append(f"{activation} {how}")
    n = by["spectrum"][0]["dimension"]
    fits = groups(by["error"], "activation", "depth").values()
    rates = [slope([r["width"] for r in g], [r["error"] for r in g]) for g in fits]
    worst = max(r["error"] / r["error_by_bound"] for r in by["error"])
    fewer = {
        a: sum(r["fewer"] == "random features" for r in by["barron"] if r["activation"] == a)
        for a in ("step", "relu")
    }
    cases = len(by["barron"]) // 2
    first, last = by["beyond"][0], by["beyond"][-1]
    # Known: arc-cosine kernels of order p decay like k^(-n-2p), step (p = 0) slower than the threshold.
    sides = {"step": "random features", "relu": "Barron"}
    right = [
        r["fewer"] == sides[r["activation"]]
        for r in by["spectrum"]
        if r["activation"] in sides and r["depth"] == 1
    ]
    ahead = [r["error"] / r["error_random_features"] for r in by["beyond"]]
    return Verdict(
        f"On S^{n - 1}, one layer, eigenvalues by degree k decay like: {', '.join(decays)}; threshold "
        f"k^-{n + 2 / 3:.2f}. Errors of random features decay like N^p, p = {min(rates):.2f} to "
        f"{max(rates):.2f} (theorem: -0.5). |x_1|^(1/2) on S^4 is in "
        f"neither space (its norm to degree 10 is {last['norm_to_degree_10']:.3g}, to degree 40 "
        f"{last['norm_to_degree_40']:.3g}), and {last['width']} trained neurons learn it to rms "
        f"{last['error']:.3g} ({first['width']}: {first['error']:.3g}), random features to "
        f"{last['error_random_features']:.3g}.",
        [
            Criterion("The error is at most the bound.", f"at most {worst:.3g} of the bound", worst <= 1),
            Criterion(
                "Errors of random features decay at least as fast as N^-0.5.",
                f"the slowest like N^{max(rates):.2f}",
                max(rates) <= -0.5,
            ),
            Criterion(
                "Eigenvalues of step features decay slower than the threshold k^(-n-2/3), those of relu "
                "features faster, in every dimension n.",
                f"{sum(right)} of {len(right)}",
                all(right),
            ),
            Criterion(
                "For waves of x_1, step features, which are on the slow side, need fewer neurons by their "
                "bound than by Barron's theorem.",
                f"{fewer['step']} of {cases} waves",
                fewer["step"] == cases,
            ),
            Criterion(
                "For waves of x_1, relu features, which are on the fast side, do not.",
                f"{cases - fewer['relu']} of {cases} waves",
                fewer["relu"] == 0,
            ),
            Criterion(
                "Beyond both theorems, trained networks have a smaller error than random features at each "
                "width.",
                f"{min(ahead):.2g} to {max(ahead):.2g} of theirs",
                max(ahead) < 1,
            ),
            Criterion(
                "Beyond both theorems, the error is smaller with the most trained neurons than with the "
                "fewest.",
                f"{last['error']:.3g} with {last['width']}, {first['error']:.3g} with {first['width']}",
                last["error"] < first["error"],
            ),
        ],
    )


def panels(rows: list[Row]) -> list[Panel]:
    """Return panels of spectra, of errors against width with the bound, and of the function beyond both."""
    from ..plot import error_against_width, spectrum
    from ..plot.panels import Panel
    from ..plot.style import INK, finish

    n = next(r["dimension"] for r in rows if r["part"] == "spectrum")

    def decays(ax: Axes) -> None:
        for activation in ACTIVATIONS:
            values = spectra.mercer_sphere(profile(activation, n, 1), n, DEGREES).values[1:]
            k = np.arange(1, DEGREES)
            shown = values / values.max()
            spectrum(
                shown, indices=k, label=activation, xlabel="degree k", ylabel="eigenvalue / largest", ax=ax
            )
        threshold = k ** -(n + 2 / 3)
        ax.plot(k, threshold, color=INK, linestyle="--", linewidth=1.2, label="threshold k^(-n-2/3)")
        ax.set_ylim(1e-15, 3)
        finish(ax, "degree k", "eigenvalue / largest")

    def errors(ax: Axes) -> None:
        found = groups([r for r in rows if r["part"] == "error"], "activation", "depth")
        for (activation, depth), some in found.items():
            widths, measured, limits = ([r[k] for r in some] for k in ("width", "error", "error_by_bound"))
            label = f"{activation}, depth {depth}"
            error_against_width(
                widths,
                measured,
                bound=limits,
                label=label,
                slope=False,
                xlabel="width",
                ylabel="rms error",
                ax=ax,
            )

    def beyond(ax: Axes) -> None:
        some = [r for r in rows if r["part"] == "beyond"]
        widths = [r["width"] for r in some]
        for key, label in (("error", "trained"), ("error_random_features", "random features")):
            found = [r[key] for r in some]
            error_against_width(widths, found, label=label, xlabel="width", ylabel="rms error", ax=ax)

    return [
        Panel(f"NNGP on S^{n - 1}, one layer", decays),
        Panel("Random features and ridge", errors),
        Panel("|x₁|^(1/2) on S^4: neither theorem", beyond),
    ]
