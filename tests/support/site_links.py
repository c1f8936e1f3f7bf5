"""Follows every link in a built site: to a file that is there, and to a place in it that is there."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page refers to, and the places in it that can be referred to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[tuple[str, str]] = []
        self.names: set[str] = set()
        self.stray: list[str] = []
        self._paragraph = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep references and names."""
        self._paragraph = tag == "p" or (self._paragraph and tag in ("a", "code", "em", "strong"))
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.targets.append((tag, value))
            elif name in ("id", "name") and value:
                self.names.add(value)

    def handle_data(self, data: str) -> None:
        """Keep lines of a paragraph that were meant for items of a list: a blank line is missing before them."""
        if self._paragraph:
            self.stray += [line for line in data.splitlines()[1:] if line.startswith(("* ", "- ", "1. "))]


def broken(site: Path) -> list[str]:
    """Return a line for each fault: a link that leads nowhere, what a page would load from elsewhere, a lost list."""
    read = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    return [f"{path.relative_to(site)}: {fault}" for path, page in read.items() for fault in _faults(site, path, read)]


def _faults(site: Path, path: Path, read: dict[Path, Page]) -> Iterator[str]:
    page = read[path]
    yield from (f"a list without a blank line before it: {line}" for line in page.stray)
    for tag, target in page.targets:
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            if tag != "a" and parts.scheme != "data":
                yield f"loads from elsewhere: {target}"
            continue
        if path.name == "404.html":  # served at any depth: its links are not relative to it
            continue
        found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        if found.is_dir():
            found /= "index.html"
        if not found.is_file() or not found.is_relative_to(site.resolve()):
            yield f"leads nowhere: {target}"
        elif parts.fragment and found in read and unquote(parts.fragment) not in read[found].names:
            yield f"no such place: {target}"
