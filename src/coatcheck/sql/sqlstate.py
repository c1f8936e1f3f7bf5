"""What a database error means for the batch, by SQLSTATE (PostgreSQL documentation, appendix A).

Only the code, and names of constraints, tables and privileges, leave this module: PostgreSQL's texts quote values.
"""

from __future__ import annotations

import re
from enum import Enum, auto

import psycopg

from coatcheck.errors import CoatcheckError, ConfigError, RefusedError, UnreachableError


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
_UNPUBLISHED = "55000 replica identity"
"""The same code, of a table that is published and cannot be updated. Told by the function of the server that raises it:
the text is in the server's language."""
RETIRED = "CC001"
"""Ours: the token key is retired (coatcheck.using_key)."""
_NOT_OPEN, _NOT_OVER, _NOT_BEGUN, _NOT_ON_DISK = "CC003", "CC004", "CC005", "CC006"
UNTRUSTED = "TLS00"
"""The server does not prove who it is. libpq gives no code for that: this is ours, and no SQLSTATE."""
READ_ONLY = "25006"
"""A session that may not write; a standby, or a setting."""

_HINTS = {
    "42501": "grant the privilege, or run `coatcheck migrate` as the owner; `coatcheck check` lists what is missing",
    "23514": "rows that are there already break the rule: mask or remove them first",
    _UNFIT: "the target takes no rows: is it a view, or a foreign table?",
    _UNPUBLISHED: "a publication covers the table and it has no replica identity: ALTER TABLE ... REPLICA IDENTITY "
    "FULL, for each of its partitions, too; `coatcheck check` names them",
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
    "3D000": "create the database, or correct [target] dsn",
    "28P01": "the user name or password is wrong: see [target] dsn, DATABASE_URL, PGUSER and PGPASSWORD",
    "28000": "this user may not connect: see the server's pg_hba.conf",
}

_NO_ANSWER = "08006"
_REFUSED = (
    (re.compile("password authentication failed|no password supplied"), "28P01"),
    (re.compile('role ".*" does not exist|is not permitted to log in|no pg_hba.conf entry'), "28000"),
    (re.compile('database ".*" does not exist'), "3D000"),
    (re.compile("permission denied for database"), "42501"),
    (re.compile("too many (connections|clients)|remaining connection slots"), "53300"),
    (re.compile("database system is (starting up|shutting down|in recovery|not yet accepting)"), "57P03"),
    (re.compile("certificate verify failed|does not match host name|root certificate|not support SSL"), UNTRUSTED),
)
"""libpq keeps the SQLSTATE of a refused connection to itself, so its text has to tell. A server that speaks another
language than English (lc_messages) is waited for as if it were away."""


def sqlstate_of(error: psycopg.Error) -> str:
    """Return the SQLSTATE; for an error without one that of the refused connection, or 08006: no answer."""
    if error.sqlstate is not None:
        return error.sqlstate
    text = str(error)
    return next((code for words, code in _REFUSED if words.search(text)), _NO_ANSWER)


def verdict(sqlstate: str) -> Verdict:
    """Return what to do after an error with this SQLSTATE."""
    if sqlstate in (_UNFIT, UNTRUSTED):
        return Verdict.STOP
    if sqlstate == READ_ONLY or sqlstate[:2] in _RETRY:
        return Verdict.RETRY
    return Verdict.BISECT if sqlstate[:2] in _BISECT else Verdict.STOP


def stop_error(error: psycopg.Error, action: str) -> CoatcheckError:
    """Return our error for a database error while doing `action`; it names codes and objects, never values."""
    code = sqlstate_of(error)
    named = next(filter(None, (error.diag.constraint_name, error.diag.table_name)), None)
    about = f" ({named})" if named else ""
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None and code == _NO_ANSWER:
        return UnreachableError(
            f"cannot {action}: the database does not answer",
            hint="is PostgreSQL up? see [target] dsn, DATABASE_URL and the PG* variables",
        )
    if code == UNTRUSTED:
        return UnreachableError(
            f"cannot {action}: the database's server does not prove by TLS who it is",
            hint="name its authority by sslrootcert in [target] dsn, or, on a network that you trust, sslmode=disable",
        )
    code_of_hint = code
    kind: type[CoatcheckError] = ConfigError if code[:2] in ("42", "3F", "CC") else UnreachableError
    if code in (_NOT_OPEN, _NOT_OVER, _NOT_BEGUN, _NOT_ON_DISK):
        kind = RefusedError
    if code == _UNFIT and error.diag.source_function == "CheckCmdReplicaIdentity":
        kind, code_of_hint = ConfigError, _UNPUBLISHED
    hint = _HINTS.get(code_of_hint, "look the code up in PostgreSQL's documentation, appendix A")
    return kind(f"cannot {action}: PostgreSQL answers {code}{about}", hint=hint)
