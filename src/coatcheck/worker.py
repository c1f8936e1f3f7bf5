"""One worker process: an event loop, signals, and a runner until it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from coatcheck import app
from coatcheck.config import Config
from coatcheck.errors import INTERRUPTED
from coatcheck.loop import in_thread, run_async
from coatcheck.pipeline.message import Counts
from coatcheck.pipeline.runner import Runner

_log = logging.getLogger(__name__)
_COLLECT = (100_000, 20, 100)
"""When cycles are looked for. Messages, rows and batches hold none: the collector would only walk what is in flight,
which costs 5 % at Python's own thresholds."""


def run_worker(
    config: Config, *, drain: bool, tick: Callable[[Counts], None], tick_s: float = 0.2, supervised: bool = False
) -> Counts:
    """Run a worker until SIGTERM, SIGINT or, with `drain`, until the queue stays empty; return what it did.

    The first signal ends it gracefully, a second one at once (exit code 130). `tick` gets the counts every `tick_s`
    seconds. A `supervised` worker also ends when its standard input closes, that is when its supervisor is gone.
    Raises CoatcheckError.
    """
    return run_async(_run(config, drain=drain, tick=tick, tick_s=tick_s, supervised=supervised))


async def _run(
    config: Config, *, drain: bool, tick: Callable[[Counts], None], tick_s: float, supervised: bool
) -> Counts:
    stop = _Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.signalled)
    if supervised:
        loop.add_reader(sys.stdin.fileno(), stop.orphaned)
    starting = in_thread(lambda: app.runner(config, drain=drain))
    either: tuple[asyncio.Future[Any], ...] = (starting, stop.asked)
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        return Counts()
    runner = starting.result()
    stop.attach(runner)
    gc.freeze()  # what is there by now stays
    gc.set_threshold(*_COLLECT)
    ticker = asyncio.create_task(_tick(runner.counts, tick, tick_s))
    try:
        return await runner.run(drain=drain)
    finally:
        ticker.cancel()


async def _tick(counts: Counts, tick: Callable[[Counts], None], tick_s: float) -> None:
    while True:
        tick(counts)
        await asyncio.sleep(tick_s)


class _Stop:
    """Turns signals into a graceful end, and a second signal into an immediate one."""

    def __init__(self) -> None:
        self._runner: Runner | None = None
        self.asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def attach(self, runner: Runner) -> None:
        self._runner = runner
        if self.asked.done():
            runner.stop()

    def signalled(self) -> None:
        if self.asked.done():
            os._exit(INTERRUPTED)
        self.asked.set_result(None)
        _log.info("stopping: no more receiving, finishing what is in progress")
        if self._runner is not None:
            self._runner.stop()

    def orphaned(self) -> None:
        with suppress(OSError):
            if os.read(sys.stdin.fileno(), 1):
                return
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        if not self.asked.done():
            self.signalled()
