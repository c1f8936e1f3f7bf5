"""The verifier of the audit trail: pure, over any iterable of entries, and without the database's own functions.

hash = SHA-256(hash of the entry before, or 32 zero bytes || seq, at_us as int8 || framed actor, event, detail)

The chain shows what was done to some entries. Who can write all of them can also make a new chain that fits, or cut off
its end: that shows against checkpoints, which are kept elsewhere.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, NoReturn

from coatcheck.errors import CoatcheckError
from coatcheck.keys.derive import lp

HASH_BYTES = 32
BEGINNING = bytes(HASH_BYTES)
"""What stands in the place of the hash before entry 1."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBERS = struct.Struct(">qq").pack
_COMPARE = "compare it with an export or a backup, and look who may write coatcheck.audit"


class Entry(NamedTuple):
    """One entry as it is stored; `at_us` are microseconds since 1970, UTC."""

    seq: int
    at_us: int
    actor: str
    event: str
    detail: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a signed note says of a trail: the number, the hash and the time of the entry that was its last."""

    origin: str
    seq: int
    hash: bytes
    at_us: int


@dataclass(frozen=True, slots=True)
class Verified:
    """An unbroken trail: how many entries, the first and the last of them (None: there is none), what is to be told.

    `confirmed` checkpoints were met, the last at entry `confirmed_to`; `before` were about entries that are not here.
    `begun`: the first entry is entry 1, or follows a checkpoint; else nothing proves what comes before the second one.
    `backwards` entries have an earlier time than the one before; the first of them is `backwards_at`.
    """

    count: int
    first: int
    head: Entry | None
    confirmed: int
    confirmed_to: int
    before: int
    begun: bool
    backwards: int
    backwards_at: int


class Kind(StrEnum):
    """How a trail is broken."""

    CHANGED = "changed"
    MISSING = "missing"
    DISORDER = "out of order"
    BEGINNING = "beginning missing"
    TRUNCATED = "truncated"
    REWRITTEN = "rewritten"


class BrokenTrailError(CoatcheckError):
    """The first place where a trail is broken: entries `seq` to `until`."""

    def __init__(self, kind: Kind, seq: int, until: int, message: str, *, hint: str = _COMPARE) -> None:
        super().__init__(message, hint=hint)
        self.kind, self.seq, self.until = kind, seq, until


def entry_hash(before: bytes, seq: int, at_us: int, *texts: str) -> bytes:
    """Return the hash of an entry behind one whose hash is `before`; `texts` are actor, event and detail."""
    return hashlib.sha256(before + _NUMBERS(seq, at_us) + lp(*texts)).digest()


def utc(at_us: int) -> str:
    """Return a time in UTC to the microsecond; one that no calendar has stays a number."""
    try:
        return f"{_EPOCH + timedelta(microseconds=at_us):%Y-%m-%d %H:%M:%S.%f}"
    except OverflowError:
        return f"{at_us} us"


def verify(
    entries: Iterable[Entry], checkpoints: Iterable[Checkpoint] = (), *, first: int | None = 1, end: int | None = None
) -> Verified:
    """Verify a trail, entry by entry, from entry `first` on; None: from whichever comes first.

    `checkpoints` are of this trail, with proven signatures. `end` is the number of the last entry, if the caller knows
    it before. Raises BrokenTrailError at the first break.
    """
    walk = _Walk(checkpoints)
    if end is not None:
        walk.refuse_cut(end)
    rest = iter(entries)
    for entry in rest:
        if not walk.first:
            walk.begin(entry.seq if first is None else first, entry.seq)
        if entry.seq != walk.expected:
            walk.gap(entry.seq, rest)
        walk.take(entry)
    return walk.end()


class _Walk:
    """Where a verification stands."""

    __slots__ = (
        "anchored", "backwards", "backwards_at", "before", "begun", "confirmed", "confirmed_to", "expected", "first",
        "head", "marks",
    )  # fmt: skip

    def __init__(self, checkpoints: Iterable[Checkpoint]) -> None:
        self.marks: dict[int, list[Checkpoint]] = {}
        for checkpoint in checkpoints:
            self.marks.setdefault(checkpoint.seq, []).append(checkpoint)
        self.before: bytes | None = None
        self.head: Entry | None = None
        self.anchored, self.begun = False, True
        self.first = self.expected = self.confirmed = self.confirmed_to = self.backwards = self.backwards_at = 0

    def begin(self, first: int, seen: int) -> None:
        if seen < 1:
            raise BrokenTrailError(
                Kind.DISORDER, seen, seen, f"there is an entry {seen:,}, and numbers begin with 1", hint=_COMPARE
            )
        self.first = self.expected = first
        marks = self.marks.get(first - 1)
        if first == 1:
            self.before = BEGINNING
        elif marks:
            self.before, self.anchored = marks[0].hash, True
            self._confirm(marks, first - 1, marks[0].hash)
        else:
            self.begun = False

    def take(self, entry: Entry) -> None:
        seq, at_us, actor, event, detail, stored = entry
        if self.before is not None and entry_hash(self.before, seq, at_us, actor, event, detail) != stored:
            self._changed(seq)
        marks = self.marks.get(seq)
        if marks is not None:
            self._confirm(marks, seq, stored)
        if self.head is not None and at_us < self.head.at_us:
            self.backwards += 1
            self.backwards_at = self.backwards_at or seq
        self.before, self.head, self.expected = stored, entry, seq + 1

    def gap(self, seen: int, rest: Iterator[Entry]) -> NoReturn:
        """Raise what it means that entry `seen` comes instead of the expected one: it is looked for in the rest."""
        wanted = self.expected
        if seen < wanted:
            what = "is there twice" if seen == wanted - 1 else f"stands behind entry {wanted - 1:,}"
            raise BrokenTrailError(Kind.DISORDER, seen, seen, f"entry {seen:,} {what}")
        for entry in rest:
            if wanted <= entry.seq < seen:
                raise BrokenTrailError(
                    Kind.DISORDER, entry.seq, entry.seq, f"entry {entry.seq:,} stands behind entry {seen:,}"
                )
        if wanted == 1:
            raise BrokenTrailError(
                Kind.BEGINNING, 1, seen - 1, f"the first entries are missing: the trail begins with entry {seen:,}"
            )
        raise BrokenTrailError(Kind.MISSING, wanted, seen - 1, f"{_entries(wanted, seen - 1)} missing")

    def end(self) -> Verified:
        head = self.head
        self.refuse_cut(head.seq if head else 0)
        return Verified(
            count=head.seq - self.first + 1 if head else 0,
            first=self.first,
            head=head,
            confirmed=self.confirmed,
            confirmed_to=self.confirmed_to,
            before=sum(len(marks) for seq, marks in self.marks.items() if seq < self.first - 1),
            begun=self.begun,
            backwards=self.backwards,
            backwards_at=self.backwards_at,
        )

    def refuse_cut(self, end: int) -> None:
        """Raise if a checkpoint tells of entries behind `end`."""
        seq = max(self.marks, default=0)
        if seq > end:
            ends = f"it ends with entry {end:,}" if end else "it is empty"
            raise BrokenTrailError(
                Kind.TRUNCATED, end + 1, seq,
                f"the audit trail was cut off: {ends}, and had {seq:,} at the checkpoint of {_when(self.marks[seq])}",
                hint="an export or a backup may have the rest; look who may write coatcheck.audit",
            )  # fmt: skip

    def _changed(self, seq: int) -> NoReturn:
        if self.anchored and seq == self.first:
            self._rewritten(seq - 1, seq)
        behind = f"nor from entry {seq - 1:,}" if seq > 1 else "as the first one"
        raise BrokenTrailError(
            Kind.CHANGED, seq, seq, f"entry {seq:,} was changed: its hash follows neither from its content {behind}"
        )

    def _confirm(self, marks: list[Checkpoint], seq: int, stored: bytes) -> None:
        if any(mark.hash != stored for mark in marks):
            self._rewritten(seq, seq)
        self.confirmed += len(marks)
        self.confirmed_to = seq

    def _rewritten(self, at: int, until: int) -> NoReturn:
        first = self.confirmed_to + 1 if self.confirmed_to < until else until
        raise BrokenTrailError(
            Kind.REWRITTEN, first, until,
            f"the audit trail was rewritten: entry {until:,} is not what the checkpoint of {_when(self.marks[at])} "
            f"at entry {at:,} tells",
            hint=f"what is in {_entries(first, until).rpartition(' ')[0]} may be made up; {_COMPARE}",
        )  # fmt: skip


def _when(marks: list[Checkpoint]) -> str:
    return utc(marks[0].at_us)


def _entries(first: int, last: int) -> str:
    return f"entry {first:,} is" if first == last else f"entries {first:,} to {last:,} are"
