"""The keyring and the database together: each is held against the other before anything is changed.

Part of the composition root.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from coatcheck import custody
from coatcheck.config import Config
from coatcheck.errors import CoatcheckError, ConfigError
from coatcheck.keys import LoaderKeys
from coatcheck.sql import register as pipelines
from coatcheck.sql.connection import connect, translated
from coatcheck.vault import register


def loader_keys(config: Config, *, role: custody.Role = "loader") -> LoaderKeys:
    """Load the keyring. Raises as `custody.loader_keys`, with the hint of `found_elsewhere`."""
    with found_elsewhere(config):
        return custody.loader_keys(config, role=role)


@contextmanager
def found_elsewhere(config: Config) -> Iterator[None]:
    """Where a key file is missing beside a database that has tokens, say which keyring to bring, never to make one."""
    missing: ConfigError | None = None
    try:
        yield
    except ConfigError as error:
        missing = error
    if missing is not None:
        raise ConfigError(missing.message, hint=hint(config, missing.hint)) from None


def hint(config: Config, given: str) -> str:
    """Return the hint about a missing key file: `given`, or which keyring this database has been loaded with."""
    if "keys init" not in given:
        return given
    with suppress(CoatcheckError), connect(custody.dsn(config)) as connection:
        there = register.has_tokens(connection)
        if there:
            named = ", ".join(f"{kid} ({fingerprint})" for kid, fingerprint in there.items())
            return (
                f"this database has tokens under {named}: bring the keyring with that key, or name its folder in "
                "[keys] path; a relative path starts at the configuration file"
            )
    return given


def hold(config: Config, keys: LoaderKeys, *, every: bool = True) -> None:
    """Hold a keyring against the database, and change nothing. Raises as `register.hold`."""
    with connect(custody.dsn(config)) as connection:
        register.hold(connection, custody.keyring_id(keys), every=every)


def note(config: Config, connection: Any) -> str:
    """Note in the keyring's folder that this database uses it; return the database's id. Raises CoatcheckError."""
    with translated("read the database's id"):
        database_id = pipelines.database_id(connection)
    info = connection.info
    custody.note_database(config, database_id, f"{info.host}:{info.port}/{info.dbname}")
    return database_id


def note_if_possible(config: Config, connection: Any) -> None:
    """As `note`, but where the folder cannot be written, or another process is at it, somebody else will note it."""
    with suppress(CoatcheckError):
        note(config, connection)
