"""What a database error means for the batch, by SQLSTATE (PostgreSQL documentation, appendix A).

Only the code, and names of constraints, tables and privileges, leave this module: PostgreSQL's texts quote values.
"""

from __future__ import annotations

from enum import Enum, auto

import psycopg

from coatcheck.errors import CoatcheckError, ConfigError, RefusedError, UnreachableError
from coatcheck.sql.refusals import UNTRUSTED, refusal


class Verdict(Enum):
    """What to do after an error."""

    RETRY = auto()
    """The same batch may succeed later."""
    BISECT = auto()
    """A row is at fault: find it, quarantine it, commit the rest."""
    STOP = auto()
    """Nothing will succeed until somebody mends the database or the configuration."""


_RETRY = ("08", "40", "53", "55", "57", "58")
_BISECT = ("21", "22", "23", "44", "54", "P0")
CANCELLED = "57014"
"""A statement that somebody, or statement_timeout, has ended."""
_UNFIT = "55000"
"""The target is no table that rows can be put into."""
RETIRED = "CC001"
"""Ours: the token key is retired (coatcheck.using_key)."""
_NOT_OPEN, _NOT_OVER, _NOT_BEGUN, _NOT_ON_DISK = "CC003", "CC004", "CC005", "CC006"
READ_ONLY = "25006"
"""A session that may not write; a standby, or a setting."""

_HINTS = {
    "42501": "grant the privilege, or run `coatcheck migrate` as the owner; `coatcheck check` lists what is missing",
    "23514": "rows that are there already break the rule: mask or remove them first",
    _UNFIT: "the target takes no rows: is it a view, or a foreign table?",
    RETIRED: "another keyring is in use by now: bring it here and start again",
    _NOT_OPEN: "begin with `coatcheck reveal open`, which puts it on the trail; an opening lasts minutes",
    _NOT_ON_DISK: "the opening is not on the disk of the database yet: open the request again in a second",
    _NOT_BEGUN: "begin it: without a reason and a ticket on the trail nothing is erased",
    _NOT_OVER: "an epoch in which originals may still be stored stays",
    "42P01": "run `coatcheck migrate` (safe while workers run)",
    "42883": "run `coatcheck migrate` (safe while workers run)",
    "42703": "the table differs from [columns]; `coatcheck check` shows how",
    "42804": "the table differs from [columns]; `coatcheck check` shows how",
    "3F000": "run `coatcheck migrate` (safe while workers run)",
    "55P03": "a table was in use for longer than this waits for it: run it again",
}


def sqlstate_of(error: psycopg.Error) -> str:
    """Return the SQLSTATE; for an error without one that of the refused connection, or 08006: no answer."""
    return refusal(error).code if error.sqlstate is None else error.sqlstate


def is_permanent(error: psycopg.Error) -> bool:
    """Tell whether a connection was refused in a way that passes only when somebody changes something."""
    return error.sqlstate is None and isinstance(error, psycopg.OperationalError) and refusal(error).permanent


def verdict(sqlstate: str) -> Verdict:
    """Return what to do after an error with this SQLSTATE."""
    if sqlstate in (_UNFIT, UNTRUSTED):
        return Verdict.STOP
    if sqlstate == READ_ONLY or sqlstate[:2] in _RETRY:
        return Verdict.RETRY
    return Verdict.BISECT if sqlstate[:2] in _BISECT else Verdict.STOP


def stop_error(error: psycopg.Error, action: str) -> CoatcheckError:
    """Return our error for a database error while doing `action`; it names codes and objects, never values."""
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return refusal(error).error(action)
    code = sqlstate_of(error)
    named = next(filter(None, (error.diag.constraint_name, error.diag.table_name)), None)
    about = f" ({named})" if named else ""
    kind: type[CoatcheckError] = ConfigError if code[:2] in ("42", "3F", "CC") else UnreachableError
    if code in (_NOT_OPEN, _NOT_OVER, _NOT_BEGUN, _NOT_ON_DISK):
        kind = RefusedError
    hint = _HINTS.get(code, "look the code up in PostgreSQL's documentation, appendix A")
    return kind(f"cannot {action}: PostgreSQL answers {code}{about}", hint=hint)
