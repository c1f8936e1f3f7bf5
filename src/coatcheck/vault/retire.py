"""The end of a rotation: nothing is left under the old key, it is shut out, and its aliases are forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

from coatcheck.errors import RefusedError
from coatcheck.sql import query
from coatcheck.sql.connection import translated
from coatcheck.sql.register import Table, all_columns
from coatcheck.vault.audit import append
from coatcheck.vault.register import frozen_forms
from coatcheck.vault.retokenize import key_range, rows_left

_PAGE = 1000


def retire_key(connection: psycopg.Connection[Any], *, tables: Sequence[Table], kid: str) -> None:
    """Retire a token key in the database. Raises RefusedError while rows or vault entries under it are left.

    `tables` are all that the database has registered. The keyring is registered. From then on no transaction of a
    loader that masks under this key commits. It can be done again after a crash: then only what is left of it is done.
    """
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED  # the last look must see what it waited for
    with translated("retire the token key"):
        domains = sorted(frozen_forms(connection, kid).keys() | {column.domain for column in all_columns(tables)})
        known = connection.execute(query("key_state"), {"kid": kid}).fetchone()
        if not (known and known[0]):
            _refuse_what_is_left(connection, tables, kid, domains)  # first without a lock: this may take long
            with connection.transaction():
                connection.execute(query("retire_lock"), {"kid": kid})
                _refuse_what_is_left(connection, tables, kid, domains)
                connection.execute(query("retire_key"), {"kid": kid})
                append(connection, "key retired", kid=kid)
        _remove(connection, kid, domains)


def _refuse_what_is_left(
    connection: psycopg.Connection[Any], tables: Sequence[Table], kid: str, domains: Iterable[str]
) -> None:
    left = rows_left(connection, tables, kid)
    if left:
        named = ", ".join(f"{name} {count:,}" for name, count in left.items())
        raise RefusedError(
            f"rows of {' and '.join(table.qualified for table in tables)} still have tokens under {kid}: {named}",
            hint="run `coatcheck keys retokenize`; columns without a vault have to be loaded anew",
        )
    for domain in domains:
        first, beyond = key_range(domain, kid)
        found = connection.execute(query("retire_left"), {"first": first, "beyond": beyond}).fetchone()
        if found and found[0]:
            raise RefusedError(
                f"the vault has {found[0]:,} entries of the domain {domain} under {kid} only",
                hint="run `coatcheck keys retokenize`; those that it calls damaged or planted have to be deleted from "
                "coatcheck.vault by hand",
            )


def _remove(connection: psycopg.Connection[Any], kid: str, domains: Iterable[str]) -> None:
    for name, scheme in (("retire_vault", "pt1"), ("retire_aliases", "pt1"), ("retire_aliases", "ps1")):
        for domain in domains:
            first, beyond = key_range(domain, kid, scheme)
            parameters = {"first": first, "beyond": beyond, "limit": _PAGE}
            while connection.execute(query(name), parameters).rowcount:
                pass
