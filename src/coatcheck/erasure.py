"""Erasure of originals and their tokens, which takes keyring and database at once. Part of the composition root."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal

from coatcheck import custody, keyring
from coatcheck.config import Config
from coatcheck.errors import ConfigError
from coatcheck.keys import TOKEN_PATTERN, FormError, LoaderKeys
from coatcheck.keys.siv import SEALED_PATTERN
from coatcheck.pipeline.columns import Column, Kind, Mask
from coatcheck.pipeline.mask import form_of
from coatcheck.pipeline.message import REASONS, Reject
from coatcheck.pipeline.validate import validator
from coatcheck.sql import register
from coatcheck.sql.connection import connect, translated
from coatcheck.sql.register import Register
from coatcheck.vault import remains
from coatcheck.vault.erase import Epoch, Erased, Eraser, Subject
from coatcheck.vault.erase_rights import refuse_other_keys, refuse_without_rights
from coatcheck.vault.register import forms_of_keys
from coatcheck.vault.remains import Remainder

_NUMBER = re.compile(r"-?[0-9]{1,1000}(\.[0-9]{1,1000})?", re.ASCII)
_DESTROYED = {
    "local": "run `coatcheck keys rotate-seal`, take the new pair to loaders, run `coatcheck keys retire-seal`, and "
    "destroy all copies of the old key",
    "aws-kms": "name another key in keys.vault_key, run `coatcheck keys rewrap`, then schedule the old one's deletion",
}


@dataclass(frozen=True, slots=True)
class Why:
    """For what reason, and in which case, as policy wants to know it."""

    reason: str
    ticket: str


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was erased, and what remains."""

    erased: Erased | Epoch
    remains: tuple[Remainder, ...]


Progress = Callable[[Erased], None]


def _silent(_: Erased) -> None:
    """Tell nobody."""


@contextmanager
def _eraser(config: Config, progress: Progress = _silent, *, rows: bool = True) -> Iterator[tuple[Eraser, Register]]:
    """Open what erases; with `rows` in a database where all rows with tokens can be found."""
    with connect(custody.dsn(config)) as connection:
        refuse_without_rights(connection, ())
        with translated("read the register of pipelines"):
            register.refuse_unknown_tables(connection)
            there = register.read(connection)
            register.refuse_hidden_rows(connection, there.tables)
            if rows:
                register.refuse_elsewhere(connection)
        refuse_without_rights(connection, there.tables)
        yield Eraser(connection, tables=there.tables, progress=progress), there


def _stored(config: Config, there: Register) -> dict[str, list[Column]]:
    """Return the columns of every table: those of this configuration in full, of others those that are masked."""
    found: dict[str, list[Column]] = {}
    for masked in there.masked:
        found.setdefault(f"{masked.schema}.{masked.table}", []).append(masked.column)
    mine = there.pipelines.get(config.pipeline)
    if mine is not None:
        kept = [c for c in config.plan() if c.stored and c.mask in (Mask.KEEP, Mask.REDACT)]
        found[mine.qualified] = [*found.get(mine.qualified, []), *kept]
    return found


def erase_tokens(config: Config, texts: Sequence[str], why: Why, progress: Progress = _silent) -> Erasure:
    """Erase tokens (and sealed texts) from the vault and all rows. Raises ConfigError: one is none; RefusedError."""
    for place, text in enumerate(texts, start=1):
        if not (TOKEN_PATTERN.fullmatch(text) or SEALED_PATTERN.fullmatch(text)):
            raise ConfigError(
                f"item {place} is no token",
                hint="copy it whole, as it stands in the table; a value is erased with --value and --domain",
            )
    with _eraser(config, progress) as (eraser, there):
        eraser.begin("token", why.reason, why.ticket, tokens=len(set(texts)))
        return _finish(config, eraser, there, eraser.texts(texts), texts)


def erase_value(config: Config, domain: str, value: str, why: Why, progress: Progress = _silent) -> Erasure:
    """Erase what a value has become in a domain, under every token key, in every table. Needs the token root.

    Raises ConfigError: no column has the domain, the value has no canonical form, or the keyring is another one.
    """
    keys = keyring.loader_keys(config, role="revealer")
    with _eraser(config, progress) as (eraser, there):
        texts = _texts(config, keys, there, domain, value)
        eraser.begin("value", why.reason, why.ticket, domain=domain)
        return _finish(config, eraser, there, eraser.texts(texts), texts)


def _of_domain(columns: Sequence[Column], domain: str) -> list[Column]:
    """Return the columns with texts of a domain. Raises ConfigError: there are none, or they hold networks."""
    mine = [column for column in columns if column.domain == domain and column.scheme]
    if any(column.mask is Mask.SUBNET for column in mine):
        raise ConfigError(
            f"the domain {domain} holds networks, each of many addresses",
            hint="erase the address in its own domain; if the whole network is meant, give its token",
        )
    if not mine:
        known = sorted({c.domain for c in columns if c.scheme and c.mask is not Mask.SUBNET})
        raise ConfigError(
            "no column has tokens or sealed texts of this domain", hint=f"this database has {', '.join(known)}"
        )
    return mine


def _texts(config: Config, keys: LoaderKeys, there: Register, domain: str, value: str) -> set[str]:
    """Return all that a value may have become: under each key, in the form frozen for it, as token and sealed."""
    mine = _of_domain(register.all_columns(there.tables), domain)
    sealed = any(column.mask is Mask.SEAL for column in mine)
    with connect(custody.dsn(config)) as connection:
        refuse_other_keys(connection, custody.fingerprints(keys))
        forms = forms_of_keys(connection, keys.kids, domain, form_of(mine[0]))
    texts: set[str] = set()
    reason = None
    for kid, form in forms.items():
        tokenizer = custody.tokenizer(keys, kid)
        try:
            texts.add(tokenizer.token(domain, value, form))
            if sealed:
                texts.add(tokenizer.seal_for(domain, form)(value))
        except FormError as error:
            reason = error.reason
    if not texts:
        hint = "write it as the messages have it; see parse and strip_chars in [columns]"
        raise ConfigError(f"the value has no token in the domain {domain}: {reason}", hint=hint)
    return texts


def erase_subject(config: Config, name: str, text: str, why: Why, progress: Progress = _silent) -> Erasure:
    """Erase a subject: in their rows all that is masked, in the vault what no other row of any table has.

    The subject is who has `text` in the column `name`, which is not masked. Raises ConfigError: there is no such
    column, it is masked, or the text does not fit it.
    """
    column, value = _subject(config, name, text)
    with _eraser(config, progress) as (eraser, there):
        subject = Subject(column, value, _table(config, there))
        eraser.begin("subject", why.reason, why.ticket, column=name)
        done = eraser.subject(subject)
        columns = config.plan()
        others = [c for c in columns if c.stored and not c.scheme and c.mask is not Mask.REDACT]
        rows, filled = eraser.rows_of(subject, others)
        eraser.end(done.figures())
        elsewhere = sorted({p.qualified for p in there.pipelines.values()} - {subject.table})
        return Erasure(done, (*remains.after_subject(columns, rows, filled, done, elsewhere), *_any(eraser)))


def _table(config: Config, there: Register) -> str:
    mine = there.pipelines.get(config.pipeline)
    if mine is None:
        raise ConfigError(
            f"the pipeline {config.pipeline} is not registered in this database", hint="run `coatcheck migrate`"
        )
    keyed = {f"{masked.schema}.{masked.table}" for masked in there.masked if masked.column.scheme}
    if mine.qualified in keyed.difference(table.qualified for table in there.tables):
        raise ConfigError(
            f"{mine.qualified} is a view, and its rows are erased in the table behind it",
            hint="name the pipeline that is registered for that table: --pipeline NAME",
        )
    return mine.qualified


def rows_of(config: Config, name: str, text: str) -> int:
    """Return how many rows `erase_subject` would change, for who is to say yes. Raises as that does."""
    column, value = _subject(config, name, text)
    with _eraser(config) as (eraser, there):
        return eraser.rows_of(Subject(column, value, _table(config, there)), ())[0]


def _subject(config: Config, name: str, text: str) -> tuple[Column, object]:
    column = _unmasked(config.plan(), name)
    return column, _read(column, text)


def _unmasked(columns: Sequence[Column], name: str) -> Column:
    kept = [column for column in columns if column.mask is Mask.KEEP and column.type.kind is not Kind.JSONB]
    for column in columns:
        if column.name == name and column in kept:
            return column
        if column.name == name and column.mask is not Mask.KEEP:
            raise ConfigError(
                f"the column {name} is masked: it does not tell whose a row is",
                hint="erase its value for all who have it: --value - --domain " + (column.domain or "..."),
            )
    raise ConfigError(
        "this is no column that tells whose a row is",
        hint=f"those that are not masked are {', '.join(column.name for column in kept) or 'none'}",
    )


def _read(column: Column, text: str) -> object:
    """Return the value as the road stores it. PostgreSQL is given none that does not fit: its log would quote it."""
    plain = replace(column, path=(column.name,), required=True, default=None, default_sent_at=False)
    found = validator((plain,))({column.name: _as_sent(column, text)}, 0)
    if isinstance(found, Reject):
        raise ConfigError(
            f"what is given for {column.name} does not fit it: {found.reason}",
            hint=f"{REASONS[found.reason]}; the column is {column.type.sql}",
        )
    return found[0]


def _as_sent(column: Column, text: str) -> object:
    """Return the JSON value that a text stands for in a column: a number or a boolean if it takes those."""
    if column.parse is not None:
        return text
    if column.type.kind is Kind.BOOLEAN:
        return {"true": True, "false": False}.get(text, text)
    if column.type.kind in (Kind.INTEGER, Kind.BIGINT, Kind.NUMERIC) and _NUMBER.fullmatch(text):
        return Decimal(text) if "." in text else int(text)
    return text


def erase_epoch(config: Config, epoch: int, why: Why) -> Erasure:
    """Erase all originals of an epoch. Raises RefusedError: it is not over."""
    with _eraser(config, rows=False) as (eraser, _):
        eraser.begin("epoch", why.reason, why.ticket, epoch=epoch)
        ended = eraser.epoch(epoch)
        eraser.end({"entries": ended.entries, "data_keys": ended.data_keys})
        return Erasure(
            ended, (*remains.after_epoch(ended, _DESTROYED[config.keys.provider]), *_any(eraser, backups=False))
        )


def _finish(config: Config, eraser: Eraser, there: Register, done: Erased, texts: Collection[str]) -> Erasure:
    eraser.end(done.figures())
    prefixes = {"_".join([*text.split("_", 2)[:2], ""]) for text in texts}
    left = remains.after_texts(_stored(config, there), prefixes, done)
    return Erasure(done, (*left, *_any(eraser)))


def _any(eraser: Eraser, *, backups: bool = True) -> Iterator[Remainder]:
    found = remains.after_any(eraser.held(), rotating=eraser.rotating())
    yield from (remainder for remainder in found if backups or remainder is not remains.BACKUPS)
