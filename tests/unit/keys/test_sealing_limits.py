"""The numbers of sealing, each at its edge: what is kept, when a data key is too old, how long a failed draw waits."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from typing import Any

import pytest
from tests.support.builders import FakeKeys

from coatcheck.errors import UnreachableError
from coatcheck.keys import Sealer, sealing
from coatcheck.keys.sealing import pad, unpad
from coatcheck.pipeline.message import DataKey


class FarKeys(FakeKeys):
    """A provider that takes requests: `trouble` is raised `fails` times first (below 0: for ever)."""

    remote = True

    def __init__(self) -> None:
        super().__init__()
        self.trouble, self.fails = UnreachableError("away"), 0
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[int] = set()

    def new_data_key(self) -> tuple[bytes, bytes, DataKey]:
        self.threads.add(threading.get_ident())
        self.gate.wait()
        if self.fails:
            self.fails -= 1
            raise self.trouble
        return super().new_data_key()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pauses:
    """Stands for `random` in the module: notes what is asked of it, and lets nobody wait."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []

    def uniform(self, least: float, most: float) -> float:
        self.asked.append((least, most))
        return 0.0


def run(work: Any) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await work

    asyncio.run(limited())


def number(sealer: Sealer) -> int:
    """Seal, and return which data key it was under."""
    return int.from_bytes(sealer.seal(b"x").dek_id, "big")


async def next_one(sealer: Sealer) -> sealing._Ready:
    """Have the next data key drawn, and return it."""
    await sealer.ready(1)
    assert sealer._drawing is not None
    await sealer._drawing
    assert sealer._next is not None
    return sealer._next


@pytest.mark.parametrize("size", [0, 27, 28, 29, 255, 256, 257, 70_000])
def test_padding_is_length_value_and_zeros(size: int) -> None:
    padded = pad(b"x" * size)
    assert padded == size.to_bytes(4, "big") + b"x" * size + bytes(-(size + 4) % 32)
    assert unpad(padded) == b"x" * size


def test_the_limits_that_are_promised_are_those_in_use() -> None:
    defaults = {name: each.default for name, each in inspect.signature(Sealer).parameters.items()}
    assert (defaults["max_values"], defaults["max_age"], defaults["give_up_s"]) == (1_048_576, 3600, 0)


def test_the_last_4096_stored_halves_are_known() -> None:
    sealer = Sealer(FakeKeys(), max_values=1)
    ids = [sealer.seal(b"x").dek_id for _ in range(4097)]
    assert sealer.data_key(ids[1]).dek_id == ids[1]
    with pytest.raises(KeyError):
        sealer.data_key(ids[0])


def test_a_provider_that_does_not_say_is_asked_at_once() -> None:
    sealer = Sealer(FakeKeys())
    run(sealer.ready(1))
    assert sealer._drawing is None, "no thread for what takes no request"


def test_a_short_life_keeps_a_hundredth_in_reserve() -> None:
    clock = Clock()
    sealer = Sealer(FakeKeys(), clock=clock, max_age=100.0)
    for seconds, key in ((0, 1), (98.75, 1), (99, 2), (99 + 99.005, 3)):
        clock.now = 1000.0 + seconds
        run(sealer.ready(1))
        assert number(sealer) == key


def test_a_next_key_whose_life_has_just_ended_is_not_used() -> None:
    clock = Clock()
    sealer = Sealer(FarKeys(), clock=clock)

    async def work() -> None:
        await sealer.ready(1)
        clock.now += 3000
        clock.now = (await next_one(sealer)).until
        assert number(sealer) == 3

    run(work())


def test_a_next_key_that_lay_too_long_is_replaced_in_a_thread() -> None:
    keys, clock = FarKeys(), Clock()
    sealer = Sealer(keys, clock=clock)

    async def work() -> None:
        await sealer.ready(1)
        clock.now += 3000
        clock.now = (await next_one(sealer)).until + 2
        await sealer.ready(1)
        assert number(sealer) == 3

    run(work())
    assert threading.get_ident() not in keys.threads


def test_with_the_next_key_at_hand_no_other_is_drawn() -> None:
    clock = Clock()
    sealer = Sealer(FarKeys(), clock=clock)

    async def work() -> None:
        await sealer.ready(1)
        clock.now += 3000
        await next_one(sealer)
        drawing = sealer._drawing
        await sealer.ready(1)
        assert sealer._drawing is drawing

    run(work())


def test_draws_that_fail_wait_longer_and_longer_up_to_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses, keys = Pauses(), FarKeys()
    monkeypatch.setattr(sealing, "random", pauses)
    keys.fails = 8
    run(Sealer(keys).ready(1))
    assert pauses.asked == [(0.25, 0.5), (0.5, 1), (1, 2), (2, 4), (4, 8), (8, 16), (15, 30), (15, 30)]


def test_old_trouble_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "random", Pauses())
    keys = FarKeys()
    sealer = Sealer(keys, give_up_s=0.05)

    async def work() -> None:
        keys.fails = 1
        await sealer.ready(1)
        sealer.retire()
        keys.gate.clear()
        try:
            with pytest.raises(UnreachableError, match="no answer yet"):
                await sealer.ready(1)
        finally:
            keys.gate.set()

    run(work())


def test_with_one_seal_left_the_key_in_use_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "random", Pauses())
    keys = FarKeys()
    sealer = Sealer(keys, max_values=10)

    async def work() -> None:
        await sealer.ready(10)
        for _ in range(9):
            sealer.seal(b"x")
        keys.fails = 1
        await next_one(sealer)

    with caplog.at_level(logging.WARNING):
        run(work())
    assert [record.getMessage() for record in caplog.records] == [sealing._GOES_ON]
