"""Random features: neurons per layer with which a trained readout approximates functions of the NNGP's RKHS.

Layers of width N with normal weights (weight_std^2 / fan-in) and biases (bias_std^2); only the readout is
trained. Its kernel K^, a mean over the last layer's neurons, tends to the NNGP kernel K^L of `nngp_kernel`.
Let f be in the reproducing kernel Hilbert space (RKHS) of K^L with norm B. Errors are in L2 of a distribution
of the inputs and hold in the mean over draws, so for some draw. The readout of least squares in this L2 does
no worse; one fitted to a sample does, unless the sample is much larger than the number of features: with as
many points as features its error can be many times the bound.

One layer. f(x) = c bias_std + weight_std E[s(w) a(w.x)] with c^2 + E s^2 = B^2. The mean of N draws has a
squared error of at most weight_std^2 E[s^2 a^2] / N: for |a| <= S0 at most (weight_std S0 B)^2 / N. relu is
homogeneous: draw only the direction of w, and replace s by E[s |w|] given the direction and S0^2 by
E|w|^2 K^0(x, x). For inputs that are uniform on the sphere, `random_units` bounds the error of the best
readout degree by degree, which needs far fewer units; and S0^2 may be replaced by the largest mean of a^2
over inputs, which is 2n times smaller for relu.

L layers. With T the integral operator of K, T^ that of K^ and D = (E ||K - K^||^2)^(1/2) in L2(mu x mu), take
T^ (T + g)^(-1) f: ||f - T (T + g)^(-1) f|| <= B sqrt(g)/2 and ||(T + g)^(-1) f|| <= B / (2 sqrt(g)), so the
error is at most B (sqrt(g) + D / sqrt(g)) / 2 = B sqrt(D) at g = D. D grows from layer to layer by

    D_(l+1) <= weight_std^2 (Lip D_l + sqrt(C_l / N)),  D_0 = 0,

D_l also bounding the diagonal. For bounded a with |a| <= S0, |a'| <= S1, |a''| <= S2: dE[a(u)a(v)]/dk_uv =
E[a'a'], dE/dk_uu = E[a''a]/2, so Lip = S1^2 + S0 S2, and C = S0^4. For relu on a sphere (k_uu = k_vv = q):
E = s h(c / s) with s = sqrt(k_uu k_vv), c = k_uv, 0 <= h' <= 1/2, 0 <= h - rho h' <= 1/(2 pi), and |s - q| is
at most the larger error of the diagonal: Lip = 1/2 + sqrt(2)/(2 pi); C_l = 3/2 E k^_uu^2.
"""

from __future__ import annotations

import math
from typing import Any

from ..base import check
from ..maps.activations import Activation
from .bound import Assumption, Bound, Constant, non_negative, positive
from .random_units import checked_dimension, named, random_units, smooth_or_homogeneous

# sup |a|, sup |a'|, sup |a''|.
_SUPREMA = {
    "step": (1.0, math.inf, math.inf),
    "erf": (1.0, 2 / math.sqrt(math.pi), 4 / math.sqrt(2 * math.pi * math.e)),
    "sin": (1.0, 1.0, 1.0),
    "cos": (1.0, 1.0, 1.0),
    "tanh": (1.0, 1.0, 4 / (3 * math.sqrt(3))),
    "sigmoid": (1.0, 0.25, 1 / (6 * math.sqrt(3))),
    "gaussian": (1.0, math.exp(-0.5), 1.0),
}
_FORMULAS = {
    "mean of N draws": (
        "N = weight_std^2 E[w^2] sup a^2 B^2 / eps^2",
        r"N = \sigma_w^2\,\sup a^2\, B^2/\varepsilon^2",
    ),
    "expected projection, degree by degree": (
        "N with max_k mu_k q_k(N) <= (eps / B)^2, q_k <- q_k - E[c_k^2 / sum_j c_j^2 N_j q_j] q_k^2",
        r"\max_k \mu_k q_k(N) \le (\varepsilon/B)^2,\quad q_k \leftarrow q_k - "
        r"\mathbb{E}\Bigl[\frac{c_k^2}{\sum_j c_j^2 N_j q_j}\Bigr] q_k^2",
    ),
    "": (
        "N with D_L(N) <= (eps / B)^2, D_(l+1) = weight_std^2 (Lip D_l + sqrt(C_l / N))",
        r"D_L(N) \le (\varepsilon/B)^2,\quad "
        r"D_{l+1} = \sigma_w^2\left(\mathrm{Lip}\,D_l + \sqrt{C_l/N}\right)",
    ),
}
_LIP_RELU = 0.5 + math.sqrt(2) / (2 * math.pi)
# Larger neuron counts are treated as infinite.
_MOST = 1e300


def layers_error(
    activation: Any, depth: int, width: float, dimension: int, weight_std: float, bias_std: float
) -> tuple[float, float]:
    """Return D after two or more layers of this width, and an upper bound of K(x, x)."""
    name = _layered(activation, depth)
    w2, b2 = weight_std**2, bias_std**2
    q = b2 + w2 / dimension
    suprema = _SUPREMA.get(name, (0.0, 0.0, 0.0))
    error = _layers_error(width, depth, name == "relu", suprema, w2, b2, q)
    top = q
    for _ in range(depth):
        top = b2 + w2 * (top / 2 if name == "relu" else suprema[0] ** 2)
    return error, top


def _layered(activation: Any, depth: int) -> str:
    """Return the name of an activation with known suprema."""
    with check.naming("kernel"):
        name = named(activation).name
    names = ("relu", *_SUPREMA)
    if name not in names:
        check.fail("kernel", f"an activation among {', '.join(names)}", repr(name))
    if name == "step" and depth > 1:
        check.fail("depth", "1 for step, whose derivative is not bounded", depth)
    return name


def _layers_error(
    width: float, depth: int, relu: bool, suprema: tuple[float, float, float], w2: float, b2: float, q: float
) -> float:
    """D after `depth` layers of this width."""
    error = 0.0
    mean, square = q, q * q  # E k^_uu and E k^_uu^2
    for _ in range(depth):
        if relu:
            error = w2 * (_LIP_RELU * error + math.sqrt(1.5 * square / width))
            square = b2**2 + b2 * w2 * mean + w2**2 * square * (0.25 + 1.25 / width)
            mean = b2 + w2 * mean / 2
        else:
            s0, s1, s2 = suprema
            error = w2 * ((s1 * s1 + s0 * s2) * error + s0 * s0 / math.sqrt(width))
    return error


def random_features(
    kernel: Any,
    depth: int,
    rkhs_norm: float,
    eps: float,
    *,
    dimension: int,
    weight_std: float = math.sqrt(2),
    bias_std: float = 0.0,
    inputs: str = "any",
    barron_norm: float | None = None,
    decay: float | None = None,
) -> Bound:
    """Return the neurons per layer with which random features approximate a function of given RKHS norm.

    Parameters
    ----------
    kernel : str, Activation or object
        Activation of the network: relu, erf, sin, cos, tanh, sigmoid, gaussian or, for one layer, step. Or
        an object with attributes ``activation``, ``weight_std`` and ``bias_std`` such as `NNGPKernel`.
    depth : int
        Hidden layers, >= 1.
    rkhs_norm : float
        Norm of the function in the RKHS of the NNGP kernel, >= 0; may be infinite.
    eps : float
        Accuracy in L2, > 0.
    dimension : int
        Dimension n of the inputs, on the sphere S^(n-1) for relu.
    weight_std, bias_std : float
        As in `nngp_kernel`; taken from `kernel` if it has these attributes.
    inputs : {"any", "uniform"}, default "any"
        Distribution of the inputs: any, or uniform on the unit sphere (in at most 500 dimensions, for one
        layer, without biases for step and relu), for which far fewer neurons suffice.
    barron_norm : float, optional
        ``C = int ||w|| |F(w)| dw`` of the function: `details` then has Barron's count on the ball that
        contains the sphere.
    decay : float, optional
        Exponent p of eigenvalues that decay like k^(-p), k the degree of the harmonics (not the rank among
        the sorted eigenvalues, each repeated by its multiplicity), for the comparison with the threshold n +
        2/3, below which Takhanov's theorem guarantees fewer neurons than Barron's for large k.

    Returns
    -------
    Bound
        `value` is the width of every layer. ``details["fewer"]`` compares it with the count of `barron_norm`,
        ``details["fewer_asymptotically"]`` compares `decay` with the threshold; without `barron_norm` the
        former is the latter.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Examples
    --------
    >>> from relkernels import bounds
    >>> bounds.random_features("cos", 1, rkhs_norm=3.0, eps=0.5, dimension=4, weight_std=1.0).value
    36.0
    >>> bounds.random_features("relu", 2, 1.0, 0.5, dimension=3, decay=5.0).details["fewer_asymptotically"]
    'Barron'
    >>> bounds.random_features("relu", 1, 1.0, 0.01, dimension=4).value
    40000.0
    >>> bounds.random_features("relu", 1, 1.0, 0.01, dimension=4, inputs="uniform").value
    105.0
    """
    activation = getattr(kernel, "activation", kernel) if not isinstance(kernel, Activation) else kernel
    layers = check.integer("depth", depth, 1)
    name = _layered(activation, layers)
    norm = non_negative("rkhs_norm", rkhs_norm, finite=False)
    accuracy = positive("eps", eps)
    n = check.integer("dimension", dimension, 2, 10**9)
    w_std = positive("weight_std", getattr(kernel, "weight_std", weight_std))
    b_std = non_negative("bias_std", getattr(kernel, "bias_std", bias_std))
    w2, b2 = w_std**2, b_std**2
    uniform = check.choice("inputs", inputs, ("any", "uniform")) == "uniform"
    if uniform and layers > 1:
        check.fail("inputs", "'any' for more than one layer", repr(inputs))
    relu = name == "relu"
    suprema = _SUPREMA.get(name, (0.0, 0.0, 0.0))
    q = b2 + w2 / n  # K^0(x, x) on the unit sphere
    moment = (n + (b2 > 0)) * q if relu else suprema[0] ** 2  # E|w|^2 sup a^2 for w drawn as above

    width, how, note = math.inf, "", ""
    if norm == math.inf:
        note = "the function is not in the kernel's space: this theorem says nothing about it"
    elif norm == 0:
        width, how = 0.0, "the zero function"
    else:
        ratio = accuracy / norm
        if layers == 1:
            width, how = math.ceil(w2 * moment / ratio**2 * (1 - 1e-12)), "mean of N draws"
        if uniform:
            random = random_units(
                smooth_or_homogeneous(activation, b_std), checked_dimension(dimension), w_std, b_std
            )
            few = random.enough(ratio**2)
            if len(random.squares) == 1:  # q_k mu_k <= weight_std^2 E a^2 / N for every degree
                few = min(few, math.ceil(w2 * float(random.squares[0]) / ratio**2))
            if few < width:
                width, how = few, "expected projection, degree by degree"
        low, high = 1.0, _MOST if name == "step" else 2.0
        while high < _MOST and _layers_error(high, layers, relu, suprema, w2, b2, q) > ratio**2:
            high *= 2
        if high < _MOST:
            for _ in range(200):
                middle = math.sqrt(low * high)
                fits = _layers_error(middle, layers, relu, suprema, w2, b2, q) <= ratio**2
                low, high = (low, middle) if fits else (middle, high)
            if math.ceil(high * (1 - 1e-12)) < width:
                width, how = math.ceil(high * (1 - 1e-12)), "error of the kernel, layer by layer"
    threshold = n + 2 / 3
    details: dict[str, Any] = {"statement": how, "threshold": threshold}
    constants = [
        Constant("B", norm, "norm of the function in the kernel's space"),
        Constant("eps", accuracy, "requested accuracy, in L2"),
        Constant("weight_std", w_std, "of the network"),
        Constant("bias_std", b_std, "of the network"),
    ]
    if relu:
        constants.append(Constant("Lip", _LIP_RELU, "derived: 1/2 + sqrt(2)/(2 pi), relu on a sphere"))
    else:
        constants += [
            Constant(f"S{i}", s, f"sup of |a|, |a'|, |a''|: derivative {i}") for i, s in enumerate(suprema)
        ]
    if barron_norm is not None:
        c = non_negative("barron_norm", barron_norm, finite=False)
        details["barron"] = math.inf if c == math.inf else math.ceil((2 * c / accuracy) ** 2)
        constants.append(Constant("C", c, "Barron norm; his count (2 C / eps)^2 on the unit ball: cited"))
        details["fewer"] = "random features" if width < details["barron"] else "Barron"
    if decay is not None:
        p = positive("decay", decay)
        constants.append(Constant("p", p, f"decay of the eigenvalues; threshold {threshold:.4g}"))
        details["fewer_asymptotically"] = "random features" if p < threshold else "Barron"
        details.setdefault("fewer", details["fewer_asymptotically"])
    return Bound(
        "random_features",
        f"neurons in each of {layers} layer{'s' if layers > 1 else ''} that suffice",
        width,
        *_FORMULAS.get(how, _FORMULAS[""]),
        source="derived: " + (how or "regularised inverse of the kernel's operator"),
        constants=tuple(constants),
        assumptions=(
            Assumption("the function is in the RKHS of the NNGP kernel with the norm given"),
            Assumption(
                "inputs uniform on the unit sphere"
                if uniform
                else "inputs on the unit sphere"
                if relu
                else "any inputs"
            ),
            Assumption("error in L2 of the inputs' distribution, for some draw and the best last layer"),
        ),
        cited="Takhanov, arXiv 2404.17461: error of order B / sqrt(N); fewer neurons than Barron's theorem "
        f"on S^(n-1), two layers, where eigenvalues decay slower than k^(-n-2/3) (here k^-{threshold:.4g})",
        note=note,
        details=details,
        arguments={
            "kernel": kernel,
            "depth": depth,
            "rkhs_norm": rkhs_norm,
            "eps": eps,
            "dimension": dimension,
            "weight_std": weight_std,
            "bias_std": bias_std,
            "inputs": inputs,
            "barron_norm": barron_norm,
            "decay": decay,
        },
        function=random_features,
    )
