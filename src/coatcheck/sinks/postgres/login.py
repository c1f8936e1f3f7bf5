"""How long a running worker bears with a database that refuses its login: a password may just be being changed."""

from __future__ import annotations

import logging
import time

import psycopg

from coatcheck.sql.sqlstate import is_permanent, sqlstate_of, stop_error

_log = logging.getLogger(__name__)


class LoginPatience:
    """Waits out refused logins for `seconds` from the first one on. What is no refused login does not concern it.

    It begins to wait only after a login was accepted: at the start a refusal is told at once.
    """

    __slots__ = ("_accepted", "_seconds", "_since")

    def __init__(self, seconds: float) -> None:
        self._seconds, self._accepted = seconds, False
        self._since: float | None = None

    def accepted(self) -> None:
        """Take note that the database has let us in."""
        self._accepted, self._since = True, None

    def waits_for(self, error: psycopg.Error) -> str | None:
        """Return the code of a refused login that is still waited out, else None."""
        if not (self._accepted and is_permanent(error)):
            return None
        now = time.monotonic()
        if self._since is None:
            self._since = now
            told = stop_error(error, "connect to the database")
            _log.warning("the database refuses the login: %s", told.hint, extra={"waits_s": self._seconds})
        return sqlstate_of(error) if now - self._since < self._seconds else None
