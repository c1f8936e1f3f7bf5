"""What a process and its descendants cost: CPU by `wait4`, memory and the CPU of PostgreSQL from /proc.

CPU is user plus system time of the process and of every descendant that was waited for. Memory is the
kernel's own high-water mark (VmHWM), read ten times a second: what is added in the last 100 ms is missed.
`ru_maxrss` would need no reading, but a process inherits it from whoever started it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import resource
    from collections.abc import Iterator, Mapping, Sequence

PROC = Path("/proc")
POLL_SECONDS = 0.01
MEMORY_EVERY = 10  # polls
REFERENCE_STRINGS = 200_000
REFERENCE_TRIES = 3


@dataclass(frozen=True, slots=True)
class Usage:
    """What a finished command cost: `rss_mb` of its largest process, `rss_total_mb` the sum of all peaks."""

    exit_code: int
    cpu_seconds: float
    wall_seconds: float
    rss_mb: float
    rss_total_mb: float


@dataclass(slots=True)
class Memory:
    """The resident set of each process of a tree in kB: the highest so far, and that of the last reading."""

    peaks: dict[int, int] = field(default_factory=dict)
    now: dict[int, int] = field(default_factory=dict)

    def read(self, pid: int) -> None:
        """Note the memory of a process and its descendants; nothing where there is no /proc."""
        self.now.clear()
        for member in [pid, *descendants(pid)]:
            with contextlib.suppress(OSError):  # ended meanwhile
                self._note(member, (PROC / str(member) / "status").read_text())

    def _note(self, pid: int, status: str) -> None:
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                self.peaks[pid] = max(self.peaks.get(pid, 0), int(line.split()[1]))
            elif line.startswith("VmRSS:"):
                self.now[pid] = int(line.split()[1])


class Running:
    """A command that runs, in a session of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._began = time.perf_counter()
        self._memory = Memory()

    @property
    def ended(self) -> bool:
        """Whether it was waited for."""
        return self._process.returncode is not None

    def rss_mb(self) -> float:
        """Return the memory that its largest process has now; 0 where there is no /proc."""
        self._memory.read(self._process.pid)
        return max(self._memory.now.values(), default=0) * 1024 / 1e6

    def cpu_seconds(self) -> float | None:
        """Return the CPU that it and its descendants have used so far, in steps of 10 ms; None without /proc."""
        return tree_cpu_seconds(self._process.pid)

    def stop(self, timeout: float) -> Usage:
        """Ask it to end, and wait."""
        self._memory.read(self._process.pid)
        self._process.terminate()
        return self.wait(timeout)

    def wait(self, timeout: float) -> Usage:
        """Wait until it ends and tell what it cost; after `timeout` seconds it is killed, and the exit code is -9."""
        status, usage = _wait(self._process.pid, time.perf_counter() + timeout, self._memory)
        wall = time.perf_counter() - self._began
        self._process.returncode = os.waitstatus_to_exitcode(status)  # it was waited for: tell its object
        fallback = usage.ru_maxrss if sys.platform != "darwin" else usage.ru_maxrss // 1024  # macOS counts bytes
        peaks = list(self._memory.peaks.values()) or [fallback]
        return Usage(
            exit_code=self._process.returncode,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            wall_seconds=wall,
            rss_mb=max(peaks) * 1024 / 1e6,
            rss_total_mb=sum(peaks) * 1024 / 1e6,
        )


@contextmanager
def started(command: Sequence[str], *, environment: Mapping[str, str], folder: Path) -> Iterator[Running]:
    """Start a command in a folder, its output in the files `stdout` and `stderr` there.

    If it still runs at the end it is killed with all it started.
    """
    with (folder / "stdout").open("wb") as output, (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
    running = Running(process)
    try:
        yield running
    finally:
        if not running.ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_measured(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    folder: Path,
    timeout: float,
) -> Usage:
    """Run a command in a folder, its output in the files `stdout` and `stderr` there, and tell what it cost.

    What still runs after `timeout` seconds is killed with all it started; the exit code is -9 then.
    """
    with started(command, environment=environment, folder=folder) as running:
        return running.wait(timeout)


def _wait(pid: int, deadline: float, memory: Memory) -> tuple[int, resource.struct_rusage]:
    """Wait for a process, reading its memory meanwhile."""
    polls = 0
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return status, usage
        if polls % MEMORY_EVERY == 0:
            memory.read(pid)
        if time.perf_counter() > deadline:
            os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            return status, usage
        polls += 1
        time.sleep(POLL_SECONDS)


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and theirs; empty where there is no /proc."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # the process or one of its threads ended meanwhile
        for children in (PROC / str(pid) / "task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                found += [child, *descendants(child)]
    return found


def tree_cpu_seconds(pid: int) -> float | None:
    """Return the CPU of a process, its ended children and its living descendants; None without /proc."""
    ticks = 0
    for member in [pid, *descendants(pid)]:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, _stat(member)[11:15]))  # utime, stime, and those of ended children
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else None


def parent(pid: int) -> int | None:
    """Return the parent of a process; None without /proc."""
    try:
        return int(_stat(pid)[1])
    except OSError:
        return None


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat that follow the name, which may hold spaces."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def reference_loop_ms() -> float:
    """Return the CPU time to hash 200,000 small strings, best of three: how fast this machine is now."""
    strings = [f"value {number}".encode() for number in range(REFERENCE_STRINGS)]
    times: list[float] = []
    for _ in range(REFERENCE_TRIES):
        start = time.process_time()
        for string in strings:
            hashlib.sha256(string).hexdigest()
        times.append(time.process_time() - start)
    return min(times) * 1000
