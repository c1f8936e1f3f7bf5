"""One small tree of errors. Each says what happened, what to do next, and which exit code it ends with.

No error ever carries a value of a message: `message` and `hint` name options, columns, files and codes only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

INTERRUPTED = 130
"""The exit code of a command that was interrupted."""


class CoatcheckError(Exception):
    """Base of every error that a user may see.

    `message` says what happened, lower case, no full stop; `hint` says what to do next (may be empty).
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(CoatcheckError):
    """The configuration, a key file or the command line is wrong (exit code 2)."""

    exit_code = 2


class UnreachableError(CoatcheckError):
    """A dependency (queue, database, key service) cannot be reached or does not exist (exit code 3)."""

    exit_code = 3


class RefusedError(CoatcheckError):
    """A policy refuses to go on: the breaker, a weak mode without its flag (exit code 4)."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that `check` found: which component, how bad, what it is and what to do about it.

    An `error` keeps `run` from working, or breaks a promise to people; `advice` does neither; a `note` is for those who
    decide what is good enough.
    """

    component: Literal["config", "keys", "queue", "database"]
    level: Literal["error", "advice", "note"]
    what: str
    hint: str = ""
