"""Sphinx configuration: `sphinx-build -n -W --keep-going docs docs/_build/html`, without a network."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import reference  # noqa: E402
from relkernels import __version__ as release  # noqa: E402

project = "relkernels"
author = "the relkernels authors"
copyright = author
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
    "mathml",
    "pictures",
    "reference",
    "repository",
]
exclude_patterns = ["_build", "reproduce/*/pieces"]
templates_path = ["_templates"]

# Pages at the top level of docs/ are found by the glob of the table of contents. These may be missing:
# sentences refer to them by a link, or else by these words.
OPTIONAL_PAGES = {
    "dask_page": ("dask", "Dask arrays", "`relkernels.dask`"),
    "cpp_page": ("cpp", "the engine without Python", "the C++ library"),
}
myst_enable_extensions = ["colon_fence", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_substitutions = {
    name: f"[{title}](/{page}.md)" if (HERE / f"{page}.md").exists() else otherwise
    for name, (page, title, otherwise) in OPTIONAL_PAGES.items()
}

# Types are in the docstrings, which also state shapes and dtypes.
autodoc_typehints = "none"
autodoc_mock_imports = reference.MISSING
autosummary_generate = True
autosummary_ignore_module_all = False
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
default_role = "autolink"
nitpick_ignore_regex = [
    # Docstrings put arguments and attributes in single backquotes. A word that is also a module of the
    # standard library would look like a link.
    ("py:obj", r"[a-z_]+"),
    # Names of other libraries, whose documentation is not fetched.
    ("cpp:identifier", r"(std|detail|Precision)(::.*)?|T"),
    ("py:(class|obj)", r"(cupy|dask|jax|matplotlib|numpy|pandas|scipy|sklearn|torch)\..*"),
]

plot_working_directory = str(HERE)
plot_include_source = True
plot_formats = [("svg", 96)]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_rcparams = {
    "figure.figsize": (6.4, 3.4),
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "relkernels",
}

html_theme = "furo"
html_title = f"relkernels {version}"
html_static_path = ["_static"]
html_css_files = ["extra.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

reference.write(HERE / "reference" / "api")
