"""The layers of the Python package: imports go to lower layers only, and there is no circle."""

import ast
from pathlib import Path

import relkernels

ROOT = Path(relkernels.__file__).parent

# From the bottom up. A folder or module imports only from lines above its own, and from itself.
LAYERS = [
    ["_core", "_cuda"],
    ["base"],
    ["arrays"],
    ["maps"],
    ["cuda"],
    ["ops", "spectra", "config", "samples"],
    ["gradients", "states", "metrics"],
    ["bounds"],
    ["estimators", "torch", "jax", "plot"],
    ["dask", "demos", "studies", "benchmarks"],
    ["relkernels"],  # __init__.py
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def modules():
    """Dotted names of the modules, with `relkernels` for the package itself, and their files."""
    found = {"relkernels._core": None, "relkernels._cuda": None}
    for path in ROOT.rglob("*.py"):
        parts = ("relkernels", *path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name, path, known):
    """The modules that a module imports anywhere, including lazily and for annotations."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                if inner in known:
                    yield inner
                elif source in known:
                    yield source


def layer_of(module):
    return module.split(".")[1] if "." in module else module


GRAPH = {
    name: set(imported(name, path, modules())) - {name} if path else set() for name, path in modules().items()
}


def test_every_module_has_a_layer():
    assert {layer_of(name) for name in GRAPH} <= set(RANK)


def test_imports_go_to_lower_layers():
    against = [
        f"{name} imports {other}"
        for name, others in GRAPH.items()
        for other in others
        if layer_of(name) != layer_of(other) and RANK[layer_of(other)] >= RANK[layer_of(name)]
    ]
    assert against == []


def test_no_circle():
    circles, done, path = [], set(), []

    def visit(name):
        if name in path:
            circles.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            path.append(name)
            for other in sorted(GRAPH[name]):
                visit(other)
            done.add(path.pop())

    for name in sorted(GRAPH):
        visit(name)
    assert circles == []


def test_few_modules_at_the_root():
    assert sorted(path.name for path in ROOT.glob("*.py")) == ["__init__.py", "__main__.py", "config.py"]
