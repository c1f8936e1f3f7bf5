"""Puts what the peers run on into folders of their own under `.venvs`, from lock files with hashes, once.

Where a registry, pip, Node or npm is missing, the peers that need it are skipped, with the reason.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.envelope import say
from benchmarks.null_process import ROOT

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).resolve().parent
LOCK = HERE / "requirements.lock"
NODE_FILES = HERE / "node"
NODE_LOCK = NODE_FILES / "package-lock.json"
PYTHON_FOLDER = ROOT / ".venvs" / "peers"
NODE_FOLDER = ROOT / ".venvs" / "peers-node"
STAMP = ".installed"
NODE_SCRIPT = "index.mjs"
OLDEST_NODE = 20
LIMIT_S = 300.0


class SkipError(Exception):
    """A peer cannot be run here, and why."""


def peers_environment(folder: Path = PYTHON_FOLDER, lock: Path = LOCK) -> Path:
    """Return the Python of the peers, its environment made anew if the lock has changed. Raises SkipError."""
    python = folder / "bin" / "python"
    if not installed(folder, lock):
        wanted = ["--require-hashes", "--only-binary", ":all:", "--no-deps", "-r", str(lock)]
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
        _make(folder, lock, [[sys.executable, "-m", "venv", str(folder)], pip])
    return python


def node_environment(folder: Path = NODE_FOLDER, lock: Path = NODE_LOCK) -> list[str]:
    """Return the command of the Node peer, its packages installed anew if the lock has changed. Raises SkipError."""
    node = _node()
    if not installed(folder, lock):
        npm = shutil.which("npm")
        if npm is None:
            raise SkipError("npm is not installed")
        offer = ["--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund"]
        _make(folder, lock, [[npm, "ci", *offer, "--prefix", str(folder)]], (lock.with_name("package.json"), lock))
    shutil.copy(NODE_FILES / NODE_SCRIPT, folder)  # Node looks for packages beside the script
    return [node, str(folder / NODE_SCRIPT)]


def installed(folder: Path, lock: Path) -> bool:
    """Tell whether the folder holds what the lock file says."""
    try:
        return (folder / STAMP).read_text() == _digest(lock)
    except OSError:
        return False


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        raise SkipError("Node is not installed")
    version = _run([node, "--version"], time.monotonic() + LIMIT_S).strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        raise SkipError(f"Node is {version}, not {OLDEST_NODE} or newer")
    return node


def _make(folder: Path, lock: Path, commands: Sequence[Sequence[str]], files: Sequence[Path] = ()) -> None:
    """Fill a folder by commands; it is gone if one fails."""
    say(f"filling {folder.name} from {lock.name}")
    deadline = time.monotonic() + LIMIT_S
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        for file in files:
            shutil.copy(file, folder)
        for command in commands:
            _run(command, deadline)
        (folder / STAMP).write_text(_digest(lock))
    except BaseException as error:
        with suppress(OSError):
            shutil.rmtree(folder)
        if isinstance(error, OSError):
            raise SkipError(f"{folder.name}: {error.strerror}") from error
        raise


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def _run(command: Sequence[str], deadline: float) -> str:
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=max(1.0, deadline - time.monotonic()),
            stdin=subprocess.DEVNULL,
            env=os.environ,
        )
    except subprocess.TimeoutExpired as error:
        raise SkipError(f"{name} did not end within {LIMIT_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise SkipError(f"{name} failed: {_reason(str(error.stderr))}") from error
    except OSError as error:
        raise SkipError(f"{name}: {error.strerror}") from error
    return done.stdout


def _reason(errors: str) -> str:
    """Return the line that tells why a command failed: the first one that is marked as an error, else the last one."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()] or ["no word why"]
    return next((line for line in lines if line.lower().startswith(("error", "npm error"))), lines[-1])
