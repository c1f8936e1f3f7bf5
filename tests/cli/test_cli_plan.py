"""`coatcheck plan` on the command line."""

from __future__ import annotations

import json

import pytest
from tests.support.fix_servers import Alone


def test_a_table_and_json(alone: Alone) -> None:
    shown = alone("plan", "--rate", "50000/s").out.splitlines()
    assert shown[0].split()[:2] == ["workers", "3"]
    assert any(line.split()[:3] == ["write-ahead", "log", "35"] for line in shown)
    lines = json.loads(alone("plan", "--rate", "50000/s", "--size", "1KiB", "--json").out)
    assert len(lines) == len(shown)
    assert lines[0] == {
        "what": "workers",
        "value": 3,
        "unit": "",
        "why": "25 us of CPU a message, cores 60% busy; one core each",
    }


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--rate", "lots"), "a rate is a number of messages, as in 50000/s, 300/min or 2000000/h"),
        (("--rate", "1/s", "--size", "2MiB"), "a size is that of a message's body"),
        ((), "missing option '--rate'"),
    ],
)
def test_misuse(alone: Alone, arguments: tuple[str, ...], what: str) -> None:
    done = alone("plan", *arguments, code=2)
    assert f"coatcheck: error: {what}" in done.err
    assert "coatcheck: hint: see `coatcheck plan --help`" in done.err
