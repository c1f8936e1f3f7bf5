"""A process that owns one folder and the server living in it, and outlives neither the server's owner nor the server.

`demo.servers` starts it as a script, so it knows the standard library only. It takes one JSON order a line on stdin
and answers each with one line on stdout. When stdin ends, because its owner closed it or died (SIGKILL included), or
on SIGTERM, it ends the server and removes the folder.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

LAST_LIMIT = 30.0
"""Seconds that a server's processes get to disappear after a SIGKILL."""


class Child:
    """One server: the process started, and whatever that one started in turn.

    All of them inherit the write end of a pipe, so the end of that pipe is the end of the last of them.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        user, group = order["user"] or (None, None)
        self._signal: int = order["signal"]
        self._patience: float = order["patience"]
        self._lifeline, held = os.pipe()
        try:
            with Path(order["log"]).open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - the owner's command is what this script is for
                    order["command"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=order["environment"],
                    pass_fds=[held],
                    start_new_session=True,
                    user=user,
                    group=group,
                    extra_groups=None if user is None else [],
                )
        except OSError:
            os.close(self._lifeline)
            raise
        finally:
            os.close(held)

    @property
    def pid(self) -> int:
        """The first process's id."""
        return self._process.pid

    def state(self) -> str:
        """Return `running`, or `ended` with the exit status."""
        status = self._process.poll()
        return "running" if status is None else f"ended {status}"

    def stop(self) -> None:
        """Ask the server to end, and insist after its patience."""
        if not self._end(self._signal, self._patience):
            self.kill()

    def kill(self) -> None:
        """End the server as a crash would."""
        self._end(signal.SIGKILL, LAST_LIMIT)

    def _end(self, signum: int, limit: float) -> bool:
        if self._lifeline < 0:
            return True
        if self._process.poll() is None:
            self._process.send_signal(signum)
        if not select.select([self._lifeline], [], [], limit)[0]:
            return False
        self._process.wait()
        os.close(self._lifeline)
        self._lifeline = -1
        return True


class Guard:
    """Follows the orders of its owner."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._child: Child | None = None

    def serve(self) -> None:
        """Read and answer orders until the owner is gone; then leave nothing behind."""
        try:
            for line in sys.stdin:
                order: dict[str, Any] = json.loads(line)
                sys.stdout.write(self._obey(order) + "\n")
                sys.stdout.flush()
        except BrokenPipeError:
            pass  # the owner died between its order and our answer
        finally:
            if self._child:
                self._child.stop()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _obey(self, order: dict[str, Any]) -> str:
        match order["do"]:
            case "start":
                return self._start(order)
            case "state":
                return self._child.state() if self._child else "ended"
            case "stop" if self._child:
                self._child.stop()
            case "kill" if self._child:
                self._child.kill()
        return "done"

    def _start(self, order: dict[str, Any]) -> str:
        if self._child:
            self._child.stop()  # what is left of the last one, if it ended by itself
        try:
            self._child = Child(order)
        except OSError as error:
            return f"failed {error.strerror}"
        return f"started {self._child.pid}"


def _leave(signum: int, frame: object) -> NoReturn:  # noqa: ARG001 - the form of a signal handler
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    Guard(sys.argv[1]).serve()
