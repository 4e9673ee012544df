"""One epoch of SymmetricRelation on all pairs of 4,096 objects, MLP 64-256-256-64, and of PyTorch on the CPU.

Both take one step of Adam over all 16.8 million pairs, with squared loss on label equality. PyTorch stores
the relation and its gradient, O(n^2); relkernels needs O(n d). PyTorch uses as many threads as relkernels.
"""

import numpy as np
import pytest
import relkernels as rk

N = 4096


def step_of_relkernels(x, labels):
    """Return a function that runs one epoch, through the estimator."""
    relation = rk.SymmetricRelation((256, 256), n_features=64, batch_size=N, random_state=0)
    return lambda: relation.partial_fit(x, labels)


def step_of_torch(x, labels):
    """Return a function that runs the same step in idiomatic PyTorch."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    torch.set_num_threads(rk.get_num_threads())
    nn = torch.nn
    torch.manual_seed(0)
    phi = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64))
    optimizer = torch.optim.Adam(phi.parameters(), lr=1e-3)
    points, codes = torch.from_numpy(x), torch.from_numpy(labels)
    target = (codes[:, None] == codes[None, :]).float()

    def step():
        optimizer.zero_grad()
        features = phi(points)
        loss = ((features @ features.T - target) ** 2).mean()
        loss.backward()
        optimizer.step()

    return step


@pytest.mark.parametrize("who", ["relkernels", "torch"])
def test_epoch(benchmark, points, who):
    benchmark.group = "epoch over all pairs of 4,096 objects, MLP 64-256-256-64"
    x, labels = points(N), np.arange(N) % 10
    step = (step_of_relkernels if who == "relkernels" else step_of_torch)(x, labels)
    benchmark.pedantic(step, rounds=10, warmup_rounds=2)
