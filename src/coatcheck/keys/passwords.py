"""Passwords of the database that are made for each connection: by a command, or by IAM.

A password is in nothing here but what is returned: no error, no log, no repr.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from coatcheck.errors import ConfigError, UnreachableError
from coatcheck.keys.secrets import AwsClient, Fault

_PATIENCE_S = 15.0
_MOST = 64 * 1024
_RDS = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-\d)\.rds\.amazonaws\.com(?:\.cn)?$")
_OPTION = "target.password_command"


@dataclass(frozen=True, slots=True)
class PasswordCommand:
    """Runs a program, without a shell, and takes the first line of its output for the password."""

    arguments: Sequence[str]
    patience_s: float = _PATIENCE_S

    def __call__(self) -> str:
        """Return the password.

        Raises ConfigError: there is no such program, or it prints no password; UnreachableError: it fails or hangs.
        What it says on standard error goes nowhere: it may quote the password.
        """
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own command
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ValueError):
            process = None
        if process is None:
            raise ConfigError(f"{_OPTION} cannot be started", hint="name a program that this user may run, by its path")
        output = self._output(process)
        if process.returncode:
            hint = "run it by hand as this user: what it says on standard error is not shown"
            raise UnreachableError(f"{_OPTION} ends with {process.returncode}", hint=hint)
        return _first_line(output)

    def _output(self, process: subprocess.Popen[bytes]) -> bytes:
        output: bytes | None = None
        with suppress(subprocess.TimeoutExpired):
            output, _ = process.communicate(timeout=self.patience_s)
        if output is not None:
            return output
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever it has started as well
        process.communicate()
        raise UnreachableError(
            f"{_OPTION} does not end within {self.patience_s:g} s", hint="does it wait for input, or for a service?"
        )


def _first_line(output: bytes) -> str:
    line = output[:_MOST].split(b"\n", 1)[0].removesuffix(b"\r")
    password = ""
    with suppress(UnicodeDecodeError):
        password = line.decode()
    if not password or "\0" in password:
        raise ConfigError(
            f"{_OPTION} prints no password", hint="its first line of output has to be the password, in UTF-8"
        )
    return password


class IamPassword:
    """Makes tokens by which RDS and Aurora let an IAM identity in: for one host, port and user, and 15 minutes each."""

    __slots__ = ("_client", "_host", "_port", "_region", "_user")

    def __init__(
        self, host: str, port: int, user: str, *, region: str | None = None, profile: str | None = None
    ) -> None:
        found = _RDS.search(host)
        self._host, self._port, self._user = host, port, user
        self._region = found[1] if found else region
        self._client = AwsClient("rds", region=self._region, profile=profile)

    def __call__(self) -> str:
        """Return a new token: it is signed here, and nothing is asked. Raises ConfigError, UnreachableError."""
        region = {"Region": self._region} if self._region else {}
        answer = self._client.call(
            "GenerateDbAuthToken", DBHostname=self._host, Port=self._port, DBUsername=self._user, **region
        )
        if isinstance(answer, Fault):
            raise answer.error("AWS (target.iam)")
        return str(answer)
