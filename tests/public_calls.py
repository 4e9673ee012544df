"""Every public callable with valid arguments, which `test_messages` replaces by wrong ones, one at a time.

`found()` looks up the callables; `entry(name)` returns one with the arguments of a call that succeeds. A
public function without arguments here fails `test_every_public_callable_is_swept`.
"""

import functools
import importlib
import importlib.util
import inspect
import os
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import relkernels as rk

MODULES = [
    "relkernels",
    "relkernels.arrays",
    "relkernels.bounds",
    "relkernels.metrics",
    "relkernels.spectra",
    "relkernels.states",
]
for _module, _library in (("dask", "dask"), ("plot", "matplotlib"), ("torch", "torch")):
    if importlib.util.find_spec(_library) is not None:
        MODULES.append(f"relkernels.{_module}")

# Classes that users do not construct; their methods are swept nevertheless.
RESULTS = {
    "Assumption", "BarronNorm", "Bound", "Certificate", "Comparison", "Constant", "Decay", "Gamma2", "Kind",
    "MLPGradient", "Margin", "MercerSpectrum", "NeuronCount", "RKHSNorm", "Report", "SchmidtSpectrum",
    "SphereSpectrum", "Tensor",
}  # fmt: skip
# Plain records, checked where they are used.
RECORDS = {"Above", "Activation", "LinkedSum", "SoftmaxAccumulate", "TopK"}
# Not called by users: a decorator, the DLPack protocol, blocks and states, which get checked arguments
# from `retrieve_blocks` and Dask, and values passed from one method to the next.
LEFT_OUT = {
    "relkernels.arrays.from_dlpack",
    "relkernels.arrays.operation",
    "relkernels.NpyBlocks.block",
    "relkernels.RandomFeatureRidge.begin",
    "relkernels.RandomFeatureRidge.solve",
    "relkernels.states.Above.accept",
    "relkernels.states.Above.finish",
    "relkernels.states.Above.init",
    "relkernels.states.Above.merge",
    "relkernels.states.LinkedSum.accept",
    "relkernels.states.LinkedSum.finish",
    "relkernels.states.LinkedSum.merge",
    "relkernels.states.SoftmaxAccumulate.accept",
    "relkernels.states.SoftmaxAccumulate.finish",
    "relkernels.states.SoftmaxAccumulate.merge",
    "relkernels.states.TopK.accept",
    "relkernels.states.TopK.finish",
    "relkernels.states.TopK.init",
    "relkernels.states.TopK.merge",
    "relkernels.torch.FeatureMap.set_extra_state",
}


def found() -> dict[str, Any]:
    """Return the public callables that take arguments, by dotted name."""
    callables: dict[str, Any] = {}
    for module in MODULES:
        library = importlib.import_module(module)
        own = [name for name, value in vars(library).items() if getattr(value, "__module__", "") == module]
        for name in getattr(library, "__all__", [n for n in own if not n.startswith("_")]):
            value = getattr(library, name)
            if inspect.isclass(value):
                if name not in RESULTS | RECORDS:
                    callables[f"{module}.{name}"] = value
                for method in dir(value):
                    function = getattr(value, method)
                    ours = str(getattr(function, "__module__", "")).startswith("relkernels")
                    if callable(function) and ours and (method[0] != "_" or method == "__call__"):
                        callables[f"{module}.{name}.{method}"] = function
            elif callable(value):
                callables[f"{module}.{name}"] = value
    return {name: value for name, value in callables.items() if parameters_of(value) and name not in LEFT_OUT}


def parameters_of(function: Any) -> list[str]:
    """Return the parameters that a user passes."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(function).parameters.items()
    return [name for name, p in parameters if name != "self" and p.kind not in variadic]


class Entry(NamedTuple):
    """A callable with keyword arguments, the parameters to sweep, and arguments with which it succeeds."""

    call: Callable[..., Any]
    parameters: list[str]
    arguments: dict[str, Any]


_RNG = np.random.default_rng(0)
N, D = 12, 3
X = _RNG.standard_normal((N, D))
Y = _RNG.standard_normal((8, D))
V = _RNG.standard_normal((8, 2))
LABELS = np.arange(N) % 3
RELATED = (LABELS[:, None] == np.arange(8) % 3).astype(np.float64)
# Heads of queries, keys and values, and relations.
RELATIONAL = {"q": X[None], "k": Y[None], "q_rel": X[None], "k_rel": Y[None], "v": V[None]}
SETS = _RNG.standard_normal((N, 4, 2))
CHOSEN = np.arange(N) % 4
SPHERE = X / np.linalg.norm(X, axis=1, keepdims=True)
POSITIVE = np.geomspace(1, 100, 6)
PHI = rk.MLP.random([D, 5, 4], dtype="float64", seed=1)
PSI = rk.MLP.random([D, 6, 4], dtype="float64", seed=2)
SAMPLES = [np.arange(20.0) ** power for power in (0.5, 1.0, 2.0)]
SMALL = {
    "batch_size": 4,
    "functionals": "quantiles",
    "features": rk.MultiLayerRandomFeatures((5,), random_state=0),
    "hidden_widths": (4,),
    "max_iter": 1,
    "n_coordinates": 4,
    "n_features": 3,
    "random_state": 0,
}


def _gauss(a, b):
    return np.exp(-((a[:, None] - b[None]) ** 2).sum(-1))


@functools.cache
def _folder() -> str:
    folder = tempfile.mkdtemp(prefix="relkernels-calls-")
    np.save(os.path.join(folder, "keys.npy"), Y)
    PHI.save(os.path.join(folder, "phi.safetensors"))
    rk.Keys(Y, PSI).save(os.path.join(folder, "keys.safetensors"))
    return folder


def _file(name: str) -> str:
    return os.path.join(_folder(), name)


@functools.cache
def _fitted(name: str) -> Any:
    small = {k: v for k, v in SMALL.items() if k in parameters_of(getattr(rk, name))}
    estimator = getattr(rk, name)(**small)
    data = {
        "AsymmetricRelation": (X, Y, RELATED),
        "HilbertCubeEncoder": (SAMPLES,),
        "PreferenceRetriever": (X, SETS, CHOSEN),
        "RandomFeatureRidge": (X, X[:, 0]),
        "SymmetricRelation": (X, LABELS),
        "ZonalFeatures": (SPHERE,),
    }
    return estimator.fit(*data.get(name, (X,)))


def _new(name: str) -> Any:
    return getattr(rk, name)(**{k: v for k, v in SMALL.items() if k in parameters_of(getattr(rk, name))})


def _of_estimators() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Return constructors, whose arguments `fit` checks, and methods, by name."""
    asymmetric = {"X": X, "y": Y, "R": RELATED}
    choices = {"Q": X, "sets": SETS, "chosen": CHOSEN}
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "AsymmetricRelation": ("fit", asymmetric),
        "HilbertCubeEncoder": ("fit", {"X": SAMPLES}),
        "MultiLayerRandomFeatures": ("fit", {"X": X}),
        "NNGPKernel": ("__call__", {"X": X}),
        "PreferenceRetriever": ("fit", choices),
        "RandomFeatureRidge": ("fit", {"X": X, "y": X[:, 0]}),
        "RelationKernel": ("__call__", {"X": X}),
        "SymmetricRelation": ("fit", {"X": X, "y": LABELS}),
        "ZonalFeatures": ("fit", {"X": SPHERE}),
    }
    methods: dict[str, dict[str, Any]] = {
        "AsymmetricRelation.fit": asymmetric,
        "AsymmetricRelation.partial_fit": asymmetric,
        "AsymmetricRelation.relation_matrix": {"X": X, "Y": Y},
        "AsymmetricRelation.retrieve": {"Q": X, "k": 2},
        "AsymmetricRelation.score": asymmetric,
        "AsymmetricRelation.transform": {"X": X, "y": Y},
        "HilbertCubeEncoder.fit": {"X": SAMPLES},
        "HilbertCubeEncoder.transform": {"X": SAMPLES},
        "MultiLayerRandomFeatures.fit": {"X": X},
        "MultiLayerRandomFeatures.transform": {"X": X},
        "MultiLayerRandomFeatures.weights": {"layer": 0},
        "NNGPKernel.__call__": {"X": X, "Y": Y},
        "NNGPKernel.diag": {"X": X},
        "PreferenceRetriever.attend": {"Q": X, "sets": SETS, "V": SETS, "beta": 2.0},
        "PreferenceRetriever.check_continuity": {"Q": X, "sets": SETS, "random_state": 0},
        "PreferenceRetriever.check_transitivity": {"Q": X, "sets": SETS, "n_triples": 5, "random_state": 0},
        "PreferenceRetriever.fit": choices,
        "PreferenceRetriever.fit_graded": {"Q": X, "sets": SETS, "grades": SETS[..., 0]},
        "PreferenceRetriever.fit_pairs": {"Q": X, "winners": SETS[:, 0], "losers": SETS[:, 1]},
        "PreferenceRetriever.log_loss": choices,
        "PreferenceRetriever.partial_fit": choices,
        "PreferenceRetriever.score": choices,
        "PreferenceRetriever.select": {"Q": X, "sets": SETS},
        "PreferenceRetriever.temperature_for": {"eps": 0.1},
        "PreferenceRetriever.utility": {"Q": X, "X": SETS},
        "RandomFeatureRidge.fit": {"X": X, "y": X[:, 0]},
        "RandomFeatureRidge.moments_of": {"X": X, "y": X[:, 0]},
        "RandomFeatureRidge.partial_fit": {"X": X, "y": X[:, 0]},
        "RandomFeatureRidge.predict": {"X": X},
        "RelationKernel.__call__": {"X": X, "Y": Y},
        "RelationKernel.diag": {"X": X},
        "SymmetricRelation.fit": {"X": X, "y": LABELS},
        "SymmetricRelation.partial_fit": {"X": X, "y": LABELS},
        "SymmetricRelation.relation_matrix": {"X": X, "Y": Y},
        "SymmetricRelation.retrieve": {"Q": X, "k": 2},
        "SymmetricRelation.score": {"X": X, "y": LABELS},
        "SymmetricRelation.transform": {"X": X},
        "ZonalFeatures.fit": {"X": SPHERE},
        "ZonalFeatures.transform": {"X": SPHERE},
    }
    table: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {}
    for name, (method, data) in calls.items():

        def make(_name=name, _method=method, _data=data, **parameters):
            return getattr(getattr(rk, _name)(**parameters), _method)(**_data)

        table[name] = (make, SMALL)
    for name, arguments in methods.items():
        estimator, method = name.split(".")
        if method.endswith("fit") or method.startswith(("fit", "moments")):

            def call(_estimator=estimator, _method=method, **given):
                return getattr(_new(_estimator), _method)(**given)

        elif estimator in ("NNGPKernel", "RelationKernel"):

            def call(_estimator=estimator, _method=method, **given):
                return getattr(getattr(rk, _estimator)(), _method)(**given)

        else:

            def call(_estimator=estimator, _method=method, **given):
                return getattr(_fitted(_estimator), _method)(**given)

        table[name] = (call, arguments)
    table["PreferenceRetriever.transform"] = (lambda Q: _fitted("PreferenceRetriever").transform(Q), {"Q": X})
    for estimator in ("AsymmetricRelation", "PreferenceRetriever", "SymmetricRelation"):
        table[f"{estimator}.save"] = (lambda path, e=estimator: _fitted(e).save(path), {"path": _file("e")})

        def load(path, _estimator=estimator):
            if isinstance(path, str) and path == _file(_estimator) and not os.path.exists(path):
                _fitted(_estimator).save(path)
            return getattr(rk, _estimator).load(path)

        table[f"{estimator}.load"] = (load, {"path": _file(estimator)})
    return {f"relkernels.{name}": value for name, value in table.items()}


def _of_numpy() -> dict[str, dict[str, Any]]:
    grad = _RNG.standard_normal((N, 8))
    pairs = {"x": X, "y": Y, "phi": PHI, "psi": PSI}
    attended = {"q": X, "k": Y, "v": V, "phi": PHI, "psi": PSI}
    relations, values = rk.relational_attention(**RELATIONAL)
    return {
        "RelationValues": {"values": RELATED, "Y": Y},
        "RowPairs": {"pairs": [[0, 1], [2, 3]], "X": X, "Y": Y},
        "Keys": {"keys": Y, "psi": PSI, "dtype": "float64"},
        "Keys.load": {"path": _file("keys.safetensors")},
        "MLP": {"weights": PHI.weights, "biases": PHI.biases, "activation": "relu"},
        "MLP.load": {"path": _file("phi.safetensors")},
        "MLP.random": {"widths": [3, 5, 2], "seed": 0, "dtype": "float64", "bias": True},
        "NpyBlocks": {"path": _file("keys.npy"), "rows": 3},
        "as_linear_operator": pairs,
        "attention": attended,
        "attention_scores": {"q": X, "k": Y, "phi": PHI, "psi": PSI},
        "attention_scores_vjp": {"q": X, "k": Y, "phi": PHI, "psi": PSI, "grad": grad},
        "attention_vjp": {**attended, "grad": grad[:, :2]},
        "feature_map": {"x": X, "mlp": PHI},
        "feature_map_vjp": {"x": X, "mlp": PHI, "grad": grad[:, :4]},
        "leaky_relu": {"slope": 0.1},
        "nngp_kernel": {"x": X, "y": Y, "depth": 1},
        "normalize": {"x": X},
        "normalize_vjp": {"x": X, "grad": X},
        "relation_loss": {**pairs, "target": RELATED},
        "relation_matrix": pairs,
        "relation_matrix_vjp": {**pairs, "grad": grad},
        "relation_matvec": {**pairs, "v": V},
        "relational_attention": RELATIONAL,
        "relational_attention_vjp": {**RELATIONAL, "grad_relations": relations, "grad_values": values},
        "relation_matvec_vjp": {**pairs, "v": V, "grad": rk.relation_matvec(**pairs, v=V)},
        "relu_power": {"r": 2.0},
        "retrieve": {"q": X, "keys": Y, "k": 3, "phi": PHI, "psi": PSI},
        "retrieve_above": {"q": X, "keys": Y, "threshold": 0.5, "phi": PHI, "psi": PSI},
        "retrieve_above_blocks": {"q": X, "blocks": [Y[:5], Y[5:]], "threshold": 0.5, "phi": PHI, "psi": PSI},
        "retrieve_blocks": {"q": X, "blocks": [Y[:5], Y[5:]], "k": 3, "phi": PHI, "psi": PSI},
        "set_num_threads": {"n": rk.get_num_threads()},
        "arrays.host": {"name": "a", "a": X},
        "arrays.kind_of": {"a": X},
    }


def _of_theory() -> dict[str, dict[str, Any]]:
    eigen = {"eps": 0.5, "dimension": 2, "norm": 1.0, "eigenfunction_sup": 1.5}
    ranked = {"relevant": RELATED, "scores": (X, Y), "k": 3, "exclude": 1 - RELATED}
    return {
        "bounds.asymmetric": {
            "relation": [1.0, 0.1, 0.01], "eps": 0.5, "dimensions": (2, 2), "norms": (1.0, 1.0),
            "function_sup": 1.5,
        },
        "bounds.attention": {"margin": 1.0, "n": 3, "diameter": 1.0, "eps": 0.5},
        "bounds.attention_coverage": {
            "margin": rk.bounds.margin_of([[0.0, 1.0]]), "diameter": 1.0, "eps": 0.5, "beta": 2.0,
        },
        "bounds.attention_regret": {"n": 3, "beta": 2.0},
        "bounds.attention_error": {"margin": 1.0, "n": 3, "diameter": 1.0, "beta": 2.0},
        "bounds.certify": {"phi": PHI, "relation": "gaussian", "box": [(-1, 1)] * D, "max_pairs": 1},
        "bounds.neurons": {"relation": "gaussian", "eps": 0.5, "box": [(-1, 1)], "max_pairs": 1},
        "bounds.hilbert_cube": {"encoder": "geometric", "modulus_of_continuity": 1.0, "eps": 0.1},
        "bounds.kernel_norm": {"kernel": "gaussian", "dimension": 2},
        "bounds.margin_of": {"utility": [[0.0, 1.0], [2.0, 3.0]]},
        "bounds.random_features": {
            "kernel": "relu", "depth": 1, "rkhs_norm": 1.0, "eps": 0.1, "dimension": 3,
        },
        "bounds.random_features_error": {
            "kernel": "relu", "depth": 1, "rkhs_norm": 1.0, "n_features": 3, "dimension": 3,
        },
        "bounds.report": {"model": PHI, "X": X, "target": X @ X.T},
        "bounds.drawn_features_error": {
            "features": rk.MultiLayerRandomFeatures([4], random_state=0).fit(np.eye(3)),
            "centers": np.eye(3),
            "coefficients": np.ones(3),
        },
        "bounds.section_gap": {"kernel": "gaussian", "points": X / np.abs(X).max()},
        "bounds.symmetric": {"kernel": [1.0, 0.1, 0.01], **eigen},
        "bounds.symmetric_floor": {"values": X @ X.T},
        "bounds.zonal": {"smoothness": 1.0, "dimension": 2, "n_neurons": 100},
        "metrics.mean_reciprocal_rank": ranked,
        "metrics.ndcg_at_k": ranked,
        "metrics.precision_at_k": ranked,
        "metrics.ranking_scorer": {"measure": "ndcg_at_k", "k": 3},
        "metrics.recall_at_k": {**ranked, "truncated": True},
        "spectra.barron_norm": {"samples": np.cos(np.arange(16.0)), "spacing": 0.1},
        "spectra.barron_norm_eigenfunction": {"vector": X[:, 0], "value": 0.5, "kernel_norm": 1.0},
        "spectra.barron_norm_fourier": {"transform": lambda w: np.exp(-w * w), "dimension": 1},
        "spectra.barron_norm_gaussian": {"scale": 1.0, "dimension": 2},
        "spectra.barron_norm_trigonometric": {"frequencies": X, "amplitudes": X[:, 0]},
        "spectra.fit_decay": {"values": 1 / np.arange(1.0, 9)},
        "spectra.funk_hecke": {"profile": np.exp, "dimension": 3, "degrees": 4},
        "spectra.kernel_operator": {"kernel": _gauss, "x": X, "y": Y},
        "spectra.gamma2": {"relation": _gauss, "x": X, "y": Y},
        "spectra.mercer": {"kernel": _gauss, "x": X, "k": 3},
        "spectra.mercer_sphere": {"profile": np.exp, "dimension": 3, "degrees": 4},
        "spectra.multiplicity": {"dimension": 3, "degree": 2},
        "spectra.rkhs_norm": {"kernel": _gauss, "f": X[:, 0], "x": X},
        "spectra.mercer_sphere_series": {"coefficients": [1.0, 0.5], "dimension": 3, "degrees": 2},
        "spectra.schmidt": {"relation": _gauss, "x": X, "y": Y, "k": 3},
        "plot.attention_against_beta": {"beta": POSITIVE, "error": 1 / POSITIVE},
        "plot.error_against_width": {"widths": POSITIVE, "errors": 1 / POSITIVE},
        "plot.relation_matrix": {"relation": X @ Y.T, "labels": LABELS},
        "plot.roofline": {"intensity": POSITIVE, "rate": 1e9 * POSITIVE, "bandwidth": 1e9},
        "plot.spectrum": {"values": 1 / np.arange(1.0, 9)},
    }  # fmt: skip


def _of_methods() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Return methods of objects created here, and of results."""
    from relkernels import bounds, spectra

    bound = bounds.attention(1.0, 3, 1.0, 0.5)
    decay = spectra.fit_decay(1 / np.arange(1.0, 9))
    mercer, schmidt = spectra.mercer(_gauss, X), spectra.schmidt(_gauss, X, Y)
    sphere = spectra.mercer_sphere(np.exp, 3, 4)
    return {
        "relkernels.Keys.add": (rk.Keys(Y, PSI).add, {"rows": Y}),
        "relkernels.Keys.remove": (lambda ids: rk.Keys(Y, PSI).remove(ids), {"ids": [1, 3]}),
        "relkernels.Keys.save": (rk.Keys(Y, PSI).save, {"path": _file("saved.keys")}),
        "relkernels.MLP.__call__": (PHI.__call__, {"x": X}),
        "relkernels.MLP.save": (PHI.save, {"path": _file("saved.safetensors")}),
        "relkernels.bounds.Margin.above": (rk.bounds.margin_of([[0.0, 1.0]]).above, {"margin": 0.5}),
        "relkernels.bounds.Bound.curve": (bound.curve, {"argument": "eps", "values": [0.1, 0.2]}),
        "relkernels.spectra.Decay.predict": (decay.predict, {"k": 3.0}),
        "relkernels.spectra.MercerSpectrum.functions": (mercer.functions, {"x": X}),
        "relkernels.spectra.MercerSpectrum.tail": (mercer.tail, {"count": 2}),
        "relkernels.spectra.SchmidtSpectrum.tail": (schmidt.tail, {"count": 2}),
        "relkernels.spectra.SphereSpectrum.expanded": (sphere.expanded, {"count": 2}),
        "relkernels.spectra.SphereSpectrum.tail": (sphere.tail, {"degrees": 2}),
    }


def _of_dask() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    import dask.array as da
    import relkernels.dask as rd

    x, y, v = da.from_array(X, chunks=(5, -1)), da.from_array(Y, chunks=(5, -1)), da.from_array(V)
    pairs = {"x": x, "y": y, "phi": PHI, "psi": PSI}
    arguments: dict[str, dict[str, Any]] = {
        "attention": {"q": x, "k": y, "v": v, "phi": PHI, "psi": PSI},
        "feature_map": {"x": x, "mlp": PHI},
        "from_npy": {"path": _file("keys.npy"), "rows": 3},
        "keys": {"keys": y, "psi": PSI, "dtype": "float64"},
        "nngp_kernel": {"x": x, "y": y, "depth": 1},
        "normalize": {"x": x},
        "relation_matrix": pairs,
        "relation_matvec": {**pairs, "v": v},
        "retrieve": {"q": x, "keys": y, "k": 3, "phi": PHI, "psi": PSI},
        "retrieve_above": {"q": x, "keys": y, "threshold": 0.5, "phi": PHI, "psi": PSI},
    }
    table = {f"relkernels.dask.{name}": (getattr(rd, name), given) for name, given in arguments.items()}

    def fit(estimator, X, sample_weight, epochs):
        return rd.fit(estimator, X, da.from_array(X_TARGET), sample_weight=sample_weight, epochs=epochs)

    table["relkernels.dask.fit"] = (
        fit, {"estimator": _new("RandomFeatureRidge"), "X": x, "sample_weight": None, "epochs": 1},
    )  # fmt: skip
    return table


X_TARGET = X[:, 0].copy()


@functools.cache
def _table() -> dict[str, tuple[Callable[..., Any] | None, dict[str, Any]]]:
    table: dict[str, tuple[Callable[..., Any] | None, dict[str, Any]]] = {**_of_estimators(), **_of_methods()}
    for name, arguments in (_of_numpy() | _of_theory()).items():
        table[f"relkernels.{name}"] = (None, arguments)
    if "relkernels.dask" in MODULES:
        table.update(_of_dask())
    if "relkernels.torch" in MODULES:
        table.update(_of_torch())
    return table


def _of_torch() -> dict[str, tuple[Callable[..., Any] | None, dict[str, Any]]]:
    import torch
    from relkernels import torch as rt
    from relkernels.torch import FeatureMap, InnerProductRelation, RelationAttention
    from torch import nn

    x, y, v = (torch.from_numpy(a) for a in (X, Y, V))
    phi, psi = FeatureMap.from_mlp(PHI), FeatureMap.from_mlp(PSI)
    pairs = {"x": x, "y": y, "phi": phi, "psi": psi}
    attended = {"q": x, "k": y, "v": v}
    attention, relation = RelationAttention(phi, psi), InnerProductRelation(phi, psi)
    maps = {"phi": PHI, "psi": PSI}
    objects = torch.ones(2, 5, 8)
    of_objects = {"x": objects, "symbols": objects}
    of_heads = {"d_model": 8, "n_heads": 2}
    dual = {"d_model": 8, "n_heads_sa": 1, "n_heads_ra": 1}
    return {
        "relkernels.torch.DualAttention": (None, dual),
        "relkernels.torch.DualAttention.forward": (rt.DualAttention(8, 1, 1).forward, of_objects),
        "relkernels.torch.DualAttentionBlock": (None, dual),
        "relkernels.torch.DualAttentionBlock.forward": (rt.DualAttentionBlock(8, 1, 1).forward, of_objects),
        "relkernels.torch.MultiDimensionalRelation": (None, {"object_dim": 8, "rel_dim": 2}),
        "relkernels.torch.MultiDimensionalRelation.forward": (
            rt.MultiDimensionalRelation(8, 2).forward,
            {"left_objects": objects},
        ),
        "relkernels.torch.PositionRelativeSymbolRetriever": (None, {"symbol_dim": 4, "max_rel_pos": 3}),
        "relkernels.torch.PositionRelativeSymbolRetriever.forward": (
            rt.PositionRelativeSymbolRetriever(4, 3).forward,
            {"x": objects},
        ),
        "relkernels.torch.PositionalSymbolRetriever": (None, {"symbol_dim": 4, "max_length": 9}),
        "relkernels.torch.PositionalSymbolRetriever.forward": (
            rt.PositionalSymbolRetriever(4, 9).forward,
            {"x": objects},
        ),
        "relkernels.torch.RelationalAttention": (None, of_heads),
        "relkernels.torch.RelationalAttention.forward": (rt.RelationalAttention(8, 2).forward, of_objects),
        "relkernels.torch.RelationalCrossAttention": (None, of_heads),
        "relkernels.torch.RelationalCrossAttention.forward": (
            rt.RelationalCrossAttention(8, 2).forward,
            of_objects,
        ),
        "relkernels.torch.SymbolicAttention": (None, {**of_heads, "n_symbols": 3}),
        "relkernels.torch.SymbolicAttention.forward": (rt.SymbolicAttention(8, 2, 3).forward, {"x": objects}),
        "relkernels.MLP.from_torch": (None, {"sequential": nn.Sequential(nn.Linear(3, 2))}),
        "relkernels.torch.FeatureMap": (None, {"widths": [3, 4, 2]}),
        "relkernels.torch.FeatureMap.from_torch": (None, {"sequential": nn.Sequential(nn.Linear(3, 2))}),
        "relkernels.torch.FeatureMap.forward": (phi.forward, {"x": x}),
        "relkernels.torch.FeatureMap.from_mlp": (None, {"mlp": PHI}),
        "relkernels.torch.InnerProductRelation": (None, {"phi": phi, "psi": psi}),
        "relkernels.torch.InnerProductRelation.forward": (relation.forward, {"x": x, "y": y}),
        "relkernels.torch.InnerProductRelation.from_mlp": (None, maps),
        "relkernels.torch.RelationAttention": (None, {"phi": phi, "psi": psi}),
        "relkernels.torch.RelationAttention.forward": (attention.forward, attended),
        "relkernels.torch.RelationAttention.from_mlp": (None, maps),
        "relkernels.torch.attention": (None, {**attended, "phi": phi, "psi": psi}),
        "relkernels.torch.scaled_dot_product_attention": (None, {"query": x, "key": y, "value": v}),
        "relkernels.torch.attention_scores": (None, {"q": x, "k": y, "phi": phi, "psi": psi}),
        "relkernels.torch.retrieve": (None, {"q": x, "keys": y, "k": 3, "phi": phi, "psi": psi}),
        "relkernels.torch.feature_map": (None, {"x": x, "mlp": phi}),
        "relkernels.torch.relation_loss": (None, {**pairs, "target": torch.from_numpy(RELATED)}),
        "relkernels.torch.relation_matrix": (None, pairs),
        "relkernels.torch.relation_matvec": (None, {**pairs, "v": v}),
        "relkernels.torch.relational_attention": (
            None,
            {name: torch.from_numpy(a) for name, a in RELATIONAL.items()},
        ),
    }


def entries() -> list[str]:
    """Return the names in the table."""
    return sorted(_table())


def entry(name: str) -> Entry:
    """Return a callable with arguments, without those that its signature lacks."""
    call, arguments = _table()[name]
    function = found()[name]
    parameters = parameters_of(function)
    given = {key: value for key, value in arguments.items() if key in parameters}
    return Entry(function if call is None else call, parameters, given)
