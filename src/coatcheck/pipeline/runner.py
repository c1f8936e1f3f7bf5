"""The runner: receive -> travel -> write -> ack, in batches, with a place for every message at every moment.

A message is acked only after `sink.write` has returned, that is after its commit. Whatever fails before that leaves
the message in flight; it comes back by release or by its visibility timeout, and the ledger knows whether it has had
its effect. There is one task a batch, none a message.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from coatcheck.ops.logs import about
from coatcheck.ops.metrics import Metrics
from coatcheck.pipeline.message import Batch, Counts, Depth, Message, size_of_all
from coatcheck.pipeline.ports import Source
from coatcheck.pipeline.writer import Writer

_log = logging.getLogger(__name__)
_IDLE_S = 0.25
_FAILED_S = 5.0
_QUIET_LOOKS = 2  # the queue's counts are approximate; once is chance
_MARGIN_S = 25.0  # a dead holder's long polls may go on taking messages for 20 s


@dataclass(frozen=True, slots=True)
class Limits:
    """What closes a batch (messages, body bytes, seconds since its first message), and how a run ends.

    `writers` batches are written at once. `drain_s` is the deadline for work in progress after a stop.
    """

    messages: int = 1000
    bytes: int = 16 * 2**20
    seconds: float = 0.1
    writers: int = 2
    drain_s: float = 25.0


class Runner:
    """Moves messages from a source to a sink until stopped, or until the queue stays empty."""

    def __init__(self, *, source: Source, writer: Writer, limits: Limits, metrics: Metrics | None = None) -> None:
        self._source, self._writer, self._limits = source, writer, limits
        self._metrics = metrics or Metrics()
        self._stopping = asyncio.Event()
        self._writers = asyncio.Semaphore(limits.writers)
        self._work: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._reset()
        self.counts = writer.counts
        self._metrics.watch("coatcheck_batches_under_way", lambda: len(self._work))

    def _reset(self) -> None:
        self._batch = Batch()
        self._bytes = 0
        self._since = 0.0

    def stop(self) -> None:
        """Ask the run to end: no more receiving, finish what is in progress, release the rest."""
        self._stopping.set()

    async def depth(self) -> Depth:
        """Ask how many messages the queue holds. Raises CoatcheckError."""
        return await self._source.depth()

    async def dead_letters(self) -> int | None:
        """Ask how many messages nobody could take; None: there is no such queue, or it may not be asked."""
        return await self._source.dead_letters()

    async def run(self, *, drain: bool = False) -> Counts:
        """Run until `stop`, or with `drain` until the queue stays empty. Raises the first CoatcheckError met."""
        started = time.monotonic()
        try:
            opened = await self._unless_stopped(self._writer.open())
            if opened and await self._unless_stopped(self._source.start()):
                await self._take_in(drain=drain)
            await self._source.quiesce()
            await self._finish()
        finally:
            await self._abandon()
            self.counts.seconds = time.monotonic() - started
        if self._failure is not None:
            raise self._failure
        return self.counts

    async def _take_in(self, *, drain: bool) -> None:
        """Take messages in until the run is over; a stop also ends the wait for a free writer."""
        try:
            await self._unless_stopped(self._until_stopped(drain=drain))
        except Exception as error:  # noqa: BLE001 - raised at the end of the run
            self._failure = self._failure or error
            self._reset()  # the open batch is dropped; its messages go back with the source's close

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do `work` and return True, or cancel it and return False when `stop` comes first. Raises what it raises."""
        doing = asyncio.create_task(work)
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({doing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:  # a cancelled run, too, must not leave its work behind: it would go on from a closed source
            doing.cancel()
            stopped.cancel()
            (error, _) = await asyncio.gather(doing, stopped, return_exceptions=True)
        if isinstance(error, Exception):
            raise error
        return error is None

    async def _until_stopped(self, *, drain: bool) -> None:
        quiet = _Quiet(self._source.visibility_s + _MARGIN_S)
        while True:
            messages = await self._source.receive(self._patience())
            await self._take(messages)
            if self._due():
                await self._dispatch()
            if messages:
                quiet.reset()
            elif drain and self._idle() and quiet.enough(await self._source.depth()):
                return

    def _idle(self) -> bool:
        return self._source.found_empty and not len(self._batch) and not self._work

    def _patience(self) -> float:
        """How long to wait for more, in seconds: until the open batch is due."""
        if not len(self._batch):
            return _IDLE_S
        return max(0.0, self._since + self._limits.seconds - time.monotonic())

    def _due(self) -> bool:
        count = len(self._batch)
        if not count:
            return False
        limits = self._limits
        return count >= limits.messages or self._bytes >= limits.bytes or self._patience() <= 0.0

    async def _take(self, messages: list[Message]) -> None:
        """Send messages down the road into the open batch; those of one receive share it, which keeps their order."""
        if not messages:
            return
        opens = not len(self._batch)
        self._bytes += size_of_all(messages)
        await self._writer.take(self._batch, messages)
        if opens:
            self._since = time.monotonic()

    async def _dispatch(self) -> None:
        """Hand the open batch to a writer as soon as one is free."""
        await self._writers.acquire()
        batch = self._batch
        self._reset()
        batch.trace.filled()
        task = asyncio.create_task(self._carry(batch))
        self._work.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = self._failure or error
            self.stop()

    async def _carry(self, batch: Batch) -> None:
        """Write one batch, then ack its messages; its trace tells how that ended."""
        about(batch.trace.ids)
        try:
            await self._write_and_ack(batch)
        except BaseException as error:
            batch.trace.end(messages=len(batch), error=type(error).__name__)
            raise
        batch.trace.end(messages=len(batch))

    async def _write_and_ack(self, batch: Batch) -> None:
        try:
            await self._writer.write(batch)
        finally:
            self._writers.release()
        messages = batch.messages()
        began = time.monotonic()
        failed = await self._source.ack(messages)
        seconds = time.monotonic() - began
        self._metrics.observe("coatcheck_stage_seconds", seconds, "ack")
        batch.trace.stage("ack", seconds, messages=len(messages), failed=failed)
        self.counts.acked += len(messages) - failed
        if failed:
            self._metrics.add("coatcheck_ack_failures_total", failed)

    async def _finish(self) -> None:
        """Take what the queue had already handed over, and wait for the writers, within the deadline."""
        try:
            # after a failure the acks may be what fails: without them the messages come again, and are known
            patience = self._limits.drain_s if self._failure is None else min(self._limits.drain_s, _FAILED_S)
            async with asyncio.timeout(patience):
                while self._failure is None and (messages := await self._source.receive(0.0)):
                    await self._take(messages)
                    if self._due():
                        await self._dispatch()
                if len(self._batch) and self._failure is None:
                    await self._dispatch()
                while self._work:
                    await asyncio.wait(self._work)
        except TimeoutError:
            _log.warning("the deadline has passed; unfinished messages go back to the queue")

    async def _abandon(self) -> None:
        """Cancel what is left; closing the source gives its messages back."""
        work = list(self._work)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        try:
            await self._source.close()
        finally:
            await self._writer.close()


class _Quiet:
    """Decides when a queue that was found empty stays so: nothing left on `_QUIET_LOOKS` looks in a row.

    Messages that somebody else holds in flight are waited for, `patience` seconds at most without any change: by then
    a dead holder's messages have become visible again, and a living holder loads them itself.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.reset()

    def reset(self) -> None:
        self._looks = 0
        self._since: float | None = None

    def enough(self, depth: Depth) -> bool:
        self._looks = 0 if depth.total else self._looks + 1
        if self._looks >= _QUIET_LOOKS:
            return True
        now = time.monotonic()
        if depth.visible or depth.delayed or self._since is None:
            self._since = now
        if now - self._since <= self._patience:
            return False
        _log.warning("somebody else holds messages in flight; they are left", extra={"messages": depth.in_flight})
        return True
