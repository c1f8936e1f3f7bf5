"""Rotation of the key that wraps data keys: they are wrapped anew; tokens, vault and quarantine are not touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import psycopg

from coatcheck.errors import CoatcheckError
from coatcheck.keys import OpenError
from coatcheck.pipeline.message import DataKey
from coatcheck.sql import query
from coatcheck.sql.connection import translated
from coatcheck.vault.audit import append

_PAGE = 200


def rewrap_data_keys(
    connection: psycopg.Connection[Any],
    kek: str,
    rewrap: Callable[[DataKey], DataKey],
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Wrap every data key anew that is not under the present key `kek`; return how many. Can be started again.

    Raises CoatcheckError in the end: some do not open, which keep none of the others; what else `rewrap` raises, and
    UnreachableError and ConfigError for the database.
    """
    done, damaged, at = 0, 0, {"kek": kek, "after": UUID(int=0), "limit": _PAGE}
    with translated("wrap data keys anew"):
        while page := connection.execute(query("rewrap_page"), at).fetchall():
            for dek_id, before, wrapped in page:
                try:
                    new = rewrap(DataKey(dek_id.bytes, before, wrapped))
                except OpenError:
                    damaged += 1
                    continue
                connection.execute(
                    query("rewrap_store"),
                    {"kek": new.kek, "wrapped": new.wrapped, "dek_id": dek_id, "before": before},
                )
                done += 1
            at["after"] = page[-1][0]
            progress(done)
        append(connection, "data keys rewrapped", kek=kek, count=done, damaged=damaged)
    if damaged:
        raise CoatcheckError(
            f"{damaged:,} data keys do not open and stay as they are; {done:,} were wrapped anew",
            hint="they were damaged, or planted: nothing opens under them; delete them from coatcheck.data_key by hand",
        )
    return done
