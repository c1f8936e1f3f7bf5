"""A table, a ledger and a quarantine in memory, with the transaction's all-or-nothing. For tests."""

from __future__ import annotations

from coatcheck.pipeline.message import Batch, Outcome, Rejected, Row


class MemorySink:
    """`rows` and `quarantine` in the order of their commits; `refuse` names message ids that the "database" refuses."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.quarantine: list[Rejected] = []
        self.refuse: dict[str, str] = {}
        self._ledger: set[tuple[bytes, int]] = set()

    async def open(self) -> None:
        """Nothing to connect to."""

    async def write(self, batch: Batch) -> Outcome:
        """Apply a batch at once: nothing of it is visible before all of it is."""
        outcome = Outcome()
        for row in batch.rows:
            if (row.key, row.slot) in self._ledger:
                continue
            if row.message.message_id in self.refuse:
                outcome.refused.append((row, self.refuse[row.message.message_id]))
                continue
            self._ledger.add((row.key, row.slot))
            self.rows.append(row)
            outcome.loaded += 1
        for entry in batch.rejected:
            if (entry.key, entry.slot) not in self._ledger:
                self._ledger.add((entry.key, entry.slot))
                self.quarantine.append(entry)
                outcome.quarantined += 1
        outcome.duplicates = len(batch) - outcome.loaded - outcome.quarantined - len(outcome.refused)
        return outcome

    def abort(self) -> None:
        """Nothing to give up."""

    async def close(self) -> None:
        """Nothing to close."""
