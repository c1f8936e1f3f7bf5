"""The jobs about keys that take keyring and database at once. Part of the composition root."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coatcheck import custody
from coatcheck.config import Config
from coatcheck.errors import RefusedError
from coatcheck.keys import Opener, Sealer
from coatcheck.keys.forms import parse_form
from coatcheck.keys.seal_pair import kek
from coatcheck.pipeline.columns import Mask
from coatcheck.sinks.postgres import schema
from coatcheck.sql import query
from coatcheck.sql.connection import connect, translated
from coatcheck.vault.audit import append
from coatcheck.vault.register import register
from coatcheck.vault.retire import retire_key
from coatcheck.vault.retokenize import Retokenized, Retokenizer
from coatcheck.vault.rewrap import rewrap_data_keys


@dataclass(frozen=True, slots=True)
class Rotated:
    """A rotation that has begun: the key that retires, the active one, the view for analysts meanwhile.

    `without_vault` are columns that only loading anew can take to the new key.
    """

    old: str
    new: str
    view: str
    without_vault: tuple[str, ...]


def rotate(config: Config) -> Rotated:
    """Begin a rotation of the token key. Raises RefusedError: one is under way, or a column cannot take part."""
    fixed = [column.name for column in config.plan() if column.mask is Mask.IPCRYPT_PFX]
    if fixed:
        raise RefusedError(
            f"{', '.join(fixed)}: ipcrypt-pfx does not tell its key, so old and new addresses would mix",
            hint="drop the column, or load its table anew under a new keyring",
        )
    custody.refuse_foreign_root(config)
    dsn = custody.dsn(config)
    view = schema.make_view(dsn, config.target.table, config.plan())
    with connect(dsn) as connection, translated("write the audit trail"):
        append(connection, "rotation asked")
        old, new = custody.rotate_token_key(config)
        append(connection, "token key added", old=old, new=new)
        register(connection, custody.fingerprints(custody.loader_keys(config, role="rotator")), {})
    keyed = [column for column in config.plan() if column.scheme]
    paths = {column.path for column in keyed if column.vault}
    without = [
        column.name
        for column in keyed
        if not column.vault and column.mask is not Mask.SEAL and column.path not in paths
    ]
    return Rotated(old, new, view, tuple(without))


def retokenize(config: Config, progress: Callable[[Retokenized], None] = lambda _: None) -> Retokenized:
    """Take vault and target table to the active key. Raises RefusedError: there is no key that retires."""
    keys = custody.loader_keys(config)
    if len(keys.kids) == 1:
        raise RefusedError(f"{keys.kid} is the only token key", hint="begin with `coatcheck keys rotate`")
    with connect(custody.dsn(config)) as connection:
        old_forms = register(connection, custody.fingerprints(keys), custody.form_ids(config))
        if old_forms is None:
            raise RefusedError(f"{keys.kids[1]} is retired already", hint=f"run `coatcheck keys retire {keys.kids[1]}`")
        return Retokenizer(
            connection,
            table=config.target.table,
            columns=config.plan(),
            old=custody.tokenizer(keys, keys.kids[1]),
            new=custody.tokenizer(keys),
            old_forms={domain: parse_form(form_id) for domain, form_id in old_forms.items()},
            opener=Opener(custody.opener_keys(config, role="rotator")),
            sealer=Sealer(keys),
            progress=progress,
        ).run()


def retire(config: Config, kid: str) -> None:
    """End a rotation: nothing is left under `kid`, and nothing can come. Raises RefusedError: something is left."""
    custody.refuse_foreign_root(config)  # before the database shuts the key out
    keys = custody.loader_keys(config)
    if kid == keys.kid:
        raise RefusedError(f"{kid} is the active key", hint="rotate first: `coatcheck keys rotate`")
    keys.token_root(kid)  # raises for an unknown one
    with connect(custody.dsn(config)) as connection:
        register(connection, custody.fingerprints(keys), custody.form_ids(config))
        retire_key(connection, table=config.target.table, columns=config.plan(), kid=kid)
    custody.retire_token_key(config, kid)


def rewrap(config: Config, progress: Callable[[int], None] = lambda _: None) -> int:
    """Wrap all data keys anew under the present key; return how many."""
    present, function = custody.rewrapping(config)
    with connect(custody.dsn(config)) as connection:
        return rewrap_data_keys(connection, present, function, progress)


def retire_seal(config: Config, key_id: str) -> None:
    """Delete the private half of an older seal pair. Raises RefusedError: a data key is wrapped under it."""
    with connect(custody.dsn(config)) as connection, translated("look for data keys"):
        found = connection.execute(query("rewrap_left"), {"kek": kek(key_id)}).fetchone()
        if found and found[0]:
            raise RefusedError(
                f"{found[0]:,} data keys are wrapped under {key_id}", hint="run `coatcheck keys rewrap` first"
            )
        append(connection, "seal key retirement asked", key=key_id)
        custody.retire_seal(config, key_id)
        append(connection, "seal key retired", key=key_id)
