"""`make faults`: every test that the catalogue of faults names, then a short campaign."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.faults import page, soak

CYCLES = 60


def main() -> int:
    """Run them; return the exit code."""
    named = page.tests()
    code = pytest.main(["-q", "-n", "auto", "--dist", "loadgroup", *named, str(Path(__file__).parent)])
    return int(code) or soak.main(["--cycles", str(CYCLES)])


if __name__ == "__main__":
    sys.exit(main())
