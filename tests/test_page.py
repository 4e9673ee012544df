"""The page of --html: valid, self-contained, complete, escaped; errors are raised before the work."""

import base64
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources

import pytest
import relkernels as rk
from recorded import KERNEL, bench_report, demo_parts, outcome, pages
from relkernels.base import files
from relkernels.base.extras import install
from relkernels.benchmarks.report import Report
from relkernels.cli import main, page, reproduce
from relkernels.cli.page import Cell, Page, Section, Table
from relkernels.demos import kernel
from relkernels.plot import panels, style
from relkernels.studies import study
from tinyhtml5.parser import HTMLParser as StrictParser

VOID = {"meta", "link", "img", "source", "br", "hr", "input"}


class Reader(HTMLParser):
    """The content of a page: elements with their attributes, the text of each table cell, all text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.cells, self.text, self.stack = [], [], "", []
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, text):
        if self.stack and self.stack[-1] not in ("style", "script"):
            self.text += text
            if self.stack[-1] in ("td", "th"):
                self.cells[-1] += text

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def rendered():
    return {name: page.render(content) for name, content in pages().items()}


@pytest.mark.parametrize("command", ["bench", "demo", "reproduce"])
def test_valid_html(rendered, command):
    parser = StrictParser()
    parser.parse(rendered[command])
    assert parser.errors == []
    read = Reader(rendered[command])
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in read.elements:
        for reference in attributes.get("aria-labelledby", "").split():
            assert reference in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    for image in read.of("img"):
        assert image["alt"].strip()
        assert int(image["width"]) > 100
        assert int(image["height"]) > 100


@pytest.mark.parametrize("command", ["bench", "demo", "reproduce"])
def test_nothing_from_outside(rendered, command):
    """No attribute refers to other files; the policy only allows style and script, by their hashes."""
    text = rendered[command]
    read = Reader(text)
    for tag, attributes in read.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "srcset", "href", "data", "action", "poster"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#")), (tag, name)
    assert "@import" not in text
    assert "url(" not in re.sub(r"data:[^\"]*", "", text)
    for uri in re.findall(r'data:image/svg\+xml;base64,([^"]*)"', text):
        svg = base64.b64decode(uri).decode()
        outside = re.findall(r'(?:href|src)="(?!#|data:)[^"]*"', svg)
        assert not outside
        assert not re.findall(r"url\((?!#)", svg)
    (policy,) = (m["content"] for m in read.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_every_figure_of_the_benchmarks(rendered):
    read, report = Reader(rendered["bench"]), bench_report()
    from relkernels.benchmarks import tables

    for row in report.rows:
        for cell in tables.cells(row, quartiles=True):
            assert cell in read.cells
    for cells in tables.ceiling_cells(report):
        assert set(cells) <= set(read.cells)
    for name, value in tables.facts(report):
        assert name in read.text
        assert value in read.text
    for word in (report.command, report.date, "keops: not installed", *tables.HEADERS):
        assert word in read.text
    assert len(read.of("img")) == 3 + 1 + 3  # series, the roofline, families against threads
    assert "A &lt;processor&gt; &amp; more" in rendered["bench"]


def test_every_figure_of_the_demo(rendered):
    read = Reader(rendered["demo"])
    for word in ("0.9989", "0.9853", "0.6983", "1.99"):
        assert word in read.cells
    for row in KERNEL:
        assert str(row["width"]) in read.cells
        assert f"{row['sup_error']:.4f}" in read.cells
    for word in (
        "relkernels demo symmetric kernel --html x.html",
        rk.__version__,
        "32.8 seconds",
        "processor",
    ):
        assert word in read.text
    assert [image["alt"] for image in read.of("img")] == [
        "symmetric: Relation <of> digits",
        "symmetric: Found",
        "kernel: Gaussian kernel by ⟨φ(x), φ(y)⟩",
    ]
    assert len(read.of("source")) == 3


def test_every_figure_of_the_studies(rendered):
    read, expected = Reader(rendered["reproduce"]), outcome()
    for word in (
        expected.claim,
        expected.measurement,
        "agrees on all 2 criteria",
        "contradicts a proven bound",
        "The exponent is at least 0.75.",
        "disagrees",
        "8.5 seconds",
    ):
        assert word in read.text
    for row in expected.rows:
        for value in row.values():
            assert page.value_cell(value).text in read.cells
    assert "<b>bold</b>" in read.cells  # as text
    assert not read.of("b")
    assert "relkernels reproduce zonal --quick --out 'a b' --html x.html" in read.text
    assert {"data-key": "Infinity", "class": "number"} in read.of("td")
    assert len(read.of("img")) == 2 * 2  # spheres of two dimensions, twice


def test_everything_is_escaped():
    nasty = "<script>alert(1)</script>\"' &amp; {{ 7 * 7 }}"
    section = Section(
        nasty, [(nasty, nasty)], (nasty, True), [Table(nasty, [nasty], [[nasty], [Cell(nasty, nasty)]])]
    )
    text = page.render(Page(nasty, nasty, nasty, [section, section], [(nasty, nasty)], [(nasty, [nasty])]))
    assert text.count("<script>") == 1  # ours
    assert "{{ 7 * 7 }}" in text
    read = Reader(text)
    assert read.cells.count(nasty) == 6
    assert {"scope": "row", "data-key": nasty} in read.of("th")
    parser = StrictParser()
    parser.parse(text)
    assert parser.errors == []


def test_keys_of_cells():
    table = Table("", ["name", "n", "mixed", "none"], [["a", "1,234.5", "3", ""], ["b", "-2e-3", "x", ""]])
    assert [[cell.key for cell in row] for row in table.cells()] == [
        ["a", 1234.5, 3.0, None],
        ["b", -0.002, "x", None],
    ]
    assert table.numeric() == [False, True, False, False]
    assert Table("", ["a", "b"], []).numeric() == [False, False]
    assert page.value_cell(float("nan")) == Cell("", None)
    assert page.value_cell(float("inf")) == Cell("∞", float("inf"))
    assert page.value_cell(1234567) == Cell("1,234,567", 1234567.0)
    assert page.value_cell(True) == Cell("True", "True")


def test_the_page_and_its_pictures_have_the_same_colours():
    sheet = resources.files("relkernels.cli").joinpath("page.css").read_text()
    for light in (style.PAPER, style.INK, style.RULE):
        assert light in sheet
        assert panels.DARK[light] in sheet


# ---- the commands ------------------------------------------------------------------------------


def stubbed(monkeypatch, work):
    """Replace the work of the commands by `work`."""
    monkeypatch.setattr(kernel, "run", lambda report: (work(), demo_parts()["kernel"])[1])
    monkeypatch.setattr(Report, "measure", lambda *_: work())
    monkeypatch.setattr(reproduce, "_run_one", lambda *_: (work(), outcome())[1])


COMMANDS = [
    ["demo", "kernel"],
    ["bench", "relation_matvec/exp/64", "--quick"],
    ["reproduce", "zonal", "--out", "o"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory").mkdir()
    stubbed(monkeypatch, lambda: pytest.fail("worked"))
    wanted = {
        "absent/x.html": "No such file",
        "directory": "a directory",
        "": "empty",
        os.devnull: "ordinary",
    }
    for path, why in wanted.items():
        assert main.main([*words, "--html", path]) == 1
        err = capsys.readouterr().err
        assert f"relkernels {words[0]}: --html: cannot write {path!r}: " in err
        assert why in err
    assert os.listdir(tmp_path) == ["directory"]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_missing_libraries_are_named_before_the_work(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stubbed(monkeypatch, lambda: pytest.fail("worked"))
    real = importlib.util.find_spec
    for absent in ("matplotlib", "jinja2"):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, a=absent: None if name == a else real(name)
        )
        assert main.main([*words, "--html", "x.html"]) == 1
        needed = f"--html needs matplotlib and Jinja2: {install('matplotlib', 'jinja2')}"
        assert needed in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_the_commands_write_the_page_beside_their_json(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stubbed(monkeypatch, lambda: os.makedirs("o", exist_ok=True))
    assert main.main([*words, "--json", "--html", "x.html"]) == 0
    captured = capsys.readouterr()
    json.loads(captured.out)  # and nothing else
    assert "saved x.html" in captured.err
    text = (tmp_path / "x.html").read_text()
    assert f"relkernels {words[0]}" in Reader(text).text
    assert "--html x.html" in text
    assert (tmp_path / "x.html").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_interrupted_benchmark_leaves_its_page(tmp_path, monkeypatch, capsys):
    def stop():
        raise KeyboardInterrupt

    stubbed(monkeypatch, stop)
    path = tmp_path / "x.html"
    assert main.main([*COMMANDS[1], "--html", str(path)]) == 130
    assert "Interrupted: these are the measurements until then." in Reader(path.read_text()).text


def test_a_contradicted_claim_is_shown_and_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "_run_one", lambda *_: outcome(stands=False))
    monkeypatch.setattr(study, "write_index", lambda *_: "")
    assert main.main(["reproduce", "zonal", "--html", str(tmp_path / "x.html")]) == 1
    assert {"class": "bad"} in Reader((tmp_path / "x.html").read_text()).of("span")


@pytest.mark.slow
def test_a_page_that_cannot_be_completed_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "x.html"
    path.write_text("before")
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        page.write(pages()["reproduce"], str(path))
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["x.html"]


def test_a_file_that_may_not_be_written(tmp_path, monkeypatch):
    path = tmp_path / "x.html"
    path.write_text("before")
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    with pytest.raises(OSError, match=r"--html: cannot write '.*x.html': it may not be written"):
        files.check_writable("--html", str(path))
    link = tmp_path / "link.html"
    link.symlink_to(path)
    monkeypatch.undo()
    files.write_whole(link, b"after")
    assert path.read_text() == "after"  # the target of the link
    assert link.is_symlink()


def test_neither_library_is_loaded_without_need():
    code = (
        "import sys; from relkernels.cli import bench, demo, main, page, reproduce; "
        "print({'matplotlib', 'jinja2', 'rich'} & {m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
