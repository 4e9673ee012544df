"""Handwritten digits: scikit-learn's 1,797 images of 8 x 8 pixels, used by several parts of the demo."""

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
    """Return the images shifted by this many pixels, padded with blank pixels."""
    moved = np.zeros_like(images).reshape(-1, SIDE, SIDE)
    moved[:, max(down, 0) : SIDE + min(down, 0), max(right, 0) : SIDE + min(right, 0)] = images.reshape(
        -1, SIDE, SIDE
    )[:, max(-down, 0) : SIDE + min(-down, 0), max(-right, 0) : SIDE + min(-right, 0)]
    return moved.reshape(images.shape)


def draw_rows(rows: list[list[tuple[np.ndarray, str]]], title: str) -> Any:
    """Return a figure of rows of images, each with a caption above: a query and its results."""
    from ..plot.panels import Panel, figure

    columns = max(map(len, rows))
    across, down = 1.35 * SIDE, 1.6 * SIDE
    right, bottom = columns * across, len(rows) * down - 2
    width = 0.66 * columns

    def draw(ax: Any) -> None:
        for i, row in enumerate(rows):
            for j, (image, caption) in enumerate(row):
                left, top = j * across, i * down
                extent = (left, left + SIDE, top + SIDE, top)
                ax.imshow(image.reshape(-1, SIDE), cmap="gray_r", vmin=0, vmax=1, extent=extent)
                ax.text(left + SIDE / 2, top - 0.6, caption, ha="center", va="bottom", fontsize=9)
        ax.set_xlim(-1, right)
        ax.set_ylim(bottom, -3)
        ax.set_axis_off()

    return figure([Panel(title, draw, (width, width * (bottom + 3) / (right + 1) + 0.2))])
