"""A server process in a folder of its own, on a loopback port of its own, that ends together with this process.

A guard (`demo.guard`) owns the folder and the process, so both are gone when this process is, however it ends. Nothing
of the user's environment (AWS_*, PG*, LC_*, proxies) reaches a server.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from coatcheck.errors import UnreachableError

LOOPBACK = "127.0.0.1"
START_LIMIT = 60.0
"""Seconds a server may take to answer; a busy machine takes many times the usual second."""
PORT_ATTEMPTS = 5
PORTS = range(20000, 32000)
"""Below the ranges from which Linux and macOS take the ports of outgoing connections."""
LONGEST_TEMP = 60
"""A longer temporary folder would not leave room for a socket's name: macOS ends it at 103 bytes."""


def free_port() -> int:
    """Return a loopback port that is free at this moment."""
    for _ in range(100):
        port = PORTS[secrets.randbelow(len(PORTS))]
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise UnreachableError(f"no free port on {LOOPBACK}", hint="is the loopback interface up?")


class Server(ABC):
    """One server process in a folder of its own, with a guard that ends it together with this process.

    As a context manager it stops at the end of the block.
    """

    label: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    patience: ClassVar[float] = 5.0

    def __init__(self) -> None:
        self.port = 0
        self.pid = 0
        self.folder = Path()
        self._mark = 0
        self._user: tuple[int, int] | None = None
        self._guard: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log_path(self) -> Path:
        """The server's own log, readable while it runs."""
        return self.folder / "server.log"

    def start(self) -> Self:
        """Start and wait until it answers. After `kill` it comes back on the same port, with the same data."""
        if self._guard and self._ask("state") == "running":
            return self
        try:
            if self._guard is None:
                self._found()
                self._prepare()
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop and remove the folder; nothing happens if it is not running."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        self._hang_up(guard)
        try:
            guard.wait(self.patience + START_LIMIT)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()
        self.port = self.pid = 0

    def restart(self) -> None:
        """Stop in good order and start again, same port, same data (SQS keeps none)."""
        self._ask("stop")
        self.start()

    def kill(self) -> None:
        """End the server as a crash does (SIGKILL); returns when its last process is gone. `start` brings it back."""
        self._ask("kill")

    def _found(self) -> None:
        """Create the folder and the guard that owns it."""
        temporary = tempfile.gettempdir()
        if len(temporary) > LONGEST_TEMP:
            temporary = "/tmp"  # noqa: S108 - it exists everywhere, and mkdtemp makes a private folder
        self.folder = Path(tempfile.mkdtemp(prefix="coatcheck-", dir=temporary))
        self._guard = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd="/",
            start_new_session=True,  # a Ctrl-C in the terminal is the owner's business
        )

    def _prepare(self) -> None:  # noqa: B027 - most servers have nothing to prepare
        """Do what has to be done once, before the first launch."""

    @abstractmethod
    def _command(self, port: int) -> list[str]:
        """Return the command that serves on `port`."""

    @abstractmethod
    def _answers(self, port: int) -> bool:
        """Tell whether it is ours that answers on `port`."""

    def _environment(self, port: int) -> dict[str, str]:  # noqa: ARG002 - for the servers that take it from there
        kept = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
        folder = str(self.folder)
        return {name: os.environ[name] for name in kept if name in os.environ} | {
            "HOME": folder,
            "TMPDIR": folder,
            "LC_ALL": "C",
            "TZ": "UTC",
        }

    def _words(self) -> str:
        """Return what the server has logged since its last launch."""
        with self.log_path.open("rb") as log:
            log.seek(self._mark)
            return log.read().decode(errors="replace")

    def _launch(self) -> None:
        for _ in range(1 if self.port else PORT_ATTEMPTS):
            port = self.port or free_port()
            self._mark = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._order(self._command(port), port, self.log_path)
            if self._comes_up(port):
                self.port = port
                return
            if "already in use" not in self._words():
                break
        raise UnreachableError(f"the embedded {self.label} did not start", hint=last_words(self._words()))

    def _comes_up(self, port: int) -> bool:
        deadline = time.monotonic() + START_LIMIT
        while time.monotonic() < deadline and self._ask("state") == "running":
            if self._answers(port):
                return True
            time.sleep(0.01)
        return False

    def _order(self, command: list[str], port: int, log: Path) -> None:
        answer = self._ask(
            "start",
            command=command,
            environment=self._environment(port),
            user=self._user,
            log=str(log),
            signal=int(self.stop_signal),
            patience=self.patience,
        )
        word, _, rest = answer.partition(" ")
        if word != "started":
            raise UnreachableError(f"the embedded {self.label} did not start", hint=rest)
        self.pid = int(rest)

    def _ask(self, do: str, **details: object) -> str:
        answer = ""
        if self._guard and self._guard.stdin and self._guard.stdout:
            try:
                self._guard.stdin.write(json.dumps({"do": do, **details}) + "\n")
                self._guard.stdin.flush()
                answer = self._guard.stdout.readline().rstrip("\n")
            except BrokenPipeError:
                pass
        if not answer:
            raise UnreachableError(f"the embedded {self.label} is not running", hint="start it first")
        return answer

    @staticmethod
    def _hang_up(guard: subprocess.Popen[str]) -> None:
        for pipe in (guard.stdin, guard.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def last_words(words: str) -> str:
    """Return the last lines of a program's output, on one line."""
    return " | ".join(line.strip() for line in words.strip().splitlines()[-3:])
