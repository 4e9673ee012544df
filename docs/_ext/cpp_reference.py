"""The page of the C++ interface, generated from the declarations and comments of include/relkernels.hpp."""

import re
import textwrap
from pathlib import Path

HEADER = Path(__file__).parents[2] / "include" / "relkernels.hpp"
# On these pages, names in code font are C++ names.
PAGES = ("cpp", "reference/api/hpp")
_SECTION = re.compile(r"// ---- (.*?) -+$")
_KIND = re.compile(r"(?:template <.*?>\s*)?(class|struct|enum class|using)\s+(\w+)", re.DOTALL)


def _rst(comment: list[str]) -> str:
    """Return a comment as reStructuredText: names in backquotes as code, indented lines unchanged."""
    text = "\n".join(line.removeprefix("//").removeprefix(" ").rstrip() for line in comment)
    text = re.sub(r"`([^`]+)`", r"``\1``", text.replace("*", r"\*").replace("|", r"\|"))
    lines, before = [], ""
    for line in text.splitlines():
        table = line.startswith("  ") and not line.lstrip().startswith("- ") and "  " in line.strip()
        if table:
            lines += ["" if not before.startswith("| ") else None, f"| {line.strip()}"]
        else:
            lines += ["" if before.startswith("| ") else None, line]
        before = lines[-1]
    return "\n".join(line for line in lines if line is not None)


def _blocks(body: str):
    """Yield the title of each section, and each declaration with the comment before it."""
    comment: list[str] = []
    code: list[str] = []
    for line in body.splitlines():
        if not code and (section := _SECTION.match(line)):
            yield section[1], None, None
        elif not code and line.startswith("//"):
            comment.append(line)
        elif not code and not line.strip():
            comment = []
        else:
            code.append(line)
            text = re.sub(r"\s*//.*", "", "\n".join(code))
            if text.endswith((";", "}")) and text.count("{") == text.count("}"):
                yield None, comment, "\n".join(code)
                comment, code = [], []


def page() -> str:
    """Return the reStructuredText of the page."""
    text = HEADER.read_text()
    intro, rest = text.split("#pragma once")
    body = rest.split("namespace relkernels {", 1)[1].rsplit("}  // namespace relkernels", 1)[0]
    parts = ["relkernels.hpp\n==============\n", _rst(intro.strip().splitlines()), ""]
    parts += [".. cpp:namespace:: relkernels\n", "Arrays\n------\n"]
    for title, comment, code in _blocks(body):
        if title is not None:
            parts.append(f"{title.capitalize()}\n{'-' * len(title)}\n")
        elif not code.startswith("namespace") and not re.fullmatch(r"template <class T>\s*class \w+;", code):
            parts.append(_entry(_rst(comment), code))
    return "\n".join(parts)


def _entry(comment: str, code: str) -> str:
    """Return the entry of a declaration: its signature, the comment, and the members of a type."""
    kind = _KIND.match(code)
    inside = ""
    if kind is None:
        directive, signature = "function", " ".join(code.rstrip(";").split())
    elif kind[1] == "using":
        directive, signature = "type", " ".join(code.rstrip(";").split()).replace("using ", "")
        signature = signature.replace("typename detail::Same<View<const T>>::type", "View<const T>")
        signature = signature.replace("typename detail::Same<View<T>>::type", "View<T>")
        signature = signature.replace("typename detail::Same<const Mlp<T>*>::type", "const Mlp<T>*")
    else:
        directive = "enum-class" if kind[1] == "enum class" else kind[1]
        signature = f"{'template<class T> ' if code.startswith('template') else ''}{kind[2]}"
        if "public:" in code:
            code = textwrap.dedent(code.split("public:\n")[1].split("   private:")[0])
            code = re.sub(
                r"(\)(?: const)?)\s*(?::\s[^{};]*)?\{[^{}]*\}", r"\1;", code
            )  # the declaration without its body
        inside = f".. code-block:: cpp\n\n{textwrap.indent(code.rstrip(), '   ')}\n"
    text = textwrap.indent(f"{comment}\n\n{inside}", "   ")
    return f".. cpp:{directive}:: {signature}\n\n{text}\n"


def anchors(env) -> dict[str, tuple[str, str]]:
    """Return page and anchor of each name, with and without its namespace."""
    found = {}
    for name, _, _, page, anchor, _ in env.domains["cpp"].get_objects():
        short = name.removeprefix("relkernels::")
        for alias in (name, short, f"rk::{short}", f"{short}<T>"):
            found[alias] = (page, anchor)
    return found
