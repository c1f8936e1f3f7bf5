"""Puts LocalStack into an environment of its own, `.venv-localstack`, once (`make setup-localstack`).

It never fails a build: it prints `localstack: ready` or `localstack: skipped (<why>)` and ends with 0. Standard library
only, because it runs before anything else is there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.support.interpreters import interpreters

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "localstack.lock"
ENVIRONMENT = ROOT / ".venv-localstack"
PYTHON = ENVIRONMENT / "bin" / "python"
STAMP = ENVIRONMENT / ".installed"
PREFERRED = ("python3.13", "python3.12")  # on 3.11 its SQS works as well, its KMS does not
LIMIT_S = 300.0


class SkipError(Exception):
    """LocalStack cannot be installed here, and why."""


def installed() -> bool:
    """Tell whether the environment holds what the lock file says."""
    try:
        return STAMP.read_text() == _digest() and PYTHON.exists()
    except OSError:
        return False


def install() -> None:
    """Make the environment anew, by uv where it is at hand, else by pip. Raises SkipError."""
    deadline = time.monotonic() + LIMIT_S
    python = next(interpreters(PREFERRED), sys.executable)
    uv = Path(sys.executable).with_name("uv")
    trouble = ""
    for way in [_by_uv(str(uv), python)] * uv.exists() + [_by_pip(python)]:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        try:
            for command in way:
                _run(command, deadline)
        except SkipError as error:
            trouble = str(error)
        else:
            STAMP.write_text(_digest())
            return
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    raise SkipError(trouble)


def _digest() -> str:
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()


def _by_uv(uv: str, python: str) -> list[list[str]]:
    wanted = ["--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)]
    return [
        [uv, "venv", "--quiet", "--python", python, str(ENVIRONMENT)],
        [uv, "pip", "install", "--quiet", "--python", str(PYTHON), *wanted],
    ]


def _by_pip(python: str) -> list[list[str]]:
    wanted = ["--require-hashes", "--only-binary", ":all:", "--no-deps", "-r", str(LOCK)]
    return [
        [python, "-m", "venv", str(ENVIRONMENT)],
        [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted],
    ]


def _run(command: list[str], deadline: float) -> None:
    left = max(1.0, deadline - time.monotonic())
    try:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=left,
            stdin=subprocess.DEVNULL,
            env=os.environ | {"UV_PYTHON_DOWNLOADS": "never"},
        )
    except subprocess.TimeoutExpired as error:
        raise SkipError(f"not installed within {LIMIT_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        words = str(error.stderr).strip().splitlines() or ["no word why"]
        raise SkipError(f"{Path(command[0]).name} failed: {words[-1].strip()}") from error
    except OSError as error:
        raise SkipError(f"{Path(command[0]).name}: {error.strerror}") from error


def main() -> None:
    """Say in one line whether LocalStack is there."""
    try:
        if not installed():
            install()
    except (SkipError, OSError) as error:
        print(f"localstack: skipped ({error})")  # noqa: T201 - the one line it is asked for
    else:
        print("localstack: ready")  # noqa: T201 - the one line it is asked for


if __name__ == "__main__":
    main()
