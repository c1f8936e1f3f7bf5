"""What is logged: texts of ours and fields of the allow-list; of other libraries the name at most."""

from __future__ import annotations

import secrets
import subprocess
import sys

import pytest

CANARY = f"canary{secrets.token_hex(8)}"
PROGRAM = """
import asyncio, logging, sys
from coatcheck.ops import logs

logs.configure(verbose=sys.argv[1] == "verbose")
logs.configure(verbose=sys.argv[1] == "verbose")  # twice is as good as once
canary = sys.argv[2]

for name in ("botocore.credentials", "psycopg", "psycopg.pool", "asyncio", "urllib3", "", "coatchecker"):
    logger = logging.getLogger(name)
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logger.log(number, "failed with %s", canary)
    try:
        raise ValueError(canary)
    except ValueError:
        logger.exception("it failed: " + canary)

async def forgotten():
    task = asyncio.ensure_future(fail())
    await asyncio.sleep(0.01)
    del task

async def fail():
    raise ValueError(canary)

asyncio.run(forgotten())

ours = logging.getLogger("coatcheck.somewhere")
ours.info("of use to some", extra={"messages": 3, "body": canary})
ours.warning("ours", extra={"code": "Throttled", "body": canary})
try:
    raise ValueError(canary)
except ValueError:
    ours.error("ours failed", exc_info=True)
"""


def printed(how: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how, CANARY], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    assert CANARY not in done.stderr
    return [line.partition("Z ")[2] for line in done.stderr.splitlines()]


OURS = ["warning: ours (code=Throttled)", "error: ours failed"]


def test_other_libraries_are_silent() -> None:
    assert printed("quiet") == OURS


def test_verbose_tells_who_had_something_to_say() -> None:
    lines = printed("verbose")
    assert lines[-3:] == ["info: of use to some (messages=3)", *OURS]
    others = lines[:-3]
    assert len(others) == 7 * 4 + 1, "warnings and worse, and the task that nobody looked at"
    assert others[0] == "warning: a record of botocore.credentials, whose text may hold a value and is left out"
    assert any(line.startswith("error: a record of asyncio,") for line in others)


@pytest.mark.parametrize("how", ["quiet", "verbose"])
def test_no_word_of_pythons_own_about_missing_handlers(how: str) -> None:
    assert not [line for line in printed(how) if "handler" in line]
