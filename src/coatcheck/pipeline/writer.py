"""Messages down the road and into the sink: what the runner and AWS Lambda do in the same way."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence

from coatcheck.ops.metrics import Metrics
from coatcheck.pipeline.breaker import Breaker
from coatcheck.pipeline.message import UNKNOWN_MS, Batch, Counts, Message, Outcome, Reason, Rejected, Row
from coatcheck.pipeline.ports import BodySealer, Sink, Tracer, Vault, untraced
from coatcheck.pipeline.road import Road

_log = logging.getLogger(__name__)
_SUPPRESSED = (
    "a trigger or rule of the target table kept rows out, so they go to quarantine; "
    'set [target] suppressed = "accept" if it puts them elsewhere'
)


class Writer:
    """Fills batches and commits them, and keeps count of both."""

    def __init__(
        self,
        *,
        sink: Sink,
        road: Road,
        sealer: BodySealer,
        vault: Vault,
        breaker: Breaker,
        metrics: Metrics | None = None,
        tracer: Tracer = untraced,
    ) -> None:
        self.counts = Counts()
        self._tracer = tracer
        self._sink, self._road, self._sealer, self._vault = sink, road, sealer, vault
        self._breaker, self._metrics = breaker, metrics or Metrics()
        counts, watch = self.counts, self._metrics.watch
        watch("coatcheck_messages_received_total", lambda: counts.received)
        watch("coatcheck_messages_loaded_total", lambda: counts.loaded)
        watch("coatcheck_messages_duplicate_total", lambda: counts.duplicates)
        watch("coatcheck_messages_suppressed_total", lambda: counts.suppressed)
        watch("coatcheck_messages_quarantined_total", lambda: counts.rejected)
        watch("coatcheck_messages_acked_total", lambda: counts.acked)
        watch("coatcheck_breaker_rejected_ratio", lambda: breaker.rejected_ratio)

    async def open(self) -> None:
        """Connect the sink. Raises UnreachableError, ConfigError."""
        await self._sink.open()

    async def take(self, batch: Batch, messages: Sequence[Message]) -> None:
        """Send messages down the road into `batch`; those of one call share it, which keeps their order.

        Raises UnreachableError or ConfigError of the key service, RefusedError of the breaker.
        """
        await self._sealer.ready(len(messages))
        self.counts.received += len(messages)
        if messages and not len(batch):
            batch.trace = self._tracer(messages[0])
        began = time.monotonic()
        entries = self._road.travel_together(messages)
        seconds = time.monotonic() - began
        self._metrics.observe("coatcheck_stage_seconds", seconds, "travel")
        rejected = [entry for entry in entries if isinstance(entry, Rejected)]
        batch.trace.took(messages, rejected=len(rejected), seconds=seconds)
        batch.rows += [entry for entry in entries if isinstance(entry, Row)]
        batch.rejected += rejected
        if rejected:
            for refused in rejected:
                self._metrics.add("coatcheck_rejects_total", 1, refused.reject.reason)
                batch.trace.event("rejected", reason=refused.reject.reason.value)
            for entry in entries:
                self._breaker.observe(entry.reject if isinstance(entry, Rejected) else None)
        else:
            self._breaker.passed(len(entries))

    async def write(self, batch: Batch) -> None:
        """Commit a batch: each of its messages is loaded, in quarantine, or known when this returns.

        Raises what `Sink.write` raises, and RefusedError of the breaker.
        """
        await self._sealed(batch)
        began = time.monotonic()
        outcome = await self._sink.write(batch)
        self._measure(batch, outcome, time.monotonic() - began)
        self.counts.loaded += outcome.loaded
        self.counts.rejected += outcome.quarantined
        self.counts.duplicates += outcome.duplicates
        self.counts.suppressed += outcome.suppressed
        passed = outcome.loaded + outcome.suppressed
        self._breaker.written(loaded=passed, refused=[reject for _, reject in outcome.refused])
        missed = self._vault.missed(batch, outcome.erasures)
        if outcome.refused:
            await self._sealer.ready(len(outcome.refused))
            self._tell_refused([reject.reason for _, reject in outcome.refused])
            refused = [self._road.refuse(row, reject) for row, reject in outcome.refused]
            await self.write(Batch(rejected=refused, trace=batch.trace))
        else:  # of rows that were refused nothing may have been stored
            self._vault.stored(batch, outcome.erasures)
        if missed:
            await self._keep_again(batch, outcome)

    async def _sealed(self, batch: Batch) -> None:
        """Add to a batch what the vault is to keep of it."""
        await self._sealer.ready(len(batch.rows) * self._vault.seals_each)
        self._vault.keep(batch)
        self._add_data_keys(batch)

    async def _keep_again(self, batch: Batch, outcome: Outcome) -> None:
        """Store what an erasure has taken that was not known of yet: an original that was stored before, an alias.

        The ledger knows the rows by now, so this adds nothing else.
        """
        refused = {id(row) for row, _ in outcome.refused}
        rows = [row for row in batch.rows if id(row) not in refused]
        missed = bool(rows)
        while missed:
            again = Batch(rows, trace=batch.trace)
            await self._sealed(again)
            erasures = (await self._sink.write(again)).erasures
            missed = self._vault.missed(again, erasures)
            self._vault.stored(again, erasures)

    def _tell_refused(self, reasons: list[Reason]) -> None:
        for reason, count in Counter(reasons).items():
            self._metrics.add("coatcheck_rejects_total", count, reason)
        if suppressed := reasons.count(Reason.SUPPRESSED_BY_TABLE):
            _log.warning(_SUPPRESSED, extra={"messages": suppressed})

    def abort(self) -> None:
        """Give up what is being written, at once."""
        self._sink.abort()

    async def close(self) -> None:
        """Close the sink's connections."""
        await self._sink.close()

    def _measure(self, batch: Batch, outcome: Outcome, seconds: float) -> None:
        """Measure a batch that was written."""
        metrics = self._metrics
        metrics.observe("coatcheck_stage_seconds", seconds, "write")
        batch.trace.stage(
            "write",
            seconds,
            messages=len(batch),
            loaded=outcome.loaded,
            duplicates=outcome.duplicates,
            quarantined=outcome.quarantined,
            refused=len(outcome.refused),
            **({"suppressed": outcome.suppressed} if outcome.suppressed else {}),
        )
        metrics.observe("coatcheck_batch_messages", len(batch))
        metrics.add("coatcheck_vault_entries_total", len(batch.vault))
        if outcome.loaded or outcome.quarantined or outcome.duplicates or outcome.suppressed:
            metrics.add("coatcheck_batches_total")
            metrics.set("coatcheck_last_commit_timestamp_seconds", time.time())
        sent_ms = batch.rows[0].message.sent_ms if batch.rows else UNKNOWN_MS
        if sent_ms >= 0 and outcome.loaded and not outcome.duplicates:  # a repeat tells of its ack, not of its way
            metrics.observe("coatcheck_lag_seconds", max(0.0, time.time() - sent_ms / 1000))

    def _add_data_keys(self, batch: Batch) -> None:
        used = {entry.sealed.dek_id for entry in batch.rejected} | {entry.sealed.dek_id for entry in batch.vault}
        batch.data_keys = [self._sealer.data_key(dek_id) for dek_id in used]
