"""The runner: batches, acks after the write, ways to end, and what becomes of every message on each of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.builders import a_road, a_sealer, a_vault, login_body, opened

from coatcheck.errors import CoatcheckError, RefusedError, UnreachableError
from coatcheck.pipeline import runner as module
from coatcheck.pipeline.breaker import Breaker
from coatcheck.pipeline.message import Batch, Depth, Message, Outcome, Reason, Reject
from coatcheck.pipeline.runner import Limits, Runner, _Quiet
from coatcheck.pipeline.writer import Writer
from coatcheck.sinks.memory import MemorySink
from coatcheck.sources.memory import MemorySource

GOOD, BAD = login_body(), "no json"
SOON = 10.0
"""Seconds in which everything here must have happened on the slowest machine."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE_S", 0.005)


class WatchedSource(MemorySource):
    """Knows what was acked and how often it was closed; `late` bodies still come out of `receive` after `quiesce`."""

    def __init__(self, bodies: Iterable[str] = (), **options: Any) -> None:
        super().__init__(bodies, **options)
        self.acked: list[Message] = []
        self.closed = 0
        self.fail_receive: Exception | None = None
        self.late: list[str] = []

    async def receive(self, timeout: float) -> list[Message]:
        if self._quiesced and self.late:
            self._quiesced = False
            self.send([self.late.pop()])
            try:
                return await super().receive(0)
            finally:
                self._quiesced = True
        if self.fail_receive is not None and not self._visible:
            raise self.fail_receive
        return await super().receive(timeout)

    async def ack(self, messages: Sequence[Message]) -> int:
        self.acked += messages
        return await super().ack(messages)

    async def close(self) -> None:
        self.closed += 1
        await super().close()


class WatchedSink(MemorySink):
    """Keeps its batches; `before` is awaited at the start of each write, with the number of the write."""

    def __init__(self, before: Callable[[int], Coroutine[Any, Any, None]] | None = None) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.times: list[float] = []
        self.writes = self.active = self.most_active = self.closed = 0
        self._before = before

    async def write(self, batch: Batch) -> Outcome:
        self.times.append(time.monotonic())
        self.writes += 1
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            if self._before is not None:
                await self._before(self.writes)
            outcome = await super().write(batch)
            self.batches.append([message.message_id for message in batch.messages()])
            return outcome
        finally:
            self.active -= 1

    async def close(self) -> None:
        self.closed += 1


def a_runner(source: MemorySource, sink: MemorySink, *, breaker: Breaker | None = None, **limits: Any) -> Runner:
    sealer = a_sealer()
    return Runner(
        source=source,
        writer=Writer(
            sink=sink,
            road=a_road(sealer=sealer),
            sealer=sealer,
            vault=a_vault(sealer),
            breaker=breaker or Breaker(ratio=1, window=10**6, run=10**6),
        ),
        limits=Limits(**({"seconds": 0.01, "drain_s": SOON} | limits)),
    )


async def drained(runner: Runner) -> Any:
    return await asyncio.wait_for(runner.run(drain=True), SOON)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():  # noqa: ASYNC110 - looks at objects that tell nobody when they change
            await asyncio.sleep(0.002)


async def hang(_: int) -> None:
    await asyncio.sleep(3600)


def depth(source: MemorySource) -> tuple[int, int]:
    return len(source._visible), len(source._in_flight)


def ids(numbers: Iterable[int]) -> list[str]:
    return [f"00000000-0000-4000-8000-{number:012x}" for number in numbers]


# -- the way through


def test_a_drain_takes_everything_and_ends() -> None:
    source, sink = WatchedSource([GOOD, BAD, *[GOOD] * 48]), WatchedSink()
    counts = asyncio.run(drained(a_runner(source, sink)))
    assert [row.message.message_id for row in sink.rows] == ids([1, *range(3, 51)])
    assert [entry.reject for entry in sink.quarantine] == [Reject(Reason.NOT_JSON)]
    assert opened(sink.quarantine[0]) == BAD
    assert depth(source) == (0, 0)
    assert (source.closed, sink.closed) == (1, 1)
    found = counts.as_dict()
    assert 0 < found.pop("seconds") < SOON
    assert found == {"received": 50, "loaded": 49, "duplicates": 0, "rejected": 1, "acked": 50}


def test_a_drain_of_an_empty_queue_ends() -> None:
    source, sink = WatchedSource(), WatchedSink()
    counts = asyncio.run(drained(a_runner(source, sink)))
    assert (counts.received, sink.writes) == (0, 0)


def test_a_second_run_adds_nothing() -> None:
    async def story() -> None:
        source, sink = WatchedSource([GOOD] * 20), WatchedSink()
        await drained(a_runner(source, sink))
        source.deliver_again(source.acked)
        counts = await drained(a_runner(source, sink))
        assert (counts.received, counts.loaded, counts.duplicates, counts.acked) == (20, 0, 20, 20)
        assert len(sink.rows) == 20
        assert depth(source) == (0, 0)

    asyncio.run(story())


def test_a_message_is_acked_only_after_its_write_has_returned() -> None:
    async def story() -> None:
        gate = asyncio.Event()

        async def wait(_: int) -> None:
            await gate.wait()

        source, sink = WatchedSource([GOOD] * 10), WatchedSink(wait)
        running = asyncio.create_task(drained(a_runner(source, sink)))
        await until(lambda: sink.active == 1)
        await asyncio.sleep(0.03)
        assert source.acked == []
        gate.set()
        await running
        assert len(source.acked) == 10

    asyncio.run(story())


def test_what_had_expired_at_its_ack_is_not_counted_as_acked() -> None:
    async def story() -> None:
        source = WatchedSource([GOOD] * 10)

        async def expire(number: int) -> None:
            if number == 1:
                source.expire()

        sink = WatchedSink(expire)
        counts = await drained(a_runner(source, sink))
        assert (counts.received, counts.loaded, counts.duplicates, counts.acked) == (20, 10, 10, 10)
        assert depth(source) == (0, 0)

    asyncio.run(story())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 60), st.integers(1, 40), st.integers(1, 3), st.data())
def test_the_order_of_a_receive_is_kept_in_its_rows(
    count: int, messages: int, writers: int, data: st.DataObject
) -> None:
    bad = data.draw(st.sets(st.integers(1, count))) if count else set()
    source = WatchedSource([BAD if number in bad else GOOD for number in range(1, count + 1)])
    sink = WatchedSink()
    asyncio.run(drained(a_runner(source, sink, messages=messages, writers=writers)))
    for kept in (sink.rows, sink.quarantine):
        for start in range(1, count + 1, 10):
            receive = set(ids(range(start, start + 10)))
            found = [entry.message.message_id for entry in kept if entry.message.message_id in receive]
            assert found == sorted(found)
    assert len(sink.rows) + len(sink.quarantine) == count


def test_data_keys_come_with_the_rejects_they_seal() -> None:
    class Keyed(WatchedSink):
        async def write(self, batch: Batch) -> Outcome:
            assert {key.dek_id for key in batch.data_keys} == {entry.sealed.dek_id for entry in batch.rejected}
            return await super().write(batch)

    source, sink = WatchedSource([GOOD, BAD] * 10), Keyed()
    sink.refuse = dict.fromkeys(ids([1, 3]), "22003")
    asyncio.run(drained(a_runner(source, sink, messages=10)))
    assert len(sink.quarantine) == 12


# -- batches


def test_a_batch_closes_at_its_number_of_messages() -> None:
    source, sink = WatchedSource([GOOD] * 100), WatchedSink()
    asyncio.run(drained(a_runner(source, sink, messages=20, seconds=SOON * 2)))
    assert sink.batches == [ids(range(start, start + 20)) for start in range(1, 101, 20)]


def test_a_batch_closes_at_its_bytes() -> None:
    source, sink = WatchedSource([login_body(more="x" * 1000)] * 60), WatchedSink()
    asyncio.run(drained(a_runner(source, sink, bytes=25_000, seconds=SOON * 2)))
    assert [len(batch) for batch in sink.batches] == [30, 30]


def test_a_batch_closes_when_its_first_message_has_waited() -> None:
    async def story() -> None:
        source, sink = WatchedSource(), WatchedSink()
        runner = a_runner(source, sink, seconds=0.4)
        running = asyncio.create_task(runner.run())
        started = time.monotonic()
        source.send([GOOD])
        await asyncio.sleep(0.1)
        source.send([GOOD])
        await until(lambda: len(sink.rows) == 2)
        assert sink.times[0] - started >= 0.4
        assert len(sink.batches) == 1  # the second message did not start the wait again, nor a batch of its own
        runner.stop()
        await running

    asyncio.run(story())


def test_a_trickle_does_not_put_the_batch_off() -> None:
    async def story() -> None:
        source, sink = WatchedSource(), WatchedSink()
        runner = a_runner(source, sink, seconds=0.1)
        running = asyncio.create_task(runner.run())
        for _ in range(20):
            source.send([GOOD])
            await asyncio.sleep(0.05)
        assert len(sink.rows) >= 10
        runner.stop()
        await running

    asyncio.run(story())


def test_no_wait_means_a_batch_for_each_receive() -> None:
    source, sink = WatchedSource([GOOD] * 35), WatchedSink()
    asyncio.run(drained(a_runner(source, sink, seconds=0)))
    assert [len(batch) for batch in sink.batches] == [10, 10, 10, 5]


@pytest.mark.parametrize("writers", [1, 2, 3])
def test_so_many_batches_are_written_at_once_and_the_rest_waits_on_the_queue(writers: int) -> None:
    async def story() -> None:
        source, sink = WatchedSource([GOOD] * 200), WatchedSink(hang)
        runner = a_runner(source, sink, messages=10, writers=writers, drain_s=0.05)
        running = asyncio.create_task(runner.run())
        await until(lambda: sink.active == writers)
        await asyncio.sleep(0.05)
        assert sink.most_active == writers
        assert runner.counts.received == 10 * (writers + 1)  # the open batch waits for a writer
        assert depth(source) == (200 - 10 * (writers + 1), 10 * (writers + 1))
        runner.stop()
        await running
        assert depth(source) == (200, 0)

    asyncio.run(story())


# -- what the database refuses


def test_refused_rows_go_to_quarantine_and_the_rest_is_loaded() -> None:
    source, sink = WatchedSource([GOOD] * 20), WatchedSink()
    sink.refuse = dict(zip(ids([3, 7]), ["22003", "23514"], strict=True))
    counts = asyncio.run(drained(a_runner(source, sink)))
    assert [row.message.message_id for row in sink.rows] == ids(set(range(1, 21)) - {3, 7})
    assert [(entry.message.message_id, entry.reject) for entry in sink.quarantine] == [
        (ids([3])[0], Reject(Reason.REFUSED_BY_DATABASE, "22003")),
        (ids([7])[0], Reject(Reason.REFUSED_BY_DATABASE, "23514")),
    ]
    assert {opened(entry) for entry in sink.quarantine} == {GOOD}
    assert (counts.loaded, counts.rejected, counts.duplicates, counts.acked) == (18, 2, 0, 20)
    assert depth(source) == (0, 0)


# -- the breaker


@pytest.mark.parametrize(
    ("breaker", "bodies"),
    [
        (Breaker(ratio=1, window=10**6, run=15), [GOOD] * 15 + [BAD] * 15),
        (Breaker(ratio=0.5, window=20, run=10**6), [GOOD, BAD] * 15),
    ],
    ids=["run", "ratio"],
)
def test_when_the_breaker_opens_nothing_of_the_batch_is_written_or_acked(breaker: Breaker, bodies: list[str]) -> None:
    source, sink = WatchedSource(bodies), WatchedSink()
    with pytest.raises(RefusedError, match="the breaker is open"):
        asyncio.run(drained(a_runner(source, sink, breaker=breaker, seconds=SOON)))
    assert (sink.rows, sink.quarantine, source.acked, sink.writes) == ([], [], [], 0)
    assert depth(source) == (30, 0)
    assert (source.closed, sink.closed) == (1, 1)


def test_batches_before_the_breaker_opened_are_finished() -> None:
    async def slow(_: int) -> None:
        await asyncio.sleep(0.05)

    source, sink = WatchedSource([GOOD] * 20 + [BAD] * 20), WatchedSink(slow)
    with pytest.raises(RefusedError):
        asyncio.run(drained(a_runner(source, sink, breaker=Breaker(ratio=1, window=10**6, run=15), messages=20)))
    assert (len(sink.rows), len(source.acked), sink.quarantine) == (20, 20, [])
    assert depth(source) == (20, 0)


def test_rows_the_database_refuses_count_for_the_breaker() -> None:
    source, sink = WatchedSource([GOOD] * 20), WatchedSink()
    sink.refuse = dict.fromkeys(ids(range(1, 21)), "22003")
    with pytest.raises(RefusedError, match="15 messages in a row"):
        asyncio.run(drained(a_runner(source, sink, breaker=Breaker(ratio=1, window=10**6, run=15))))
    assert (sink.rows, sink.quarantine, source.acked) == ([], [], [])
    assert depth(source) == (20, 0)


def test_the_breaker_watches_what_a_stop_still_takes_in() -> None:
    async def story() -> None:
        source, sink = WatchedSource(), WatchedSink()
        source.late = [BAD] * 20
        runner = a_runner(source, sink, breaker=Breaker(ratio=1, window=10**6, run=15), seconds=SOON)
        runner.stop()
        with pytest.raises(RefusedError):
            await runner.run()
        assert (sink.quarantine, source.acked, depth(source)) == ([], [], (15, 0))

    asyncio.run(story())


# -- failures


@pytest.mark.parametrize("error", [UnreachableError("gone"), CoatcheckError("odd"), RuntimeError("bug")])
def test_a_failing_write_ends_the_run_with_its_error_and_gives_the_messages_back(error: Exception) -> None:
    async def fail(number: int) -> None:
        if number == 2:
            raise error

    source, sink = WatchedSource([GOOD] * 40), WatchedSink(fail)
    with pytest.raises(type(error)) as caught:
        asyncio.run(drained(a_runner(source, sink, messages=10, writers=1)))
    assert caught.value is error
    acked = {message.message_id for message in source.acked}
    assert acked == {row.message.message_id for row in sink.rows}
    assert set(ids(range(1, 11))) <= acked
    assert not acked & set(ids(range(11, 21)))
    assert depth(source) == (40 - len(acked), 0)
    assert (source.closed, sink.closed) == (1, 1)


def test_the_first_failure_is_the_one_that_is_raised() -> None:
    async def fail(number: int) -> None:
        await asyncio.sleep({1: 0.05, 2: 0.01, 3: 0.1}[number])
        raise UnreachableError(f"write {number}")

    source, sink = WatchedSource([GOOD] * 30), WatchedSink(fail)
    with pytest.raises(UnreachableError, match="write 2"):
        asyncio.run(drained(a_runner(source, sink, messages=10, writers=3)))
    assert (source.acked, depth(source)) == ([], (30, 0))


def test_a_failing_ack_ends_the_run_and_the_next_one_adds_nothing() -> None:
    class Broken(WatchedSource):
        async def ack(self, messages: Sequence[Message]) -> int:
            if self.closed:
                return await super().ack(messages)
            raise UnreachableError("no ack")

    async def story() -> None:
        source, sink = Broken([GOOD] * 10), WatchedSink()
        with pytest.raises(UnreachableError, match="no ack"):
            await drained(a_runner(source, sink))
        assert (len(sink.rows), depth(source)) == (10, (10, 0))
        counts = await drained(a_runner(source, sink))
        assert (len(sink.rows), counts.duplicates, depth(source)) == (10, 10, (0, 0))

    asyncio.run(story())


def test_a_failing_receive_ends_the_run_but_not_the_writes_under_way() -> None:
    async def slow(_: int) -> None:
        await asyncio.sleep(0.05)

    source, sink = WatchedSource([GOOD] * 25), WatchedSink(slow)
    source.fail_receive = UnreachableError("no receive")
    with pytest.raises(UnreachableError, match="no receive"):
        asyncio.run(drained(a_runner(source, sink, messages=20, seconds=SOON)))
    assert (len(sink.rows), len(source.acked)) == (20, 20)
    assert depth(source) == (5, 0)  # the open batch went back


def test_a_source_that_cannot_start_ends_the_run_and_closes_both_ends() -> None:
    class Absent(WatchedSource):
        async def start(self) -> None:
            raise UnreachableError("no queue")

    source, sink = Absent(), WatchedSink()
    with pytest.raises(UnreachableError, match="no queue"):
        asyncio.run(drained(a_runner(source, sink)))
    assert (source.closed, sink.closed) == (1, 1)


def test_a_cancelled_run_leaves_nothing_running_and_gives_everything_back() -> None:
    async def story() -> None:
        source, sink = WatchedSource([GOOD] * 100), WatchedSink(hang)
        runner = a_runner(source, sink, messages=10)
        running = asyncio.create_task(runner.run())
        await until(lambda: sink.active == 2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert (sink.active, source.acked, depth(source)) == (0, [], (100, 0))
        assert (source.closed, sink.closed) == (1, 1)

    asyncio.run(story())


# -- ways to stop


def test_a_stop_finishes_the_open_batch_at_once() -> None:
    async def story() -> None:
        source, sink = WatchedSource([GOOD] * 15), WatchedSink()
        runner = a_runner(source, sink, seconds=3600)
        running = asyncio.create_task(runner.run())
        await until(lambda: runner.counts.received == 15)
        assert sink.writes == 0
        runner.stop()
        counts = await asyncio.wait_for(running, SOON)
        assert (counts.loaded, counts.acked, depth(source)) == (15, 15, (0, 0))

    asyncio.run(story())


def test_a_stop_takes_what_the_queue_had_handed_over_and_no_more() -> None:
    async def story() -> None:
        source, sink = WatchedSource(), WatchedSink()
        source.late = [GOOD] * 25
        runner = a_runner(source, sink, messages=10)
        runner.stop()
        counts = await asyncio.wait_for(runner.run(), SOON)
        source.send([GOOD])
        assert (counts.loaded, counts.acked, depth(source)) == (25, 25, (1, 0))

    asyncio.run(story())


def test_a_stop_ends_an_idle_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IDLE_S", 3600)

    async def story() -> None:
        source, sink = WatchedSource(), WatchedSink()
        runner = a_runner(source, sink)
        running = asyncio.create_task(runner.run())
        await asyncio.sleep(0.02)
        runner.stop()
        await asyncio.wait_for(running, SOON)
        assert source.closed == 1

    asyncio.run(story())


@pytest.mark.parametrize("drain_s", [0.0, 0.3])
def test_a_stop_while_the_sink_hangs_ends_at_the_deadline(drain_s: float, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def story() -> None:
        source, sink = WatchedSource([GOOD] * 100), WatchedSink(hang)
        runner = a_runner(source, sink, messages=10, drain_s=drain_s)
        running = asyncio.create_task(runner.run())
        await until(lambda: sink.active == 2)
        stopped = time.monotonic()
        runner.stop()
        counts = await asyncio.wait_for(running, SOON)
        assert drain_s <= time.monotonic() - stopped < drain_s + 2
        assert (counts.loaded, counts.acked, source.acked, sink.active) == (0, 0, [], 0)
        assert depth(source) == (100, 0)
        assert (source.closed, sink.closed) == (1, 1)

    asyncio.run(story())
    assert [record.getMessage() for record in caplog.records if record.name.startswith("coatcheck")] == [
        "the deadline has passed; unfinished messages go back to the queue"
    ]


def test_a_write_that_ends_before_the_deadline_counts() -> None:
    async def slow(_: int) -> None:
        await asyncio.sleep(0.1)

    async def story() -> None:
        source, sink = WatchedSource([GOOD] * 10), WatchedSink(slow)
        runner = a_runner(source, sink)
        running = asyncio.create_task(runner.run())
        await until(lambda: sink.active == 1)
        runner.stop()
        counts = await asyncio.wait_for(running, SOON)
        assert (counts.loaded, counts.acked) == (10, 10)

    asyncio.run(story())


def test_the_sink_is_closed_after_the_last_write_has_come_to_its_end() -> None:
    async def rolls_back(_: int) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)

    class Strict(WatchedSink):
        async def close(self) -> None:
            assert self.active == 0
            await super().close()

    async def story() -> None:
        source, sink = WatchedSource([GOOD] * 30), Strict(rolls_back)
        runner = a_runner(source, sink, messages=10, drain_s=0)
        running = asyncio.create_task(runner.run())
        await until(lambda: sink.active == 2)
        runner.stop()
        await asyncio.wait_for(running, SOON)
        assert sink.closed == 1

    asyncio.run(story())


# -- when a queue is empty


def test_a_drain_waits_for_what_somebody_else_holds() -> None:
    async def story() -> None:
        source, sink = WatchedSource([GOOD] * 20), WatchedSink()
        await source.receive(0)  # ten in the hands of another worker, who dies
        running = asyncio.create_task(drained(a_runner(source, sink)))
        await until(lambda: len(sink.rows) == 10)
        await asyncio.sleep(0.05)
        assert not running.done()
        source.expire()
        await running
        assert len(sink.rows) == 20

    asyncio.run(story())


def test_a_drain_does_not_wait_for_ever_for_what_somebody_else_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MARGIN_S", 0.05)

    async def story() -> None:
        source, sink = WatchedSource([GOOD] * 20, visibility_s=0.05), WatchedSink()
        await source.receive(0)
        started = time.monotonic()
        await drained(a_runner(source, sink))
        assert time.monotonic() - started >= 0.1
        assert len(sink.rows) == 10

    asyncio.run(story())


class Approximate(WatchedSource):
    """Its counts lag behind: it always says that nothing is there, as SQS may for a while."""

    looks = 0

    async def depth(self) -> Depth:
        self.looks += 1
        return Depth(0, 0, 0)


def test_a_drain_does_not_end_on_approximate_counts_while_it_writes() -> None:
    async def story() -> None:
        async def slow(_: int) -> None:
            await asyncio.sleep(0.1)
            assert not source._quiesced

        source, sink = Approximate([GOOD] * 10), WatchedSink(slow)
        counts = await drained(a_runner(source, sink))
        assert counts.acked == 10

    asyncio.run(story())


def test_a_message_between_two_looks_starts_them_anew() -> None:
    class Late(Approximate):
        async def receive(self, timeout: float) -> list[Message]:
            if self.looks == 1:
                self.send([GOOD] if not self.acked and not self._in_flight else [])
            return await super().receive(timeout)

    source, sink = Late(), WatchedSink()
    counts = asyncio.run(drained(a_runner(source, sink, seconds=0)))
    assert (counts.acked, source.looks) == (1, 3)


def test_quiet_is_two_looks_at_nothing() -> None:
    quiet = _Quiet(1000)
    assert not quiet.enough(Depth(0, 0, 0))
    assert quiet.enough(Depth(0, 0, 0))
    quiet.reset()
    assert not quiet.enough(Depth(0, 0, 0))
    assert not quiet.enough(Depth(1, 0, 0))
    assert not quiet.enough(Depth(0, 0, 0))
    assert quiet.enough(Depth(0, 0, 0))


def test_quiet_is_also_patience_with_what_stays_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    quiet = _Quiet(35)
    assert not quiet.enough(Depth(0, 5, 0))
    now += 34
    assert not quiet.enough(Depth(0, 5, 0))
    assert not quiet.enough(Depth(0, 5, 3))  # delayed ones will come
    now += 34
    assert not quiet.enough(Depth(0, 5, 0))
    assert not quiet.enough(Depth(2, 5, 0))  # visible ones will come
    now += 34
    assert not quiet.enough(Depth(0, 5, 0))
    now += 2
    assert quiet.enough(Depth(0, 5, 0))
    quiet.reset()  # a message came
    assert not quiet.enough(Depth(0, 5, 0))
