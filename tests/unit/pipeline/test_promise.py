"""The promise: whatever happens on the way, each message has one effect in the end, and is acked only after it.

A state machine sends, delivers twice, lets the visibility timeout pass, makes writes fail before or after they took
effect, stops, cancels and restarts the runner in any order; then a last drain must leave every message with exactly one
row or one quarantine entry, and the queue empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.support.builders import a_road, a_sealer, a_vault, login_body, opened

from coatcheck.errors import UnreachableError
from coatcheck.pipeline import runner as module
from coatcheck.pipeline.breaker import Breaker
from coatcheck.pipeline.message import Batch, Counts, Message, Outcome, Reason
from coatcheck.pipeline.runner import Limits, Runner
from coatcheck.pipeline.writer import Writer
from coatcheck.sinks.memory import MemorySink
from coatcheck.sources.memory import MemorySource

BODIES = {"row": login_body(), "reject": "no json", "refused": login_body(user_id="refuse me")}
NEVER = 10**6
LIMITS = st.builds(
    Limits,
    messages=st.integers(1, 30),
    bytes=st.sampled_from([1, 1000, NEVER]),
    seconds=st.sampled_from([0, 0.002, 60]),
    writers=st.integers(1, 3),
    drain_s=st.sampled_from([0, 30]),
)


class Sink(MemorySink):
    """Fails as told, one write each: `before` and `after` it took effect; `slowly` only gives others their turn."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []

    async def write(self, batch: Batch) -> Outcome:
        fault = self.faults.pop(0) if self.faults else ""
        for _ in range(20 if fault == "slowly" else 1):
            await asyncio.sleep(0)
        if fault == "before":
            raise UnreachableError("before")
        for row in batch.rows:
            if row.values[0] == "refuse me":
                self.refuse[row.message.message_id] = "22003"
        outcome = await super().write(batch)
        await asyncio.sleep(0)
        if fault == "after":
            raise UnreachableError("after")
        return outcome

    def effects(self) -> list[str]:
        return [row.message.message_id for row in self.rows] + [entry.message.message_id for entry in self.quarantine]


class Source(MemorySource):
    """Remembers what it handed out, and checks at each ack that the message has had its effect."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink
        self.handed_out: list[Message] = []
        self.acked: set[str] = set()

    async def receive(self, timeout: float) -> list[Message]:
        received = await super().receive(timeout)
        self.handed_out += received
        return received

    async def ack(self, messages: Sequence[Message]) -> int:
        acked = {message.message_id for message in messages}
        assert acked <= set(self._sink.effects())
        await asyncio.sleep(0)
        self.acked |= acked
        return await super().ack(messages)


class Timeless(asyncio.SelectorEventLoop):
    """A loop whose clock stands still while anything can be done, and then jumps to the next timer.

    So the same steps lead to the same end on a machine however busy; on the real clock they do not.
    """

    _now = 0.0
    _ready: Any
    _scheduled: Any

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0].when())
        super()._run_once()  # type: ignore[misc]  # asyncio's own


class Promise(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = Timeless()
        self.patches: list[Any] = [mock.patch.object(module, name, 0.001) for name in ("_IDLE_S", "_MARGIN_S")]
        self.patches.append(
            mock.patch.object(module, "time", SimpleNamespace(monotonic=self.loop.time, time=self.loop.time))
        )
        for patch in self.patches:
            patch.start()
        self.sink = Sink()
        self.source = Source(self.sink)
        self.sent: list[str] = []
        self.task: asyncio.Task[Counts] | None = None
        self.runner: Runner | None = None

    def start(self, limits: Limits, *, drain: bool) -> asyncio.Task[Counts]:
        sealer = a_sealer()
        self.runner = Runner(
            source=self.source,
            writer=Writer(
                sink=self.sink,
                road=a_road(sealer=sealer),
                sealer=sealer,
                vault=a_vault(sealer),
                breaker=Breaker(ratio=1, window=NEVER, run=NEVER),
            ),
            limits=limits,
        )
        return self.loop.create_task(self.runner.run(drain=drain))

    def end(self, task: asyncio.Task[Counts]) -> None:
        """Wait for a run to end, as it should or by the fault it met."""
        with suppress(UnreachableError, asyncio.CancelledError):
            self.loop.run_until_complete(asyncio.wait_for(task, 30))
        self.task = self.runner = None
        assert not asyncio.all_tasks(self.loop)

    @rule(kinds=st.lists(st.sampled_from(sorted(BODIES)), min_size=1, max_size=25))
    def send(self, kinds: list[str]) -> None:
        self.source.send([BODIES[kind] for kind in kinds])
        self.sent += kinds

    @precondition(lambda self: self.source.handed_out)
    @rule(data=st.data())
    def deliver_twice(self, data: st.DataObject) -> None:
        some = data.draw(st.lists(st.sampled_from(range(len(self.source.handed_out))), min_size=1, max_size=12))
        self.source.deliver_again([self.source.handed_out[place] for place in some])

    @rule()
    def expire(self) -> None:
        self.source.expire()

    @rule(fault=st.sampled_from(["before", "after", "slowly", ""]))
    def write_fails(self, fault: str) -> None:
        self.sink.faults.append(fault)

    @precondition(lambda self: self.task is None)
    @rule(limits=LIMITS, drain=st.booleans())
    def run(self, limits: Limits, drain: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
        self.task = self.start(limits, drain=drain)

    @precondition(lambda self: self.task is not None)
    @rule(turns=st.integers(1, 30), step=st.sampled_from([0, 0.0003]))
    def go_on(self, turns: int, step: float) -> None:
        async def wait() -> None:
            for _ in range(turns):
                await asyncio.sleep(step)

        self.loop.run_until_complete(wait())
        if self.task is not None and self.task.done():
            self.end(self.task)

    @precondition(lambda self: self.task is not None)
    @rule()
    def stop(self) -> None:
        assert self.task is not None
        assert self.runner is not None
        self.runner.stop()
        self.end(self.task)

    @precondition(lambda self: self.task is not None)
    @rule()
    def cancel(self) -> None:
        assert self.task is not None
        self.task.cancel()
        self.end(self.task)

    @invariant()
    def no_message_has_two_effects_and_none_is_acked_without_one(self) -> None:
        effects = self.sink.effects()
        assert len(effects) == len(set(effects))
        assert self.source.acked <= set(effects)

    def teardown(self) -> None:
        try:
            if self.runner is not None:
                self.stop()
            self.sink.faults.clear()
            task = self.start(Limits(messages=20, seconds=0), drain=True)
            counts = self.loop.run_until_complete(asyncio.wait_for(task, 30))
            assert counts.received == counts.acked == counts.loaded + counts.rejected + counts.duplicates
            self.check()
        finally:
            self.loop.close()
            for patch in self.patches:
                patch.stop()

    def check(self) -> None:
        effects = self.sink.effects()
        ids = [f"00000000-0000-4000-8000-{number:012x}" for number in range(1, len(self.sent) + 1)]
        assert sorted(effects) == ids
        assert self.loop.run_until_complete(self.source.depth()).total == 0
        kinds = dict(zip(ids, self.sent, strict=True))
        assert {kinds[row.message.message_id] for row in self.sink.rows} <= {"row"}
        for entry in self.sink.quarantine:
            kind = kinds[entry.message.message_id]
            assert entry.reject.reason is (Reason.NOT_JSON if kind == "reject" else Reason.REFUSED_BY_DATABASE)
            assert entry.reject.detail == ("" if kind == "reject" else "22003")
            assert opened(entry) == BODIES[kind]


TestPromise = Promise.TestCase
TestPromise.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
