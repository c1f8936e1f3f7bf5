"""The database's record of token keys: which are retired, and the canonical form of each domain, frozen for a key.

Without it another spelling of values in the configuration, or a keyring from a backup, would give other tokens for the
same values without a word, and duplicates would fall apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from coatcheck.errors import ConfigError
from coatcheck.sql import query
from coatcheck.sql.connection import translated


def register(connection: psycopg.Connection[Any], kids: Sequence[str], forms: Mapping[str, str]) -> dict[str, str]:
    """Take note of a keyring (active key first) and of each domain's form id; return those of the key that retires.

    Raises ConfigError: the active key is retired, or a domain's form was another when the key was first used.
    """
    active, *retiring = kids
    with translated("read the register of token keys"):
        retired = {kid for (kid,) in connection.execute(query("key_states"), {"kids": list(kids)})}
        if active in retired:
            raise ConfigError(
                f"the token key {active} is retired in this database",
                hint="this keyring is out of date: bring the one in use",
            )
        connection.execute(
            query("key_register"),
            {"kids": list(kids), "kid": active, "domains": list(forms), "form_ids": list(forms.values())},
        )
        _hold_against(frozen_forms(connection, active), forms, active)
        old = [kid for kid in retiring if kid not in retired]
        return frozen_forms(connection, old[0]) if old else {}


def frozen_forms(connection: psycopg.Connection[Any], kid: str) -> dict[str, str]:
    """Return the form id of each domain as it was frozen for a key."""
    return dict(connection.execute(query("key_forms"), {"kid": kid}).fetchall())


def _hold_against(frozen: Mapping[str, str], forms: Mapping[str, str], kid: str) -> None:
    for domain, form_id in forms.items():
        if frozen.get(domain, form_id) != form_id:
            raise ConfigError(
                f'the canonical form of domain {domain} is "{frozen[domain]}" under {kid}, [columns] says "{form_id}"',
                hint="its tokens would change unseen: undo parse, casefold and strip_chars, or begin a new key with "
                "`coatcheck keys rotate`",
            )
