"""Kernel ridge regression on 50,000 points by conjugate gradients: the kernel matrix (10 GB) is never stored.

    python kernel_ridge.py [POINTS] [torch]

Also solves it with products by PyTorch in blocks of 64 rows, if `torch` is given. Reports seconds of
processor time, which other programs on the machine change less than elapsed time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import relkernels as rk
from scipy.sparse.linalg import LinearOperator, cg

LENGTH, RIDGE = 0.2, 1.0


def data(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points of the unit cube and noisy values of a smooth function there."""
    rng = np.random.default_rng(0)
    x = rng.random((n, 3), dtype=np.float32)
    signal = np.sin(6 * x[:, 0]) * np.cos(4 * x[:, 1]) + x[:, 2]
    return x, (signal + 0.3 * rng.standard_normal(n)).astype(np.float32)


def by_torch(x: np.ndarray) -> LinearOperator:
    """Return the same kernel, by squared norms less products."""
    import torch

    t = torch.from_numpy(x)
    square = (t * t).sum(1) * (-0.5 / LENGTH**2)

    def product(v: np.ndarray) -> np.ndarray:
        column, parts = torch.from_numpy(v.astype(np.float32)), []
        for i in range(0, len(t), 64):
            r = torch.addmm(square[None], t[i : i + 64], t.T, alpha=1 / LENGTH**2)
            parts.append(r.add_(square[i : i + 64, None]).clamp_(max=0).exp_() @ column)
        return torch.cat(parts).numpy()

    return LinearOperator((len(x), len(x)), matvec=product, dtype=np.float32)


def solve(kernel: LinearOperator, y: np.ndarray) -> tuple[np.ndarray, int, float]:
    """Return the coefficients, the number of products, and seconds of processor time."""
    products = 0

    def regularized(v: np.ndarray) -> np.ndarray:
        nonlocal products
        products += 1
        return kernel.matvec(v) + RIDGE * v

    start = time.process_time()
    coefficients, failed = cg(LinearOperator(kernel.shape, regularized, dtype=y.dtype), y, rtol=1e-2)
    assert failed == 0
    return coefficients, products, time.process_time() - start


def main(n: int = 50_000, with_torch: bool = False) -> None:
    """Fit, predict at new points, and print times and the error."""
    x, y = data(n)
    kernels: dict[str, Callable[[], LinearOperator]] = {
        "relkernels": lambda: rk.as_linear_operator(x, link="gaussian", scale=LENGTH**-2)
    }
    if with_torch:
        kernels["PyTorch in blocks"] = lambda: by_torch(x)
    for name, kernel in kernels.items():
        coefficients, products, seconds = solve(kernel(), y)
        print(f"{name}: {n:,} points, {products} products, {seconds:.1f} s")
        at = np.random.default_rng(1).random((1000, 3), dtype=np.float32)
        found = rk.relation_matvec(at, x, coefficients.astype(np.float32), link="gaussian", scale=LENGTH**-2)
        truth = np.sin(6 * at[:, 0]) * np.cos(4 * at[:, 1]) + at[:, 2]
        print(f"  root mean square error at 1,000 new points: {np.sqrt(np.mean((found - truth) ** 2)):.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000, "torch" in sys.argv)
