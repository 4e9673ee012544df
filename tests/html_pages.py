"""The references of built pages (links, anchors, pictures, scripts), followed without a network."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Elements that a browser fetches automatically, and the attribute with the address.
FETCHED = {"img": "src", "script": "src", "source": "src", "iframe": "src", "link": "href"}
# The relations of <link> that are fetched.
RELATIONS = {"stylesheet", "icon", "shortcut icon", "preload", "modulepreload", "manifest"}


@dataclass
class Page(HTMLParser):
    """The anchors and references of a page."""

    path: Path
    anchors: set = field(default_factory=set)
    links: list = field(default_factory=list)
    fetched: list = field(default_factory=list)
    formulas: int = 0
    pictures: list = field(default_factory=list)  # alternative texts

    def __post_init__(self):
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        self.formulas += tag == "math"
        if tag == "img":
            self.pictures.append(given.get("alt") or "")
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif given.get(FETCHED.get(tag)) and (tag != "link" or given.get("rel") in RELATIONS):
            self.fetched.append(given[FETCHED[tag]])


def read(folder):
    """All pages of a folder, by path."""
    return {path: Page(path) for path in sorted(Path(folder).rglob("*.html"))}


def broken(pages):
    """Return broken references: to a missing file, or to an anchor that its page lacks."""
    found = []
    for path, page in pages.items():
        for reference in page.links + page.fetched:
            parts = urlsplit(reference)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{path.name}: {reference}: no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{path.name}: {reference}: no such anchor")
    return found


def from_the_network(pages):
    """Return the resources that a browser would fetch from elsewhere to show a page."""
    return [
        f"{path.name}: {url}" for path, page in pages.items() for url in page.fetched if urlsplit(url).netloc
    ]
