"""The jobs about keys that take keyring and database at once. Part of the composition root.

What they decide they read from the database's register: it knows every pipeline, a configuration those of one file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from coatcheck import custody, keyring
from coatcheck.config import Config
from coatcheck.errors import RefusedError
from coatcheck.keys import Form, Opener, Sealer
from coatcheck.keys.forms import parse_form
from coatcheck.keys.rotate import RotatedSeal
from coatcheck.keys.seal_pair import kek
from coatcheck.pipeline.columns import Column, Mask
from coatcheck.pipeline.mask import form_of
from coatcheck.sinks.postgres import current_view
from coatcheck.sql import query, register
from coatcheck.sql.connection import connect, translated
from coatcheck.sql.register import Table, label
from coatcheck.vault import register as known_keys
from coatcheck.vault.audit import append
from coatcheck.vault.retire import retire_key
from coatcheck.vault.retokenize import Retokenized, Retokenizer
from coatcheck.vault.rewrap import rewrap_data_keys


@dataclass(frozen=True, slots=True)
class Rotated:
    """A rotation that has begun: the key that retires, the active one, the views for analysts meanwhile.

    `without_vault` are columns that only loading again can take to the new key.
    """

    old: str
    new: str
    views: tuple[str, ...]
    without_vault: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Retired:
    """A key that this database has let go. It stays in the keyring while `others`, databases by place, have not."""

    others: tuple[str, ...] = ()


def rotate(config: Config) -> Rotated:
    """Begin a rotation of the token key. Raises RefusedError: one is under way, or a column cannot take part.

    The keyring is held against the database before either is changed.
    """
    custody.refuse_foreign_root(config)
    dsn = custody.dsn(config)
    keys = keyring.loader_keys(config, role="rotator")
    with connect(dsn) as connection, translated("write the audit trail"):
        known_keys.hold(connection, custody.keyring_id(keys))
        known_keys.refuse_without_rights(connection)
        register.refuse_unknown_tables(connection)
        register.refuse_elsewhere(connection)
        there = register.read(connection)
        _refuse_fixed(there, config)
        _refuse_two_forms(there)
        keyring.note(config, connection)
        views = tuple(current_view.make_view(dsn, table.qualified, table.columns) for table in there.tables)
        append(connection, "rotation asked")
        old, new = custody.rotate_token_key(config)
        append(connection, "token key added", old=old, new=new)
        rotated = custody.keyring_id(custody.loader_keys(config, role="rotator"))
        known_keys.register(connection, rotated, {})
    without = (label(there.tables, table, name) for table in there.tables for name in _without_vault(table))
    return Rotated(old, new, views, tuple(without))


def _refuse_fixed(there: register.Register, config: Config) -> None:
    columns = [*(masked.column for masked in there.masked), *config.plan()]
    fixed = dict.fromkeys(column.name for column in columns if column.mask is Mask.IPCRYPT_PFX)
    if fixed:
        raise RefusedError(
            f"{', '.join(fixed)}: ipcrypt-pfx does not tell its key, so old and new addresses would mix",
            hint="drop the column, or load its table anew under a new keyring",
        )


def _without_vault(table: Table) -> list[str]:
    paths = {column.path for column in table.columns if column.vault}
    return [
        column.name
        for column in table.columns
        if not column.vault and column.mask is not Mask.SEAL and column.path not in paths
    ]


def _forms(config: Config, tables: tuple[Table, ...]) -> dict[str, str]:
    """Return the id of each domain's form: as this configuration says, or as another pipeline has registered it."""
    columns: list[Column] = register.all_columns(tables)
    return {column.domain: form_of(column).form_id for column in columns} | custody.form_ids(config)


def _refuse_two_forms(there: register.Register) -> None:
    """Refuse where pipelines disagree on a domain's canonical form: one would get the other's tokens."""
    forms: dict[str, set[str]] = {}
    for masked in there.masked:
        if masked.configured and masked.column.scheme == "pt1":
            forms.setdefault(masked.column.domain, set()).add(form_of(masked.column).form_id)
    several = sorted(domain for domain, found in forms.items() if len(found) > 1)
    if several:
        raise RefusedError(
            f"pipelines of this database give the domain {', '.join(several)} different canonical forms",
            hint="agree on one (parse, casefold, strip_chars, subnet), or give one of them another domain, and run "
            "`coatcheck migrate` with each file",
        )


def retokenize(config: Config, progress: Callable[[Retokenized], None] = lambda _: None) -> Retokenized:
    """Take vault and all tables to the active key. Raises RefusedError: there is no key that retires."""
    keys = keyring.loader_keys(config)
    if len(keys.kids) == 1:
        raise RefusedError(f"{keys.kid} is the only token key", hint="begin with `coatcheck keys rotate`")
    with connect(custody.dsn(config)) as connection:
        with translated("read the register of pipelines"):
            tables = register.tables(connection)
            register.refuse_hidden_rows(connection, tables)
        forms = _forms(config, tables)
        old_forms = known_keys.register(connection, custody.keyring_id(keys), forms)
        if old_forms is None:
            raise RefusedError(f"{keys.kids[1]} is retired already", hint=f"run `coatcheck keys retire {keys.kids[1]}`")
        keyring.note_if_possible(config, connection)
        return Retokenizer(
            connection,
            tables=tables,
            old=custody.tokenizer(keys, keys.kids[1]),
            new=custody.tokenizer(keys),
            old_forms=_parsed(old_forms),
            new_forms=_parsed(forms),
            opener=Opener(custody.opener_keys(config, role="rotator")),
            sealer=Sealer(keys),
            progress=progress,
        ).run()


def _parsed(forms: Mapping[str, str]) -> dict[str, Form]:
    return {domain: parse_form(form_id) for domain, form_id in forms.items()}


def retire(config: Config, kid: str) -> Retired:
    """End a rotation: nothing is left under `kid` in any table, and nothing can come.

    The key leaves the keyring when every database that is noted there has let it go. Raises RefusedError: something
    is left.
    """
    custody.refuse_foreign_root(config)  # before the database shuts the key out
    keys = keyring.loader_keys(config)
    if kid == keys.kid:
        raise RefusedError(f"{kid} is the active key", hint="rotate first: `coatcheck keys rotate`")
    keys.token_root(kid)  # raises for an unknown one
    with connect(custody.dsn(config)) as connection:
        with translated("read the register of pipelines"):
            register.refuse_unknown_tables(connection)
            register.refuse_elsewhere(connection)
            tables = register.tables(connection)
            register.refuse_hidden_rows(connection, tables)
        known_keys.register(connection, custody.keyring_id(keys), custody.form_ids(config))
        database_id = keyring.note(config, connection)
        retire_key(connection, tables=tables, kid=kid)
    custody.note_retired(config, database_id, kid)
    others = custody.other_databases(config, database_id, kid)
    if not others:
        custody.retire_token_key(config, kid)
    return Retired(tuple(others))


def other_databases(config: Config, key_id: str) -> list[str]:
    """Return the places of the databases, beside this one, that use the keyring and have not let a key go."""
    with connect(custody.dsn(config)) as connection:
        return custody.other_databases(config, keyring.note(config, connection), key_id)


def _seal_kek(config: Config) -> str | None:
    with keyring.found_elsewhere(config):
        return custody.seal_kek(config)


def rotate_seal(config: Config, progress: Callable[[int], None] = lambda _: None) -> tuple[RotatedSeal, int]:
    """Put a new seal pair in the place of the one in use, and wrap all data keys under it; return how many.

    The pair in use is held against the database before it is changed. Raises ConfigError: it is another database's.
    """
    with connect(custody.dsn(config)) as connection:
        known_keys.hold_seal(known_keys.seals(connection), _seal_kek(config))
        known_keys.refuse_without_rights(connection)
        done = custody.rotate_seal(config)
        known_keys.add_seal(connection, kek(done.key_id))
    return done, rewrap(config, progress)


def rewrap(config: Config, progress: Callable[[int], None] = lambda _: None) -> int:
    """Wrap all data keys under the present key; return how many."""
    with keyring.found_elsewhere(config):
        present, function = custody.rewrapping(config)
    with connect(custody.dsn(config)) as connection:
        done = rewrap_data_keys(connection, present, function, progress)
        known_keys.add_seal(connection, present)  # that of a foreign keyring would have opened nothing
        return done


def retire_seal(config: Config, key_id: str) -> Retired:
    """End an older seal pair in this database, and delete its private half when no database is left that uses it.

    Raises RefusedError: a data key is wrapped under it, or it is in use.
    """
    custody.check_retire_seal(config, key_id)  # before the database shuts the key out
    with connect(custody.dsn(config)) as connection, translated("look for data keys"):
        known_keys.hold_seal(known_keys.seals(connection), _seal_kek(config))
        found = connection.execute(query("rewrap_left"), {"kek": kek(key_id)}).fetchone()
        if found and found[0]:
            raise RefusedError(
                f"{found[0]:,} data keys are wrapped under {key_id}", hint="run `coatcheck keys rewrap` first"
            )
        database_id = keyring.note(config, connection)
        append(connection, "seal key retirement asked", key=key_id)
        connection.execute(query("seal_retire"), {"kek": kek(key_id)})
        custody.note_retired(config, database_id, key_id)
        others = custody.other_databases(config, database_id, key_id)
        if not others:
            custody.retire_seal(config, key_id)
        append(connection, "seal key retired", key=key_id)
    return Retired(tuple(others))
