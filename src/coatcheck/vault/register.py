"""The database's record of token keys: which are retired, and the canonical form of each domain, frozen for a key.

Without it another spelling of values in the configuration, or a keyring from a backup, would give other tokens for the
same values without a word, and duplicates would fall apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import psycopg

from coatcheck.errors import ConfigError
from coatcheck.keys import Form
from coatcheck.keys.forms import parse_form
from coatcheck.sql import query
from coatcheck.sql.connection import translated


def register(
    connection: psycopg.Connection[Any], keys: Mapping[str, str], forms: Mapping[str, str]
) -> dict[str, str] | None:
    """Take note of a keyring and of each domain's form id; return those of the key that retires, None if none does.

    `keys` are fingerprints by key id, the active key first. Raises ConfigError: the active key is retired; a key id
    belongs to another key here; a domain's form was another when the key was first used, or tells apart what the form
    under the key that retires takes for one.
    """
    active, *retiring = keys
    with translated("read the register of token keys"), connection.transaction():  # what is refused leaves no trace
        connection.execute(
            query("key_register"),
            {
                "kids": list(keys), "fingerprints": list(keys.values()), "kid": active,
                "domains": list(forms), "form_ids": list(forms.values()),
            },
        )  # fmt: skip
        found = connection.execute(query("key_states"), {"kids": list(keys)}).fetchall()
        if active not in {kid for kid, *_ in found}:
            raise ConfigError(
                f"this database does not know the token key {active}",
                hint="a rotator brings it: `coatcheck keys retokenize` where it was rotated takes note of it",
            )
        retired = {kid for kid, _, is_retired in found if is_retired}
        for kid, known, _ in found:
            if known != keys[kid]:
                raise ConfigError(
                    f"{kid} of this keyring is another key than the {kid} that this database knows",
                    hint="bring the keyring that the database was loaded with: another one gives other tokens for the "
                    "same values",
                )
        if active in retired:
            raise ConfigError(
                f"the token key {active} is retired in this database",
                hint="this keyring is out of date: bring the one in use",
            )
        _hold_against(frozen_forms(connection, active), forms, active)
        old = [kid for kid in retiring if kid not in retired]
        if not old:
            return None
        before = frozen_forms(connection, old[0])
        _refuse_finer(before, forms)
        return before


def frozen_forms(connection: psycopg.Connection[Any], kid: str) -> dict[str, str]:
    """Return the form id of each domain as it was frozen for a key."""
    return dict(connection.execute(query("key_forms"), {"kid": kid}).fetchall())


def forms_of_keys(
    connection: psycopg.Connection[Any], kids: Iterable[str], domain: str, otherwise: Form
) -> dict[str, Form]:
    """Return the canonical form of a domain under each key: as it was frozen, or `otherwise`.

    Raises UnreachableError, ConfigError.
    """
    with translated("read the canonical forms"):
        frozen = {kid: frozen_forms(connection, kid).get(domain) for kid in kids}
    return {kid: parse_form(form_id) if form_id else otherwise for kid, form_id in frozen.items()}


def _hold_against(frozen: Mapping[str, str], forms: Mapping[str, str], kid: str) -> None:
    for domain, form_id in forms.items():
        if frozen.get(domain, form_id) != form_id:
            raise ConfigError(
                f'the canonical form of domain {domain} is "{frozen[domain]}" under {kid}, [columns] says "{form_id}"',
                hint="its tokens would change unseen: undo parse, casefold and strip_chars, or begin a new key with "
                "`coatcheck keys rotate`",
            )


def _refuse_finer(before: Mapping[str, str], forms: Mapping[str, str]) -> None:
    """Raise ConfigError if a form would turn one old token into several: its group would be torn in the rotation."""
    for domain in before.keys() & forms.keys():
        old, new = parse_form(before[domain]), parse_form(forms[domain])
        if old.kind != new.kind or old.casefold > new.casefold or not set(old.strip_chars) <= set(new.strip_chars):
            raise ConfigError(
                f'the canonical form of domain {domain} goes from "{before[domain]}" to "{forms[domain]}", which tells '
                "apart what was one token",
                hint="a rotation may only join values (casefold, more strip_chars); for a finer form take a new domain",
            )
