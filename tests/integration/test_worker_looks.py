"""How often a worker asks for the queue's counts: while messages come, and seldom otherwise."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from coatcheck import app, worker
from coatcheck.errors import UnreachableError
from coatcheck.ops.metrics import Metrics
from coatcheck.pipeline.message import Counts, Depth
from coatcheck.pipeline.runner import Runner


class Asked:
    """Stands for a runner; notes when it is asked."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.at: list[float] = []
        self.now = 0.0
        self.away = False

    async def depth(self) -> Depth:
        self.at.append(self.now)
        if self.away:
            raise UnreachableError("away")
        return Depth(1, 2, 3)


def looks(runner: Asked, monkeypatch: pytest.MonkeyPatch, *, until: float, arrive: float | None = None) -> Metrics:
    """Run it on a clock of its own; with `arrive` a message comes every so many seconds."""
    metrics = Metrics()

    async def sleep(seconds: float) -> None:
        runner.now += seconds
        if arrive:
            runner.counts.received = int(runner.now / arrive)
        if runner.now > until:
            raise asyncio.CancelledError

    monkeypatch.setattr(worker, "asyncio", type("Loop", (), {"sleep": staticmethod(sleep)}))
    monkeypatch.setattr(
        worker, "time", type("Clock", (), {"monotonic": lambda: runner.now, "time": lambda: runner.now})
    )
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cast("Any", worker._look_at_queue(cast("Runner", runner), metrics)))
    return metrics


def test_once_a_minute_while_messages_come(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Asked()
    looks(runner, monkeypatch, until=600, arrive=30)
    assert runner.at == [3.0 + 60 * number for number in range(10)]


def test_seldom_when_none_come(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Asked()
    metrics = looks(runner, monkeypatch, until=3600)
    assert runner.at == [3.0 + 600 * number for number in range(6)]
    found = {label: value for name, label, value in metrics.snapshot() if name == "coatcheck_queue_messages"}
    assert found == {"visible": 1, "in_flight": 2, "delayed": 3}


def test_a_queue_that_is_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Asked()
    runner.away = True
    metrics = looks(runner, monkeypatch, until=1300)
    assert len(runner.at) == 3
    assert not [name for name, _, _ in metrics.snapshot() if name == "coatcheck_queue_messages"]


def test_a_look_that_fails_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store of secrets that has the connection string, say, does not answer once; the dead letters are told."""
    answers = iter([UnreachableError("away"), [("coatcheck_reveals", "opened", 3.0)]])
    metrics, slept = Metrics(), 0

    def look(_: Any) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def sleep(_: float) -> None:
        nonlocal slept
        slept += 1
        if slept == 3:
            raise asyncio.CancelledError

    class Dead:
        async def dead_letters(self) -> int:
            return slept

    monkeypatch.setattr(app, "database_figures", look)
    monkeypatch.setattr(worker, "asyncio", type("Loop", (), {"sleep": staticmethod(sleep)}))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(worker._look_around(cast("Any", None), cast("Runner", Dead()), metrics))
    told = {
        (name, label): value
        for name, label, value in metrics.snapshot()
        if name in ("coatcheck_reveals", "coatcheck_dead_letters")
    }
    assert told == {("coatcheck_reveals", "opened"): 3.0, ("coatcheck_dead_letters", ""): 2}
