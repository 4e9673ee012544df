"""The page that `relkernels demo`, `bench` and `reproduce` write with --html: a single self-contained file.

A `Page` holds the results of a run: facts, and sections of paragraphs, tables and figures. `render` fills
page.html and includes page.css and page.js; figures are SVG in data URIs, in a light and a dark version. The
page's content security policy forbids loading anything.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import importlib.util
import math
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from ..base.extras import install
from ..base.files import check_writable, write_whole
from ..config import configuration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..plot.panels import Panel

HELP = "write a page with tables and pictures (default: none; needs matplotlib and Jinja2)"
_NUMBER = re.compile(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?")


class Cell(NamedTuple):
    """The text of a table cell, and its sort key; None comes last."""

    text: str
    key: float | str | None = None


def value_cell(value: Any) -> Cell:
    """Return the cell for a value in a table of data."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        return Cell(text, text or None)
    if math.isnan(value):
        return Cell("", None)
    text = f"{value:,}" if isinstance(value, int) else f"{value:.4g}".replace("inf", "∞")
    return Cell(text, float(value))


@dataclass(frozen=True)
class Table:
    """Rows under headers; a plain-text cell is sorted as a number if it is one, else as text."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    folded: bool = False  # collapsed until the reader opens it

    def cells(self) -> list[list[Cell]]:
        """Return all rows as cells with sort keys."""
        return [
            [cell if isinstance(cell, Cell) else Cell(cell, _key(cell)) for cell in row] for row in self.rows
        ]

    def numeric(self) -> list[bool]:
        """Return for each column whether it has numbers and no text."""
        columns = zip(*self.cells(), strict=True) if self.rows else [()] * len(self.headers)
        keys = [[cell.key for cell in column if cell.key is not None] for column in columns]
        return [bool(found) and not any(isinstance(key, str) for key in found) for found in keys]


def _key(text: str) -> float | str | None:
    """Return the number that a text represents, or else the text."""
    if _NUMBER.fullmatch(text):
        return float(text.replace(",", ""))
    return text or None


class Picture(NamedTuple):
    """A figure as SVG for light pages and for dark ones; its title is shown below it."""

    title: str
    light: str
    dark: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in CSS pixels, 96 per inch."""
        found = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', self.light)
        assert found is not None
        width, height = (round(float(n) * 96 / 72) for n in found.groups())
        return width, height


@dataclass
class Section:
    """A part of a page."""

    title: str
    paragraphs: Sequence[tuple[str, str]] = ()  # a leading word, and the text
    verdict: tuple[str, bool] | None = None  # text, and whether it is favourable
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


@dataclass
class Page:
    """The content of a page."""

    title: str
    summary: str
    command: str
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str]] = field(default_factory=lambda: machine_facts())
    notes: Sequence[tuple[str, Sequence[str]]] = ()  # a heading, and lines
    date: str = field(default_factory=lambda: f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}")


def check(path: str | None) -> None:
    """Check before the work that libraries are installed and the file can be written.

    Raises
    ------
    ImportError, OSError
    """
    if path is None:
        return
    if any(importlib.util.find_spec(name) is None for name in ("matplotlib", "jinja2")):
        raise ImportError(f"--html needs matplotlib and Jinja2: {install('matplotlib', 'jinja2')}")
    check_writable("--html", path)


def machine_facts() -> list[tuple[str, str]]:
    """Return version and machine, for pages of runs that do not describe them."""
    found = configuration()
    return [
        ("relkernels", found["version"]),
        ("processor", found["cpu"]),
        ("instruction set", f"{found['isa']} ({', '.join(found['cpu_features'])})"),
        ("threads", str(found["threads"])),
        (
            "system",
            f"{platform.system()} {platform.machine()}, Python {found['python']}, {found['compiler']}",
        ),
    ]


def pictures(figures: Iterable[Figure]) -> list[Picture]:
    """Return figures as pictures of a page; remove their titles."""
    from ..plot.panels import dark, svg

    found = []
    for figure in figures:
        title, light = svg(figure)
        found.append(Picture(title, light, dark(light)))
    return found


def pictures_of(panels: Iterable[Panel]) -> list[Picture]:
    """Return panels as separate pictures, which a narrow page shows one below the other."""
    from ..plot.panels import figure

    return pictures(figure([panel]) for panel in panels)


def render(page: Page) -> str:
    """Return the page as HTML."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    files = resources.files(__package__)
    style, script, template = (
        files.joinpath(f"page.{kind}").read_text("utf-8") for kind in ("css", "js", "html")
    )
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["data_uri"] = _data_uri
    environment.filters["attribute"] = _attribute
    return environment.from_string(template).render(
        page=page,
        # The only text that is not escaped: our own files, which contain no markup.
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
    )


def _hash(text: str) -> str:
    """Return the Content-Security-Policy source expression for an element with this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _attribute(key: float | str) -> str:
    """Return the sort key of a cell in JavaScript's notation."""
    return repr(key).replace("inf", "Infinity") if isinstance(key, float) else str(key)


def _data_uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def write(page: Page, path: str) -> None:
    """Write the page atomically."""
    write_whole(path, render(page).encode())


def rich_table(table: Table) -> Any:
    """Return a table for the terminal."""
    from rich.table import Table as RichTable

    shown = RichTable(title=table.title, title_justify="left")
    for i, header in enumerate(table.headers):
        shown.add_column(header, justify="right" if i else "left")
    for row in table.cells():
        shown.add_row(*(cell.text for cell in row))
    return shown
