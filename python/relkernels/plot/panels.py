"""Pictures of several panels, stacked vertically and as wide as a phone, so that labels stay readable."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from .style import INK, PAPER, RULE, SIZE, look

# Images at most this many pixels wide are shown as squares.
_COARSE = 64
# Replacements of ink, rules and paper on a dark page.
DARK = {INK: "#e6edf3", RULE: "#3d444d", PAPER: "#0d1117"}


@dataclass(frozen=True)
class Panel:
    """One pair of axes: its title, the function that draws on it, and its size in inches."""

    title: str
    draw: Callable[[Axes], Any]
    size: tuple[float, float] = SIZE


def figure(panels: Sequence[Panel]) -> Figure:
    """Return a figure of vertically stacked panels."""
    width = max(panel.size[0] for panel in panels)
    heights = [panel.size[1] for panel in panels]
    with look():
        fig = Figure(figsize=(width, sum(heights)), layout="constrained")
        fig.get_layout_engine().set(h_pad=0.1, w_pad=0.1)  # type: ignore[union-attr,call-arg]
        axes = fig.subplots(len(panels), 1, squeeze=False, height_ratios=heights).flat
        for ax, panel in zip(axes, panels, strict=True):
            panel.draw(ax)
            ax.set_title(panel.title)
    return fig


def save(panels: Sequence[Panel], directory: str, name: str) -> str:
    """Save vertically stacked panels as ``name.svg`` and return its path."""
    path = os.path.join(directory, f"{name}.svg")
    with open(path, "w", encoding="utf-8") as file:
        file.write(_svg(figure(panels)))
    return path


def svg(fig: Figure) -> tuple[str, str]:
    """Remove a figure's title; return the title, and the figure as SVG for light pages (see `dark`)."""
    title = fig.get_suptitle()
    if title:
        fig.suptitle("")
    elif len(fig.axes) and (title := fig.axes[0].get_title()):
        fig.axes[0].set_title("")
    return title, _svg(fig)


def _svg(fig: Figure) -> str:
    """Return a figure as SVG, without content that changes from run to run."""
    for image in fig.findobj(AxesImage):
        image.set_interpolation("none")  # unscaled pixels: few, and sharp
    file = io.StringIO()
    # Glyphs as paths: a phone has other fonts than the one used for the layout.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "relkernels"}):
        fig.savefig(file, format="svg", dpi=150, metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<image xlink:href="data:image/png;base64,(?P<data>[^"]*)"[^>]*>', _compact, text)
    # Thousandths of a point are enough; base64 data of embedded images contain no decimal points.
    return re.sub(r"(\d\.\d{3})\d+", r"\1", text)


def _compact(element: re.Match[str]) -> str:
    """Store a large image with a palette if it has few colours, as heat maps have, and allow smoothing.

    A browser that shows the image below its size should then blend its pixels.
    """
    text, data = element[0], element["data"]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        if image.width <= _COARSE:
            return text
        colors = image.getcolors(256)
        few: Image.Image = image
        if colors is not None:
            few = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=len(colors))
        file = io.BytesIO()
        few.save(file, "png", optimize=True)
    text = text.replace(data, base64.b64encode(file.getvalue()).decode())
    return re.sub(r"image-rendering: ?[\w-]+;?", "", text)


def dark(text: str) -> str:
    """Return the SVG for dark pages: ink, rules and paper replaced, other colours unchanged."""
    for light, other in DARK.items():
        text = text.replace(light, other)
    return text
