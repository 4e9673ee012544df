"""The built pages: no warning, every link leads somewhere, every public name is in the reference."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import html_pages
import pytest

DOCS = Path(__file__).parents[1] / "docs"
NEEDED = ("sphinx", "furo", "myst_parser", "numpydoc", "sphinx_copybutton")
MODULES = ("", ".bounds", ".spectra", ".torch", ".jax", ".dask", ".plot", ".cuda")

PAGE = '<a id="here" href="other.html#there">x</a><a href="#here">y</a><img src="a.png"><math></math>'
OTHER = '<p id="there"><a href="page.html">z</a><a href="https://example.org/">w</a></p>'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "page.html").write_text(PAGE)
    (tmp_path / "other.html").write_text(OTHER)
    (tmp_path / "a.png").write_bytes(b"")
    return tmp_path


def test_links_that_lead_somewhere_are_no_fault(folder):
    pages = html_pages.read(folder)
    assert html_pages.broken(pages) == []
    assert html_pages.from_the_network(pages) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("other.html#there", "gone.html#there"), "page.html: gone.html#there: no such file"),
        (("other.html#there", "other.html#gone"), "page.html: other.html#gone: no such anchor"),
        (('href="#here"', 'href="#gone"'), "page.html: #gone: no such anchor"),
        (("a.png", "b.png"), "page.html: b.png: no such file"),
    ],
)
def test_a_broken_link_is_found(folder, change, fault):
    (folder / "page.html").write_text(PAGE.replace(*change))
    assert html_pages.broken(html_pages.read(folder)) == [fault]


def test_what_comes_from_the_network_is_found(folder):
    (folder / "page.html").write_text(f'<script src="https://cdn.example.org/x.js"></script>{PAGE}')
    (folder / "other.html").write_text(f'<link rel="stylesheet" href="//fonts.example.org/y.css">{OTHER}')
    assert len(html_pages.from_the_network(html_pages.read(folder))) == 2


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the built pages, and the output of the build."""
    for module in NEEDED:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install '.[docs]'")
    out = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-E", "-d", out / "trees"]
    done = subprocess.run([*command, DOCS, out / "html"], capture_output=True, text=True)
    return out / "html", done


@pytest.fixture(scope="module")
def pages(built):
    return html_pages.read(built[0].resolve())


def test_the_build_has_no_warnings(built):
    _, done = built
    assert done.returncode == 0, done.stderr


def test_every_link_leads_somewhere(pages):
    assert len(pages) > 50
    assert html_pages.broken(pages) == []


def test_no_page_needs_a_network(built, pages):
    assert html_pages.from_the_network(pages) == []
    for sheet in built[0].rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text()), sheet.name


def test_formulas_are_drawn_by_the_browser(built, pages):
    assert pages[built[0].resolve() / "theory" / "symmetric.html"].formulas > 10
    assert "\\frac" not in (built[0] / "theory" / "attention.html").read_text()


def test_every_picture_says_what_it_shows(pages):
    """No alternative text is the name of the file."""
    every = [alt for page in pages.values() for alt in page.pictures]
    assert all(alt and not alt.endswith((".svg", ".png")) for alt in every)
    assert sum(len(page.pictures) for page in pages.values()) > 10


def test_pictures_of_a_page_differ_and_open_in_full_size(built):
    """A past fault: all plots of a page were written to PAGE-1.svg."""
    root = built[0].resolve()
    for path in root.rglob("*.html"):
        text = path.read_text()
        shown = re.findall(r'<img [^>]*?src="([^"]*_images/[^"]*)"', text)
        files = [(path.parent / unquote(name)).read_bytes() for name in shown]
        assert len(set(files)) == len(files), path.name
        linked = re.findall(r'<a class="[^"]*" href="([^"]*_images/[^"]*)">\s*<img', text)
        assert sorted(linked) == sorted(shown), path.name
    assert len(re.findall("<img ", (root / "plots.html").read_text())) == 5


def test_pictures_of_the_theory_have_labels_of_readable_size(built):
    """As SVG with one panel per row: at 640 pixels, its 10 points are at least 14 pixels high."""
    for path in (built[0] / "_images").glob("*.svg"):
        width = float(re.search(r'<svg.*? width="([\d.]+)pt"', path.read_text(), re.DOTALL)[1])
        if (DOCS / "reproduce" / path.stem / path.name).exists():
            assert width < 480, path.name
    names = {path.stem for path in (built[0] / "_images").iterdir()}
    assert {path.parent.name for path in (DOCS / "reproduce").glob("*/*.svg")} <= names


def test_names_of_cpp_lead_to_cpp(built):
    page = (built[0] / "cpp.html").read_text()
    page = page[page.index("<article") : page.index("</article")]  # without the table of contents
    assert 'href="reference/api/hpp.html#' in page
    assert "api/generated/relkernels.feature_map.html" not in page
    header = (built[0] / "reference" / "api" / "hpp.html").read_text()
    for name in re.findall(
        r"^(?:\w|:|<|>)+ (\w+)\(", (DOCS.parent / "include" / "relkernels.hpp").read_text(), re.M
    ):
        assert name in header


def test_signatures_are_real_without_the_library():
    """Autodoc would show the mock's (*args, **kwargs) for a class with a mocked base."""
    pytest.importorskip("sphinx")
    code = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "torch" else real(name, *a)
import sklearn.base
sys.path.insert(0, sys.argv[1])
import reference
from sphinx.ext.autodoc.mock import mock
assert "torch" in reference.MISSING
with mock(["torch"]):
    import relkernels.torch as rt
    found = reference._signature(None, "class", "", rt.InnerProductRelation, {}, "(*args, **kwargs)", None)
with mock(["jax"]):
    import relkernels.jax
print(found[0])
"""
    done = subprocess.run([sys.executable, "-c", code, str(DOCS / "_ext")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(phi, psi=None, *, scale=")


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(module, built, pages):
    name = f"relkernels{module}"
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not part of this version")
    try:
        public = importlib.import_module(name).__all__
    except ImportError as error:
        pytest.skip(str(error))
    anchors = set().union(*(page.anchors for page in pages.values()))
    assert [n for n in public if f"{name}.{n}" not in anchors] == []
    listing = (built[0] / "reference" / "api" / f"{name}.html").read_text()
    assert [n for n in public if n not in listing] == []


def test_members_of_classes_are_there_and_those_of_other_libraries_are_not(pages):
    anchors = set().union(*(page.anchors for page in pages.values()))
    for member in ("MLP.save", "MLP.n_neurons", "SymmetricRelation.fit", "SymmetricRelation.save"):
        assert f"relkernels.{member}" in anchors
    assert not {"relkernels.SymmetricRelation.get_params", "relkernels.torch.FeatureMap.cuda"} & anchors
