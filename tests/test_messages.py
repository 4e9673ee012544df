"""Wrong arguments to every public callable: the error is a TypeError or ValueError that names the argument.

Each parameter in turn gets a dozen wrong kinds of value, while the others stay valid. A call may also
succeed, because many values are valid for some parameter. Messages are short for every value.
"""

import re
import warnings

import numpy as np
import pytest
import relkernels as rk
from public_calls import entries, entry, found

LONGEST = 500
# Messages about one of several objects give its index.
CALLED_OTHERWISE = {
    "relkernels.HilbertCubeEncoder": {"object"},
    "relkernels.HilbertCubeEncoder.fit": {"object"},
    "relkernels.HilbertCubeEncoder.transform": {"object"},
    "relkernels.retrieve_above_blocks": {"keys"},
    "relkernels.retrieve_blocks": {"keys"},
}
# Calls whose duration is an argument: "huge" would be valid, and never end.
AS_LONG_AS_TOLD = {
    ("relkernels.AsymmetricRelation", "max_iter"),
    ("relkernels.PreferenceRetriever", "max_iter"),
    ("relkernels.SymmetricRelation", "max_iter"),
    ("relkernels.PreferenceRetriever.check_continuity", "n_directions"),
    ("relkernels.bounds.certify", "max_pairs"),
    ("relkernels.bounds.neurons", "max_pairs"),
    ("relkernels.bounds.random_features", "depth"),
    ("relkernels.bounds.zonal", "dimension"),
    ("relkernels.bounds.zonal", "n_neurons"),
    ("relkernels.dask.fit", "epochs"),
}
# Parameters that may be the path of a file.
PATHS = {"path", "intensity"}
_FLOATS = np.linspace(0.1, 1, 12).reshape(4, 3)


def _frame():
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})


def _sparse():
    from scipy.sparse import csr_array

    return csr_array(_FLOATS)


WRONG = {
    "None": lambda: None,
    "str": lambda: "nonsense",
    "long str": lambda: "nonsense " * 10_000,
    "bytes": lambda: b"nonsense",
    "long list": lambda: [1.0] * 10_000,
    "ragged list": lambda: [[1.0], [1.0, 2.0]],
    "object array": lambda: np.array([object(), "x"], object),
    "array of strings": lambda: np.array([["a", "b"], ["c", "d"]]),
    "int array": lambda: np.arange(12).reshape(4, 3),
    "complex array": lambda: _FLOATS * 1j,
    "byte-swapped array": lambda: _FLOATS.astype(_FLOATS.dtype.newbyteorder()),
    "masked array": lambda: np.ma.masked_less(_FLOATS, 0.5),
    "0-d array": lambda: np.array(1.5),
    "5-d array": lambda: np.ones((1, 1, 2, 4, 3)),
    "empty array": lambda: np.empty((0, 3)),
    "array of NaN": lambda: np.full((4, 3), np.nan),
    "float16 array": lambda: _FLOATS.astype(np.float16),
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "negative": lambda: -1,
    "fraction": lambda: 0.5,
    "huge": lambda: 10**400,
    "bool": lambda: True,
    "complex": lambda: 1j,
    "dict": lambda: {"a": 1},
    "tuple": lambda: (1, 2, 3),
    "generator": lambda: (i for i in range(3)),
    "class": lambda: np.ndarray,
    "function": lambda: lambda *arguments: None,
    "object": object,
    "DataFrame": _frame,
    "sparse matrix": _sparse,
    "module": lambda: np,
    "MLP": lambda: rk.MLP.random([2, 2]),
}


@pytest.fixture(autouse=True)
def _leave_nothing(tmp_path, monkeypatch):
    """Write files with names such as "nonsense" to a test directory, and restore the number of threads."""
    monkeypatch.chdir(tmp_path)
    before = rk.get_num_threads()
    yield
    rk.set_num_threads(before)
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        return
    plt.close("all")


def fault(error, parameter, others=()):
    """Return the fault of an error, or None.

    An argument that is valid in itself may contradict another one, which the message may then name.
    """
    message = str(error)
    if isinstance(error, MemoryError):
        return None
    if isinstance(error, OSError) and parameter in PATHS:
        return None  # its message contains the path, whatever its length
    if not isinstance(error, (TypeError, ValueError)):
        return f"{type(error).__name__}: {message[:200]}"
    if len(message) >= LONGEST:
        return f"a message of {len(message)} characters: {message[:200]}"
    named = re.search(rf"(?<![a-zA-Z0-9]){re.escape(parameter)}(?![a-zA-Z0-9])", message)
    if parameter == "path":  # a file of that name exists, but its contents are wrong
        named = named or message.startswith(("nonsense:", "b'nonsense':"))
    first = re.match(r"\w*", message)[0]
    if not named and first.lower() not in {name.lower() for name in others}:
        return f"does not name {parameter}: {message[:200]}"
    return None


def sweep(name):
    """Yield the faults of the errors of a callable."""
    call, parameters, arguments = entry(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call(**arguments)
        for parameter in parameters:
            for kind, make in WRONG.items():
                if kind == "huge" and (name, parameter) in AS_LONG_AS_TOLD:
                    continue
                try:
                    call(**{**arguments, parameter: make()})
                except Exception as error:
                    wrong = fault(error, parameter, {*parameters, *CALLED_OTHERWISE.get(name, ())})
                    if wrong is not None:
                        yield f"{name}({parameter}={kind}): {wrong}"


def test_every_public_callable_is_swept():
    torch_missing = {"relkernels.MLP.from_torch"} - set(entries())
    assert sorted(set(found()) - torch_missing) == entries()


@pytest.mark.parametrize("name", entries())
def test_errors_name_the_argument(name):
    assert list(sweep(name)) == []
