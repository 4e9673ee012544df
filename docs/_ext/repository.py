"""Pages whose text is a file elsewhere in the repository, such as the change log and the results.

Each has a placeholder in docs/, which gives it a place in the table of contents; those for the results of
processors are written here. Its text is replaced by that of the file, and links to other files by links to
their pages.
"""

import os.path
import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
PROCESSORS = sorted((ROOT / "bench" / "results").glob("*.md"))
PAGES = {
    "project/architecture": "ARCHITECTURE.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/changelog": "CHANGELOG.md",
    "project/results": "bench/RESULTS.md",
    "project/notes": "bench/NOTES.md",
    **{f"project/results/{path.stem}": f"bench/results/{path.name}" for path in PROCESSORS},
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def text_of(page: str) -> str:
    """Return the text of the file, with links adapted to the page."""
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


class Results(SphinxDirective):
    """A table of the workloads in bench/results/*.md whose names match a regular expression."""

    required_arguments = 1
    final_argument_whitespace = True
    columns = ("processor", "workload", "threads", "relkernels", "rate", "best peer", "ratio")

    def run(self):
        """Return the table, or a warning if no workload matches."""
        rows: dict[tuple[str, str, str], dict[str, str]] = {}
        for path in PROCESSORS:
            self.env.note_dependency(str(path))
            header: list[str] = []
            for line in path.read_text().splitlines():
                cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
                if cells[0] == "workload":
                    header = cells
                elif line.startswith("| ") and header and re.match(self.arguments[0], cells[0]):
                    row = {"threads": "", "processor": path.stem} | dict(zip(header, cells, strict=True))
                    rows.setdefault((path.stem, row["workload"], row["threads"]), {}).update(row)
        if not rows:
            return [self.state.document.reporter.warning(f"no workload matches {self.arguments[0]}")]
        found = [[row[column] for column in self.columns] for row in rows.values()]
        return [_table([self.columns, *found])]


def _table(rows):
    """Return a table of texts, with the first row as its head."""
    group = nodes.tgroup(cols=len(rows[0]))
    group += [nodes.colspec(colwidth=1) for _ in rows[0]]
    lines = []
    for row in rows:
        line = nodes.row()
        line += [nodes.entry("", nodes.paragraph(text=cell)) for cell in row]
        lines.append(line)
    group += [nodes.thead("", lines[0]), nodes.tbody("", *lines[1:])]
    return nodes.table("", group)


def setup(app: Sphinx):
    """Write the placeholders of processors; connect the function that replaces text; add the directive."""
    for path in PROCESSORS:
        placeholder = ROOT / "docs" / "project" / "results" / path.name
        if not placeholder.exists():
            placeholder.parent.mkdir(exist_ok=True)
            placeholder.write_text((ROOT / "docs" / "project" / "results.md").read_text())
    app.connect("source-read", _read)
    app.add_directive("results", Results)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
