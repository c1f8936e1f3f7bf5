"""The road as an AWS Lambda function of an SQS event source mapping, which receives, and acks what is not reported.

Everything between is what a worker does: the same stages, batches, sink and promises. The mapping needs
ReportBatchItemFailures (AWS Lambda developer guide, "Handling errors for an SQS event source in Lambda"): what is not
committed is reported and comes again, and the ledger knows what had its effect before.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from coatcheck import app
from coatcheck.config import Config
from coatcheck.config_load import DEFAULT_PIPELINE, PIPELINE_VARIABLE, load, load_all
from coatcheck.errors import CoatcheckError, ConfigError, UnreachableError
from coatcheck.loop import new_loop
from coatcheck.ops import logs
from coatcheck.ops.metrics import Metrics
from coatcheck.pipeline.message import Batch, Message, size_of
from coatcheck.sources.lambda_event import Delivery, delivery
from coatcheck.terminal import fail, internal_error
from coatcheck.worker import say_started

_log = logging.getLogger(__name__)
_MARGIN, _MARGIN_LEAST_S, _MARGIN_MOST_S = 0.1, 1.0, 5.0
"""Of the time that is left a tenth is kept back for the answer, within these bounds."""
_UNUSED_S = 240.0
"""After so long, by the wall's clock, everything is made anew: a network forgets connections that nobody uses (AWS's
after 350 s, without a word), and what was frozen must not keep a data key for longer than a worker would."""
_ABORT_S = 0.5


class Context(Protocol):
    """What the handler asks of Lambda's context object."""

    def get_remaining_time_in_millis(self) -> int:
        """Return the time until the invocation is ended, in ms."""


_functions: dict[str, Function] = {}
"""What outlives an invocation (keys, connections, what the vault remembers), by pipeline."""
_pipelines: dict[tuple[str, ...], str] = {}
"""The pipeline of the queues that an invocation brings messages of: what was found stays so until something fails."""


def handler(event: object, context: Context) -> dict[str, Any]:
    """Load the messages of an event; return those that have to come again as `batchItemFailures`.

    Raises CoatcheckError when none of them could be loaded: then all come again, and Lambda sees that it failed. After
    any failure the next invocation reads configuration, keys and secrets anew, as a worker does that is started again.
    """
    try:
        brought = delivery(event)
        return brought.answer(_load(brought, context.get_remaining_time_in_millis() / 1000))
    except CoatcheckError as error:
        told = error
    except Exception as error:  # noqa: BLE001 - the last stop: its text may hold a value, its place does not
        told = internal_error(error)
    fail(told)
    told.__context__ = None  # it may hold a value, and so may the frames of the traceback
    raise told.with_traceback(None) from None


def _load(brought: Delivery, remaining_s: float) -> int:
    """Return how many of the messages, from the first, are committed. Raises CoatcheckError: none is."""
    function = _take(brought.queues)
    failure = function.handle(brought.messages, remaining_s)
    if failure is None:
        _functions[_pipelines[brought.queues]] = function
        return function.committed
    function.discard()
    del _pipelines[brought.queues]
    if not function.committed:
        raise failure
    fail(failure)
    return function.committed


def _take(queues: tuple[str, ...]) -> Function:
    """Take out the function of the pipeline that reads these queues, or make it. Raises CoatcheckError."""
    config = None if queues in _pipelines else _configured(queues)
    function = _functions.pop(config.pipeline if config else _pipelines[queues], None)
    if function is not None and function.unused():
        function.discard()
        function = None
    if function is None:  # not at import: a SnapStart image must not hold a key
        config = config or _configured(queues)
        function = Function(config)
    if config:
        _pipelines[queues] = config.pipeline
    return function


def _configured(queues: Sequence[str]) -> Config:
    """Return the configuration of the pipeline that COATCHECK_PIPELINE names, or whose queue the messages come from.

    A file with one pipeline serves every queue. Raises ConfigError: there is none, or more than one.
    """
    every = load_all()
    if len(every) == 1 or os.environ.get(PIPELINE_VARIABLE):
        return load()
    found = [config for config in every if queues and all(_reads(config, queue) for queue in queues)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(config.pipeline for config in found or every)
    raise ConfigError(
        f"more than one pipeline reads the queue of the event: {names}"
        if found
        else f"no pipeline of the configuration reads the queue of the event; there are {names}",
        hint=f"set {PIPELINE_VARIABLE} on the function, or [pipelines.NAME.source] queue to the mapping's queue",
    )


def _reads(config: Config, arn: str) -> bool:
    """Tell whether a pipeline's queue, a name, URL or ARN, may be the one that has this ARN."""
    rest, _, name = arn.rpartition(":")
    account = rest.rpartition(":")[2]
    queue = config.source.queue.rstrip("/")
    if queue.startswith("arn:"):
        return queue == arn
    head, _, tail = queue.rpartition("/")
    return tail == name and (not head or head.rpartition("/")[2] == account)


class Function:
    """What stays between invocations: an event loop, and a writer with its keys and connections."""

    def __init__(self, config: Config) -> None:
        self._pipeline = config.pipeline
        logs.configure(
            verbose=True,
            form=config.log.format,
            pipeline=config.pipeline,
            several=config.pipeline != DEFAULT_PIPELINE,
        )
        logs.silence_others()
        say_started(config, workers=1)
        self._limits = config.batch
        one = config.target.model_copy(update={"connections": 1})  # one batch is written at a time
        config = config.model_copy(update={"target": one})
        # no upkeep: it may take longer than there is; `maintain` does it, and any worker
        self._writer = app.writer(config, give_up_s=config.run.give_up_seconds, metrics=Metrics(), upkeep=False)
        self._loop = new_loop()
        self._opened = False
        self._used_at = time.time()
        self._stuck = False
        self.committed = 0

    def discard(self) -> None:
        """End everything, without waiting for anybody."""
        self._writer.abort()
        if not self._stuck:
            self._loop.close()

    def unused(self) -> bool:
        """Tell whether it has not been used for so long that it is to be made anew."""
        return time.time() - self._used_at > _UNUSED_S

    def handle(self, messages: Sequence[Message], remaining_s: float) -> CoatcheckError | None:
        """Load messages within `remaining_s`; return why not all. How many are committed, from the first, is kept."""
        self.committed = 0
        logs.name_pipeline(self._pipeline)
        margin_s = min(max(remaining_s * _MARGIN, _MARGIN_LEAST_S), _MARGIN_MOST_S)
        failure = self._loop.run(self._within(messages, remaining_s - margin_s)) if messages else None
        self._used_at = time.time()
        return failure

    async def _within(self, messages: Sequence[Message], patience_s: float) -> CoatcheckError | None:
        """Load messages; when the time is up answer at once, though the database may not even answer a cancellation."""
        work = asyncio.create_task(self._load(messages))
        done, _ = await asyncio.wait({work}, timeout=max(patience_s, 0.0))
        if done:
            return await work
        self._writer.abort()
        deadline = time.monotonic() + _ABORT_S
        while not work.done() and time.monotonic() < deadline:  # what meets an ended connection may try another
            work.cancel()
            await asyncio.wait({work}, timeout=_ABORT_S / 10)
        self._stuck = not work.done()
        return _out_of_time()

    async def _load(self, messages: Sequence[Message]) -> CoatcheckError | None:
        """Load messages batch by batch; return the first failure."""
        counts = self._writer.counts
        before = counts.loaded, counts.duplicates, counts.rejected
        failure = None
        try:
            if not self._opened:
                await self._writer.open()
                self._opened = True
            for part in self._parts(messages):
                batch = Batch()
                await self._writer.take(batch, part)
                await self._writer.write(batch)
                self.committed += len(part)
        except CoatcheckError as error:
            failure = error
        names = ("loaded", "duplicates", "rejected")
        done = (counts.loaded, counts.duplicates, counts.rejected)
        fields = {name: after - first for name, first, after in zip(names, before, done, strict=True)}
        _log.info("an invocation has ended", extra=fields | {"messages": len(messages)})
        return failure

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
