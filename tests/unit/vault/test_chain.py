"""The pure verifier: every break is told, where it is and what it is; nothing that is whole is called broken."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.vault.chain import BrokenTrailError, Checkpoint, Entry, Kind, Verified, entry_hash, utc, verify

START_US = 1_790_000_000_000_000


def trail(count: int, *, salt: str = "", start: int = 1, before: bytes = bytes(32)) -> list[Entry]:
    """Return entries `start` to `start + count - 1`, chained; another `salt` gives another trail."""
    found = []
    for seq in range(start, start + count):
        texts = ("loader", f"event {seq % 3}", f'{{"n":"{salt}{seq} é"}}')
        before = entry_hash(before, seq, START_US + seq, *texts)
        found.append(Entry(seq, START_US + seq, *texts, before))
    return found


def checkpoint(entry: Entry) -> Checkpoint:
    return Checkpoint("coatcheck/audit/v1 acme", entry.seq, entry.hash, entry.at_us)


def broken(entries: Sequence[Entry], *checkpoints: Checkpoint, first: int | None = 1) -> tuple[Kind, int, int]:
    with pytest.raises(BrokenTrailError) as caught:
        verify(entries, checkpoints, first=first)
    error = caught.value
    assert error.exit_code == 1
    assert error.hint
    assert "event" not in error.message + error.hint, "nothing of an entry's content"
    return error.kind, error.seq, error.until


def test_the_hash_is_what_the_specification_says() -> None:
    framed = b"\0\0\0\1a" + b"\0\0\0\2\xc3\xa9" + b"\0\0\0\0"
    numbers = (7).to_bytes(8) + (-1).to_bytes(8, signed=True)
    assert entry_hash(b"\1" * 32, 7, -1, "a", "é", "") == hashlib.sha256(b"\1" * 32 + numbers + framed).digest()


def test_an_unbroken_trail() -> None:
    entries = trail(5)
    assert verify(iter(entries)) == Verified(5, 1, entries[-1], 0, 0, 0, begun=True, backwards=0, backwards_at=0)


def test_an_empty_trail() -> None:
    assert verify([]) == Verified(0, 0, None, 0, 0, 0, begun=True, backwards=0, backwards_at=0)
    assert broken([], checkpoint(trail(3)[-1])) == (Kind.TRUNCATED, 1, 3)


@pytest.mark.parametrize("name", ["at_us", "actor", "event", "detail", "hash"])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_field_that_was_changed(name: str, place: int) -> None:
    entries = trail(5)
    value = getattr(entries[place], name)
    changed = value + 1 if name == "at_us" else value[:-1] + (b"x" if name == "hash" else "x")
    entries[place] = entries[place]._replace(**{name: changed})
    assert broken(entries) == (Kind.CHANGED, place + 1, place + 1)


def test_text_that_moved_from_one_field_to_the_next() -> None:
    entries = trail(3)
    event, detail = entries[1].event, entries[1].detail
    entries[1] = entries[1]._replace(event=event + detail[:1], detail=detail[1:])
    assert broken(entries) == (Kind.CHANGED, 2, 2)


def test_entries_that_are_missing() -> None:
    entries = trail(6)
    assert broken(entries[:2] + entries[3:]) == (Kind.MISSING, 3, 3)
    assert broken(entries[:2] + entries[5:]) == (Kind.MISSING, 3, 5)
    assert broken(entries[2:]) == (Kind.BEGINNING, 1, 2)


def test_a_tail_that_is_missing_shows_against_a_checkpoint_only() -> None:
    entries = trail(6)
    assert verify(entries[:4]).count == 4
    assert verify(entries[:4], [checkpoint(entries[3])]).confirmed_to == 4
    assert broken(entries[:4], checkpoint(entries[3]), checkpoint(entries[5])) == (Kind.TRUNCATED, 5, 6)


def test_entries_that_are_out_of_order() -> None:
    one, two, three, four = trail(4)
    assert broken([one, three, two, four]) == (Kind.DISORDER, 2, 2)
    assert broken([one, two, two, three]) == (Kind.DISORDER, 2, 2)
    assert broken([one, two, three, one]) == (Kind.DISORDER, 1, 1)
    assert broken([four, three, two, one]) == (Kind.DISORDER, 3, 3)
    assert broken([four, three, two, one], first=None) == (Kind.DISORDER, 3, 3)
    assert broken([one._replace(seq=0), one, two]) == (Kind.DISORDER, 0, 0)
    assert broken([one._replace(seq=-5)], first=None) == (Kind.DISORDER, -5, -5)


def test_a_rewrite_shows_against_a_checkpoint_only() -> None:
    old, new = trail(6), trail(9, salt="other ")
    assert verify(new).count == 9
    assert broken(new, checkpoint(old[3])) == (Kind.REWRITTEN, 1, 4)
    partly = old[:3] + trail(6, salt="other ", start=4, before=old[2].hash)
    assert verify(partly, [checkpoint(old[1])]).confirmed_to == 2
    assert broken(partly, checkpoint(old[1]), checkpoint(old[5])) == (Kind.REWRITTEN, 3, 6)


def test_an_export_that_starts_later() -> None:
    entries = trail(8)
    later = verify(entries[4:], first=None)
    assert (later.count, later.first, later.begun) == (4, 5, False)
    anchored = verify(entries[4:], [checkpoint(entries[3])], first=None)
    assert (anchored.begun, anchored.confirmed, anchored.confirmed_to, anchored.before) == (True, 1, 4, 0)
    early = verify(entries[4:], [checkpoint(entries[1]), checkpoint(entries[2])], first=None)
    assert (early.begun, early.before, early.confirmed) == (False, 2, 0)
    assert broken(entries[4:], checkpoint(trail(4, salt="other")[3]), first=None) == (Kind.REWRITTEN, 5, 5)


def test_two_checkpoints_that_contradict_each_other() -> None:
    entries, other = trail(5), trail(5, salt="other")
    both = checkpoint(entries[3]), checkpoint(other[3])
    assert broken(entries, *both)[0] is Kind.REWRITTEN
    assert broken(entries[4:], *both, first=None)[0] is Kind.REWRITTEN


def test_the_end_is_known_before() -> None:
    entries = trail(9)
    with pytest.raises(BrokenTrailError, match="it ends with entry 4, and had 9") as caught:
        verify([], [checkpoint(entries[8])], first=8, end=4)
    assert caught.value.kind is Kind.TRUNCATED
    assert verify(entries[7:], [checkpoint(entries[8])], first=8, end=9).confirmed == 1
    assert broken(entries[8:], first=8) == (Kind.MISSING, 8, 8)


def test_times_that_go_backwards_are_noted() -> None:
    found, before = [], bytes(32)
    for seq, at_us in enumerate((5, 9, 3, 3, 2, 10), 1):
        before = entry_hash(before, seq, at_us, "a", "e", "{}")
        found.append(Entry(seq, at_us, "a", "e", "{}", before))
    verified = verify(found)
    assert (verified.backwards, verified.backwards_at) == (2, 3)


def test_times_no_calendar_has() -> None:
    assert utc(START_US) == "2026-09-21 14:13:20.000000"
    assert utc(-1) == "1969-12-31 23:59:59.999999"
    assert utc(2**62) == f"{2**62} us"


@st.composite
def tampered(draw: st.DrawFn) -> tuple[list[Entry], list[Entry]]:
    """A trail and what somebody without the hash function has made of it."""
    entries = trail(draw(st.integers(1, 12)))
    other = list(entries)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(len(other) - 1, 0)))
        match draw(st.sampled_from(("delete", "swap", "insert", "edit"))):
            case "delete" if other:
                del other[place]
            case "swap" if other:
                to = draw(st.integers(0, len(other) - 1))
                other[place], other[to] = other[to], other[place]
            case "insert":
                other.insert(place, draw(st.sampled_from(trail(12, salt=draw(st.sampled_from(("", "other")))))))
            case "edit" if other:
                other[place] = other[place]._replace(detail=draw(st.text(max_size=5)))
            case _:
                pass
    return entries, other


@given(tampered())
def test_with_a_checkpoint_of_its_end_nothing_but_the_trail_is_accepted(case: tuple[list[Entry], list[Entry]]) -> None:
    entries, other = case
    mark = checkpoint(entries[-1])
    if other[: len(entries)] == entries and verify(entries, [mark]):
        other = other[: len(entries)]  # what was put behind is another test's matter
        assert verify(other, [mark]).head == entries[-1]
        return
    with pytest.raises(BrokenTrailError):
        verify(other, [mark])


@given(tampered())
def test_without_one_only_a_beginning_is_accepted(case: tuple[list[Entry], list[Entry]]) -> None:
    entries, other = case
    try:
        verified = verify(other)
    except BrokenTrailError:
        return
    chains = (entries, trail(12), trail(12, salt="other"))
    assert any(other == chain[: verified.count] for chain in chains)


@given(st.integers(1, 30), st.data())
def test_any_part_of_a_trail_is_verified_from_the_checkpoint_before(count: int, data: st.DataObject) -> None:
    entries = trail(count)
    start = data.draw(st.integers(0, count - 1))
    marks = [checkpoint(entry) for entry in data.draw(st.lists(st.sampled_from(entries), max_size=5))]
    before = [checkpoint(entries[start - 1])] if start else []
    verified = verify(itertools.islice(entries, start, None), [*marks, *before], first=None)
    assert verified.begun
    assert verified.confirmed == sum(mark.seq >= start for mark in marks) + len(before)
