"""The road as an AWS Lambda function of an SQS event source mapping, which receives, and acks what is not reported.

Everything between is what a worker does: the same stages, batches, sink and promises. The mapping needs
ReportBatchItemFailures (AWS Lambda developer guide, "Handling errors for an SQS event source in Lambda"): what is not
committed is reported and comes again, and the ledger knows what had its effect before.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from coatcheck import app
from coatcheck.config import Config, load
from coatcheck.errors import CoatcheckError, UnreachableError
from coatcheck.loop import new_loop
from coatcheck.ops import logs
from coatcheck.ops.metrics import Metrics
from coatcheck.pipeline.message import Batch, Message, size_of
from coatcheck.sources.lambda_event import delivery
from coatcheck.terminal import fail

_log = logging.getLogger(__name__)
_MARGIN = 0.1
_MARGIN_MOST_S = 5.0
"""Of the time that is left a tenth is kept back for the answer, but no more than this."""


class Context(Protocol):
    """What the handler asks of Lambda's context object."""

    def get_remaining_time_in_millis(self) -> int:
        """Return the time until the invocation is ended, in ms."""


_function: Function | None = None


def handler(event: object, context: Context) -> dict[str, Any]:
    """Load the messages of an event; return those that have to come again as `batchItemFailures`.

    Raises CoatcheckError when none of them could be loaded: then all come again, and Lambda sees that it failed.
    """
    global _function  # noqa: PLW0603 - what outlives an invocation: keys, connections, what the vault remembers
    try:
        if _function is None:  # not at import: a SnapStart image must not hold a key
            _function = Function(load())
        return _function.handle(event, context.get_remaining_time_in_millis() / 1000)
    except CoatcheckError as error:
        told = error
    except Exception as error:  # noqa: BLE001 - the last stop: its text may hold a value, its place does not
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        told = CoatcheckError(f"internal error: {type(error).__name__} at {where}", hint="please report it")
    fail(told)
    raise type(told)(told.message, hint=told.hint)


class Function:
    """What stays between invocations: an event loop, and a writer with its keys and connections."""

    def __init__(self, config: Config) -> None:
        logs.configure(verbose=True, form=config.log.format)
        logs.silence_others()
        self._limits = config.batch
        one = config.target.model_copy(update={"connections": 1})  # one batch is written at a time
        config = config.model_copy(update={"target": one})
        self._writer = app.writer(config, give_up_s=config.run.give_up_seconds, metrics=Metrics())
        self._loop = new_loop()
        self._opened = False

    def handle(self, event: object, remaining_s: float) -> dict[str, Any]:
        """Load what `event` brings within `remaining_s`; return the mapping's answer. Raises CoatcheckError."""
        brought = delivery(event)
        patience_s = remaining_s - min(remaining_s * _MARGIN, _MARGIN_MOST_S)
        committed = self._loop.run(self._load(brought.messages, patience_s)) if brought.messages else 0
        again = [message.message_id for message in brought.messages[committed:]] + brought.again
        return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in again]}

    async def _load(self, messages: Sequence[Message], patience_s: float) -> int:
        """Return how many of the messages, from the first, are committed. Raises CoatcheckError if none is."""
        counts, committed = self._writer.counts, 0
        before = counts.loaded, counts.duplicates, counts.rejected
        try:
            async with asyncio.timeout(patience_s):
                if not self._opened:
                    await self._writer.open()
                    self._opened = True
                for part in self._parts(messages):
                    batch = Batch()
                    await self._writer.take(batch, part)
                    await self._writer.write(batch)
                    committed += len(part)
        except (CoatcheckError, TimeoutError) as error:
            told = error if isinstance(error, CoatcheckError) else _out_of_time()
            if not committed:
                raise told from None
            fail(told)
        counts.acked += committed
        names = ("loaded", "duplicates", "rejected")
        done = (counts.loaded, counts.duplicates, counts.rejected)
        fields = {name: after - first for name, first, after in zip(names, before, done, strict=True)}
        _log.info("an invocation has ended", extra=fields | {"messages": len(messages)})
        return committed

    def _parts(self, messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
        """Yield the messages in their order, as many at a time as one transaction takes."""
        first = size = 0
        for place, message in enumerate(messages):
            size += size_of(message.body)
            if place + 1 - first >= self._limits.messages or size >= self._limits.bytes:
                yield messages[first : place + 1]
                first, size = place + 1, 0
        if first < len(messages):
            yield messages[first:]


def _out_of_time() -> UnreachableError:
    return UnreachableError(
        "the time of the invocation has passed before everything was committed",
        hint="nothing is lost: the messages come again; see the warnings before this line, raise the function's "
        "timeout, or lower the mapping's batch size",
    )
