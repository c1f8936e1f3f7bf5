"""The form in which each experiment of `make bench-full` writes what it measured; `benchmarks.page` reads it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import msgspec
from benchmarks.measure import reference_loop_ms

Figure = float | str | None
"""A figure of a run: a number, a name, or None where it could not be measured."""

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("psycopg", "uvloop", "msgspec", "httptools", "cryptography")


class Envelope(msgspec.Struct, frozen=True):
    """What one experiment measured. `runs` are flat; figures carry their unit in their name (`cpu_us`, `rss_mb`)."""

    experiment: str
    taken: str
    commit: str
    machine: dict[str, Figure]
    options: dict[str, Figure]
    runs: list[dict[str, Figure]]


def machine() -> dict[str, Figure]:
    """Return what the figures of this machine depend on."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "reference_ms": reference_loop_ms(),
        **{package: version(package) for package in _PACKAGES},
    }


def envelope(
    experiment: str,
    *,
    options: dict[str, Figure],
    runs: list[dict[str, Figure]],
    machine: dict[str, Figure],
) -> Envelope:
    """Wrap figures with when and of which commit they were taken."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Envelope(experiment, now, _commit(), machine, options, runs)


def write(path: Path, measured: Envelope) -> None:
    """Write an envelope as indented JSON, keys in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(measured)) + b"\n")


def read(path: Path) -> Envelope:
    """Read an envelope. Raises msgspec.ValidationError."""
    return msgspec.json.decode(path.read_bytes(), type=Envelope)


def say(text: str) -> None:
    """Tell how far it is, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 - whichever git the machine has
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"
