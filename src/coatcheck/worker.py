"""One worker process, which is of one pipeline: an event loop, signals, and a runner until it ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from coatcheck import app, telemetry
from coatcheck.config import Config
from coatcheck.errors import INTERRUPTED, CoatcheckError
from coatcheck.loop import in_thread, run_async
from coatcheck.ops import logs
from coatcheck.ops.endpoint import Endpoint
from coatcheck.ops.metrics import ByPipeline, Metrics
from coatcheck.pipeline.message import Counts
from coatcheck.pipeline.ports import Tracer
from coatcheck.pipeline.runner import Runner
from coatcheck.sources.queue_address import read_address
from coatcheck.version import __version__

_log = logging.getLogger(__name__)
_FIRST_LOOK_S, _LOOK_S, _LOOK_IDLE_S = 3.0, 60.0, 600.0
_COLLECT = (100_000, 20, 100)
"""When cycles are looked for. Messages, rows and batches hold none: the collector would only walk what is in flight,
which costs 5 % at Python's own thresholds."""


def say_started(config: Config, *, workers: int) -> None:
    """Log which version starts, and what it loads from where; names only, no address and no secret."""
    queue = read_address(config.source.queue)
    names = {"pipeline": config.pipeline, "queue": queue.name, "table": config.target.table}
    logs.announce(_log, "coatcheck is starting", version=__version__, workers=workers, **names)


Tick = Callable[[Counts, Metrics], None]


def run_worker(config: Config, *, drain: bool, tick: Tick, tick_s: float = 0.2, place: int | None = None) -> Counts:
    """Run a worker until SIGTERM, SIGINT or, with `drain`, until the queue stays empty; return what it did.

    The first signal ends it gracefully, a second one at once (exit code 130). `tick` gets counts and metrics every
    `tick_s` seconds. With a `place`, which is its number among its pipeline's workers, it also ends when its standard
    input closes, that is when its supervisor is gone, and serves and exports no metrics itself. Raises
    CoatcheckError.
    """
    metrics = Metrics()
    metrics.set("coatcheck_start_timestamp_seconds", time.time())
    metrics.set("coatcheck_workers", 1)
    metrics.watch("coatcheck_resident_memory_bytes", resident_bytes)
    listen = config.metrics.listen if place is None else ""

    def read() -> ByPipeline:
        return {config.pipeline: metrics.snapshot()}

    with (
        Endpoint(listen, read) if listen else nullcontext(),
        telemetry.exporting(config, read=read if place is None else None) as tracer,
    ):
        return run_async(
            _run(config, drain=drain, tick=tick, tick_s=tick_s, place=place, metrics=metrics, tracer=tracer)
        )


async def _run(
    config: Config, *, drain: bool, tick: Tick, tick_s: float, place: int | None, metrics: Metrics, tracer: Tracer
) -> Counts:
    stop = _Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.signalled)
    if place is not None:
        loop.add_reader(sys.stdin.fileno(), stop.orphaned)
    starting = in_thread(lambda: app.runner(config, drain=drain, metrics=metrics, tracer=tracer))
    either: tuple[asyncio.Future[Any], ...] = (starting, stop.asked)
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        return Counts()
    runner = starting.result()
    stop.attach(runner)
    gc.freeze()  # what is there by now stays
    gc.set_threshold(*_COLLECT)
    beside = [asyncio.create_task(_tick(runner.counts, metrics, tick, tick_s))]
    if config.watched and not place:  # one of a pipeline's workers is enough
        beside.append(asyncio.create_task(_look_at_queue(runner, metrics)))
        beside.append(asyncio.create_task(_look_around(config, runner, metrics)))
    try:
        return await runner.run(drain=drain)
    finally:
        for task in beside:
            task.cancel()


async def _tick(counts: Counts, metrics: Metrics, tick: Tick, tick_s: float) -> None:
    while True:
        metrics.set("coatcheck_heartbeat_timestamp_seconds", time.time())
        tick(counts, metrics)
        await asyncio.sleep(tick_s)


async def _look_at_queue(runner: Runner, metrics: Metrics) -> None:
    """Ask for the queue's counts, more often while messages come: each time is a request that costs money."""
    received, looked_at = -1, float("-inf")
    await asyncio.sleep(_FIRST_LOOK_S)
    while True:
        if runner.counts.received != received or time.monotonic() - looked_at >= _LOOK_IDLE_S:
            received, looked_at = runner.counts.received, time.monotonic()
            with suppress(CoatcheckError):  # what is wrong with SQS the receives tell
                depth = await runner.depth()
                metrics.set("coatcheck_queue_messages", depth.visible, "visible")
                metrics.set("coatcheck_queue_messages", depth.in_flight, "in_flight")
                metrics.set("coatcheck_queue_messages", depth.delayed, "delayed")
                metrics.set("coatcheck_queue_counts_timestamp_seconds", time.time())
        await asyncio.sleep(_LOOK_S)


async def _look_around(config: Config, runner: Runner, metrics: Metrics) -> None:
    """Tell what the road itself does not see: dead letters, quarantine, desk, partitions, certificate."""
    await asyncio.sleep(_FIRST_LOOK_S)
    while True:
        with suppress(CoatcheckError):  # of the store of secrets, say: at the next look it may answer
            for name, label, value in await in_thread(lambda: app.database_figures(config)):
                metrics.set(name, value, label)
        with suppress(CoatcheckError):
            dead = await runner.dead_letters()
            if dead is not None:
                metrics.set("coatcheck_dead_letters", dead)
        await asyncio.sleep(_LOOK_IDLE_S)


def resident_bytes() -> float:
    """Return the memory of this process: what is resident now, where the system does not tell the most there was."""
    with suppress(OSError, ValueError):
        return float(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


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
