"""Why there is no connection: what libpq, PostgreSQL and poolers say, told apart by text.

libpq keeps the SQLSTATE of a refused connection to itself, so the text has to tell. Texts stay here: they quote names
of users, hosts and files. A server that speaks another language than English (lc_messages) is known by the form of its
answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import psycopg

from coatcheck.errors import CoatcheckError, ConfigError, UnreachableError

NO_ANSWER: Final = "08006"
UNTRUSTED: Final = "TLS00"
"""The server does not prove who it is. libpq gives no code for that: this is ours, and no SQLSTATE."""
NO_PASSWORD: Final = "PWD00"  # noqa: S105 - a code
"""There is no password to be had: [target] password_command, or iam. Ours."""
UNSUITABLE: Final = "SET00"
"""The server does not take a setting, from the connection string or from us. Ours."""
REFUSED: Final = "REF00"
"""The server refuses the login in words that are not known here. Ours."""


class NotConnectedError(psycopg.OperationalError):
    """There is no connection, for a reason of ours: `code`, and the error to tell."""

    def __init__(self, code: str, told: CoatcheckError) -> None:
        super().__init__(told.message)
        self.code, self.told = code, told


@dataclass(frozen=True, slots=True)
class Refusal:
    """A way in which a connection fails. A `permanent` one passes only when somebody changes something."""

    code: str
    what: str
    hint: str
    permanent: bool = True
    kind: type[CoatcheckError] = UnreachableError

    def error(self, action: str) -> CoatcheckError:
        """Return our error for the failure to do `action`."""
        ours = self.code in (UNTRUSTED, NO_PASSWORD, UNSUITABLE, REFUSED, NO_ANSWER)
        return self.kind(f"cannot {action}: {self.what}" + ("" if ours else f" ({self.code})"), hint=self.hint)


def _away(what: str, hint: str, code: str = NO_ANSWER) -> Refusal:
    return Refusal(code, what, hint, permanent=False)


def _tls(what: str, hint: str) -> Refusal:
    return Refusal(UNTRUSTED, what, hint)


_UNREADABLE_KEY = (
    "see sslcert and sslkey in [target] dsn; libpq wants a key file that only its owner may read (chmod 600)"
)
_PASSWORD = Refusal(
    "28P01",
    "the database refuses the password",
    "the user name or password is wrong: see [target] dsn, DATABASE_URL, PGUSER and PGPASSWORD",
)
_POOLER = _away("the pooler cannot reach the database", "see the pooler's log; is PostgreSQL up behind it?")
_NOT_UP = _away("the database is starting or stopping", "wait for it; see the server's log if it takes long", "57P03")
_PLAIN = Refusal(
    "28000",
    "the database takes connections by TLS only",
    "sslmode=verify-full (or require) in [target] dsn; this user may not connect without",
)
_SILENT = _away(
    "the database does not answer", "is PostgreSQL up? see [target] dsn, DATABASE_URL and the PG* variables"
)
_UNKNOWN = Refusal(
    REFUSED,
    "the database refuses this login, for a reason that coatcheck does not know",
    "see the server's log; is everything right in [target] dsn: user, password, database?",
)
_BUSY = _away(
    "the database's server answers, and takes no connections",
    "see the server's log; in another language than English coatcheck does not read its reason",
    "57P03",
)


def _method(name: str, hint: str) -> Refusal:
    return Refusal("28000", f"{name} refuses this login", f"{hint}: this user may not connect")


_TABLE = (
    # poolers first: some quote what the server told them
    (
        r"server login has been failing|cannot connect to server|server_login_retry|server_connect_timeout",
        _POOLER,
    ),
    (
        r"unsupported startup parameter",
        Refusal(
            UNSUITABLE,
            "the pooler does not take a parameter of the connection string",
            "leave options out of [target] dsn and PGOPTIONS, or have PgBouncer ignore it: ignore_startup_parameters",
            kind=ConfigError,
        ),
    ),
    (
        r"no such user|unknown user|[Tt]enant or user not found",
        Refusal(
            "28000",
            "the pooler does not know the user",
            "see the pooler's list of users (auth_file, auth_query): this user may not connect through it",
        ),
    ),
    (
        r"no such database|unknown database|bouncer config error",
        Refusal(
            "3D000",
            "the pooler does not know the database",
            "see [databases] in its configuration, or correct [target] dsn; create the database",
        ),
    ),
    (
        r"database does not allow connections|is disabled|is paused",
        Refusal(
            "55000",
            "the database takes no connections for now",
            "let the pooler or the server allow them again: RESUME, ENABLE",
        ),
    ),
    (
        r"query_wait_timeout|client_login_timeout|no more connections|max_client_conn|[Mm]ax client connections",
        _away(
            "the pooler has no connection to spare",
            "raise max_client_conn or the pool's size, or run fewer workers",
            "53300",
        ),
    ),
    # away for now
    (
        r"too many (connections|clients)|remaining connection slots|too many .*connections",
        _away(
            "the database has no connection to spare",
            "raise max_connections, or run fewer workers or `connections`",
            "53300",
        ),
    ),
    (r"database system is |database shutting down|terminating connection due to", _NOT_UP),
    (
        r"session is (not )?read-only|server is (not )?in hot standby mode",
        _away("no host of [target] dsn is of the kind that target_session_attrs asks for", "is a fail-over under way?"),
    ),
    # passwords and other ways of proving who one is
    (
        r"(no|empty) password (supplied|returned)|password is required",
        Refusal(
            "28P01",
            "the database wants a password, and there is none",
            "the user name or password is wrong or missing: see [target] dsn, password_command and PGPASSWORD",
        ),
    ),
    (
        r"(password|SASL|SCRAM) authentication failed|wrong password|(invalid|incorrect) (server signature|SCRAM)",
        _PASSWORD,
    ),
    (
        r"PAM authentication failed",
        _method(
            "PAM",
            "the password is wrong, or, at RDS, the token has ended or "
            "rds_iam is not granted ([target] iam = true makes tokens)",
        ),
    ),
    (
        r"LDAP authentication failed",
        _method("the directory (LDAP)", "the password is wrong, or the server cannot ask the directory: see its log"),
    ),
    (
        r"RADIUS authentication failed",
        _method("RADIUS", "the password is wrong, or the server cannot ask RADIUS: see its log"),
    ),
    (
        r"(Peer|Ident) authentication failed",
        _method(
            "the server's check of the operating system's user",
            "name the user whom pg_ident.conf lets in, or log in by password over TCP (host=127.0.0.1)",
        ),
    ),
    (
        r"(GSSAPI|SSPI|Kerberos)",
        _method("Kerberos (GSSAPI)", "is there a valid ticket (`klist`), and a mapping in pg_ident.conf?"),
    ),
    (
        r"[Cc]ertificate authentication failed|valid client certificate|certificate required|client certificate",
        _method(
            "the server's check of the client's certificate",
            "give sslcert and sslkey in [target] dsn; its common name is the user, or pg_ident.conf maps it",
        ),
    ),
    (r"OAuth|oauth", _method("the server's check of the OAuth token", "see its log")),
    (
        r"authentication method|channel binding|requested .* authentication|authentication requires libpq|require_auth",
        Refusal(
            "28000",
            "client and server do not agree how to log in",
            "see require_auth and channel_binding in [target] dsn, and "
            "pg_hba.conf: this user may not connect otherwise",
        ),
    ),
    # who may come in, and from where
    (
        r"no pg_hba.conf entry .*(no encryption|SSL off)|SSL (connection is )?required|connection is insecure",
        _PLAIN,
    ),
    (
        r"no pg_hba.conf entry|pg_hba.conf rejects",
        Refusal(
            "28000",
            "pg_hba.conf refuses this login",
            "this user may not connect from here to this database: see the server's "
            "pg_hba.conf (address, user, database, TLS)",
        ),
    ),
    (
        r"role .* does not exist",
        Refusal(
            "28000",
            "the database does not know the user",
            "create the role, or correct [target] dsn and PGUSER: this user may not connect",
        ),
    ),
    (
        r"not permitted to log in",
        Refusal("28000", "the role may not log in", "this user may not connect: ALTER ROLE ... LOGIN"),
    ),
    (r"authentication failed", _method("the server", "see its log and pg_hba.conf")),
    # which database
    (
        r"database .* does not exist",
        Refusal("3D000", "there is no such database", "create the database, or correct [target] dsn"),
    ),
    (
        r"not currently accepting connections|connect to invalid database",
        Refusal(
            "55000",
            "the database takes no connections for now",
            "ALTER DATABASE ... ALLOW_CONNECTIONS true; an invalid one is to be dropped",
        ),
    ),
    (
        r"permission denied for database|does not have CONNECT privilege",
        Refusal(
            "42501",
            "this user may not connect to the database",
            "grant the privilege: GRANT CONNECT ON DATABASE ... TO ...",
        ),
    ),
    (
        r"(for|set|configuration) parameter|conversion between .* is not supported",
        Refusal(
            UNSUITABLE,
            "the server does not take a setting of this connection",
            "see options in [target] dsn, PGOPTIONS, and "
            "ALTER ROLE and DATABASE ... SET; the database's encoding has to be one that UTF-8 can be converted to",
            kind=ConfigError,
        ),
    ),
    # TLS
    (
        r"not support SSL",
        _tls(
            "the database's server does not prove by TLS who it is: it has no TLS",
            "switch ssl on there, or, on a network that you trust, sslmode=disable in [target] dsn",
        ),
    ),
    (
        r"root certificate",
        _tls(
            "the database's server does not prove by TLS who it is: the file of authorities is missing",
            "name its authority by sslrootcert in [target] dsn, or, on a network that you trust, sslmode=disable",
        ),
    ),
    (
        r"certificate verify failed|does not match host name|certificate has expired|unknown ca|self.signed",
        _tls(
            "the database's server does not prove by TLS who it is",
            "name its authority by sslrootcert in [target] dsn, or, on a network that you trust, sslmode=disable",
        ),
    ),
    (
        r"private key file|certificate file|could not (load|read) .*(key|certificate)",
        Refusal(UNTRUSTED, "the client's certificate or key cannot be used", _UNREADABLE_KEY),
    ),
    (
        r"SSL error: .*(alert|wrong version|unsupported protocol|no shared cipher|handshake)",
        _tls(
            "client and server do not agree on TLS",
            "see sslmode, ssl_min_protocol_version and sslcert in [target] dsn, and the server's log",
        ),
    ),
    # nobody there
    (
        r"could not translate host name|failed to resolve|not known|name resolution|No address associated",
        _away(
            "the name of the database's host is not known",
            "see host in [target] dsn, and this machine's name service (DNS)",
        ),
    ),
    (
        r"timeout expired|[Tt]imed out|timeout",
        _away(
            "the database does not answer in time",
            "does a firewall or security group "
            "let this host in? see host and port in [target] dsn, and connect_timeout",
        ),
    ),
    (
        r"[Cc]onnection refused|No such file or directory",
        _away(
            "the database does not answer",
            "is PostgreSQL up? nobody listens at the host and port of [target] dsn, DATABASE_URL or PGHOST and PGPORT",
        ),
    ),
    (
        r"unreachable|No route to host",
        _away(
            "the database does not answer: there is no way to its host",
            "is PostgreSQL up? see host in [target] dsn, and the network's routes",
        ),
    ),
)
_KNOWN = tuple((re.compile(words), refusal) for words, refusal in _TABLE)
_NAMES = re.compile(r"\"[^\"\n]*\"|(?<=host )'[^'\n]*'|(?<=: )'[^'\n]*'")
"""Names of users, databases and hosts may be any words."""
_ANSWERED = re.compile(r"(?:failed|server|bad): \S[^\n:]{0,40}:  \S|^[^\n:]{0,40}:  \S", re.MULTILINE)
"""The form of a server's own words in any language: the severity, a colon and two spaces. libpq's have one space."""


def refusal(error: psycopg.Error) -> Refusal:
    """Return why there is no connection. `error` has no SQLSTATE."""
    if isinstance(error, NotConnectedError):
        return Refusal(error.code, error.told.message, error.told.hint, kind=type(error.told))
    text = _NAMES.sub("", str(error))
    found = next((refusal for words, refusal in _KNOWN if words.search(text)), None)
    if found is not None:
        return found
    if not _ANSWERED.search(text):
        return _SILENT
    return _UNKNOWN if _has_logged_in(error) else _BUSY


def _has_logged_in(error: psycopg.Error) -> bool:
    """Tell whether the server had asked for the password.

    What passes by itself (starting up, no connection to spare) a server mostly says before; the rest after.
    """
    return error.pgconn is not None and bool(error.pgconn.used_password)
