"""A table, a ledger and a quarantine in memory, with the transaction's all-or-nothing. For tests."""

from __future__ import annotations

from coatcheck.pipeline.message import Batch, Outcome, Reason, Reject, Rejected, Row


class MemorySink:
    """`rows` and `quarantine` in the order of their commits.

    `refuse` names message ids that the "database" refuses, each with a detail; `suppress` those whose rows the "table"
    keeps out, which `accept` accepts.
    """

    def __init__(self, *, accept: bool = False) -> None:
        self.rows: list[Row] = []
        self.quarantine: list[Rejected] = []
        self.refuse: dict[str, str] = {}
        self.suppress: set[str] = set()
        self.accept = accept
        self._ledger: set[tuple[bytes, int]] = set()

    async def open(self) -> None:
        """Nothing to connect to."""

    async def write(self, batch: Batch) -> Outcome:
        """Apply a batch at once: nothing of it is visible before all of it is."""
        outcome = Outcome()
        seen: set[tuple[bytes, int]] = set()
        entries: list[Row | Rejected] = [*batch.rows, *batch.rejected]
        for entry in entries:
            if (key := (entry.key, entry.slot)) in self._ledger or key in seen:
                outcome.duplicates += 1
                continue
            seen.add(key)
            if isinstance(entry, Row):
                self._insert(entry, outcome)
            else:
                self._ledger.add(key)
                self.quarantine.append(entry)
                outcome.quarantined += 1
        return outcome

    def _insert(self, row: Row, outcome: Outcome) -> None:
        name = row.message.message_id
        if name in self.refuse:
            outcome.refused.append((row, Reject(Reason.REFUSED_BY_DATABASE, self.refuse[name])))
        elif name in self.suppress and not self.accept:
            outcome.refused.append((row, Reject(Reason.SUPPRESSED_BY_TABLE)))
        else:
            self._ledger.add((row.key, row.slot))
            if name in self.suppress:
                outcome.suppressed += 1
            else:
                self.rows.append(row)
                outcome.loaded += 1

    def abort(self) -> None:
        """Nothing to give up."""

    async def close(self) -> None:
        """Nothing to close."""
