"""Finds the Pythons of this machine. Standard library only: it runs before anything is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator


def interpreters(names: Iterable[str]) -> Iterator[str]:
    """Yield the paths of those of `names` ("python3.13", ...) that are there and run, in order."""
    for name in names:
        found = [shutil.which(name) or ""]
        if pyenv := shutil.which("pyenv"):  # its shims run only for the versions it is told to use
            found += output([pyenv, "whence", "--path", name]).splitlines()
        yield from (path for path in found if path and output([path, "-c", "print(1)"]))


def output(command: list[str]) -> str:
    """Return what a command prints, or nothing if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
