"""Evidence about rows that are refused while no row of their batch passes: they are at fault, or the system is.

Three kinds of evidence speak against a row. A row that was loaded before would be loaded now as well (it is inserted
and rolled back); it may come from another batch that is written meanwhile. Or the code is one that triggers raise about
rows. Or the row has come so often that it would be a dead letter next. The last two kinds hold for very few rows in
succession. Without evidence the system is at fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from coatcheck.pipeline.message import Batch, Value
from coatcheck.sinks.postgres.trial import Suspect, Written

_COMPANY_S = 3.0
"""How long a refused row waits for rows of other batches that pass."""
_FEW = 3
"""So many rows in succession are refused on weak evidence; then one has to pass."""
_LAST_CHANCES = 3
"""From this delivery on a row must not stop the worker again: queues often make it a dead letter after three."""
_STORED_ALREADY = ("23505", "23P01")

Values = tuple[Value, ...]


class Evidence:
    """What is known of rows that pass.

    `try_row` inserts values, rolls them back, and returns the SQLSTATE of their refusal, if any. With `company` other
    batches are written at the same time.
    """

    def __init__(self, try_row: Callable[[Values], Awaitable[str | None]], *, company: bool) -> None:
        self._try_row, self._company = try_row, company
        self._witness: Values | None = None
        self._weak = 0
        self._waiting: set[asyncio.Event] = set()

    def note(self, batch: Batch, written: Written) -> None:
        """Take note of a batch that was written."""
        if not (written.loaded or written.suppressed):
            return
        if written.loaded == len(batch.rows):  # none was known before: the last one has just been inserted
            self._witness = batch.rows[-1].values
        self._weak = 0
        for waiting in self._waiting:
            waiting.set()

    async def convicts(self, suspects: Sequence[Suspect]) -> bool:
        """Tell whether the suspects themselves are at fault, since other rows pass."""
        if await self._witness_passes(suspects):
            return True
        if all(suspect.fault.likely for suspect in suspects) and self._weakly(suspects):
            return True
        if await self._another_passes() and await self._witness_passes(suspects):
            return True
        last = all(suspect.row.message.receive_count >= _LAST_CHANCES for suspect in suspects)
        return last and self._weakly(suspects)

    async def _witness_passes(self, suspects: Sequence[Suspect]) -> bool:
        if self._witness is None:
            return False
        code = await self._try_row(self._witness)
        return code is None or (code in _STORED_ALREADY and self._weakly(suspects))

    def _weakly(self, suspects: Sequence[Suspect]) -> bool:
        """Blame the suspects on weak evidence, unless that has been done too often without a row that passed."""
        if self._weak + len(suspects) > _FEW:
            return False
        self._weak += len(suspects)
        return True

    async def _another_passes(self) -> bool:
        if not self._company:
            return False
        passed = asyncio.Event()
        self._waiting.add(passed)
        try:
            await asyncio.wait_for(passed.wait(), _COMPANY_S)
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(passed)
        return True
