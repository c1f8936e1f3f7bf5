"""The source under a real runner: FIFO groups stay in order, small budgets do not stall, nothing is lost on the way."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tests.support.builders import a_column, a_road, a_sealer, a_vault
from tests.support.fix_sqs import Queues, a_source, a_target, run, scripted, until
from tests.support.scripted_sqs import Answer, cut

from coatcheck.pipeline.breaker import Breaker
from coatcheck.pipeline.message import Batch, Message, Outcome
from coatcheck.pipeline.runner import Limits, Runner
from coatcheck.pipeline.writer import Writer
from coatcheck.sinks.memory import MemorySink
from coatcheck.sources.sqs import SqsSource
from coatcheck.sources.sqs_client import SqsClient

GROUPS, PER_GROUP = 20, 10


def body(group: int, number: int) -> str:
    return json.dumps({"group": f"group-{group}", "number": number})


def in_turn() -> Iterable[tuple[int, int]]:
    """Every group's numbers in order, the groups mixed."""
    left = {group: iter(range(PER_GROUP)) for group in range(GROUPS)}
    chance = random.Random(3)  # noqa: S311 - a schedule, no secret
    while left:
        group = chance.choice(sorted(left))
        number = next(left[group], None)
        if number is None:
            del left[group]
        else:
            yield group, number


class SlowSink(MemorySink):
    """A sink whose writes take now shorter, now longer, so that two writers would overtake each other."""

    def __init__(self) -> None:
        super().__init__()
        self._chance = random.Random(5)  # noqa: S311 - a schedule, no secret
        self.writing = self.most_writing = 0

    async def write(self, batch: Batch) -> Outcome:
        self.writing += 1
        self.most_writing = max(self.most_writing, self.writing)
        try:
            await asyncio.sleep(self._chance.uniform(0.0, 0.06))
            return await super().write(batch)
        finally:
            self.writing -= 1


class Releasing(SqsSource):
    """A source that gives some of what it has received back before anybody has seen it."""

    def __init__(self, *, every: int, **options: Any) -> None:
        super().__init__(**options)
        self._every = every
        self._calls = 0
        self.given_back = 0

    async def receive(self, timeout: float) -> list[Message]:
        messages = await super().receive(timeout)
        if messages:
            self._calls += 1
            if self._calls % self._every == 0 and self._calls < 6 * self._every:
                self.given_back += len(messages)
                await self.release(messages)
                return []
        return messages


def a_runner(source: SqsSource, sink: MemorySink, **limits: Any) -> Runner:
    sealer = a_sealer()
    columns = (a_column("text", name="group", path="group"), a_column("integer", name="number", path="number"))
    return Runner(
        source=source,
        writer=Writer(
            sink=sink,
            road=a_road(columns, sealer=sealer),
            sealer=sealer,
            vault=a_vault(sealer, columns),
            breaker=Breaker(ratio=0.9, window=1000, run=1000),
        ),
        limits=Limits(**limits),
    )


def of_groups(sink: MemorySink) -> dict[str, list[int]]:
    numbers: dict[str, list[int]] = {}
    for row in sink.rows:
        group, number = row.values
        assert isinstance(group, str)
        assert isinstance(number, int)
        numbers.setdefault(group, []).append(number)
    return numbers


def test_the_order_within_fifo_groups_holds(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create(fifo=True, visibility=30)
        for group, number in in_turn():
            queue.send([body(group, number)], group=f"group-{group}")
        foreign = queue.receive(most=10)  # somebody else takes some, and gives them back in the middle
        client = SqsClient(a_target(queues.server.url))
        source = Releasing(every=3, client=client, queue=queue.url, wait_s=1, receivers=4)
        sink = SlowSink()
        running = asyncio.create_task(a_runner(source, sink, messages=10, seconds=0.02, writers=2).run(drain=True))
        await asyncio.sleep(0.3)
        queue.show(foreign)
        counts = await running
        assert (counts.loaded, counts.duplicates, counts.rejected) == (GROUPS * PER_GROUP, 0, 0)
        assert of_groups(sink) == {f"group-{group}": list(range(PER_GROUP)) for group in range(GROUPS)}
        assert source.given_back
        assert foreign
        assert sink.most_writing == 2, "or nothing was tried"
        assert queue.counts() == (0, 0)

    run(work())


def test_the_order_holds_when_a_run_is_broken_off_and_taken_up_again(queues: Queues) -> None:
    async def work() -> None:
        queue = queues.create(fifo=True, visibility=30)
        for group, number in in_turn():
            queue.send([body(group, number)], group=f"group-{group}")
        sink = SlowSink()
        for _ in range(4):
            runner = a_runner(
                a_source(queue.url, receivers=4), sink, messages=10, seconds=0.02, writers=2, drain_s=0.02
            )
            running = asyncio.create_task(runner.run())
            before = len(sink.rows)
            await until(lambda before=before: len(sink.rows) >= min(before + 20, 200), "some rows")  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            runner.stop()
            await running
        await a_runner(a_source(queue.url, receivers=4), sink, messages=10, seconds=0.02, writers=2).run(drain=True)
        assert of_groups(sink) == {f"group-{group}": list(range(PER_GROUP)) for group in range(GROUPS)}
        assert queue.counts() == (0, 0)

    run(work())


def test_a_batch_larger_than_what_may_be_in_flight_does_not_stall() -> None:
    async def work() -> None:
        async with scripted(receivers=8, max_in_flight=50) as (server, source):
            server.put(*[body(0, number) for number in range(500)])
            sink = MemorySink()
            counts = await a_runner(source, sink, messages=1000, seconds=0.05).run(drain=True)
            assert (counts.loaded, counts.acked) == (500, 500)
            assert server.most_in_flight <= 60

    run(work())


def test_every_message_once_through_a_bad_day() -> None:
    """Refused, cut and broken requests of every kind, now and then, on all operations."""

    async def work() -> None:
        chance = random.Random(11)  # noqa: S311 - a schedule, no secret
        troubles = [Answer(b"", 500), Answer(b"", 429), cut(), Answer(b"{broken"), Answer(b"", 503)]
        async with scripted(receivers=8, visibility=2) as (server, source):
            ids = server.put(*[body(number % 9, number) for number in range(1500)])
            for operation in ("ReceiveMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"):
                for _ in range(3):
                    server.script(operation, chance.choice(troubles))
            server.refuse_once |= {f"receipt-{number}": "InternalError" for number in range(1, 1500, 97)}
            sink = SlowSink()
            counts = await a_runner(source, sink, messages=100, seconds=0.05).run(drain=True)
            assert counts.loaded == 1500
            assert not server.refuse_once
            assert sorted(server.deleted) == sorted(ids)
            told: Sequence[str] = [row.message.message_id for row in sink.rows]
            assert max(Counter(told).values()) == 1

    run(work())
