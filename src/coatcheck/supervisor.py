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
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import fields
from operator import index

from coatcheck.errors import INTERRUPTED, CoatcheckError, ConfigError, RefusedError, UnreachableError
from coatcheck.loop import run_async
from coatcheck.ops.endpoint import Endpoint
from coatcheck.ops.metrics import CATALOGUE, Metrics, Sample, merge, outlasts
from coatcheck.pipeline.message import Counts

_log = logging.getLogger(__name__)
_FINAL = {error.exit_code: error for error in (ConfigError, RefusedError)}
_BACKOFF_FIRST_S, _BACKOFF_MOST_S = 0.5, 30.0
_STABLE_S = 60.0
_COUNTED = tuple(field.name for field in fields(Counts) if field.name != "seconds")


def supervise(
    arguments: Sequence[str],
    *,
    workers: int,
    drain: bool,
    tick: Callable[[Counts], None],
    listen: str = "",
    export: Callable[[Callable[[], list[Sample]]], AbstractContextManager[object]] = nullcontext,
) -> Counts:
    """Run `workers` processes of `coatcheck ARGUMENTS --place N` until stopped, or with `drain` until each has drained.

    Returns the sum of what they did, and serves their metrics, added up, on `listen` (empty: nowhere); the block of
    `export` is given what returns them. Raises the CoatcheckError of a worker that no restart mends (exit codes 2 and
    4), and with `drain` also UnreachableError (3).
    """
    supervisor = _Supervisor(arguments, drain=drain, tick=tick)
    with Endpoint(listen, supervisor.samples) if listen else nullcontext(), export(supervisor.samples):
        return run_async(supervisor.run(workers))


class _Supervisor:
    def __init__(self, arguments: Sequence[str], *, drain: bool, tick: Callable[[Counts], None]) -> None:
        # -P: without it, -m would import from the current folder first, into the process that holds the keys
        self._command = [sys.executable, "-P", "-m", "coatcheck", *arguments]
        self._final = _FINAL | ({UnreachableError.exit_code: UnreachableError} if drain else {})
        self._drain = drain
        self._tick = tick
        self._processes: set[asyncio.subprocess.Process] = set()
        self._counts: dict[int, dict[str, int]] = {}
        self._samples: dict[int, list[Sample]] = {}
        self._left: list[Sample] = []
        self._metrics = Metrics()
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

    def samples(self) -> list[Sample]:
        """Return the metrics of all workers as those of one, and of those that have ended what they had counted."""
        return merge([self._metrics.snapshot(), self._left, *list(self._samples.values())])

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
        """Keep one worker running until all are to stop, it has drained, or it ends in a way that no restart mends."""
        wait_s = _BACKOFF_FIRST_S
        while not self._stopping.is_set():
            since = time.monotonic()
            what, why = await self._one_and_why(place)
            if not what or self._stopping.is_set():
                return
            wait_s = _BACKOFF_FIRST_S if time.monotonic() - since > _STABLE_S else wait_s
            _log.warning(what, extra={"worker": place} | why)
            self._metrics.add("coatcheck_worker_restarts_total")
            try:
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            except TimeoutError:
                wait_s = min(wait_s * 2, _BACKOFF_MOST_S)

    async def _one_and_why(self, place: int) -> tuple[str, dict[str, object]]:
        """Run a worker; return what to say of its end, and its fields; nothing if that is as it should be."""
        try:
            code = await self._one(place)
        except Exception as error:  # noqa: BLE001 - whatever it was (no process to be had, no memory), the next try may do
            return "a worker cannot be followed and is started again", {"error": type(error).__name__}
        if code in self._final and not self._stopping.is_set():
            self._stop()
            raise self._final[code](
                f"worker {place} has stopped with exit code {code}", hint="its own message stands above"
            )
        if code == 0:  # without `drain`, somebody else has stopped it
            return "" if self._drain else "a worker has ended and is started again", {"exit_code": code}
        return "a worker has died and is started again", {"exit_code": code}

    async def _one(self, place: int) -> int:
        """Start a worker, follow its counts, and return its exit code."""
        self._launches += 1
        launch = self._launches
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *("--place", str(place)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._processes.add(process)
        if self._stopping.is_set():  # while it was being started
            _tell(process, signal.SIGTERM)
        if process.stdout is None:
            raise CoatcheckError("a worker has no output")
        try:
            async for line in process.stdout:
                self._take_note(launch, line)
            return await process.wait()
        except Exception:
            _tell(process, signal.SIGTERM)
            await process.communicate()  # it may only be able to end when somebody takes what it says
            raise
        finally:
            self._processes.discard(process)
            left = [sample for sample in self._samples.pop(launch, []) if outlasts(sample)]
            self._left = merge([self._left, left])

    def _take_note(self, launch: int, line: bytes) -> None:
        """Take in a worker's counts. What is none is passed over: for a line of output no messages need to wait."""
        try:
            counts = {"suppressed": 0} | json.loads(line)  # which stands there only if there are any
            self._counts[launch] = {name: index(counts[name]) for name in _COUNTED}
            if "metrics" in counts:
                told = [(name, label, value) for name, label, value in counts["metrics"]]
                self._samples[launch] = [sample for sample in told if sample[0] in CATALOGUE]  # it may be a newer one
            self._tick(self._total())
        except Exception as error:  # noqa: BLE001 - its text would show the line
            _log.warning("a worker's counts are passed over", extra={"error": type(error).__name__})

    def _total(self) -> Counts:
        return Counts(**{name: sum(counts[name] for counts in self._counts.values()) for name in _COUNTED})


def _tell(process: asyncio.subprocess.Process, number: int) -> None:
    """Send a signal, if the process still runs.

    Not by `process.send_signal`: Python 3.11's polls the process first, and when it has just ended the poll takes its
    exit code from whoever waits for it, who then reports 255 (github.com/python/cpython/issues/87744).
    """
    if process.returncode is None:
        with suppress(ProcessLookupError):  # it has ended this very moment
            os.kill(process.pid, number)
