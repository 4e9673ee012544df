"""Handwritten digits: scikit-learn's 1,797 images of 8 x 8 pixels, the data of several studies."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

N_HELD_OUT = 360
SIDE = 8


class Split(NamedTuple):
    """Images with pixels in [0, 1], and their digits."""

    train: np.ndarray
    held_out: np.ndarray
    train_digits: np.ndarray
    held_out_digits: np.ndarray


def load() -> Split:
    """Return the digits, 360 of them held out, stratified by digit."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    return Split(*train_test_split(X, y, test_size=N_HELD_OUT, stratify=y, random_state=0))


def shifted(images: np.ndarray, down: int, right: int) -> np.ndarray:
    """Return the images moved by so many pixels; what enters is blank."""
    moved = np.zeros_like(images).reshape(-1, SIDE, SIDE)
    moved[:, max(down, 0) : SIDE + min(down, 0), max(right, 0) : SIDE + min(right, 0)] = images.reshape(
        -1, SIDE, SIDE
    )[:, max(-down, 0) : SIDE + min(-down, 0), max(-right, 0) : SIDE + min(-right, 0)]
    return moved.reshape(images.shape)


def draw_rows(rows: list[list[tuple[np.ndarray, str]]], title: str) -> Any:
    """Return a figure of rows of images, each with a caption: a query and what it found."""
    import matplotlib.pyplot as plt

    columns = max(len(row) for row in rows)
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(0.85 * columns, 1.15 * len(rows)), layout="constrained", squeeze=False
    )
    for line, row in zip(axes, rows, strict=True):
        for axis in line:
            axis.axis("off")
        for axis, (image, caption) in zip(line, row, strict=False):
            axis.imshow(image.reshape(-1, SIDE), cmap="gray_r", vmin=0, vmax=1)
            axis.set_title(caption, fontsize=8)
    figure.suptitle(title)
    return figure
