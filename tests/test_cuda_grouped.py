"""Grouped queries on a device: heads share keys, which are mapped once (CPU: test_grouped.py)."""

import numpy as np
import pytest
from cuda_arrays import KIND, EmulatedDevice
from cuda_cases import F4, exact
from relkernels import cuda
from strategies import mlp, normal

# Leading dimensions of queries, and of keys and values.
LEADS = [((2, 3), (2, 1)), ((3, 2), (2,)), ((2, 3), ()), ((2, 3, 2), (2, 1, 2))]


def repeated(a, lead):
    return np.broadcast_to(a, (*lead, *a.shape[-2:])).copy()


def added(parts, shape):
    """Sum over the items that share a matrix, in their order."""
    sums = {}
    lead = (1,) * (parts.ndim - len(shape)) + shape[:-2]
    for item in np.ndindex(parts.shape[:-2]):
        group = tuple(min(i, size - 1) for i, size in zip(item, lead, strict=True))
        sums[group] = sums[group] + parts[item] if group in sums else parts[item]
    return np.stack(list(sums.values())).reshape(shape)


@exact
@pytest.mark.parametrize("leads", LEADS, ids=str)
def test_sharing_keys_changes_no_bit(device, leads, dtype, rng):
    lead_q, lead_k = leads
    q, grad = normal(rng, (*lead_q, 5, 3), dtype), normal(rng, (*lead_q, 5, 2), dtype)
    k, v = normal(rng, (*lead_k, 70, 3), dtype), normal(rng, (*lead_k, 70, 2), dtype)
    all_k, all_v = repeated(k, lead_q), repeated(v, lead_q)
    maps = mlp(rng, [3, 9, 5], dtype, "tanh"), mlp(rng, [3, 5], dtype)
    for name, shared, own in [
        ("attention", (q, k, v), (q, all_k, all_v)),
        ("attention_scores", (q, k), (q, all_k)),
        ("relation_matrix", (q, k), (q, all_k)),
        ("relation_matvec", (q, k, v), (q, all_k, all_v)),
    ]:
        run = getattr(device, name)
        np.testing.assert_array_equal(run(*shared, *maps), run(*own, *maps))
    found, parts = device.attention_vjp(q, k, v, grad), device.attention_vjp(q, all_k, all_v, grad)
    np.testing.assert_array_equal(found.grad_q, parts.grad_q)
    np.testing.assert_array_equal(found.grad_k, added(parts.grad_k, k.shape))
    np.testing.assert_array_equal(found.grad_v, added(parts.grad_v, v.shape))


def test_gradients_of_shared_keys_do_not_depend_on_the_batch(device, rng):
    q, grad = normal(rng, (3, 4, 9, 5), F4), normal(rng, (3, 4, 9, 2), F4)
    k, v = normal(rng, (3, 1, 70, 5), F4), normal(rng, (3, 1, 70, 2), F4)
    whole = device.attention_vjp(q, k, v, grad)
    for a, b in zip(whole[:3], device.attention_vjp(q[1], k[1], v[1], grad[1])[:3], strict=True):
        np.testing.assert_array_equal(a[1], b)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("attention", "qkv"), ("attention_scores", "qk"), ("attention_vjp", ("q", "k", "v", "grad")),
        ("relation_matrix", "xy"), ("relation_matvec", "xyv"),
    ],
)  # fmt: skip
def test_features_of_shared_keys_are_stored_once(device, name, names, rng):
    """Heads of few queries add little memory: only the queries', and what a gradient adds up."""
    if not isinstance(device, EmulatedDevice):
        pytest.skip("counts the emulated allocations")
    m, width = 200, 30
    phi, psi = mlp(rng, [3, width], F4), mlp(rng, [3, width], F4)

    def made(heads):
        arrays = {"q": (heads, 1, 3), "k": (1, m, 3), "v": (1, m, 1), "grad": (heads, 1, 1)}
        of = {n: device.put(normal(rng, shape, F4)) for n, shape in arrays.items()}
        of |= {"x": of["q"], "y": of["k"]}
        chosen = {n: of[n] for n in names}
        cuda.call(name, {**chosen, "phi": phi, "psi": psi})
        KIND.made.clear()
        cuda.call(name, {**chosen, "phi": phi, "psi": psi})
        return sum(a.array.nbytes for a in KIND.made)

    of_features = m * width * 4
    more = made(5) - made(1)
    # Each head has gradients of the features and of the values of its own until they are added.
    parts = 5 * (of_features + 4 * m) if name == "attention_vjp" else 0
    assert more < parts + of_features
