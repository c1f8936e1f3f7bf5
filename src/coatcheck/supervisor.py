"""Several workers on one machine: start them, restart what dies, add up what they did.

Workers share nothing but the queue and the database; each is of one pipeline. Each gets a pipe as standard input; when
the supervisor is gone, even by kill -9, the pipes close and the workers stop gracefully.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, fields
from operator import index

from coatcheck.errors import INTERRUPTED, CoatcheckError, ConfigError, RefusedError, UnreachableError
from coatcheck.loop import run_async
from coatcheck.ops.endpoint import Endpoint
from coatcheck.ops.metrics import CATALOGUE, ByPipeline, Metrics, Sample, merge, outlasts
from coatcheck.pipeline.message import Counts

_log = logging.getLogger(__name__)
_FINAL = {error.exit_code: error for error in (ConfigError, RefusedError)}
_BACKOFF_FIRST_S, _BACKOFF_MOST_S = 0.5, 30.0
_STABLE_S = 60.0
_COUNTED = tuple(field.name for field in fields(Counts) if field.name != "seconds")

Tick = Callable[[Counts], None]
Export = Callable[[Callable[[], ByPipeline]], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Supervised:
    """What the workers did, by pipeline; `ended` is the error of the first pipeline that no restart cures, if any."""

    counts: dict[str, Counts]
    ended: CoatcheckError | None = None

    @property
    def total(self) -> Counts:
        """What all of them did; they ran side by side."""
        total = _sum(self.counts.values())
        total.seconds = max((counts.seconds for counts in self.counts.values()), default=0.0)
        return total


def supervise(
    commands: Mapping[str, Sequence[str]],
    *,
    workers: int,
    drain: bool,
    tick: Tick,
    listen: str = "",
    export: Export = nullcontext,
) -> Supervised:
    """Run `workers` processes of `coatcheck ARGUMENTS --place N` for each pipeline of `commands` until stopped.

    With `drain` they run until each has drained. What they measure is served on `listen` (empty: nowhere), added up by
    pipeline; the block of `export` is given what returns it. A pipeline ends by itself when a worker ends in a way that
    no restart cures (exit codes 2 and 4, with `drain` also 3); the others go on, and its error is in the answer if
    there is nothing left to go on, or with `drain`.
    """
    supervisors = _Supervisors(commands, drain=drain, tick=tick)
    with Endpoint(listen, supervisors.samples) if listen else nullcontext(), export(supervisors.samples):
        return run_async(supervisors.run(workers))


class _Supervisors:
    """One supervisor for each pipeline, and the signals that are for all of them."""

    def __init__(self, commands: Mapping[str, Sequence[str]], *, drain: bool, tick: Tick) -> None:
        self._drain = drain
        self._each = [
            _Supervisor(pipeline, arguments, drain=drain, tick=lambda _: tick(self._total()))
            for pipeline, arguments in commands.items()
        ]
        self._ended: list[CoatcheckError] = []
        self._stopping = False

    async def run(self, workers: int) -> Supervised:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        results = await asyncio.gather(*(self._follow(each, workers) for each in self._each), return_exceptions=True)
        counts: dict[str, Counts] = {}
        for each, result in zip(self._each, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            counts[each.pipeline] = result
        told = self._drain or len(self._ended) == len(self._each)
        return Supervised(counts, self._ended[0] if self._ended and told else None)

    async def _follow(self, supervisor: _Supervisor, workers: int) -> Counts:
        """Follow the workers of one pipeline to their end, whatever it is."""
        try:
            return await supervisor.run(workers)
        except CoatcheckError as error:
            if len(self._each) > 1:
                about = {"pipeline": supervisor.pipeline, "exit_code": error.exit_code}
                _log.error("a pipeline has ended and is not started again", extra=about)
                error.message = f"pipeline {supervisor.pipeline}: {error.message}"
            self._ended.append(error)
            return supervisor.total()

    def samples(self) -> ByPipeline:
        """Return the metrics of all workers, by pipeline."""
        return {each.pipeline: each.samples() for each in self._each}

    def _total(self) -> Counts:
        return _sum(each.total() for each in self._each)

    def _signalled(self) -> None:
        if self._stopping:
            for each in self._each:
                each.kill()
            os._exit(INTERRUPTED)
        self._stopping = True
        for each in self._each:
            each.stop()


class _Supervisor:
    """Keeps the workers of one pipeline running."""

    def __init__(self, pipeline: str, arguments: Sequence[str], *, drain: bool, tick: Tick) -> None:
        self.pipeline = pipeline
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
        self._began = time.monotonic()
        self._stopping = asyncio.Event()

    async def run(self, workers: int) -> Counts:
        """Run workers until stopped or drained. Raises the CoatcheckError of one that no restart cures."""
        results = await asyncio.gather(*(self._keep(place) for place in range(workers)), return_exceptions=True)
        for result in results:
            if isinstance(result, CoatcheckError):
                self._metrics.set("coatcheck_pipeline_ended", 1, str(result.exit_code))
            if isinstance(result, BaseException):
                raise result
        return self.total()

    def samples(self) -> list[Sample]:
        """Return the metrics of all workers as those of one, and of those that have ended what they had counted."""
        return merge([self._metrics.snapshot(), self._left, *list(self._samples.values())])

    def total(self) -> Counts:
        """Return what the workers have done so far."""
        total = _sum(Counts(**counts) for counts in self._counts.values())
        total.seconds = time.monotonic() - self._began
        return total

    def kill(self) -> None:
        """End all workers at once."""
        for process in self._processes:
            _tell(process, signal.SIGKILL)

    def stop(self) -> None:
        """Have all workers end gracefully."""
        self._stopping.set()
        for process in self._processes:
            _tell(process, signal.SIGTERM)  # one that is only just starting ends by it without a word

    async def _keep(self, place: int) -> None:
        """Keep one worker running until all are to stop, it has drained, or it ends in a way that no restart cures."""
        wait_s = _BACKOFF_FIRST_S
        while not self._stopping.is_set():
            since = time.monotonic()
            what, why = await self._one_and_why(place)
            if not what or self._stopping.is_set():
                return
            wait_s = _BACKOFF_FIRST_S if time.monotonic() - since > _STABLE_S else wait_s
            _log.warning(what, extra={"pipeline": self.pipeline, "worker": place} | why)
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
            self.stop()
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
            self._tick(self.total())
        except Exception as error:  # noqa: BLE001 - its text would show the line
            about = {"pipeline": self.pipeline, "error": type(error).__name__}
            _log.warning("a worker's counts are passed over", extra=about)


def _sum(every: Iterable[Counts]) -> Counts:
    counted = list(every)
    return Counts(**{name: sum(getattr(counts, name) for counts in counted) for name in _COUNTED})


def _tell(process: asyncio.subprocess.Process, number: int) -> None:
    """Send a signal, if the process still runs.

    Not by `process.send_signal`: Python 3.11's polls the process first, and when it has just ended the poll takes its
    exit code from whoever waits for it, who then reports 255 (github.com/python/cpython/issues/87744).
    """
    if process.returncode is None:
        with suppress(ProcessLookupError):  # it has ended this very moment
            os.kill(process.pid, number)
