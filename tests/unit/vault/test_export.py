"""The export is what was stored, line by line; what is no entry is told by its line's number, and nothing of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import CoatcheckError
from coatcheck.vault.chain import Entry
from coatcheck.vault.export import read, to_line

CANARY = "canary-7f3a"
ENTRY = Entry(1, 1_790_000_000_000_000, "loader", "reveal opened", '{"count":2}', bytes(range(32)))
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(-(2**63), 2**63 - 1)


def test_a_line_has_exactly_these_fields() -> None:
    assert json.loads(to_line(ENTRY)) == {
        "seq": 1,
        "at_us": 1_790_000_000_000_000,
        "actor": "loader",
        "event": "reveal opened",
        "detail": '{"count":2}',
        "hash": bytes(range(32)).hex(),
    }


@given(st.builds(Entry, numbers, numbers, texts, texts, texts, st.binary(min_size=32, max_size=32)))
def test_what_is_written_is_read(entry: Entry) -> None:
    line = to_line(entry)
    assert line.isascii()
    assert "\n" not in line
    assert list(read([f"{line}\n".encode(), line.encode()], "x")) == [entry, entry]


GOOD = json.loads(to_line(ENTRY))


def changed(**fields: object) -> bytes:
    return json.dumps(GOOD | {"detail": CANARY} | fields).encode()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        to_line(ENTRY).encode()[:-1],
        changed(seq="1"),
        changed(seq=2**63),
        changed(at_us=1.5),
        changed(actor=None),
        changed(hash="00"),
        changed(hash="zz" * 32),
        changed(hash="AA" * 32),
        changed(hash="aa" * 32 + "\n"),
        changed(more=CANARY),
        changed(detail=CANARY + "\ud800"),
        json.dumps({name: GOOD[name] for name in GOOD if name != "at_us"}).encode(),
    ],
)
def test_what_is_no_entry(line: bytes) -> None:
    with pytest.raises(CoatcheckError) as caught:
        list(read([to_line(ENTRY).encode(), line], "file"))
    assert caught.value.message == "line 2 of file is no entry of an audit trail"
    assert caught.value.exit_code == 1
    assert caught.value.__context__ is None
