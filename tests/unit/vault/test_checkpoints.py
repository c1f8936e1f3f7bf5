"""Checkpoints as notes, where files keep them, and when the next one is due."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import CoatcheckError, ConfigError, RefusedError, UnreachableError
from coatcheck.keys.notes import NoteError, SignerKey
from coatcheck.vault.chain import Checkpoint
from coatcheck.vault.checkpoints import is_note_name, note_name, read_checkpoint, to_text
from coatcheck.vault.follower import Outage, Schedule
from coatcheck.vault.notes_files import FileNotes, FolderNotes, read_notes
from coatcheck.vault.notes_s3 import S3Notes

SIGNER = SignerKey("coatcheck/audit/acme", Ed25519PrivateKey.from_private_bytes(bytes(32)))
ORIGIN = "coatcheck/audit/v1 acme"


def checkpoint(seq: int, fill: int = 7) -> Checkpoint:
    return Checkpoint(ORIGIN, seq, bytes([fill]) * 32, 1_790_000_000_000_000 + seq)


def note(seq: int, fill: int = 7) -> bytes:
    return SIGNER.sign(to_text(checkpoint(seq, fill)))


def test_a_note_is_text_for_people() -> None:
    lines = note(1000).decode().splitlines()
    encoded = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
    assert lines[:5] == [ORIGIN, "1000", encoded, "1790000000001000", ""]
    assert lines[5].startswith("— coatcheck/audit/acme ")
    assert len(lines) == 6


@given(st.integers(1, 2**63 - 1), st.binary(min_size=32, max_size=32), st.integers(-(2**63), 2**63 - 1))
def test_what_is_signed_is_read(seq: int, hash_: bytes, at_us: int) -> None:
    made = Checkpoint(ORIGIN, seq, hash_, at_us)
    assert read_checkpoint(SIGNER.sign(to_text(made)), SIGNER.verifier, "x") == made
    assert is_note_name(note_name(seq))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (ORIGIN, "coatcheck/audit/v1 other"),
        (ORIGIN, "coatcheck/audit/v2 acme"),
        ("\n5\n", "\n05\n"),
        ("\n5\n", "\n-5\n"),
        ("\n5\n", "\n0\n"),
        ("BwcHBw", "BwcHB"),
        ("Bwc=\n", "Bwd=\n"),
        ("Bwc=\n", "Bwc=\nmore\n"),
        ("\n1790000000000005\n", "\n"),
        ("\n1790000000000005\n", "\n01790000000000005\n"),
    ],
)
def test_signed_text_that_is_no_checkpoint(old: str, new: str) -> None:
    text = to_text(checkpoint(5))
    assert old in text
    with pytest.raises(CoatcheckError, match=r"^place is no checkpoint of the trail of coatcheck/audit/acme$"):
        read_checkpoint(SIGNER.sign(text.replace(old, new)), SIGNER.verifier, "place")


def test_a_checkpoint_of_another_key() -> None:
    other = SignerKey(SIGNER.name, Ed25519PrivateKey.from_private_bytes(b"\1" * 32))
    with pytest.raises(NoteError, match="place is not signed by the key coatcheck/audit/acme"):
        read_checkpoint(other.sign(to_text(checkpoint(5))), SIGNER.verifier, "place")


# -- a folder


def test_names_sort_as_numbers_do() -> None:
    assert note_name(1000) == "0000000000000001000.note"
    numbers = [1, 9, 10, 99, 1000, 2**63 - 1]
    assert [note_name(number) for number in numbers] == sorted(map(note_name, reversed(numbers)))


def test_a_folder_of_notes(tmp_path: Path) -> None:
    notes = FolderNotes(tmp_path / "a" / "b")
    assert notes.newest(100) is None
    for seq in (9, 1000, 10):
        assert notes.add(seq, note(seq)) == str(tmp_path / "a" / "b" / note_name(seq))
    (tmp_path / "a" / "b" / "README.txt").write_text("no note")
    assert notes.newest(0) == (str(tmp_path / "a" / "b" / note_name(1000)), note(1000))
    assert [data for _, data in read_notes(tmp_path / "a" / "b")] == [note(9), note(10), note(1000)]
    assert not list((tmp_path / "a" / "b").glob(".*")), "nothing is left half-written"


def test_a_note_in_a_folder_is_never_overwritten(tmp_path: Path) -> None:
    notes = FolderNotes(tmp_path)
    notes.add(5, note(5))
    before = (tmp_path / note_name(5)).stat()
    notes.add(5, note(5))
    with pytest.raises(RefusedError, match="exists and is another checkpoint"):
        notes.add(5, note(5, 8))
    assert (tmp_path / note_name(5)).stat() == before
    assert (tmp_path / note_name(5)).read_bytes() == note(5)


def test_folders_that_do_not_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"cannot be listed \(ENOTDIR\)"):
        FolderNotes(tmp_path / "file").newest(0)
    with pytest.raises(ConfigError, match=r"cannot be written \((ENOTDIR|EEXIST)\)"):
        FolderNotes(tmp_path / "file").add(5, note(5))
    with pytest.raises(ConfigError, match="there is no checkpoint in"):
        read_notes(tmp_path)
    (tmp_path / note_name(1)).write_bytes(b"x" * 70_000)
    with pytest.raises(ConfigError, match="too large"):
        FolderNotes(tmp_path).newest(0)


# -- a file


def test_a_file_of_notes(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    notes = FileNotes(path)
    assert notes.newest(0) is None
    for seq in (3, 7):
        assert notes.add(seq, note(seq)) == str(path)
    assert path.read_bytes() == note(3) + note(7)
    assert notes.newest(0) == (str(path), note(7))
    assert read_notes(path) == [(f"{path}, note 1", note(3)), (f"{path}, note 2", note(7))]
    path.write_bytes(note(3))
    assert read_notes(path) == [(str(path), note(3))]


def test_a_file_that_ends_within_a_note_is_not_written_on(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(note(3) + note(7)[:-20])
    with pytest.raises(NoteError, match="is no signed note"):
        FileNotes(path).newest(0)


def test_files_that_do_not_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be written \(ENOENT\)"):
        FileNotes(tmp_path / "none" / "notes").add(5, note(5))
    with pytest.raises(ConfigError, match=r"cannot be read \(ENOENT\)"):
        read_notes(tmp_path / "none")
    (tmp_path / "link").symlink_to("/dev/null")
    with pytest.raises(ConfigError, match=r"cannot be written \(ELOOP\)"):
        FileNotes(tmp_path / "link").add(5, note(5))


@pytest.mark.parametrize(
    "target", ["s3:/x", "s3://", "s3://UPPER", "s3://a/b?c", "s3://bucket/with space", "s3://-a-/x"]
)
def test_what_is_no_place_in_s3(target: str) -> None:
    with pytest.raises(ConfigError, match="names no place in S3"):
        S3Notes(target, retain_days=1)


# -- when


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_checkpoint_is_due_at_the_start_and_by_entries_or_time() -> None:
    clock = Clock()
    schedule = Schedule(10, 60.0, clock)
    assert schedule.due(None)
    schedule.done(None)
    assert not schedule.due(None)
    assert schedule.due((1, b"x"))
    last = checkpoint(100)
    schedule.done(last)
    assert not schedule.due((100, last.hash))
    assert not schedule.due((109, b"x"))
    assert schedule.due((110, b"x"))
    clock.now += 59
    assert not schedule.due((101, b"x"))
    clock.now += 1
    assert schedule.due((101, b"x"))
    assert not schedule.due((100, last.hash)), "nothing is new"


def test_a_trail_that_does_not_fit_its_last_checkpoint_is_due() -> None:
    schedule = Schedule(10, 60.0, Clock())
    schedule.done(checkpoint(100))
    assert schedule.due(None)
    assert schedule.due((99, b"x"))
    assert schedule.due((100, b"x"))


def test_an_outage_is_reported_once_a_minute_and_waited_for_longer_and_longer() -> None:
    clock, said = Clock(), list[str]()
    outage = Outage(clock, said.append)
    waits = list[float]()
    for _ in range(8):
        waits.append(outage.note(UnreachableError("it is away")))
        clock.now += waits[-1]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert said == ["it is away; trying again"] * 3
    outage.over()
    assert outage.note(UnreachableError("again")) == 1.0
    assert said[3:] == ["again; trying again"]
