"""Pages of the API reference, and links to them.

Each public module has a page that lists every name of its ``__all__``. On all other pages a public name in
code font, such as `bounds.symmetric`, becomes a link to its entry; on the pages about C++, to that of
`relkernels.hpp`.
"""

import importlib
import importlib.util
import inspect
from pathlib import Path

import cpp_reference
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.autodoc.mock import mock
from sphinx.util.inspect import stringify_signature
from sphinx.util.nodes import make_refnode

# In this order. Missing modules are skipped.
MODULES = ("", "bounds", "spectra", "metrics", "torch", "jax", "dask", "plot", "cuda")
# Optional libraries that are not installed: they are mocked, so that the docstrings can be read.
MISSING = [
    name for name in ("torch", "jax", "dask", "distributed", "cupy") if importlib.util.find_spec(name) is None
]

# Titles of the groups of `relkernels`, in order, by the module that defines a name.
GROUPS = {
    "ops": "Operations",
    "gradients": "Gradients and losses",
    "maps": "Feature maps",
    "states": "Blocks of rows",
    "estimators": "Estimators",
    "samples": "Relation values and pairs for cross-validation",
    "config": "Threads and configuration",
}
OTHERS = "Other names"


def module_names() -> list[str]:
    """Return the public modules that exist."""
    names = [f"relkernels.{name}".rstrip(".") for name in MODULES]
    return [name for name in names if importlib.util.find_spec(name) is not None]


def _group(thing: object) -> str:
    home = getattr(thing, "__module__", "").split(".")
    return GROUPS.get(home[1], OTHERS) if len(home) > 1 else OTHERS


def _table(names: list[str]) -> str:
    entries = "\n".join(f"   {name}" for name in names)
    return f".. autosummary::\n   :toctree: generated\n\n{entries}\n"


def _heading(text: str, mark: str) -> str:
    return f"{text}\n{mark * len(text)}\n"


def page_of(module_name: str) -> str:
    """Return the reStructuredText of a module's page."""
    with mock(MISSING):
        module = importlib.import_module(module_name)
        names = [name for name in module.__all__ if not name.startswith("__")]
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(_group(getattr(module, name)), []).append(name)
        text = inspect.getdoc(module) or ""
    parts = [_heading(module_name, "="), f".. module:: {module_name}\n", f"{text}\n"]
    if module_name != "relkernels":
        return "\n".join([*parts, _table(names)])
    for title in dict.fromkeys([*GROUPS.values(), OTHERS]):
        if title in groups:
            parts += [_heading(title, "-"), _table(groups[title])]
    parts.append(".. py:data:: __version__\n   :type: str\n\n   Version of the package.\n")
    return "\n".join(parts)


def write(folder: Path) -> None:
    """Write the pages that have changed; the others are not touched, so that they are not built again."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {f"{name}.rst": page_of(name) for name in module_names()}
    pages["hpp.rst"] = cpp_reference.page()
    for old in folder.glob("*.rst"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _skip(app, what, name, obj, skip, options):
    """Leave out members that a class inherits from another library."""
    function = obj.fget if isinstance(obj, property) else getattr(obj, "__func__", obj)
    home = getattr(function, "__module__", None)
    return True if home is not None and not str(home).startswith("relkernels") else None


def _signature(app, what, name, obj, options, signature, return_annotation):
    """Show the signature of `__init__` if the base is mocked; autodoc would show the mock's ``__new__``."""
    if what != "class" or type(obj).__name__ != "type" or "__init__" not in vars(obj):
        return None
    own = inspect.signature(obj.__init__)
    own = own.replace(parameters=list(own.parameters.values())[1:])
    return stringify_signature(own, show_annotation=False, show_return_annotation=False), None


def _link(app, doctree, page):
    """Link public names in code font to their entries; on the pages about C++, C++ names first."""
    domain = app.env.domains.python_domain
    cpp = cpp_reference.anchors(app.env) if page in cpp_reference.PAGES else {}
    for literal in list(doctree.findall(nodes.literal)):
        if isinstance(literal.parent, (nodes.reference, nodes.title)):
            continue
        name = literal.astext().removesuffix("()")
        docname, anchor = cpp.get(name, (None, ""))
        entry = domain.objects.get(f"relkernels.{name.removeprefix('rk.').removeprefix('relkernels.')}")
        if docname is None and entry is not None:
            docname, anchor = entry.docname, entry.node_id
        if docname not in (None, page):
            literal.replace_self(make_refnode(app.builder, page, docname, anchor, literal.deepcopy()))


def setup(app: Sphinx):
    """Connect the functions that filter members, fix signatures and add links."""
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-signature", _signature)
    app.connect("doctree-resolved", _link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
