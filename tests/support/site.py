"""Builds the documentation as a site: `make site`, into build/site.

The pages stay where they read well in the repository. Here they are put together: docs/ becomes the root, the pages
beside it move to about/, a folder without a first page gets one, and links are turned to where their targets are now;
those to files that are no pages lead to the repository. Then Zensical builds it, strictly, and every link that
it has written is followed (`site_links`). Any fault ends it with 1 and a line for each.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tests.support.site_links import broken
from tests.support.tool_environment import environment

ROOT = Path(__file__).resolve().parents[2]
BESIDE = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "about/architecture.md",
    "CHANGELOG.md": "about/changelog.md",
    "CONTRIBUTING.md": "about/contributing.md",
    "SECURITY.md": "about/security.md",
}
"""Pages beside docs/, and where they stand in the site."""

LINK = re.compile(r"(?<=\]\()([^)\s#]+)")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
Nav = list[Any]


def pages(root: Path = ROOT) -> dict[str, str]:
    """Return the path of every page in the repository, and in the site."""
    inside = {}
    for page in (root / "docs").rglob("*.md"):
        there = page.relative_to(root / "docs").with_name(page.name.replace("README.md", "index.md"))
        inside[str(page.relative_to(root))] = str(there)
    return inside | {path: there for path, there in BESIDE.items() if (root / path).exists()}


def turned(text: str, path: str, places: Mapping[str, str], root: Path = ROOT) -> str:
    """Return the text of a page with its links turned; raises FileNotFoundError for one that leads nowhere."""
    here = PurePosixPath(places[path])

    def turn(match: re.Match[str]) -> str:
        target = match[1]
        if re.match(r"[a-z]+:", target):
            return target
        found = PurePosixPath(os.path.normpath(PurePosixPath(path).parent / target))
        if not (root / found).exists():
            raise FileNotFoundError(f"{path}: {target} leads nowhere")
        there = places.get(str(found))
        if there is None and found.is_relative_to("docs"):
            inside = found.relative_to("docs")  # a picture, or a folder
            there = str(inside / "index.md" if (root / found).is_dir() else inside)
        return os.path.relpath(there, here.parent) if there else seen_at(str(found), root)

    parts = FENCE.split(text)
    return "".join(part if part.startswith("```") else LINK.sub(turn, part) for part in parts)


def first_page(folder: Path) -> str:
    """Return a first page for a folder: its pages, and what each is for, if it says so under its title."""
    lines = []
    for page in sorted(folder.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        title = re.search(r"^# (.+)$", text, re.MULTILINE)
        remark = re.search(r"^# .+\n\n\*(.+)\*", text, re.MULTILINE)
        name = title[1] if title else page.stem
        lines.append(f"* [{name}]({page.name})" + (f": {remark[1]}" if remark else ""))
    return f"# {folder.name.capitalize()}\n\n" + "\n".join(lines) + "\n"


def filled(nav: Nav, there: set[str]) -> Nav:
    """Return the navigation, its patterns filled in, without empty sections; raises ValueError for what is amiss."""
    named = {entry for entry in leaves(nav) if "*" not in entry}
    free = sorted(there - named, key=lambda page: (not page.endswith("index.md"), page))  # the first page first

    def fill(entries: Nav) -> Nav:
        done: Nav = []
        for entry in entries:
            if isinstance(entry, dict):
                [(title, inner)] = entry.items()
                done += [{title: kept}] if (kept := fill(inner)) else []
            else:
                done += [page for page in free if _fits(page, entry)] if "*" in entry else [entry]
        return done

    full = fill(nav)
    times = Counter(leaves(full))
    faults = [f"{page}: in no section of nav (zensical.toml)" for page in sorted(there - set(times))]
    faults += [f"{page}: in nav (zensical.toml), but there is no such page" for page in sorted(set(times) - there)]
    faults += [f"{page}: twice in nav (zensical.toml)" for page, number in sorted(times.items()) if number > 1]
    if faults:
        raise ValueError("\n".join(faults))
    return full


def _fits(page: str, pattern: str) -> bool:
    """Tell whether a page is one of a pattern, whose star is for no folders."""
    return page.count("/") == pattern.count("/") and fnmatch.fnmatchcase(page, pattern)


def leaves(nav: Nav) -> Iterator[str]:
    """Yield the pages, or patterns, of a navigation in order."""
    for entry in nav:
        if isinstance(entry, dict):
            yield from leaves(next(iter(entry.values())))
        else:
            yield entry


def toml(value: object) -> str:
    """Return a value as TOML in one line; of texts, booleans, lists and tables, as zensical.toml has them."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def seen_at(path: str, root: Path = ROOT) -> str:
    """Return where a file of this version can be seen: on GitHub in a run of it, else in this checkout."""
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return f"https://github.com/{name}/blob/{os.environ.get('GITHUB_SHA', 'HEAD')}/{path}"
    return f"{(root / path).as_uri()}?"  # without the question mark Zensical takes it for one of its pages


def put_together(root: Path, work: Path) -> None:
    """Write the pages, what they show, and Zensical's configuration to `work`; raises as `turned` and `filled` do."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(root / "docs", work / "pages", ignore=shutil.ignore_patterns("*.md"))
    places = pages(root)
    for path, there in places.items():
        page = work / "pages" / there
        page.parent.mkdir(parents=True, exist_ok=True)
        text = (root / path).read_text(encoding="utf-8")
        page.write_text(turned(text, path, places, root), encoding="utf-8")
    for folder in {(work / "pages" / there).parent for there in places.values()}:
        if folder.name != "about" and not (folder / "index.md").exists():
            (folder / "index.md").write_text(first_page(folder), encoding="utf-8")
    project = tomllib.loads((root / "zensical.toml").read_text(encoding="utf-8"))["project"]
    there_now = {str(page.relative_to(work / "pages")) for page in (work / "pages").rglob("*.md")}
    project |= {"nav": filled(project["nav"], there_now), "docs_dir": "pages", "site_dir": "site"}
    (work / "zensical.toml").write_text(f"project = {toml(project)}\n", encoding="utf-8")


def build(root: Path, place: Path) -> list[str]:
    """Build the site of the documents in `root` into `place`; return a line for each fault."""
    work = place.with_name(f"{place.name}-pages")
    try:
        put_together(root, work)
    except (FileNotFoundError, ValueError) as error:
        return str(error).splitlines()
    zensical = str(environment("site") / "zensical")
    done = subprocess.run(
        [zensical, "build", "--clean", "--strict"], cwd=work, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        return said.split("Traceback", maxsplit=1)[0].splitlines()
    shutil.rmtree(place, ignore_errors=True)
    shutil.move(work / "site", place)
    return broken(place)


def main() -> int:
    """Build the site and say how it went; return 1 if anything is amiss."""
    place = ROOT / "build" / "site"
    faults = build(ROOT, place)
    count = len(list(place.rglob("index.html")))
    print("\n".join(faults or [f"site: {count} pages, build/site"]))  # noqa: T201 - what it is asked for
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
