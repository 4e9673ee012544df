"""The pages of docs/: their examples run, and the calls in the migration table give equal results."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# Package names of libraries whose import has another name, for the reason of a skip.
PACKAGES = {"faiss": "faiss-cpu", "neural_tangents": "neural-tangents", "sklearn": "scikit-learn"}


def pages():
    skipped = {"_build", "reproduce"}
    return [p for p in sorted(DOCS.rglob("*.md")) if not skipped & set(p.relative_to(DOCS).parts)]


def examples_of(text):
    """Return the examples of a page. Fences become empty lines, or doctest would expect them as output."""
    return doctest.DocTestParser().get_examples(re.sub(r"^ *(```|:::).*$", "", text, flags=re.MULTILINE))


def need(module):
    """Import a library, or skip with the command that installs it."""
    name = PACKAGES.get(module, module)
    return pytest.importorskip(module, reason=f"{name} is not installed", exc_type=ImportError)


# Pages whose examples take more than a few seconds.
SLOW = {"choosing.md", "guides/scikit-learn.md", "guides/table.md", "plots.md", "theory/asymmetric.md"}


def with_examples():
    return [str(p.relative_to(DOCS)) for p in pages() if examples_of(p.read_text())]


@pytest.mark.parametrize(
    "page", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in with_examples()]
)
def test_examples_of_the_pages(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = examples_of((DOCS / page).read_text())
    for example in examples:
        for module in re.findall(r"^(?:import|from) ([\w.]+)", example.source, re.MULTILINE):
            if module.split(".")[0] != "relkernels" or module.count("."):
                need(module)
    test = doctest.DocTest(examples, {}, page, str(DOCS / page), 0, None)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_every_kind_of_page_has_examples():
    kinds = {name.split("/")[0] for name in with_examples()}
    assert {"guides", "theory", "choosing.md", "index.md"} <= kinds


# ---- the migration table


def peers_of(text):
    """Return for each peer of the page its name, required modules, the preparation, and pairs of calls."""
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        code = code_of(section)
        rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", section, re.MULTILINE)
        yield section.splitlines()[0], re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE), code, rows


def code_of(text):
    """The first block of code."""
    return re.search(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[1]


TABLE = (DOCS / "migration.md").read_text()
COMMON = code_of(TABLE)
MIGRATION = list(peers_of(TABLE))
ROWS = [
    pytest.param(modules, code, theirs, ours, id=f"{peer}: {theirs}")
    for peer, modules, code, rows in MIGRATION
    for theirs, ours in rows
]


def arrays(value):
    """Return a call's result as a list of float64 arrays."""
    values = value if isinstance(value, (tuple, list)) else [value]
    out = []
    for v in values:
        v = v.detach() if hasattr(v, "detach") else v
        out.append(np.asarray(v, np.float64))
    return out


@pytest.mark.parametrize(("modules", "code", "theirs", "ours"), ROWS)
def test_a_row_of_the_migration_table(modules, code, theirs, ours):
    for module in modules:
        need(module)
    names = {}
    exec(COMMON, names)
    exec(code, names)
    expected, got = arrays(eval(theirs, names)), arrays(eval(ours, names))
    assert len(expected) == len(got)
    for a, b in zip(expected, got, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(b, a, rtol=2e-5, atol=2e-5 * np.abs(a).max())


def test_the_migration_table_has_all_peers():
    assert [peer for peer, *_ in MIGRATION] == [
        "NumPy",
        "PyTorch",
        "Faiss",
        "sentence-transformers",
        "KeOps",
        "neural-tangents",
    ]
    assert all(len(rows) >= 2 for *_, rows in MIGRATION)
