"""Several workers on one machine: start them, restart what dies, add up what they did.

Workers share nothing but the queue and the database. Each gets a pipe as standard input; when the supervisor is gone,
even by kill -9, the pipes close and the workers stop gracefully.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields

from coatcheck.errors import INTERRUPTED, CoatcheckError, ConfigError, RefusedError, UnreachableError
from coatcheck.loop import run_async
from coatcheck.pipeline.message import Counts

_log = logging.getLogger(__name__)
_FINAL = {error.exit_code: error for error in (ConfigError, RefusedError)}
_BACKOFF_FIRST_S, _BACKOFF_MOST_S = 0.5, 30.0
_STABLE_S = 60.0
_COUNTED = tuple(field.name for field in fields(Counts) if field.name != "seconds")


def supervise(arguments: Sequence[str], *, workers: int, drain: bool, tick: Callable[[Counts], None]) -> Counts:
    """Run `workers` processes of `coatcheck ARGUMENTS` until stopped, or with `drain` until each has drained.

    Returns the sum of what they did. Raises the CoatcheckError of a worker that no restart mends (exit codes 2 and 4),
    and with `drain` also UnreachableError (3).
    """
    return run_async(_Supervisor(arguments, drain=drain, tick=tick).run(workers))


class _Supervisor:
    def __init__(self, arguments: Sequence[str], *, drain: bool, tick: Callable[[Counts], None]) -> None:
        self._command = [sys.executable, "-m", "coatcheck", *arguments]
        self._final = _FINAL | ({UnreachableError.exit_code: UnreachableError} if drain else {})
        self._tick = tick
        self._processes: set[asyncio.subprocess.Process] = set()
        self._counts: dict[int, dict[str, int]] = {}
        self._launches = 0
        self._stopping = asyncio.Event()

    async def run(self, workers: int) -> Counts:
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        results = await asyncio.gather(*(self._keep(place) for place in range(workers)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        total = self._total()
        total.seconds = time.monotonic() - started
        return total

    def _signalled(self) -> None:
        if self._stopping.is_set():
            for process in self._processes:
                _tell(process, signal.SIGKILL)
            os._exit(INTERRUPTED)
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        for process in self._processes:
            _tell(process, signal.SIGTERM)  # one that is only just starting ends by it without a word

    async def _keep(self, place: int) -> None:
        """Keep one worker running until it ends well, or in a way that no restart mends."""
        wait_s = _BACKOFF_FIRST_S
        while not self._stopping.is_set():
            since = time.monotonic()
            code = await self._one()
            if code == 0 or self._stopping.is_set():
                return
            if code in self._final:
                self._stop()
                raise self._final[code](
                    f"worker {place} has stopped with exit code {code}", hint="its own message stands above"
                )
            wait_s = _BACKOFF_FIRST_S if time.monotonic() - since > _STABLE_S else wait_s
            _log.warning("a worker has died and is started again", extra={"worker": place, "exit_code": code})
            try:
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            except TimeoutError:
                wait_s = min(wait_s * 2, _BACKOFF_MOST_S)

    async def _one(self) -> int:
        """Start a worker, follow its counts, and return its exit code."""
        self._launches += 1
        launch = self._launches
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        self._processes.add(process)
        if self._stopping.is_set():  # while it was being started
            _tell(process, signal.SIGTERM)
        try:
            if process.stdout is None:
                raise CoatcheckError("a worker has no output")
            async for line in process.stdout:
                counts = json.loads(line)
                self._counts[launch] = {name: counts[name] for name in _COUNTED}
                self._tick(self._total())
            return await process.wait()
        finally:
            self._processes.discard(process)

    def _total(self) -> Counts:
        return Counts(**{name: sum(counts[name] for counts in self._counts.values()) for name in _COUNTED})


def _tell(process: asyncio.subprocess.Process, number: int) -> None:
    with suppress(ProcessLookupError):  # it has ended this very moment
        process.send_signal(number)
