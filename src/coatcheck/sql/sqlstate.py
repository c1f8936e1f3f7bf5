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
    TRY = auto()
    """A row or the system is at fault: try the rows, and see whether some of them pass."""
    STOP = auto()
    """Nothing will succeed until somebody mends the database or the configuration."""


_RETRY = ("08", "40", "53", "55", "57", "58")
_RETRY_ALSO = ("25P03", "25P04")
"""The server's time-outs of a transaction; its other time-outs are in the classes above."""
_BISECT = ("21", "22", "23", "44", "54")
RAISED = "P0"
"""The class of what a trigger raises without a code of its own: it means a row, unless every row meets it."""
TAKES_TOO_LONG = ("57014", "25P04")
"""statement_timeout, or somebody's cancellation, and transaction_timeout: a smaller batch may be quick enough."""
_UNFIT = "55000"
"""The target is no table that rows can be put into."""
_UNPUBLISHED = "55000 replica identity"
"""The same code, of a table that is published and cannot be updated. Told by the function of the server that raises it:
the text is in the server's language."""
RETIRED = "CC001"
"""Ours: the token key is retired (coatcheck.using_key)."""
_NOT_OPEN, _NOT_OVER, _NOT_BEGUN, _NOT_ON_DISK = "CC003", "CC004", "CC005", "CC006"
OURS = (RETIRED, _NOT_OPEN, _NOT_OVER, _NOT_BEGUN, _NOT_ON_DISK)
"""What coatcheck's own functions raise."""
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
    "0A000": "a rule of the table does not go with INSERT ... RETURNING in a WITH clause: make it a trigger",
    "42P01": "run `coatcheck migrate` (safe while workers run)",
    "42883": "run `coatcheck migrate` (safe while workers run)",
    "42703": "the table differs from [columns]; `coatcheck check` shows how",
    "42804": "the table differs from [columns]; `coatcheck check` shows how",
    "3F000": "run `coatcheck migrate` (safe while workers run)",
    "55P03": "a table was in use for longer than this waits for it: run it again",
}

_NAMING = frozenset({
    "ExecConstraints", "ExecPartitionCheckEmitError", "ReportNotNullViolationError",  # CHECK, partition, NOT NULL
    "_bt_check_unique", "check_exclusion_or_unique_constraint", "ri_ReportViolation",  # UNIQUE, EXCLUDE, FOREIGN KEY
    "ExecEvalConstraintCheck", "ExecEvalConstraintNotNull", "domain_check_input",  # of a domain
    "ATRewriteTable", "comparetup_index_btree", "comparetup_index_btree_tiebreak",  # of rows that are there already
})  # fmt: skip
"""PostgreSQL's own functions that report broken constraints. A trigger's RAISE may put a value into any field."""


def sqlstate_of(error: psycopg.Error) -> str:
    """Return the SQLSTATE; for an error without one that of the refused connection, or 08006: no answer."""
    return refusal(error).code if error.sqlstate is None else error.sqlstate


def is_permanent(error: psycopg.Error) -> bool:
    """Tell whether a connection was refused in a way that passes only when somebody changes something."""
    return error.sqlstate is None and isinstance(error, psycopg.OperationalError) and refusal(error).permanent


def verdict(sqlstate: str) -> Verdict:
    """Return what to do after an error with this SQLSTATE."""
    if sqlstate == UNTRUSTED or sqlstate in OURS:
        return Verdict.STOP
    if sqlstate == _UNFIT:
        return Verdict.TRY
    if sqlstate == READ_ONLY or sqlstate in _RETRY_ALSO or sqlstate[:2] in _RETRY:
        return Verdict.RETRY
    return Verdict.BISECT if sqlstate[:2] in _BISECT else Verdict.TRY


def constraint_of(error: psycopg.Error) -> str | None:
    """Return the name of the constraint that was broken, if PostgreSQL itself names it."""
    return error.diag.constraint_name if error.diag.source_function in _NAMING else None


def stop_error(error: psycopg.Error, action: str) -> CoatcheckError:
    """Return our error for a database error while doing `action`; it names codes and objects, never values."""
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        return refusal(error).error(action)
    code = sqlstate_of(error)
    table = error.diag.table_name if error.diag.source_function in _NAMING else None
    named = constraint_of(error) or table
    about = f" ({named})" if named else ""
    code_of_hint = code
    kind: type[CoatcheckError] = ConfigError if code[:2] in ("42", "3F", "CC") else UnreachableError
    if code in (_NOT_OPEN, _NOT_OVER, _NOT_BEGUN, _NOT_ON_DISK):
        kind = RefusedError
    if code == _UNFIT and error.diag.source_function == "CheckCmdReplicaIdentity":
        kind, code_of_hint = ConfigError, _UNPUBLISHED
    hint = _HINTS.get(code_of_hint, "look the code up in PostgreSQL's documentation, appendix A")
    return kind(f"cannot {action}: PostgreSQL answers {code}{about}", hint=hint)
