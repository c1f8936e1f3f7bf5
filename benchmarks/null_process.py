"""Starts the null SQS server as a process of its own and reads its counters."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS = 10
LOOK_SECONDS = 0.2


class Stats(msgspec.Struct, frozen=True):
    """What the server counted; `elapsed` is from the first message handed out to the last delete."""

    received: int
    deleted: int
    waiting: int
    in_flight: int
    sent: int
    requests: dict[str, int]
    empty_receives: int
    elapsed: float
    errors: int
    cpu_seconds: float


class Timeline(msgspec.Struct, frozen=True):
    """By bins of `bin_s` seconds: requests, messages handed out, and the most receives under way at once."""

    bin_s: float
    requests: list[int]
    received: list[int]
    polls: list[int]


class _Ready(msgspec.Struct):
    """The line that the server prints when it serves."""

    port: int
    url: str


class NullSqsProcess:
    """A running null SQS server."""

    def __init__(self, *, port: int, url: str) -> None:
        self.port = port
        self.url = url

    def stats(self) -> Stats:
        """Ask the server for its counters."""
        return msgspec.json.decode(self._ask("GET", "/stats"), type=Stats)

    def timeline(self) -> Timeline:
        """Ask what happened when, up to now."""
        return msgspec.json.decode(self._ask("GET", "/timeline"), type=Timeline)

    def latencies_ms(self) -> list[float]:
        """Ask how long each deleted message took from its arrival to its delete."""
        return msgspec.json.decode(self._ask("GET", "/latencies"), type=list[float])

    def start(self) -> None:
        """Let messages arrive that were held."""
        self._ask("POST", "/start")

    def wait(self, until: Callable[[Stats], bool], seconds: float) -> Stats:
        """Wait until the counters are so. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not until(stats := self.stats()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {seconds:g} s the null SQS server still counts {stats}")
            time.sleep(LOOK_SECONDS)
        return stats

    def _ask(self, method: str, path: str) -> bytes:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        finally:
            connection.close()


@contextmanager
def null_sqs(**options: float) -> Iterator[NullSqsProcess]:
    """Run a null SQS server; the options are those of its command line, as `latency_ms=20`."""
    command = [sys.executable, "-m", "benchmarks.null_sqs"]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:  # closes its standard input, which ends the server, and waits
        try:
            line = process.stdout.readline() if process.stdout else b""
            if not line:
                raise RuntimeError("the null SQS server did not start")
            ready = msgspec.json.decode(line, type=_Ready)
            yield NullSqsProcess(port=ready.port, url=ready.url)
        finally:
            if process.stdin:
                process.stdin.close()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
