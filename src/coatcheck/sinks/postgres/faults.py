"""What an error of the database says about the rows of a batch: one of them is at fault, or perhaps none.

A fault keeps the SQLSTATE and the name of a constraint, never a value: PostgreSQL's texts quote values, and a trigger
may put one into any field of an error that it raises.
"""

from __future__ import annotations

import psycopg

from coatcheck.errors import CoatcheckError
from coatcheck.pipeline.message import Reason, Reject
from coatcheck.sql.sqlstate import OURS, RAISED, Verdict, constraint_of, sqlstate_of, stop_error, verdict

SUPPRESSED = "coatcheck: suppressed"
"""How `write_batch.sql` and `quarantine_load.sql` say that the table kept rows out without an error."""
_INVALID_TEXT = "22P02"
_DETAIL_MOST = 80


class FaultError(Exception):
    """The database refused rows.

    `reject` is what becomes of a row that is at fault. `proven` says that the code alone blames a row; `likely`, that
    it blames a row unless every row meets it. `stop` is the error to raise when no row is to blame; None: the batch
    only takes too long, and its parts may not.
    """

    def __init__(
        self, reject: Reject, *, proven: bool, likely: bool = False, stop: CoatcheckError | None = None
    ) -> None:
        super().__init__(reject.reason.value)
        self.reject, self.proven, self.likely, self.stop = reject, proven, likely, stop

    @property
    def sqlstate(self) -> str:
        """The code of the error."""
        return self.reject.detail[:5] or _INVALID_TEXT


def fault_of(error: psycopg.Error, action: str) -> FaultError | None:
    """Return what an error while doing `action` says about the rows; None: it may pass, so retry.

    Raises CoatcheckError if no row can be to blame, as when the statement itself does not fit the database.
    """
    code = sqlstate_of(error)
    decision = verdict(code)
    if decision is Verdict.RETRY:
        return None
    stop = stop_error(error, action)
    if _no_row_is_seen(error, code, decision):
        raise stop from None
    if code == _INVALID_TEXT and SUPPRESSED in (error.diag.message_primary or ""):
        return FaultError(Reject(Reason.SUPPRESSED_BY_TABLE), proven=True, stop=stop)
    reject = Reject(Reason.REFUSED_BY_DATABASE, _detail(error, code))
    likely = code.startswith(RAISED)
    return FaultError(reject, proven=decision is Verdict.BISECT, likely=likely, stop=_for_all(stop))


def _no_row_is_seen(error: psycopg.Error, code: str, decision: Verdict) -> bool:
    """Tell whether an error came before any row was looked at."""
    if error.sqlstate is None or code in OURS:  # the connection is refused; or our own function refuses the batch
        return True
    # PostgreSQL points into our statement only while it parses it
    return decision is not Verdict.BISECT and error.diag.statement_position is not None


def too_slow(sqlstate: str) -> FaultError:
    """Return the fault of a batch that is to be written in parts."""
    return FaultError(Reject(Reason.REFUSED_BY_DATABASE, sqlstate), proven=True)


def _detail(error: psycopg.Error, code: str) -> str:
    return f"{code} {constraint_of(error) or ''}".rstrip()[:_DETAIL_MOST]


def _for_all(stop: CoatcheckError) -> CoatcheckError:
    hint = f"{stop.hint}; see also the table's triggers and its policies for row-level security"
    return type(stop)(f"{stop.message} to every row that was tried", hint=hint)
