"""The trial of a batch: write it whole, or find the rows that the database refuses and write the others.

A row is at fault if its SQLSTATE says so, or if other rows pass. If none passes, the fault is the system's, and the
batch fails as a whole: nothing of it is committed. A few rows from all over the batch are tried first, so that a
systemic fault costs a bounded number of statements.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from coatcheck.errors import UnreachableError
from coatcheck.pipeline.message import Batch, Outcome, Rejected, Row
from coatcheck.sinks.postgres.faults import FaultError

ENOUGH = 32
"""So many refused rows without one that passes are the system's fault. With four of five rows at fault, chance alone
brings that about once in 1,300 batches, and the breaker opens there anyway."""


@dataclass(frozen=True, slots=True)
class Written:
    """The answer of `write_batch.sql`, in messages."""

    loaded: int
    quarantined: int
    duplicates: int
    suppressed: int
    erasures: int


@dataclass(frozen=True, slots=True)
class Suspect:
    """A row that was refused, by an error that may be the system's."""

    row: Row
    fault: FaultError


class Trial:
    """The trial of one batch without repeats; use it once.

    `commit` writes a batch, or raises FaultError; it also counts the repeats that it is given, which were left out.
    `verify` raises what is wrong with the statement itself. `convicts` tells whether suspects are at fault although no
    row of this batch has passed.
    """

    def __init__(
        self,
        *,
        commit: Callable[[Batch, int], Awaitable[Written]],
        verify: Callable[[Batch], Awaitable[None]],
        convicts: Callable[[Sequence[Suspect]], Awaitable[bool]],
        repeats: int,
    ) -> None:
        self._commit, self._verify, self._convicts = commit, verify, convicts
        self._repeats = repeats
        self._outcome = Outcome()
        self._suspects: list[Suspect] = []
        self._verified = self._sampled = self._convicted = False

    async def run(self, batch: Batch) -> Outcome:
        """Write the batch and return what came of it. Raises CoatcheckError: the fault is no row's."""
        await self._write(batch)
        outcome = self._outcome
        if self._suspects:
            await self._settle(batch)
        outcome.duplicates += self._repeats
        return outcome

    @property
    def _passes(self) -> bool:
        """Whether a row of this batch has passed."""
        return bool(self._outcome.loaded or self._outcome.suppressed)

    async def _write(self, batch: Batch) -> None:
        if not len(batch):
            return
        try:
            written = await self._commit(batch, self._repeats)
        except FaultError as fault:
            await self._apart(batch, fault)
            return
        self._repeats = 0
        outcome = self._outcome
        outcome.loaded += written.loaded
        outcome.quarantined += written.quarantined
        outcome.duplicates += written.duplicates
        outcome.suppressed += written.suppressed
        outcome.erasures = written.erasures  # of the last part, which no other part exceeds

    async def _apart(self, batch: Batch, fault: FaultError) -> None:
        """Write the parts of a batch that was refused."""
        if not batch.rows and fault.stop is not None:
            raise _quarantine_fails(fault) from None
        if not (fault.proven or self._verified):
            await self._verify(batch)
            self._verified = True
        if len(batch) == 1:
            await self._refuse(batch, fault)
            return
        batch.trace.event("bisected", sqlstate=fault.sqlstate, messages=len(batch))
        if not (fault.proven or self._sampled):
            self._sampled = True
            batch = await self._sample(batch)
        for half in _halves(batch):
            if not half.rows:
                await self._convict()  # before rejects are written: the batch may fail as a whole
            await self._write(half)

    async def _sample(self, batch: Batch) -> Batch:
        """Try rows one by one, from all over the batch, until one passes; return the batch without them."""
        tried: set[int] = set()
        for place in _spread(len(batch.rows), ENOUGH):
            tried.add(place)
            await self._write(part_of(batch, [batch.rows[place]], []))
            if self._passes:
                break
        rest = [row for place, row in enumerate(batch.rows) if place not in tried]
        return part_of(batch, rest, batch.rejected)

    async def _refuse(self, batch: Batch, fault: FaultError) -> None:
        [row] = batch.rows
        if fault.proven:
            self._outcome.refused.append((row, fault.reject))
            batch.trace.event("refused", sqlstate=fault.sqlstate)
            return
        self._suspects.append(Suspect(row, fault))
        if len(self._suspects) >= ENOUGH:
            await self._convict()

    async def _convict(self) -> None:
        """Raise the error of the suspects, if any, unless there is evidence that other rows pass."""
        if not self._suspects or self._passes or self._convicted:
            return
        self._convicted = await self._convicts(self._suspects)
        stop = self._suspects[0].fault.stop
        if not self._convicted and stop is not None:
            raise stop from None

    async def _settle(self, batch: Batch) -> None:
        """Refuse the suspects, in the order of the batch."""
        await self._convict()
        for suspect in self._suspects:
            self._outcome.refused.append((suspect.row, suspect.fault.reject))
            batch.trace.event("refused", sqlstate=suspect.fault.sqlstate)
        places = {row.key: place for place, row in enumerate(batch.rows)}
        self._outcome.refused.sort(key=lambda refused: places[refused[0].key])


def without_repeats(batch: Batch) -> Batch:
    """Keep the first message of each key: the queue may deliver one twice into the same batch."""
    keys = {row.key for row in batch.rows} | {entry.key for entry in batch.rejected}
    if len(keys) == len(batch):
        return batch
    seen: set[bytes] = set()
    known = seen.add
    rows = [row for row in batch.rows if not (row.key in seen or known(row.key))]
    rejected = [entry for entry in batch.rejected if not (entry.key in seen or known(entry.key))]
    return part_of(batch, rows, rejected)


def part_of(batch: Batch, rows: list[Row], rejected: list[Rejected]) -> Batch:
    """Some of the rows and rejects of `batch` with all that goes along: what is not needed is known or harmless."""
    return Batch(rows, rejected, batch.data_keys, batch.vault, batch.aliases, batch.trace)


def _halves(batch: Batch) -> list[Batch]:
    """Split a batch that was refused: rows and rejects apart, then each in two halves, in order."""
    rows, rejected = batch.rows, batch.rejected
    if rejected and rows:
        return [part_of(batch, rows, []), part_of(batch, [], rejected)]
    middle = (len(batch) + 1) // 2
    return [
        part_of(batch, rows[:middle], rejected[:middle]),
        part_of(batch, rows[middle:], rejected[middle:]),
    ]


def _spread(count: int, most: int) -> Iterator[int]:
    """Yield up to `most` places below `count`, evenly spread, the first one first."""
    picks = min(count, most)
    return (place * (count - 1) // max(picks - 1, 1) for place in range(picks))


def _quarantine_fails(fault: FaultError) -> UnreachableError:
    what = f"PostgreSQL answers {fault.reject.detail}" if fault.reject.detail else "a trigger there keeps entries out"
    return UnreachableError(
        f"cannot write to quarantine: {what}",
        hint="coatcheck's own tables were changed; `coatcheck check` shows the schema version",
    )
