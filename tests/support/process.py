"""The installed command as a process of its own, and waiting for things with a deadline."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

COATCHECK = Path(sys.executable).with_name("coatcheck")
LIMIT_S = 60.0
"""Seconds after which what should long have happened never will."""

_FOREIGN = ("AWS_", "COATCHECK_", "OTEL_", "PG")
_WITHOUT = ("DATABASE_URL", "PYTHONDONTWRITEBYTECODE")  # compiled anew, the command takes a tenth longer to start


def wait_until(condition: Callable[[], T], what: str, seconds: float = LIMIT_S) -> T:
    """Wait until `condition` gives something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain: {what}"
        time.sleep(0.01)
    return value


def environment(home: Path) -> dict[str, str]:
    """Return this process's environment without what leads to the machine's own queues and databases."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and not name.lower().endswith("_proxy") and name not in _WITHOUT
    } | {
        "HOME": str(home),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_COLOR": "1",
    }


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended: its exit code (negative: the signal that killed it) and what it printed."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return stdout as one JSON value."""
        return json.loads(self.out)


class Running:
    """A command that runs. What it prints goes to files, so that it never waits for a reader."""

    def __init__(self, arguments: tuple[str, ...], *, folder: Path, environment: dict[str, str], stem: str) -> None:
        self._out, self._err = folder / f"{stem}.out", folder / f"{stem}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [COATCHECK, *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self.pid = self._process.pid

    @property
    def out(self) -> str:
        """What it has printed on stdout so far."""
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """What it has printed on stderr so far."""
        return self._err.read_text(encoding="utf-8")

    def ended(self) -> bool:
        """Tell whether it has ended."""
        return self._process.poll() is not None

    def said(self, words: str) -> None:
        """Wait until it has printed these words, on stdout or on stderr."""
        wait_until(lambda: words in self.out + self.err or self.ended(), f"it says: {words}")
        assert words in self.out + self.err, f"it has ended without a word of it: {self.err[-2000:]}"

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, seconds: float = LIMIT_S) -> Done:
        """Wait for its end."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it runs on after {seconds:g} s; its last words: {self.err[-2000:]}") from None
        return Done(code, self.out, self.err)

    def kill(self) -> Done:
        """End it as a crash does."""
        self.signal(signal.SIGKILL)
        return self.wait()


class Command:
    """`coatcheck` in a folder and an environment of its own."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment(folder) | variables
        self._started: list[Running] = []
        self._pids: set[int] = set()

    def set(self, **options: object) -> None:
        """Set options by their environment variables: `RUN__DRAIN_SECONDS=2`."""
        self.environment |= {f"COATCHECK_{name}": str(value) for name, value in options.items()}

    def __call__(self, *arguments: str, code: int = 0, text: str = "", **variables: str) -> Done:
        """Run it to its end with `text` as its input, and hold its exit code against the expected one."""
        done = subprocess.run(
            [COATCHECK, *arguments],
            cwd=self.folder,
            env=self.environment | variables,
            input=text.encode("utf-8", "surrogatepass"),
            capture_output=True,
            timeout=2 * LIMIT_S,
            check=False,
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert done.returncode == code, f"coatcheck {' '.join(arguments)} ended with {done.returncode}: {out}{err}"
        return Done(done.returncode, out, err)

    def start(self, *arguments: str, **variables: str) -> Running:
        """Start it and leave it running."""
        running = Running(
            arguments,
            folder=self.folder,
            environment=self.environment | variables,
            stem=f"{arguments[0]}-{len(self._started)}",
        )
        self._started.append(running)
        return running

    def on_terminal(self, *arguments: str, typed: str = "", code: int = 0) -> str:
        """Run it to its end on a terminal of its own, and return what was to be seen there."""
        ours, its = pty.openpty()
        shown = b""
        with subprocess.Popen(
            [COATCHECK, *arguments],
            cwd=self.folder,
            env=self.environment | {"TERM": "xterm", "COLUMNS": "120"},
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        ) as process:
            os.close(its)
            os.write(ours, typed.encode())
            with suppress(OSError):  # so ends a terminal that nobody holds any more
                while chunk := os.read(ours, 65_536):
                    shown += chunk
        os.close(ours)
        assert process.returncode == code, shown
        return shown.decode().replace("\r\n", "\n")

    def through(self, filter_: str, *arguments: str) -> Done:
        """Run it with its output piped into another command; the exit code is its own."""
        line = f"set -o pipefail; {shlex.join([str(COATCHECK), *arguments])} | {filter_}"
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def drain(self) -> dict[str, Any]:
        """Load what the queue holds and return the counts."""
        counts: dict[str, Any] = self("run", "--drain", "--json").json()
        return counts

    def workers(self, supervisor: Running) -> list[int]:
        """Return the pids of the workers of a supervisor that runs."""
        pids = children(supervisor.pid)
        self._pids |= set(pids)
        return pids

    def close(self) -> None:
        """Kill what a failed test has left running."""
        for running in self._started:
            if not running.ended():
                self.workers(running)
                running.kill()
        for pid in alive(self._pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def processes() -> dict[int, int]:
    """Return the parent of every process that lives."""
    lines = _from_proc() if Path("/proc/self/stat").exists() else _from_ps()
    return {int(pid): int(parent) for pid, parent, state in lines if not state.startswith("Z")}


def _from_proc() -> Iterator[list[str]]:
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            state, parent = place.read_text().rpartition(")")[2].split()[:2]
            yield [place.parent.name, parent, state]


def _from_ps() -> Iterator[list[str]]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
    yield from (line.split() for line in listed.stdout.splitlines())


def children(pid: int) -> list[int]:
    """Return the processes that this one has started and that live."""
    return sorted(child for child, parent in processes().items() if parent == pid)


def alive(pids: Iterable[int]) -> set[int]:
    """Return those that live."""
    return set(pids) & processes().keys()


def family(pid: int) -> list[int]:
    """Return a process, its children, and theirs."""
    parents = processes()
    found = [pid] if pid in parents else []
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return found


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a server and all its processes (SIGSTOP): it is there, and says nothing."""
    stopped: list[int] = []
    try:
        while new := sorted(set(family(pid)) - set(stopped)):
            for member in new:
                os.kill(member, signal.SIGSTOP)
            stopped += new
        yield
    finally:
        for member in stopped:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGCONT)
