"""Environments for tools that the tests and the Makefile call as programs, apart from what coatcheck runs on.

`requirements/NAME.in` says what is in one, `requirements/NAME.lock` holds its pins and hashes (`make lock`), and
`.venvs/NAME` is where it is made when somebody first asks for it.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment(name: str) -> Path:
    """Return the folder of an environment's programs, made anew where its lock has changed; safe beside others.

    Raises CalledProcessError: its packages cannot be installed.
    """
    lock = ROOT / "requirements" / f"{name}.lock"
    place = ROOT / ".venvs" / name
    stamp = place / ".installed"
    place.parent.mkdir(exist_ok=True)
    with (place.parent / f".{name}.turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != lock.read_text():
            _make(place, lock)
            stamp.write_text(lock.read_text())
    return place / "bin"


def _make(place: Path, lock: Path) -> None:
    wanted: list[str | Path] = ["--quiet", "--require-hashes", "--no-deps", "-r", lock]
    python, uv = place / "bin" / "python", Path(sys.executable).with_name("uv")
    venv.create(place, with_pip=not uv.exists(), clear=True)
    if uv.exists():
        subprocess.run([uv, "pip", "install", "--python", python, *wanted], check=True)
    else:
        subprocess.run([python, "-m", "pip", "install", "--disable-pip-version-check", *wanted], check=True)
