"""Runs the tests on the newest CPython of this machine, where that is not the one `make setup` took.

Prints one line `newest python: ...` that says which, or why not; ends with pytest's exit code. Standard library only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.interpreters import interpreters

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "dev.lock"
NEWEST = tuple(f"python3.{minor}" for minor in range(20, sys.version_info.minor, -1))
SUITES = ("tests/unit", "tests/contract")  # what differs between Pythons shows here; the rest is servers and time
LEFT_OUT = ("benchmarks", "sources/test_demand_simulation.py", "keys/test_attack.py")
"""Of tests/unit: arithmetic that takes long and is the same on every Python."""


def main() -> int:
    """Make the environment if need be, and run the suites that know no installed command."""
    python = next(interpreters(NEWEST), None)
    if python is None:
        print("newest python: skipped (none newer than the one in .venv)")  # noqa: T201 - the line it is asked for
        return 0
    name = Path(python).name
    environment = ROOT / ".venvs" / name
    stamp = environment / ".installed"
    if not stamp.exists() or stamp.stat().st_mtime < LOCK.stat().st_mtime:
        _install(python, environment)
        stamp.touch()
    print(f"newest python: {name}", flush=True)  # noqa: T201
    command = [str(environment / "bin" / "python"), "-m", "pytest", "-q", *SUITES, "-m", "not localstack"]
    command += [f"--ignore=tests/unit/{path}" for path in LEFT_OUT]
    return subprocess.run([*command, "-n", "logical", "--dist", "loadgroup"], cwd=ROOT, check=False).returncode


def _install(python: str, environment: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    target = ["--python", str(environment / "bin" / "python"), "--quiet"]
    commands: list[list[str | Path]] = [
        [uv, "venv", "--quiet", "--clear", "--python", python, environment],
        [uv, "pip", "install", *target, "--require-hashes", "--no-deps", "-r", LOCK],
        [uv, "pip", "install", *target, "--no-deps", "--no-build-isolation", "-e", "."],
    ]
    for command in commands:
        subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"UV_PYTHON_DOWNLOADS": "never"})


if __name__ == "__main__":
    sys.exit(main())
