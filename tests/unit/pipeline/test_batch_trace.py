"""What the runner tells a trace, in which order, and how it ends when a batch fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tests.support.builders import a_road, a_sealer, a_vault, login_body
from tests.support.said import said

from coatcheck.errors import UnreachableError
from coatcheck.ops.logs import _About
from coatcheck.pipeline.breaker import Breaker
from coatcheck.pipeline.message import Batch, Message, Outcome, Reason, Reject
from coatcheck.pipeline.runner import Limits, Runner
from coatcheck.pipeline.writer import Writer
from coatcheck.sinks.memory import MemorySink
from coatcheck.sources.memory import MemorySource


class Recorder:
    """A tracer, and the only trace that it begins each time."""

    def __init__(self, ids: Mapping[str, str]) -> None:
        self.ids = ids
        self.told: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, first: Message) -> Recorder:
        self.told.append(("begin", {"first": first.message_id}))
        return self

    def took(self, messages: Sequence[Message], *, rejected: int, seconds: float) -> None:
        assert 0 < seconds < 10
        self.told.append(("took", {"messages": len(messages), "rejected": rejected}))

    def filled(self) -> None:
        self.told.append(("filled", {}))

    def stage(self, name: str, seconds: float, **told: int | str) -> None:
        assert 0 <= seconds < 10
        self.told.append((name, told))

    def event(self, name: str, **told: int | str) -> None:
        self.told.append((name, told))

    def end(self, **told: int | str) -> None:
        self.told.append(("end", told))


class Refusing(MemorySink):
    """Refuses one user's row, and everything when it is `away`."""

    away = False

    async def write(self, batch: Batch) -> Outcome:
        logging.getLogger("coatcheck.here").warning("a batch is written")
        if self.away:
            raise UnreachableError("it is away")
        refused = [row for row in batch.rows if "refused" in row.values]
        batch.rows = [row for row in batch.rows if row not in refused]
        outcome = await super().write(batch)
        outcome.refused = [(row, Reject(Reason.REFUSED_BY_DATABASE, "23514")) for row in refused]
        batch.rows += refused
        return outcome


def run(sink: MemorySink, tracer: Recorder, bodies: Sequence[str]) -> None:
    sealer = a_sealer()
    writer = Writer(
        sink=sink,
        road=a_road(sealer=sealer),
        sealer=sealer,
        vault=a_vault(sealer),
        breaker=Breaker(ratio=1, window=10**6, run=10**6),
        tracer=tracer,
    )
    runner = Runner(source=MemorySource(bodies), writer=writer, limits=Limits(seconds=5, messages=len(bodies)))
    asyncio.run(asyncio.wait_for(runner.run(drain=True), 10))


GOOD, BAD, REFUSED = login_body(), "no json", login_body(user_id="refused")


def test_a_batch_is_told_from_its_first_message_to_its_ack() -> None:
    tracer = Recorder({})
    run(Refusing(), tracer, [*[GOOD] * 9, BAD, *[GOOD] * 4, REFUSED])
    assert tracer.told == [
        ("begin", {"first": "00000000-0000-4000-8000-000000000001"}),
        ("took", {"messages": 10, "rejected": 1}),
        ("rejected", {"reason": "not_json"}),
        ("took", {"messages": 5, "rejected": 0}),
        ("filled", {}),
        ("write", {"messages": 15, "loaded": 13, "duplicates": 0, "quarantined": 1, "refused": 1}),
        ("write", {"messages": 1, "loaded": 0, "duplicates": 0, "quarantined": 1, "refused": 0}),
        ("ack", {"messages": 15, "failed": 0}),
        ("end", {"messages": 15}),
    ]


def test_a_batch_that_fails_ends_with_its_error() -> None:
    tracer, sink = Recorder({}), Refusing()
    sink.away = True
    with pytest.raises(UnreachableError):
        run(sink, tracer, [GOOD])
    assert tracer.told[-1] == ("end", {"messages": 1, "error": "UnreachableError"})
    assert sum(name == "end" for name, _ in tracer.told) == 1


def test_what_is_said_of_a_batch_carries_its_ids() -> None:
    tracer = Recorder({"trace_id": "ab" * 16, "span_id": "cd" * 8})
    with said(_About()) as records:
        run(Refusing(), tracer, [GOOD])
        logging.getLogger("coatcheck.here").warning("afterwards")
    first, last = records
    assert (first.getMessage(), last.getMessage()) == ("a batch is written", "afterwards")
    assert (first.__dict__["trace_id"], first.__dict__["span_id"]) == ("ab" * 16, "cd" * 8)
    assert "trace_id" not in last.__dict__
