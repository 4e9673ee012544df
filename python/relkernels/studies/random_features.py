"""Random features: spectra of wide networks, errors with bounds, Barron's count, and what is beyond both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .. import bounds, spectra
from ..bounds import random_units as units
from ..bounds.funk_hecke import funk_hecke_of_relu_power
from ..estimators import MultiLayerRandomFeatures
from ..ops.nngp import nngp_kernel
from ..spectra.gegenbauer import polynomials
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
# Slopes of log eigenvalue against log rank on S^2, units a(w.x) with standard normal w, that the code of the
# paper (k-nic/NNGP) estimates from samples and features: ranks 1 to 100, 220 and 300.
RANKS = (100, 220, 300)
PUBLISHED = {
    "relu": (-3.10, -2.93, -2.87),
    "sigma_1": (-2.54, -2.70, -2.67),
    "erf": (-4.50, -5.89, -6.58),
    "tanh": (-4.41, -5.58, -6.26),
    "gaussian": (-5.18, -8.11, -9.73),
}
# Exponents by degree, n + 2p for arc-cosine kernels of order p.
ORDERS = {"step": 0, "relu": 1}
ACCURACY = 0.5  # of harmonics, relative
EXACT_DRAWS = 2


def pieces(quick: bool) -> list[Row]:
    """Return spectra, widths and depths, harmonics for both theorems, and widths beyond both."""
    found: list[Row] = [
        {"part": "spectrum", "activation": a, "dimension": n, "depth": depth}
        for a in ACTIVATIONS
        for n in ((3,) if quick else (3, 4, 6))
        for depth in ((1, 2) if quick else (1, 2, 3))
    ]
    found += [{"part": "figure", "activation": a} for a in (*PUBLISHED, "sigmoid")]
    widths = [16, 64, 256] if quick else [16, 32, 64, 128, 256, 512, 1024]
    draws = 3 if quick else 10
    found += [
        {"part": "error", "activation": a, "dimension": 4, "depth": depth, "width": w, "draws": draws}
        for a in ("relu", "erf")
        for depth in ((1, 2) if quick else (1, 2, 3))
        for w in widths
    ]
    found += [
        {"part": "barron", "activation": a, "dimension": n, "degree": k + (a == "relu")}
        for a in ("step", "relu")
        for n in (3, 5)
        for k in ((5, 11) if quick else (5, 11, 21, 41))
    ]
    widths = [8, 32, 128] if quick else [8, 16, 32, 64, 128, 256]
    points = 4000 if quick else 8000
    return found + [{"part": "beyond", "dimension": 5, "width": w, "points": points} for w in widths]


def sphere(rng: np.random.Generator, n: int, dimension: int) -> np.ndarray:
    """Return n random points on the sphere."""
    x = rng.standard_normal((n, dimension))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def profile(
    activation: str, dimension: int, depth: int, weight_std: float = WEIGHT
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the NNGP kernel as a function of t = <x, y> on the unit sphere."""

    def of(t: np.ndarray) -> np.ndarray:
        x, y = np.zeros((len(t), dimension)), np.zeros((1, dimension))
        x[:, 0], x[:, 1], y[0, 0] = t, np.sqrt(np.maximum(1 - t * t, 0)), 1
        return nngp_kernel(x, y, depth=depth, activation=activation, weight_std=weight_std)[:, 0]

    return of


def features(x: np.ndarray, width: int, depth: int, activation: str, seed: int) -> np.ndarray:
    """Return the features of a random network."""
    network = MultiLayerRandomFeatures([width] * depth, activation, WEIGHT, random_state=seed)
    return network.fit_transform(x)


def measure(piece: Row) -> list[Row]:
    """Return the figures of one part."""
    parts = {
        "spectrum": _spectrum, "figure": _figure, "error": _error, "barron": _barron, "beyond": _beyond
    }  # fmt: skip
    return parts[piece["part"]](piece)


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
            "exponent_low": power.drift[0],
            "exponent_high": power.drift[1],
            "threshold": n + 2 / 3,
            "fewer": "random features" if decay.kind == "power" and power.rate < n + 2 / 3 else "Barron",
            "absent_degrees": int((spectrum.values[6:] == 0).sum()),
        }
    ]


def by_rank(activation: str) -> np.ndarray:
    """Return the eigenvalues on S^2 of units a(w.x), w standard normal, sorted, with their multiplicities."""
    if activation in ("relu", "sigma_1"):
        spectrum = spectra.mercer_sphere(profile(activation, 3, 1, math.sqrt(3)), 3, DEGREES)
    else:  # smooth: eigenvalues are far below the rounding of a quadrature
        spectrum = spectra.mercer_sphere_series(_squared_hermite(activation), 3, DEGREES)
    values = spectrum.expanded(RANKS[-1])
    return values[values > 0]


def _squared_hermite(activation: str) -> np.ndarray:
    """Return E[a(z) He_j(z)]^2 / j!, the coefficients of t^j of the kernel at variance 1."""
    step = 1 / 40
    z = np.arange(-13, 13 + step / 2, step)
    density = np.exp(-z * z / 4)  # of the square root of the normal law
    weighted = units.values(units.named(activation), z) * density * step / math.sqrt(2 * math.pi)
    before, now, found = np.zeros_like(z), density, []
    for j in range(400):
        found.append(float(weighted @ now) ** 2)
        before, now = now, (z * now - math.sqrt(j) * before) / math.sqrt(j + 1)
    return np.array(found)


def _figure(piece: Row) -> list[Row]:
    values = by_rank(piece["activation"])
    return [{f"slope_{m}": slope(np.arange(1, m + 1), values[:m]) for m in RANKS}]


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
    rms = float(np.sqrt(np.mean(truth**2)))
    return [{"norm": norm, "error": error, "rms": rms, **_bounds_of_error(piece, norm, rms, centers, c)}]


def _bounds_of_error(piece: Row, norm: float, rms: float, centers: np.ndarray, c: np.ndarray) -> Row:
    """Return the bound in the mean over draws and, for one layer, the exact error of the first draws."""
    n, depth, activation, width = (piece[k] for k in ("dimension", "depth", "activation", "width"))
    options = {"dimension": n, "weight_std": WEIGHT}
    if depth > 1:  # the zero readout has the error rms
        bound = bounds.random_features_error(activation, depth, norm, width, parts=np.array([rms]), **options)
        return {"error_by_bound": bound.value}
    drawn = []
    for draw in range(min(piece["draws"], EXACT_DRAWS)):
        network = MultiLayerRandomFeatures([width], activation, WEIGHT, random_state=draw).fit(centers)
        drawn.append(bounds.drawn_features_error(network, centers, c))
    parts = drawn[0].details["parts"]
    bound = bounds.random_features_error(activation, 1, norm, width, parts=parts, **options)
    ball = bounds.random_features_error(activation, 1, norm, width, **options)
    return {
        "error_by_bound": bound.value,
        "error_by_norm": ball.value,
        "error_exact": float(np.sqrt(np.mean([d.value**2 for d in drawn]))),
        "floor": ball.details["floor"],
    }


def _barron(piece: Row) -> list[Row]:
    """Evaluate both theorems on a random harmonic of norm 1, odd for step and even for relu.

    A plane wave exp(i w.x) has the part G(n/2) 2^(n/2-1) |J_(k+n/2-1)(|w|)| |w|^(1-n/2) |Y_k(w/|w|)| along
    Y_k, so that every extension of Y_k has a Barron norm of at least 1 / (sup |Y_k| G(n/2) 2^(n/2-1)
    sup_t |J_(k+n/2-1)(t)| t^(-n/2)).
    """
    from scipy.special import jv

    n, k, activation = piece["dimension"], piece["degree"], piece["activation"]
    rng = np.random.default_rng(k)
    poles, x, a = sphere(rng, 400, n), sphere(rng, 2000, n), rng.standard_normal(400)
    *_, among = polynomials(np.clip(poles @ poles.T, -1, 1), n, k + 1)
    *_, across = polynomials(np.clip(x @ poles.T, -1, 1), n, k + 1)
    size = math.sqrt(float(a @ among @ a) / spectra.multiplicity(n, k))
    largest = float(np.abs(across @ a).max()) / size
    t = np.linspace(max(k - 10.0, 0.1), k + 60.0, 20_001)
    wave = math.gamma(n / 2) * 2 ** (n / 2 - 1) * float((np.abs(jv(k + n / 2 - 1, t)) * t ** (-n / 2)).max())
    barron = 1 / (largest * wave)
    random = units.random_units(units.named(activation), n, WEIGHT, 0.0)
    norm = 1 / math.sqrt(float(random.kernel[k]))
    by_degree = next(count for count, q, _ in random.left() if q[k] <= ACCURACY**2)
    return [
        {
            "norm": norm,
            "sup_found": largest,
            "barron_norm": barron,
            "neurons_random_features": (WEIGHT * norm / ACCURACY) ** 2 * float(random.squares[0]),
            "neurons_by_degree": by_degree,
            "neurons_barron": (2 * barron / ACCURACY) ** 2,
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
    """Check errors against bounds, spectra against theory, and learning beyond both theorems."""
    names = ("spectrum", "figure", "error", "barron", "beyond")
    by = {name: [r for r in rows if r["part"] == name] for name in names}
    single = [r for r in by["spectrum"] if r["depth"] == 1]
    decays = []
    for (activation,), some in groups(single, "activation").items():
        first = some[0]
        how = f"k^-{first['exponent']:.2f}" if first["decay"] == "power" else "exponential"
        decays.append(f"{activation} {how}")
    n = by["spectrum"][0]["dimension"]
    fits = groups(by["error"], "activation", "depth").values()
    rates = [slope([r["width"] for r in g], [r["error"] for r in g]) for g in fits]
    worst = max(r["error"] / r["error_by_bound"] for r in by["error"])
    above = max(r["error_by_bound"] / r["rms"] for r in by["error"])
    loose = {
        a: [r["error_by_bound"] / r["error"] for r in by["error"] if r["activation"] == a and r["depth"] == 1]
        for a in ("relu", "erf")
    }
    relus = [r for r in by["error"] if r["activation"] == "relu" and r["depth"] == 1]
    exact = [max(r["error"] / r["error_exact"], r["error_exact"] / r["error"]) for r in relus]
    highest = [some[-1] for some in groups(by["barron"], "activation", "dimension").values()]
    fewer = {
        a: [r["neurons_random_features"] < r["neurons_barron"] for r in highest if r["activation"] == a]
        for a in ORDERS
    }
    below = [r["neurons_by_degree"] < r["neurons_barron"] for r in by["barron"]]
    first, last = by["beyond"][0], by["beyond"][-1]
    known = [r for r in single if r["activation"] in ORDERS]
    sides = [(r["fewer"] == "random features") == (r["activation"] == "step") for r in known]
    inside = [
        r["exponent_low"] <= r["dimension"] + 2 * ORDERS[r["activation"]] <= r["exponent_high"] for r in known
    ]
    gaps = {
        m: {
            r["activation"]: abs(r[f"slope_{m}"] - PUBLISHED[r["activation"]][i])
            for r in by["figure"]
            if r["activation"] in PUBLISHED
        }
        for i, m in enumerate(RANKS)
    }
    near = {m: [a for a, gap in some.items() if gap <= 0.05] for m, some in gaps.items()}
    slopes = "; ".join(
        " ".join([r["activation"], *(f"{r[f'slope_{m}']:.2f}" for m in RANKS)]) for r in by["figure"]
    )
    ahead = [r["error"] / r["error_random_features"] for r in by["beyond"]]
    return Verdict(
        f"On S^{n - 1}, one layer, eigenvalues by degree k decay like: {', '.join(decays)}; threshold "
        f"k^-{n + 2 / 3:.2f}. By rank on S^2, "
        f"slopes on ranks 1 to 100, 220 and 300: {slopes}. Errors of random features decay like N^p, p = "
        f"{min(rates):.2f} to {max(rates):.2f} (theorem: -0.5). |x_1|^(1/2) on S^4 is in "
        f"neither space (its norm to degree 10 is {last['norm_to_degree_10']:.3g}, to degree 40 "
        f"{last['norm_to_degree_40']:.3g}), and {last['width']} trained neurons learn it to rms "
        f"{last['error']:.3g} ({first['width']}: {first['error']:.3g}), random features to "
        f"{last['error_random_features']:.3g}.",
        [
            Criterion(
                "The error is at most the bound, and the bound at most the rms of the function.",
                f"at most {worst:.3g} of the bound; bound at most {above:.3g} of the rms",
                worst <= 1 and above <= 1.01,
            ),
            Criterion(
                "One layer of relus: the bound is at most 10 times the error.",
                f"{min(loose['relu']):.2g} to {max(loose['relu']):.2g} times",
                max(loose["relu"]) <= 10,
            ),
            Criterion(
                "One layer of erf: the bound is at most 10 times the error.",
                f"{min(loose['erf']):.2g} to {max(loose['erf']):.2g} times",
                max(loose["erf"]) <= 10,
            ),
            Criterion(
                "One layer of relus: the error of a readout fitted to 2,500 points is within a factor of 1.5 "
                f"of the exact error of the best readout ({EXACT_DRAWS} of the draws).",
                f"within {max(exact):.3g}",
                max(exact) <= 1.5,
            ),
            Criterion(
                "Errors of random features decay at least as fast as N^-0.5.",
                f"the slowest like N^{max(rates):.2f}",
                max(rates) <= -0.5,
            ),
            Criterion(
                "Eigenvalues of step features decay slower than the threshold k^(-n-2/3), those of relu "
                "features faster, in every dimension n.",
                f"{sum(sides)} of {len(sides)}",
                all(sides),
            ),
            Criterion(
                "The intervals of their exponents, by drift, contain the known ones, n and n + 2.",
                f"{sum(inside)} of {len(inside)}",
                all(inside),
            ),
            *(
                Criterion(
                    f"Slopes on ranks 1 to {m} are within 0.05 of those of the paper's code, by sampling.",
                    f"{len(near[m])} of {len(gaps[m])}"
                    + "".join(f"; {a} {gap:.3f} away" for a, gap in gaps[m].items() if a not in near[m]),
                    len(near[m]) == len(gaps[m]),
                )
                for m in (RANKS[0], RANKS[-1])
            ),
            Criterion(
                "For harmonics of the highest degree, step features, which are on the slow side, need fewer "
                "neurons by the norm than Barron's theorem.",
                f"in {sum(fewer['step'])} of {len(fewer['step'])} dimensions",
                all(fewer["step"]),
            ),
            Criterion(
                "For harmonics of the highest degree, relu features, which are on the fast side, do not.",
                f"in {len(fewer['relu']) - sum(fewer['relu'])} of {len(fewer['relu'])} dimensions",
                not any(fewer["relu"]),
            ),
            Criterion(
                "Counted degree by degree, both need fewer neurons than Barron's theorem for every harmonic: "
                "the threshold compares two bounds, not two methods.",
                f"{sum(below)} of {len(below)}",
                all(below),
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

    def ranks(ax: Axes) -> None:
        for activation in (*PUBLISHED, "sigmoid"):
            values = by_rank(activation)
            at = np.arange(1, len(values) + 1)
            spectrum(
                values / values[0], indices=at, label=activation, xlabel="rank", ylabel="eigenvalue", ax=ax
            )
        finish(ax, "rank", "eigenvalue / largest")

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
        Panel("Standard normal weights on S^2", ranks),
        Panel("Random features and ridge", errors),
        Panel("|x₁|^(1/2) on S^4: neither theorem", beyond),
    ]
