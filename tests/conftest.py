"""What every test may use. The fixtures live in `tests/support/fix_*.py`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[1])
if ROOT not in sys.path:  # `python -m pytest` has it there, `pytest` does not
    sys.path.insert(0, ROOT)

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # so it is in the background of a shell, and what is started has it
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "tests.support.fix_postgres",
    "tests.support.fix_servers",
    "tests.support.fix_sqs",
    "tests.support.fix_versions",
    "tests.support.fix_desk",
]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto` is two workers a core: half of the time of a test is a wait. `-n logical` is one a core."""
    if config.option.numprocesses != "auto" or "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 2 * cores


SLOW_FIRST = ("system", "integration", "contract", "cli", "unit")
"""The folders whose tests are handed out first: those that take long must not be what is waited for in the end."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order tests by folder; within one they keep their order. And have groups of xdist stay together."""
    places = {folder: place for place, folder in enumerate(SLOW_FIRST)}

    def place(item: pytest.Item) -> int:
        parts = item.path.relative_to(Path(__file__).parent).parts
        return places.get(parts[0], len(places))

    items.sort(key=place)
    for item in items:
        _in_its_group(item)


def _in_its_group(item: pytest.Item) -> None:
    """Give a test the id that xdist means it to have: its group behind an @.

    xdist 3.8 writes it to where pytest 9.2 does not look any more (pytest-xdist issue 1386), and without it each worker
    of pytest starts the servers that a group is to share.
    """
    meant, known = vars(item).get("_nodeid"), getattr(item, "_id", None)
    if meant and known is not None and item.nodeid != meant:
        item._id = type(known).parse(meant)
