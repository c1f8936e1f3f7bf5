"""What every test may use. The fixtures live in `tests/support/fix_*.py`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[1])
if ROOT not in sys.path:  # `python -m pytest` has it there, `pytest` does not
    sys.path.insert(0, ROOT)

pytest_plugins = ["tests.support.fix_postgres", "tests.support.fix_servers", "tests.support.fix_sqs"]
