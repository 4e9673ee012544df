"""`relkernels.torch.retrieve`: values with gradients, compared with those of gathered inner products."""

import pytest
import relkernels as rk

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
import relkernels.torch as rkt  # noqa: E402
from plain_torch import agree, normal, plain_relation, smooth_map  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(20240213)


def gathered(r, indices):
    """Return the elements of a relation at indices, -inf for -1."""
    return r.gather(-1, indices.clamp(min=0)).masked_fill(indices < 0, -torch.inf)


SHAPES = [
    ((9, 4), (13, 4)),
    ((2, 1, 5, 4), (3, 13, 4)),
    ((0, 4), (13, 4)),
    ((5, 4), (0, 4)),
]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("mapped", [False, True])
def test_values_and_gradients(shapes, mapped):
    phi, psi = (smooth_map([4, 8, 6]), smooth_map([4, 7, 6])) if mapped else (None, None)
    q, keys = (normal(*shape, grad=True) for shape in shapes)
    exclude = torch.randint(-1, 13, (shapes[0][-2], 3)) if shapes[1][-2] else None
    values, indices = rkt.retrieve(q, keys, 12, phi, psi, exclude=exclude, pad=True)
    expected = rk.retrieve(
        *(a.detach() for a in (q, keys)),
        12,
        *(m and m.to_mlp() for m in (phi, psi)),
        exclude=exclude,
        pad=True,
    )
    assert torch.equal(values, expected[0])
    assert torch.equal(indices, expected[1])
    assert not indices.requires_grad
    if 0 in (shapes[0][-2], shapes[1][-2]):
        values[values.isfinite()].sum().backward()
        assert not keys.grad.any()
        return
    found = indices >= 0
    assert not found.all()
    leaves = [q, keys, *(p for m in (phi, psi) if m is not None for p in m.parameters())]
    agree(values[found], gathered(plain_relation(q, keys, phi, psi), indices)[found], leaves)


def test_a_key_that_several_rows_find_and_the_ones_that_none_finds():
    q, keys = normal(6, 3), normal(9, 3, grad=True)
    values, indices = rkt.retrieve(q, keys, 2)
    values.sum().backward()
    expected = torch.zeros(9, 3, dtype=torch.float64)
    for i in range(6):
        expected[indices[i]] += q[i]
    torch.testing.assert_close(keys.grad, expected)


def test_nan_of_keys_stays_where_it_is():
    q, keys = torch.ones(2, 1, requires_grad=True), torch.tensor([[torch.nan], [1.0], [2.0]])
    mask = torch.tensor([[False, True, False], [True, True, True]])
    values, _ = rkt.retrieve(q, keys, 3, mask=mask)
    values.nan_to_num(neginf=0.0).sum().backward()
    assert q.grad[0].item() == 1.0


def test_a_single_query():
    q, keys = normal(4, grad=True), normal(7, 4)
    for options in ({}, {"exclude": torch.tensor(2)}, {"exclude": torch.tensor([1, -1])},
                    {"mask": torch.arange(7) % 2 == 0}):  # fmt: skip
        values, indices = rkt.retrieve(q, keys, 3, **options)
        expected = rk.retrieve(q.detach(), keys, 3, **options)
        assert torch.equal(values, expected[0])
        assert torch.equal(indices, expected[1])
        (grad,) = torch.autograd.grad(values.sum(), q)
        torch.testing.assert_close(grad, keys[indices].sum(0))


X = torch.ones(5, 4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: rkt.retrieve(X, None, 1), TypeError, "^keys: expected a torch.Tensor"),
        (lambda: rkt.retrieve(X.long(), X.long(), 1), TypeError, "^q: expected float32, float64"),
        (lambda: rkt.retrieve(X, X, 0), ValueError, "^k: expected an integer"),
        (lambda: rkt.retrieve(X, X, 6), ValueError, "^k: expected at most 5"),
        (lambda: rkt.retrieve(X, X, 1, pad=1), TypeError, "^pad: expected True or False"),
        (lambda: rkt.retrieve(X, X, 1, mask=[True]), TypeError, "^mask: expected a boolean tensor"),
        (lambda: rkt.retrieve(X, X, 1, exclude=[0]), TypeError, "^exclude: expected a tensor of integer"),
        (
            lambda: rkt.retrieve(X, X, 1, exclude=X),
            TypeError,
            "^exclude: expected an array of integer indices",
        ),
        (lambda: rkt.retrieve(X, X, 1, exclude=torch.full((5,), 5)), ValueError, "^exclude: .* from 0 to 4"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()
