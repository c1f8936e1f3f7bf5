from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from coatcheck.errors import CoatcheckError, ConfigError, UnreachableError
from coatcheck.keys import OpenError, Sealer, sealing
from coatcheck.ops.logs import NOTICE
from coatcheck.pipeline.message import DataKey

if TYPE_CHECKING:
    from coatcheck.pipeline.ports import BodySealer

AWAY = UnreachableError("KMS does not answer (ThrottlingException)", hint="wait")
DENIED = ConfigError("KMS refuses kms:GenerateDataKey (AccessDeniedException)", hint="allow it")


class RemoteKeys:
    """A provider that takes a request for each data key: numbers for keys, its answers in the hand of the test."""

    remote = True

    def __init__(self) -> None:
        self.tenant, self.kid, self.kids = "default", "k1", ("k1",)
        self.drawn = self.asked = self.at_once = self.most_at_once = 0
        self.threads: set[int] = set()
        self.trouble: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    def token_root(self, kid: str | None = None) -> bytes:
        raise NotImplementedError(kid)

    def ledger_root(self) -> bytes:
        raise NotImplementedError

    def describe(self) -> dict[str, str]:
        return {}

    def new_data_key(self) -> tuple[bytes, bytes, DataKey]:
        with self._lock:
            self.asked += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.threads.add(threading.get_ident())
        try:
            self.gate.wait()
            if self.trouble is not None:
                raise self.trouble
            with self._lock:
                self.drawn += 1
                number = self.drawn
        finally:
            with self._lock:
                self.at_once -= 1
        return number.to_bytes(16, "big"), number.to_bytes(32, "big"), DataKey(number.to_bytes(16, "big"), "x", b"")


class LocalKeys(RemoteKeys):
    remote = False


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def until(condition: Callable[[], object], limit: float = 20.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.001)


def run(work: Any, limit: float = 30.0) -> None:
    async def limited() -> None:
        async with asyncio.timeout(limit):
            await work

    asyncio.run(limited())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_PAUSE_S", 0.002)
    monkeypatch.setattr(sealing, "_PAUSE_MOST_S", 0.01)


def number(sealer: Sealer) -> int:
    """Seal, and return which data key it was under."""
    return int.from_bytes(sealer.seal(b"x").dek_id, "big")


def test_it_fits_the_port() -> None:
    keys = RemoteKeys()
    sealer: BodySealer = Sealer(keys)

    async def work() -> None:
        await sealer.ready(1)
        sealer.seal(b"x")

    run(work())
    assert keys.drawn == 1


def test_a_remote_data_key_is_drawn_in_a_thread_and_a_local_one_is_not() -> None:
    here = threading.get_ident()
    for keys, elsewhere in ((RemoteKeys(), True), (LocalKeys(), False)):
        sealer = Sealer(keys)
        run(sealer.ready(10))
        assert keys.drawn == 1
        assert (keys.threads != {here}) is elsewhere
        assert [number(sealer) for _ in range(10)] == [1] * 10
        assert keys.drawn == 1


@pytest.mark.parametrize("kind", [RemoteKeys, LocalKeys])
def test_so_many_values_fit_the_data_key_in_use(kind: type[RemoteKeys]) -> None:
    keys = kind()
    sealer = Sealer(keys, max_values=10)

    async def work() -> None:
        await sealer.ready(6)
        assert [number(sealer) for _ in range(6)] == [1] * 6
        await sealer.ready(4)
        assert number(sealer) == 1
        await sealer.ready(4)  # three are left: not enough
        assert [number(sealer) for _ in range(4)] == [2] * 4
        await sealer.ready(1000)  # more than any data key takes: as many as it does
        assert [number(sealer) for _ in range(10)] == [3] * 10

    run(work())


def test_nothing_to_seal_needs_no_key() -> None:
    keys = RemoteKeys()
    keys.trouble = DENIED
    run(Sealer(keys).ready(0))
    assert keys.asked == 0


def test_the_next_one_is_drawn_when_a_fifth_of_the_values_is_left() -> None:
    keys = RemoteKeys()
    sealer = Sealer(keys, max_values=100)

    async def work() -> None:
        await sealer.ready(80)
        for _ in range(80):
            sealer.seal(b"x")
        await sealer.ready(1)
        await asyncio.sleep(0.01)
        assert keys.asked == 1
        sealer.seal(b"x")
        await sealer.ready(1)  # 19 of 100 are left
        await until(lambda: keys.drawn == 2)
        await until(lambda: sealer._next)
        keys.trouble = AWAY  # it is there: nobody waits, though nobody answers
        await sealer.ready(19)
        assert [number(sealer) for _ in range(19)] == [1] * 19
        assert [number(sealer) for _ in range(3)] == [2] * 3
        await sealer.ready(50)
        assert number(sealer) == 2
        assert keys.asked == 2

    run(work())


def test_the_next_one_is_drawn_when_a_fifth_of_the_time_is_left() -> None:
    keys, clock = RemoteKeys(), Clock()
    sealer = Sealer(keys, clock=clock)

    async def work() -> None:
        await sealer.ready(1)
        clock.now += 2880
        await sealer.ready(1)
        await asyncio.sleep(0.01)
        assert keys.asked == 1
        clock.now += 1
        await sealer.ready(1)
        await until(lambda: sealer._next)
        await sealer.ready(1)
        assert (number(sealer), keys.asked) == (1, 2)
        clock.now += 720  # the hour is over
        await sealer.ready(1)
        assert number(sealer) == 2
        clock.now += 3600 - 720 - 720 + 1  # its hour began when it was drawn, not when it came into use
        await sealer.ready(1)
        await until(lambda: keys.asked == 3)

    run(work())


def test_a_data_key_that_lay_too_long_is_not_used() -> None:
    keys, clock = RemoteKeys(), Clock()
    sealer = Sealer(keys, clock=clock)

    async def work() -> None:
        await sealer.ready(1)
        clock.now += 3000
        await sealer.ready(1)
        await until(lambda: sealer._next)
        clock.now += 3600
        await sealer.ready(1)
        assert number(sealer) == 3

    run(work())


def test_one_draw_is_under_way_at_most() -> None:
    keys = RemoteKeys()
    sealer = Sealer(keys)

    async def work() -> None:
        keys.gate.clear()
        waiting = [asyncio.create_task(sealer.ready(5)) for _ in range(20)]
        await until(lambda: keys.asked)
        await asyncio.sleep(0.01)
        keys.gate.set()
        await asyncio.gather(*waiting)

    run(work())
    assert (keys.asked, keys.most_at_once) == (1, 1)


def test_while_it_waits_the_loop_goes_on() -> None:
    keys = RemoteKeys()
    sealer = Sealer(keys)

    async def work() -> None:
        keys.gate.clear()
        waiting = asyncio.create_task(sealer.ready(1))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done()
        keys.gate.set()
        await waiting

    run(work())


def test_away_means_on_to_the_limit_then_wait_then_on(caplog: pytest.LogCaptureFixture) -> None:
    keys, clock = RemoteKeys(), Clock()
    sealer = Sealer(keys, clock=clock, max_values=100)

    async def work() -> None:
        await sealer.ready(100)
        keys.trouble = AWAY
        for left in range(100, 0, -1):
            await sealer.ready(left)
            assert number(sealer) == 1
            if left == 10:
                await until(lambda: caplog.records)
        clock.now += 61
        waiting = asyncio.create_task(sealer.ready(1))
        asked = keys.asked
        await until(lambda: keys.asked > asked + 5)
        assert not waiting.done()
        keys.trouble = None
        await waiting
        assert number(sealer) == 2

    with caplog.at_level(logging.WARNING):
        run(work())
    assert [record.getMessage() for record in caplog.records] == [sealing._GOES_ON, sealing._WAITS]
    assert {record.__dict__["error"] for record in caplog.records} == {AWAY.message}


def test_the_hour_is_kept_while_nobody_answers() -> None:
    keys, clock = RemoteKeys(), Clock()
    sealer = Sealer(keys, clock=clock, give_up_s=0.05)

    async def work() -> None:
        await sealer.ready(1)
        keys.trouble = AWAY
        clock.now += 3594
        await sealer.ready(1)
        assert number(sealer) == 1
        clock.now += 2  # four seconds are left, too few to be sure that a batch is sealed within
        with pytest.raises(UnreachableError):
            await sealer.ready(1)
        clock.now += 4
        with pytest.raises(UnreachableError):
            sealer.seal(b"x")
        with pytest.raises(OpenError):
            sealer._encrypt(bytes(12), b"x", None)

    run(work())


def test_giving_up_says_for_how_long_and_why() -> None:
    keys = RemoteKeys()
    keys.trouble = AWAY
    sealer = Sealer(keys, give_up_s=0.05)
    with pytest.raises(UnreachableError) as caught:
        run(sealer.ready(1))
    assert caught.value.message == "no new data key for 0.05 s (KMS does not answer (ThrottlingException))"
    assert "nothing is lost" in caught.value.hint
    assert sealer.failures["away"] > 0 == sealer.failures["refused"]


def test_giving_up_on_a_service_that_hangs() -> None:
    keys = RemoteKeys()
    sealer = Sealer(keys, give_up_s=0.02)

    async def work() -> None:
        keys.gate.clear()
        try:
            with pytest.raises(UnreachableError, match="no answer yet"):
                await sealer.ready(1)
        finally:
            keys.gate.set()

    run(work())


def test_a_refusal_is_raised_at_once_when_a_key_is_needed() -> None:
    keys = RemoteKeys()
    keys.trouble = DENIED
    sealer = Sealer(keys)
    for asked in (1, 2):
        with pytest.raises(ConfigError) as caught:
            run(sealer.ready(1))
        assert caught.value is DENIED
        assert keys.asked == asked
    assert sealer.failures == {"away": 0, "refused": 2}


def test_a_refusal_ahead_of_need_is_told_and_the_key_in_use_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "_PAUSE_MOST_S", 30.0)
    keys, clock = RemoteKeys(), Clock()
    sealer = Sealer(keys, clock=clock)

    async def work() -> None:
        await sealer.ready(1)
        keys.trouble = DENIED
        clock.now += 3000
        for _ in range(50):
            await sealer.ready(1)
            await asyncio.sleep(0.001)
            assert number(sealer) == 1
        assert keys.asked == 2  # not once for every batch
        clock.now += 30
        await sealer.ready(1)
        await until(lambda: keys.asked == 3)
        clock.now += 600
        with pytest.raises(ConfigError):
            await sealer.ready(1)

    with caplog.at_level(logging.WARNING):
        run(work())
    assert caplog.records[0].getMessage() == sealing._GOES_ON
    assert caplog.records[0].__dict__["error"] == DENIED.message


def test_warnings_come_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    keys, clock = RemoteKeys(), Clock()
    keys.trouble = AWAY
    sealer = Sealer(keys, clock=clock)

    async def work() -> None:
        waiting = asyncio.create_task(sealer.ready(1))
        await until(lambda: keys.asked > 10)
        assert len(caplog.records) == 1
        clock.now += 60
        await until(lambda: len(caplog.records) == 2)
        waiting.cancel()

    with caplog.at_level(logging.WARNING):
        run(work())


def test_a_key_service_that_is_back_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    keys, clock = RemoteKeys(), Clock()
    keys.trouble = AWAY
    sealer = Sealer(keys, clock=clock)

    async def work() -> None:
        waiting = asyncio.create_task(sealer.ready(1))
        await until(lambda: keys.asked > 3)
        clock.now += 42
        await until(lambda: keys.asked > 6)
        keys.trouble = None
        await waiting
        for _ in range(3):
            sealer.retire()
            await sealer.ready(1)

    with caplog.at_level(NOTICE):
        run(work())
    told = [record for record in caplog.records if record.levelno == NOTICE]
    assert [record.getMessage() for record in told] == ["the key service gives data keys again"]
    assert told[0].__dict__["seconds"] == 42
    assert not sealer.in_trouble


def test_who_stops_waiting_does_not_stop_the_draw() -> None:
    keys = RemoteKeys()
    sealer = Sealer(keys)

    async def work() -> None:
        keys.gate.clear()
        waiting = asyncio.create_task(sealer.ready(1))
        await until(lambda: keys.asked)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        keys.gate.set()
        await sealer.ready(1)

    run(work())
    assert keys.asked == 1


def test_a_mistake_of_the_provider_is_not_waited_out() -> None:
    keys, clock = RemoteKeys(), Clock()
    sealer = Sealer(keys, clock=clock)

    async def work() -> None:
        await sealer.ready(1)
        keys.trouble = KeyError("mistake")
        clock.now += 3000
        await sealer.ready(1)
        await until(lambda: sealer._drawing is not None and sealer._drawing.done())
        with pytest.raises(KeyError):
            await sealer.ready(1)

    run(work())


def test_a_second_loop_begins_anew() -> None:
    keys = RemoteKeys()
    sealer = Sealer(keys)

    async def left() -> None:
        keys.gate.clear()
        waiting = asyncio.create_task(sealer.ready(1))
        await until(lambda: keys.asked)
        keys.gate.set()
        waiting.cancel()

    run(left())
    run(sealer.ready(1))
    assert number(sealer) in {1, 2}, "the thread that was left may draw before or after that of the second loop"


def test_a_child_begins_with_nothing() -> None:
    keys, clock = RemoteKeys(), Clock()
    sealer = Sealer(keys, clock=clock)

    async def work() -> None:
        await sealer.ready(1)
        clock.now += 3000
        await sealer.ready(1)
        await until(lambda: sealer._next)
        sealing._after_fork()
        assert (sealer._next, sealer._drawing, sealer._left) == (None, None, 0)
        await sealer.ready(1)
        assert number(sealer) == 3

    run(work())


def test_sealing_without_ready_still_draws() -> None:
    keys = RemoteKeys()
    sealer = Sealer(keys, max_values=2)
    assert [number(sealer) for _ in range(5)] == [1, 1, 2, 2, 3]
    keys.trouble = AWAY
    sealer.seal(b"x")
    with pytest.raises(CoatcheckError):
        sealer.seal(b"x")
