"""`make faults`: every test that the catalogue of faults names, then a short campaign."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.faults import page, soak

CYCLES = 60


def main() -> int:
    """Run them; return the exit code."""
    named = [*page.tests(), str(Path(__file__).parent)]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "loadgroup", *named]
    return subprocess.run(command, cwd=page.ROOT, check=False).returncode or soak.main(["--cycles", str(CYCLES)])


if __name__ == "__main__":
    sys.exit(main())
