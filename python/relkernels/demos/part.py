"""The result of a part of the demo: its figures, and the pictures it can draw."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Part:
    """Figures for JSON, and functions that each draw a picture (with matplotlib), by file name."""

    figures: Any
    pictures: dict[str, Callable[[], Any]] = field(default_factory=dict)

    def save_pictures(self, directory: str) -> list[str]:
        """Draw all pictures into a directory and return their paths."""
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        os.makedirs(directory, exist_ok=True)
        paths = []
        for name, draw in self.pictures.items():
            figure = draw()
            paths.append(os.path.join(directory, name))
            figure.savefig(paths[-1], dpi=150)
            plt.close(figure)
        return paths
