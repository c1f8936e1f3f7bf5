"""What an erasure needs before it begins: the rights to do all of it, and the keyring that finds all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from coatcheck.errors import ConfigError
from coatcheck.sql import query
from coatcheck.sql.connection import translated
from coatcheck.sql.register import Table


def refuse_without_rights(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> None:
    """Raise ConfigError if this user may not do all that an erasure does, before any of it is done."""
    places: list[dict[str, object]] = [{"schema": t.schema, "name": t.name, "masked": list(t.names)} for t in tables]
    places = places or [{"schema": "coatcheck", "name": "alias", "masked": []}]  # what every erasure needs
    with translated("read the privileges"):
        found = [row for at in places for row in connection.execute(query("erase_rights"), at).fetchall()]
    if found:
        texts = list(dict.fromkeys(text for (text,) in found))
        raise ConfigError(
            f"this user may not erase: it lacks {'; '.join(texts)}",
            hint=f"GRANT coatcheck_eraser TO ... (`coatcheck migrate` makes the role), or GRANT {texts[0]} TO ...",
        )


def refuse_other_keys(connection: psycopg.Connection[Any], keys: Mapping[str, str]) -> None:
    """Raise ConfigError unless `keys` (fingerprints by key id) are all that texts in the database may be under.

    With another keyring a value would have other texts, and nothing would be found without a word.
    """
    with translated("read the register of token keys"):
        found = connection.execute(query("erase_keys")).fetchall()
    other = sorted(kid for kid, known in found if keys.get(kid) != known)
    if other:
        raise ConfigError(
            f"this keyring does not have the database's {', '.join(other)}: texts of the value would not be found",
            hint="bring the keyring that the loaders use: `coatcheck keys list`",
        )
