"""Pages that are files of the repository (change log, results...), read where they lie.

A page of docs/ stands for each, so that it has a place in the table of contents; its text is the file's,
links to other files turned into links to their pages.
"""

import os.path
import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
PAGES = {
    "project/architecture": "ARCHITECTURE.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/changelog": "CHANGELOG.md",
    "project/results": "bench/RESULTS.md",
    "project/notes": "bench/NOTES.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def text_of(page: str) -> str:
    """Return a file's text with its links as they must be on the page."""
    source = PAGES[page]
    page_of_file = {file: f"/{name}.md" for name, file in PAGES.items()}

    def link(match: re.Match[str]) -> str:
        picture, label, target, anchor = match.groups(default="")
        if "://" in target:
            return match[0]
        file = os.path.normpath(os.path.join(os.path.dirname(source), target))
        if picture:
            return f"![{label}]({os.path.relpath(file, os.path.join('docs', os.path.dirname(page)))})"
        if file in page_of_file:
            return f"[{label}]({page_of_file[file]}{anchor})"
        if file.startswith("docs/"):
            return f"[{label}]({file.removeprefix('docs')}{anchor})"
        return f"`{file}`"  # a file without a page

    return _LINK.sub(link, (ROOT / source).read_text())


def _read(app, page, content):
    if page in PAGES:
        app.env.note_dependency(str(ROOT / PAGES[page]))
        content[0] = text_of(page)


def setup(app: Sphinx):
    """Connect the reader."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
