"""Results of gradients: tuples with further values by name, for every kind of array."""

import copy
import pickle

import numpy as np
import pytest
import relkernels as rk
from relkernels import gradients
from strategies import mlp, normal

X, Y = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]])


def results():
    one = np.ones((1, 1))
    return {
        gradients.RelationGradients: (rk.relation_matrix_vjp(X, Y, one), 4),
        gradients.AttentionGradients: (rk.attention_vjp(X, Y, Y, X), 5),
        gradients.AttentionScoresGradients: (rk.attention_scores_vjp(X, Y, one, bias=one), 4),
        gradients.LossGradients: (rk.relation_loss(X, Y, one), 3),
        gradients.FeatureLoss: (gradients.feature_loss(X, Y, one, "squared"), 3),
    }


def test_they_are_tuples_of_what_they_unpack_into():
    for kind, (result, length) in results().items():
        assert type(result) is kind
        assert isinstance(result, tuple)
        assert len(result) == length
        plain = tuple(result)
        assert type(result[:2]) is tuple
        assert result[:2] == plain[:2]
        assert result == plain
        names = list(kind.__annotations__)
        for name, value in zip(names, plain, strict=False):
            assert getattr(result, name) is value
        assert isinstance(result.grad_scale, float)
        assert f"{kind.__name__}({names[0]}=" in repr(result)
        assert "grad_scale=" in repr(result)
    value, grad_phi, grad_psi = rk.relation_loss(X, Y, np.ones((1, 1)))
    assert (value, grad_phi, grad_psi) == (100.0, None, None)


def test_they_do_not_change():
    for result, _ in results().values():
        with pytest.raises(AttributeError, match="expected no change, got a new grad_scale"):
            result.grad_scale = 0.0


@pytest.mark.parametrize("again", [lambda a: pickle.loads(pickle.dumps(a)), copy.copy, copy.deepcopy])
def test_copies_and_pickles_have_all(again):
    for result, _ in results().values():
        made = again(result)
        assert type(made) is type(result)
        assert len(made) == len(result)
        assert repr(made) == repr(result)
        assert made[-1] is getattr(made, list(type(made).__annotations__)[len(made) - 1])


def test_dask_passes_them_on():
    dask = pytest.importorskip("dask", reason="dask is not installed")
    lazy = dask.delayed(rk.relation_loss)(X, Y, np.ones((1, 1)))
    assert lazy.grad_scale.compute() == rk.relation_loss(X, Y, np.ones((1, 1))).grad_scale
    assert type(dask.delayed(lambda a: a)(lazy).compute()) is gradients.LossGradients


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_tensors_come_back_as_tensors(dtype, rng):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    kind = getattr(torch, dtype)
    phi = mlp(rng, [3, 5, 2], np.float32)
    x, y, v = (torch.tensor(normal(rng, s, np.float32)).to(kind) for s in [(4, 3), (6, 3), (6, 2)])
    relation = rk.relation_matrix_vjp(x, y, torch.ones(4, 6, dtype=kind), phi, scale=-0.5)
    attended = rk.attention_vjp(x, y, v, torch.ones(4, 2, dtype=kind), phi)
    loss = rk.relation_loss(x, y, torch.ones(4, 6, dtype=kind), phi, scale=-0.5)
    assert isinstance(relation, gradients.RelationGradients)
    assert isinstance(attended, gradients.AttentionGradients)
    assert isinstance(loss, gradients.LossGradients)
    for a, like in [
        (relation.grad_x, x), (relation.grad_y, y), (attended.grad_v, v), (loss.grad_x, x), (loss.grad_y, y)
    ]:  # fmt: skip
        assert a.dtype == kind
        assert a.shape == like.shape
    wide = [a.float().numpy() for a in (x, y)]
    expected = rk.relation_loss(*wide, np.ones((4, 6), np.float32), phi, scale=-0.5)
    assert loss.grad_scale == expected.grad_scale
    assert loss.grad_phi.weights[0].dtype == torch.float32
    assert relation.grad_x is relation[0]
