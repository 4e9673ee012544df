"""MLP handles: immutable, counted, pickled, and safe to save and load."""

import contextlib
import copy
import json
import pickle
import struct

import numpy as np
import pytest
import relkernels as rk
from safetensors.numpy import save_file
from strategies import ACTIVATIONS, normal


def same(a, b):
    assert a.widths == b.widths
    assert a.dtype == b.dtype
    assert a.activation == b.activation
    for left, right in zip(a.weights, b.weights, strict=True):
        np.testing.assert_array_equal(left, right)
    assert (a.biases is None) == (b.biases is None)
    for left, right in zip(a.biases or (), b.biases or (), strict=True):
        np.testing.assert_array_equal(left, right)


def test_attributes():
    phi = rk.MLP.random([4, 8, 16, 3], "gelu", dtype="float64", random_state=0)
    assert phi.widths == (4, 8, 16, 3)
    assert phi.n_neurons == 24
    assert phi.n_parameters == 4 * 8 + 8 * 16 + 16 * 3 + 8 + 16 + 3
    assert phi.dtype == np.float64
    assert repr(phi) == "MLP(widths=(4, 8, 16, 3), gelu, float64)"
    assert rk.MLP.random([4, 3], bias=False).n_parameters == 12


def test_weights_are_copies_and_do_not_change(rng):
    w = normal(rng, (3, 2), np.float32)
    phi = rk.MLP([w])
    kept = w.copy()
    w[:] = 0
    np.testing.assert_array_equal(phi.weights[0], kept)
    np.testing.assert_array_equal(phi(np.eye(3, dtype=np.float32)), kept)
    with pytest.raises(ValueError, match="read-only"):
        phi.weights[0][0, 0] = 1


def test_random_is_reproducible_and_scaled():
    same(rk.MLP.random([5, 7, 2], seed=3), rk.MLP.random([5, 7, 2], seed=3))
    assert not np.array_equal(
        rk.MLP.random([5, 7], seed=3).weights[0], rk.MLP.random([5, 7], seed=4).weights[0]
    )
    he, lecun = (
        rk.MLP.random([400, 500, 500], random_state=0),
        rk.MLP.random([400, 500, 500], "tanh", random_state=0),
    )
    assert he.weights[0].var() * 400 == pytest.approx(2, rel=0.02)
    assert he.weights[1].var() * 500 == pytest.approx(1, rel=0.02)
    assert lecun.weights[0].var() * 400 == pytest.approx(1, rel=0.02)
    assert all((b == 0).all() for b in he.biases)


def test_two_towers_made_without_a_seed_differ():
    x = np.ones((4, 5), np.float32)
    relation = rk.relation_matrix(x + np.eye(4, 5, dtype="f4"), None, rk.MLP.random([5, 7, 3]))
    np.testing.assert_array_equal(relation, relation.T)
    phi, psi = rk.MLP.random([5, 7, 3]), rk.MLP.random([5, 7, 3])
    assert not np.array_equal(phi.weights[0], psi.weights[0])
    across = rk.relation_matrix(x + np.eye(4, 5, dtype="f4"), x + np.eye(4, 5, dtype="f4"), phi, psi)
    assert not np.allclose(across, across.T)


def test_every_kind_of_random_state():
    """An int as before, its former name `seed`, and generators, whose state advances."""
    expected = np.random.default_rng(3).standard_normal((5, 7)) * np.sqrt(1 / 5)
    np.testing.assert_array_equal(rk.MLP.random([5, 7], random_state=3, dtype="f8").weights[0], expected)
    same(rk.MLP.random([5, 7, 2], "relu", 3), rk.MLP.random([5, 7, 2], seed=3))
    same(rk.MLP.random([5, 7, 2], random_state=np.int64(3)), rk.MLP.random([5, 7, 2], seed=3))
    for make in (np.random.default_rng, np.random.RandomState):
        one, other = make(0), make(0)
        first, second = (rk.MLP.random([5, 7, 2], random_state=one) for _ in range(2))
        same(first, rk.MLP.random([5, 7, 2], random_state=other))
        assert not np.array_equal(first.weights[0], second.weights[0])
    same(rk.MLP.random([5, 7, 2], random_state=np.random.default_rng(3)), rk.MLP.random([5, 7, 2], seed=3))


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"random_state": 1, "seed": 1}, TypeError, "seed: expected None where random_state is given"),
    ({"random_state": -1}, ValueError, "random_state: expected an integer >= 0, got -1"),
    ({"random_state": "a"}, TypeError, "random_state: expected an integer >= 0, a Generator, .*got str 'a'"),
    ({"random_state": True}, TypeError, "random_state: expected an integer >= 0, a Generator, .*got bool"),
    ({"seed": 0.5}, TypeError, "seed: expected an integer"),
])  # fmt: skip
def test_bad_random_states(arguments, error, message):
    with pytest.raises(error, match=message):
        rk.MLP.random([4, 4], **arguments)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_round_trips(activation, bias, tmp_path):
    phi = rk.MLP.random([3, 6, 2], activation, seed=5, bias=bias)
    same(phi, pickle.loads(pickle.dumps(phi)))
    same(phi, copy.deepcopy(phi))
    phi.save(tmp_path / "phi.safetensors")
    same(phi, rk.MLP.load(tmp_path / "phi.safetensors"))


def test_a_truncated_or_damaged_file_is_a_value_error(tmp_path):
    path = tmp_path / "phi.safetensors"
    rk.MLP.random([3, 6, 2], random_state=0).save(path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"phi\.safetensors: "):
            rk.MLP.load(path)
    (header_size,) = struct.unpack("<Q", whole[:8])
    for position in range(8 + header_size):
        damaged = bytearray(whole)
        damaged[position] ^= 0x11
        path.write_bytes(damaged)
        # A flipped digit may leave a valid file; any other error would propagate.
        with contextlib.suppress(ValueError):
            assert rk.MLP.load(path).widths[0] >= 1


def test_a_foreign_file_is_a_value_error(tmp_path):
    path = tmp_path / "other.safetensors"
    good = {
        "format": "relkernels.MLP",
        "version": "1",
        "activation": "relu",
        "layers": "1",
        "bias": "False",
    }
    weights = {"weights.0": np.ones((2, 3), np.float32)}
    cases = [
        (weights, {}, "expected a file of format"),
        (weights, {"format": "pt"}, "'pt'"),
        (weights, good | {"version": "99"}, "'99'"),
        (weights, good | {"layers": "2"}, "'weights.1' is missing"),
        (weights, good | {"bias": "True"}, "'biases.0' is missing"),
        (weights, good | {"activation": "swish"}, "'swish'"),
        (weights, good | {"activation": "relu_power"}, "r:"),
        (weights, good | {"layers": "many"}, "many"),
        ({"weights.0": np.ones(3, np.float32)}, good, "(3,)"),
        ({"weights.0": np.ones((2, 3), np.int32)}, good, "int32"),
        ({"weights.0": np.ones((2, 3), np.float16)}, good, "float16"),
        (weights, good | {"bias": "yes"}, "bias: expected one of 'True', 'False', got 'yes'"),
        (weights, good | {"parameter": "0.5"}, "parameter"),
        (weights, good | {"norm": "layer", "dropout": "0"}, "unknown metadata: 'dropout', 'norm'"),
        (weights | {"biases.0": np.ones(3, np.float32)}, good, "unknown tensors: 'biases.0'"),
        (weights | {"weights.1": np.ones((3, 3), np.float32)}, good, "unknown tensors: 'weights.1'"),
    ]
    for tensors, metadata, message in cases:
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(ValueError, match=r"other\.safetensors: ") as caught:
            rk.MLP.load(path)
        assert message in str(caught.value)
    path.write_text(json.dumps({"weights": [1, 2]}))
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        rk.MLP.load(path)
    with pytest.raises(FileNotFoundError):
        rk.MLP.load(tmp_path / "absent.safetensors")


def test_from_torch(rng):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    x = normal(rng, (9, 4), np.float32)
    for layer in (nn.ReLU(), nn.LeakyReLU(0.3), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Tanh(),
                  nn.Sigmoid(), nn.Softplus(), nn.Identity()):  # fmt: skip
        net = nn.Sequential(
            nn.Linear(4, 8),
            layer,
            nn.Dropout(),
            nn.Linear(8, 8, bias=False),
            layer,
            nn.Linear(8, 2),
        )
        with torch.no_grad():
            expected = net.eval()(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(rk.MLP.from_torch(net)(x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match="Sequential"):
        rk.MLP.from_torch(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="same activation"):
        rk.MLP.from_torch(
            nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
        )
    with pytest.raises(ValueError, match="linear output"):
        rk.MLP.from_torch(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    with pytest.raises(TypeError, match=r"sequential\[0\].*Conv1d"):
        rk.MLP.from_torch(nn.Sequential(nn.Conv1d(1, 1, 1)))
