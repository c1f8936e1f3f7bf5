"""Says whether a tag may be released, and with which notes. Standard library only.

    python -m tests.support.release v0.2.0 --notes dist/notes.md

The tag is "v" and the version of pyproject.toml and of the package, and CHANGELOG.md has a dated section with text for
it, which becomes the notes. Prints `release: ...` and ends with 0, or with 1 and a line for each thing that is amiss.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tests.support.site import LINK, seen_at

ROOT = Path(__file__).resolve().parents[2]


def section(changelog: str, version: str) -> str:
    """Return what a changelog says of a version; raises ValueError if that is nothing, or has no date."""
    headings = list(re.finditer(r"^## \[(?P<version>.+?)\](?P<rest>.*)$", changelog, re.MULTILINE))
    for heading, after in zip(headings, [*headings[1:], None], strict=True):
        if heading["version"] != version:
            continue
        if not re.fullmatch(r" - \d{4}-\d{2}-\d{2}", heading["rest"]):
            raise ValueError(f"CHANGELOG.md: the section [{version}] has no date: ## [{version}] - YYYY-MM-DD")
        text = changelog[heading.end() : after.start() if after else None].strip()
        if not re.search(r"^[-*] ", text, re.MULTILINE):
            raise ValueError(f"CHANGELOG.md: the section [{version}] says nothing")
        return text
    raise ValueError(f"CHANGELOG.md: there is no section [{version}]")


def notes(tag: str, root: Path = ROOT) -> str:
    """Return the notes of a release, links made absolute; raises ValueError with a line for each thing amiss."""
    version = str(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])
    package = (root / "src" / "coatcheck" / "version.py").read_text(encoding="utf-8")
    faults = []
    if tag != f"v{version}":
        faults.append(f"the tag is {tag}, but pyproject.toml has {version}")
    if f'__version__ = "{version}"\n' not in package:
        faults.append(f"src/coatcheck/version.py has another version than pyproject.toml, which has {version}")
    text = ""
    try:
        text = section((root / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    except ValueError as error:
        faults.append(str(error))
    if faults:
        raise ValueError("\n".join(faults))
    return LINK.sub(lambda link: link[1] if re.match(r"[a-z]+:", link[1]) else seen_at(link[1], root), text) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Check a tag, and write its notes if they are wanted."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.release")
    parser.add_argument("tag")
    parser.add_argument("--notes", type=Path)
    options = parser.parse_args(arguments)
    try:
        text = notes(options.tag)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201 - what it is asked for
        return 1
    if options.notes:
        options.notes.parent.mkdir(parents=True, exist_ok=True)
        options.notes.write_text(text, encoding="utf-8")
    print(f"release: {options.tag}")  # noqa: T201 - what it is asked for
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
