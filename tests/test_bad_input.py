"""Bad input: TypeError or ValueError that names the argument and shows its value; nothing is written."""

import numpy as np
import pytest
import relkernels as rk
from relkernels.spectra import fit_decay, mercer, mercer_sphere
from scipy import sparse

F4 = np.float32
X = np.ones((5, 4), F4)
Y = np.ones((6, 4), F4)
V = np.ones((6, 3), F4)
T = np.ones((5, 6), F4)
PHI = rk.MLP.random([4, 8, 2], random_state=0)
PSI = rk.MLP.random([3, 8, 2], random_state=0)
PHI64 = rk.MLP.random([4, 8, 2], dtype="float64", random_state=0)
READ_ONLY = np.ones((5, 2), F4)
READ_ONLY.flags.writeable = False
SHARED = np.ones((5, 8), F4)

# operation(argument) for one bad argument at a time: (call, error, words that the message must contain)
CASES = [
    # not an array of floats
    (lambda: rk.feature_map([[1.0] * 4], PHI), TypeError, ["x:", "float32 or float64", "list"]),
    (lambda: rk.feature_map(np.ones((5, 4), int), PHI), TypeError, ["x:", "int64", "(5, 4)"]),
    (lambda: rk.feature_map(np.ones((5, 4), object), PHI), TypeError, ["x:", "object"]),
    (lambda: rk.feature_map(np.ones((5, 4), np.complex64), PHI), TypeError, ["x:", "complex64"]),
    (lambda: rk.feature_map(np.ones((5, 4), ">f4"), PHI), TypeError, ["x:", ">f4"]),
    (lambda: rk.feature_map(np.ma.masked_array(X), PHI), TypeError, ["x:"]),
    (lambda: rk.relation_matrix(X, np.ones((6, 4), complex)), TypeError, ["y:", "complex128"]),
    (lambda: rk.attention(X, Y, V.astype(int)), TypeError, ["v:", "int64", "(6, 3)"]),
    (lambda: rk.retrieve(X.astype(int), Y, 1), TypeError, ["q:", "int64"]),
    (lambda: rk.retrieve(X, None, 1), TypeError, ["keys:", "NoneType"]),
    (lambda: rk.relation_matvec(X, Y, [1.0] * 6), TypeError, ["v:", "list"]),
    (lambda: rk.relation_matvec(X, "y", V), TypeError, ["y:", "str"]),
    # missing, unsupported, or too long to print
    (lambda: rk.attention(X, Y, None), TypeError, ["v:", "NoneType"]),
    (lambda: rk.attention_vjp(X, Y, None, V), TypeError, ["v:", "NoneType"]),
    (lambda: rk.relation_matrix([1.0] * 10**6), TypeError,
     ["x:", "list of length 1000000", "np.asarray(x, dtype=np.float32)"]),
    (lambda: rk.relation_matrix(X, np.ma.masked_array(Y)), TypeError, ["y:", "masked", "y.filled(0)"]),
    (lambda: rk.relation_matrix(X, Y.astype(np.float16)), TypeError,
     ["y:", "expected float32", "got float16", "y.astype(np.float32)"]),
    (lambda: rk.relation_matrix(X.astype(np.float16), Y), TypeError,
     ["y:", "expected float16", "got float32", "y.astype(np.float16)"]),
    (lambda: rk.feature_map(X, PHI64), TypeError, ["mlp:", "x.astype(np.float64)"]),
    (lambda: rk.feature_map(X.astype(">f8"), PHI), TypeError, ["x:", "byte order", "x.astype(np.float64)"]),
    (lambda: rk.relation_matrix(X, sparse.csr_array(Y)), TypeError, ["y:", "(6, 4)", "y.toarray()"]),
    (lambda: rk.relation_loss(X, None, np.arange(5), loss="softmx"), ValueError,
     ["loss:", "did you mean 'softmax'?"]),
    (lambda: mercer(PHI, X), TypeError, ["kernel:", "MLP", "as_linear_operator"]),
    (lambda: mercer(X, PHI), TypeError, ["x:", "MLP"]),
    (lambda: fit_decay(mercer_sphere(np.exp, 3, 4)), TypeError, ["values:", "values.values[1:]"]),
    # ranks
    (lambda: rk.feature_map(np.array(1, F4), PHI), ValueError, ["x:", "at least 1 dimension, got shape ()"]),
    (lambda: rk.feature_map(np.ones(3, F4), PHI), ValueError, ["x:", "4 features", "(3,)"]),
    (lambda: rk.feature_map(X[0], PHI, out=np.ones((1, 2), F4)), ValueError, ["out:", "(2,)", "(1, 2)"]),
    (lambda: rk.relation_matrix(np.ones(4, F4)), ValueError, ["x:", "at least 2 dimensions", "(4,)"]),
    (lambda: rk.relation_matrix(X, np.ones(4, F4)), ValueError, ["y:", "(4,)"]),
    (lambda: rk.attention(X, Y, np.ones(6, F4)), ValueError, ["v:", "(6,)"]),
    (lambda: rk.relation_loss(X[None], None, np.arange(5)), ValueError, ["x:", "(1, 5, 4)"]),
    # widths
    (lambda: rk.feature_map(np.ones((5, 3), F4), PHI), ValueError, ["x:", "4 features", "(5, 3)"]),
    (lambda: rk.relation_matrix(X, np.ones((6, 3), F4)), ValueError, ["y:", "(6, 3)", "(5, 4)"]),
    (lambda: rk.relation_matrix(X, Y, PHI, PSI), ValueError, ["y:", "psi", "(6, 4)"]),
    (lambda: rk.relation_matrix(X, Y, None, PHI), ValueError, ["y:", "(6, 4)"]),
    (lambda: rk.attention(X, np.ones((6, 2), F4), V), ValueError, ["k:", "(6, 2)"]),
    (lambda: rk.retrieve(X, np.ones((6, 2), F4), 1), ValueError, ["keys:", "(6, 2)", "(5, 4)"]),
    (lambda: rk.attention(X, Y, np.ones((5, 3), F4)), ValueError, ["v:", "6 rows", "(5, 3)"]),
    (lambda: rk.relation_matvec(X, Y, np.ones(5, F4)), ValueError, ["v:", "(..., 6)", "(5,)"]),
    (lambda: rk.relation_matrix(np.ones((5, 0), F4)), ValueError, ["x:", "(5, 0)"]),
    (lambda: rk.attention(np.ones((5, 0), F4), np.ones((6, 0), F4), V), ValueError, ["q:", "(5, 0)"]),
    # leading dimensions
    (lambda: rk.relation_matrix(np.ones((2, 5, 4), F4), np.ones((3, 6, 4), F4)), ValueError,
     ["x:", "(2, 5, 4)", "(3, 6, 4)"]),
    (lambda: rk.attention(np.ones((2, 5, 4), F4), Y, np.ones((3, 6, 3), F4)), ValueError,
     ["(2, 5, 4)", "(3, 6, 3)"]),
    # one dtype per call
    (lambda: rk.feature_map(X, PHI64), TypeError, ["mlp:", "float32", "float64"]),
    (lambda: rk.relation_matrix(X, Y.astype(float)), TypeError, ["y:", "float32", "float64"]),
    (lambda: rk.relation_matrix(X, Y, PHI, PHI64), TypeError, ["psi:", "float64"]),
    (lambda: rk.attention(X, Y, V.astype(float)), TypeError, ["v:", "float64"]),
    # maps
    (lambda: rk.feature_map(X, None), TypeError, ["mlp:", "NoneType"]),
    (lambda: rk.relation_matrix(X, Y, lambda x: x), TypeError, ["phi:", "function"]),
    (lambda: rk.retrieve(X, Y, 1, PHI, 3), TypeError, ["psi:", "int"]),
    # scale, heads, k, link
    (lambda: rk.relation_matrix(X, scale=-float("inf")), ValueError, ["scale:", "-inf"]),
    (lambda: rk.relation_matrix(X, scale=10**400), ValueError, ["scale:", "float64 can hold"]),
    (lambda: rk.relation_matrix(X, scale=1e39), ValueError, ["scale:", "float32 can hold", "1e+39"]),
    (lambda: rk.relation_matrix_vjp(X, Y, T, scale=-1e39), ValueError, ["scale:", "-1e+39"]),
    (lambda: rk.relation_matvec(X, Y, V, scale=1e39), ValueError, ["scale:", "1e+39"]),
    (lambda: rk.relation_loss(X, Y, T, scale=1e39), ValueError, ["scale:", "1e+39"]),
    (lambda: rk.attention(X, Y, V, scale=1e39), ValueError, ["scale:", "1e+39"]),
    (lambda: rk.as_linear_operator(X, Y, scale=1e39), ValueError, ["scale:", "1e+39"]),
    (lambda: rk.MLP.random([2, 3, 2], rk.leaky_relu(1e39)), ValueError,
     ["activation.parameter:", "float32 can hold", "1e+39"]),
    (lambda: rk.relation_loss(X, Y, T, scale=float("nan")), ValueError, ["scale:", "nan"]),
    (lambda: rk.relation_loss(X, Y, T, scale="one"), TypeError, ["scale:", "str"]),
    (lambda: rk.relation_matrix(X, scale=float("nan")), ValueError, ["scale:", "nan"]),
    (lambda: rk.attention(X, Y, V, scale=float("inf")), ValueError, ["scale:", "inf"]),
    (lambda: rk.relation_matvec(X, Y, V, scale="big"), TypeError, ["scale:", "str"]),
    (lambda: rk.relation_matrix(X, scale=None), TypeError, ["scale:", "None"]),
    (lambda: rk.relation_matrix(X, heads=3), ValueError, ["heads:", "4", "3"]),
    (lambda: rk.relation_matrix(X, heads=0), ValueError, ["heads:", "0"]),
    (lambda: rk.relation_matrix(X, heads=2.0), TypeError, ["heads:", "float"]),
    (lambda: rk.retrieve(X, Y, 7), ValueError, ["k:", "at most 6", "(6, 4)", "7"]),
    (lambda: rk.retrieve(X, Y, 0), ValueError, ["k:", "0"]),
    (lambda: rk.retrieve(X, Y, True), TypeError, ["k:", "bool"]),
    (lambda: rk.retrieve(X, Y[:0], 1), ValueError, ["k:", "(0, 4)"]),
    (lambda: rk.relation_matvec(X, Y, V, link=np.exp), TypeError, ["link:", "'exp'"]),
    (lambda: rk.relation_matvec(X, Y, V, link="log"), ValueError, ["link:", "'log'"]),
    (lambda: rk.relation_matrix(X, link="matern"), ValueError, ["link:", "'matern52'", "'matern'"]),
    (lambda: rk.as_linear_operator(X, link="gaussian", scale=-2.0), ValueError, ["scale:", ">= 0", "-2.0"]),
    (lambda: rk.relation_matvec_vjp(X, Y, V, V), ValueError, ["grad:", "(5, 3)", "(6, 3)"]),
    # masks
    (lambda: rk.attention(X, Y, V, mask=np.ones((5, 6))), TypeError, ["mask:", "boolean", "float64"]),
    (lambda: rk.attention(X, Y, V, mask=np.ones((6, 5), bool)), ValueError,
     ["mask:", "(..., 5, 6)", "(6, 5)"]),
    (lambda: rk.attention_scores(X, Y, mask=[[True]]), TypeError, ["mask:", "list"]),
    (lambda: rk.retrieve(X, Y, 1, mask=np.ones((2, 5, 7), bool)), ValueError, ["mask:", "(2, 5, 7)"]),
    (lambda: rk.attention(X, Y, V, causal="yes"), TypeError, ["causal:", "'yes'"]),
    # out
    (lambda: rk.feature_map(X, PHI, out=np.ones((5, 3), F4)), ValueError, ["out:", "(5, 2)", "(5, 3)"]),
    (lambda: rk.feature_map(X, PHI, out=np.ones((5, 2))), TypeError, ["out:", "float32", "float64"]),
    (lambda: rk.feature_map(X, PHI, out=READ_ONLY), ValueError, ["out:", "read-only"]),
    (lambda: rk.feature_map(X, PHI, out=[0]), TypeError, ["out:", "list"]),
    (lambda: rk.feature_map(SHARED[:, :4], PHI, out=SHARED[:, 3:5]), ValueError, ["out:", "x", "overlaps"]),
    (lambda: rk.relation_matrix(X, SHARED[:, :4], out=SHARED[:, 3:]), ValueError, ["out:", "y", "overlaps"]),
    (lambda: rk.feature_map(X, PHI, out=np.broadcast_to(np.ones(2, F4), (5, 2))), ValueError, ["out:"]),
    # gradients
    (lambda: rk.feature_map_vjp(X, PHI, np.ones((5, 3), F4)), ValueError, ["grad:", "(5, 2)", "(5, 3)"]),
    (lambda: rk.relation_matrix_vjp(X, Y, np.ones((6, 5), F4)), ValueError, ["grad:", "(5, 6)", "(6, 5)"]),
    (lambda: rk.attention_vjp(X, Y, V, np.ones((5, 4), F4)), ValueError, ["grad:", "(5, 3)", "(5, 4)"]),
    (lambda: rk.relation_matrix_vjp(X, Y, np.ones((5, 6), F4), of="z"), ValueError, ["of:", "'y'", "'z'"]),
    (lambda: rk.relation_matrix_vjp(X, None, np.ones((5, 5), F4), of="x"), ValueError, ["of:", "y is None"]),
    (lambda: rk.attention_vjp(X, Y, V, X[:, :3], result=X), TypeError, ["result:", "(out, lse)", "(5, 4)"]),
    (lambda: rk.attention_vjp(X, Y, V, X[:, :3], result=(X[:, :3], X)), ValueError,
     ["result[1]:", "(5,)", "(5, 4)"]),
    # losses
    (lambda: rk.relation_loss(X, Y, np.ones((5, 5), F4)), ValueError, ["target:", "(5, 6)", "(5, 5)"]),
    (lambda: rk.relation_loss(X, Y, np.ones((5, 6))), TypeError, ["target:", "float64"]),
    (lambda: rk.relation_loss(X, Y, np.arange(5)), ValueError, ["target:", "n = 5", "m = 6"]),
    (lambda: rk.relation_loss(X, None, np.arange(4)), ValueError, ["target:", "(5,)", "(4,)"]),
    (lambda: rk.relation_loss(X, Y, (np.arange(5), np.ones(6))), TypeError, ["target[1]:", "float64"]),
    (lambda: rk.relation_loss(X, None, np.arange(5), loss="l2"), ValueError, ["loss:", "'l2'"]),
    (lambda: rk.relation_loss(X[:0], None, np.arange(0)), ValueError, ["x:", "(0, 4)"]),
    (lambda: rk.relation_loss(X, Y, (np.arange(5), np.full(6, 9)), loss="softmax"), ValueError,
     ["target:", "row 0"]),
    (lambda: rk.relation_loss(X, None, np.arange(5), sample_weight=np.ones(4, F4)), ValueError,
     ["sample_weight:", "(4,)"]),
    (lambda: rk.relation_loss(X, None, np.arange(5), sample_weight=-np.ones(5, F4)), ValueError,
     ["sample_weight:", "-1"]),
    (lambda: rk.relation_loss(X, None, np.arange(5), sample_weight=np.zeros(5, F4)), ValueError,
     ["sample_weight:", "sum"]),
    (lambda: rk.relation_loss(X, None, np.arange(5), sample_weight=np.ones((5, 5), F4), loss="softmax"),
     ValueError, ["sample_weight:", "(5,)"]),
    # MLPs
    (lambda: rk.MLP([]), ValueError, ["weights:"]),
    (lambda: rk.MLP(np.ones((2, 3, 3))), TypeError, ["weights:", "sequence"]),
    (lambda: rk.MLP([np.ones((2, 3)), np.ones((4, 2))]), ValueError, ["weights[1]:", "3", "(4, 2)"]),
    (lambda: rk.MLP([np.ones((2, 3)), np.ones((3, 2), F4)]), TypeError,
     ["weights[1]:", "float64", "float32"]),
    (lambda: rk.MLP([np.ones((2, 3), int)]), TypeError, ["weights[0]:", "int64"]),
    (lambda: rk.MLP([np.ones(3)]), ValueError, ["weights[0]:", "(3,)"]),
    (lambda: rk.MLP([np.ones((0, 3))]), ValueError, ["weights[0]:", "(0, 3)"]),
    (lambda: rk.MLP([np.ones((2, 3))], [np.ones(2)]), ValueError, ["biases[0]:", "(3,)", "(2,)"]),
    (lambda: rk.MLP([np.ones((2, 3))], []), ValueError, ["biases:", "1"]),
    (lambda: rk.MLP([np.ones((2, 3))], activation="swish"), ValueError, ["activation:", "'swish'"]),
    (lambda: rk.MLP([np.ones((2, 3))], activation=np.tanh), TypeError, ["activation:"]),
    (lambda: rk.MLP([np.ones((2, 3))], activation="relu_power"), ValueError,
     ["activation:", "relu_power(r)"]),
    (lambda: rk.MLP.random([4]), ValueError, ["widths:", "[4]"]),
    (lambda: rk.MLP.random([4, 0]), ValueError, ["widths[1]:", "0"]),
    (lambda: rk.MLP.random("44"), TypeError, ["widths:"]),
    (lambda: rk.MLP.random([4, 4], dtype="int32"), TypeError, ["dtype:", "int32"]),
    (lambda: rk.MLP.random([4, 4], seed=-1), ValueError, ["seed:", "-1"]),
    (lambda: rk.relu_power(0), ValueError, ["r:", "0"]),
    (lambda: rk.relu_power("2"), TypeError, ["r:", "str"]),
    (lambda: rk.leaky_relu(float("nan")), ValueError, ["slope:", "nan"]),
    # threads
    (lambda: rk.set_num_threads(0), ValueError, ["n:", "0"]),
    (lambda: rk.set_num_threads(2.5), TypeError, ["n:", "float"]),
    (lambda: rk.set_num_threads(True), TypeError, ["n:", "bool"]),
    (lambda: rk.set_num_threads(10**6), ValueError, ["n:", "1000000"]),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), CASES, ids=[" ".join(c[2]) for c in CASES])
def test_message_names_the_argument(call, error, words):
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(words[0]) or words[0] in message
    for word in words:
        assert word in message


def test_nothing_is_written_to_a_refused_output():
    out = np.full((5, 2), 7, F4)
    with pytest.raises(ValueError, match="x:"):
        rk.feature_map(np.ones((5, 3), F4), PHI, out=out)
    assert (out == 7).all()


def test_interleaved_output_is_no_overlap():
    both = np.ones((5, 6), F4)
    rk.feature_map(both[:, :4], PHI, out=both[:, 4:])
    np.testing.assert_array_equal(both[:, 4:], PHI(X))


def test_empty_sides_are_valid():
    none = np.ones((0, 4), F4)
    assert PHI(none).shape == (0, 2)
    assert rk.relation_matrix(none, Y).shape == (0, 6)
    assert rk.relation_matrix(X, none).shape == (5, 0)
    assert rk.relation_matrix(none).shape == (0, 0)
    assert rk.attention(none, Y, V).shape == (0, 3)
    assert rk.attention(X, Y, V[:, :0]).shape == (5, 0)
    assert (rk.relation_matvec(X, none, np.ones(0, F4)) == 0).all()
    assert rk.retrieve(none, Y, 2)[1].shape == (0, 2)
    assert rk.relation_matrix(np.ones((0, 5, 4), F4), np.ones((0, 6, 4), F4)).shape == (0, 5, 6)


def test_a_frame_gets_a_hint_how_to_become_an_array():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"y: .* got DataFrame of shape \(6, 4\): use y.to_numpy\(\)"):
        rk.relation_matrix(X, pandas.DataFrame(Y))


def test_fit_decay_takes_spectra():
    spectrum = mercer(np.diag(1 / np.arange(1.0, 9) ** 2))
    assert fit_decay(spectrum) == fit_decay(spectrum.values)
    assert round(fit_decay(spectrum).rate, 6) == 2


def test_saving_to_a_missing_folder_names_it_and_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the folder does not exist: .*absent") as caught:
        PHI.save(tmp_path / "absent" / "phi.safetensors")
    assert caught.value.filename == str((tmp_path / "absent").resolve())
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "phi.safetensors"
    PHI.save(path)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        PSI.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["phi.safetensors"]


def test_an_infinite_sample_weight_is_refused():
    weight = np.ones(5)
    weight[2] = np.inf
    with pytest.raises(ValueError, match="sample_weight"):
        rk.SymmetricRelation(max_iter=1).fit(X, np.array([0, 1, 0, 1, 0]), sample_weight=weight)
    with pytest.raises(ValueError, match="sample_weight"):
        rk.RandomFeatureRidge().fit(X, np.ones(5), sample_weight=weight)


def test_labels_of_other_rows_are_refused_by_score():
    model = rk.SymmetricRelation((4,), 2, max_iter=1).fit(X, np.array([0, 1, 0, 1, 0]))
    with pytest.raises(ValueError, match="y: expected 5 labels"):
        model.score(X, np.arange(4))
