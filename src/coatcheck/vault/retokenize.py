"""After a rotation: vault and target table go from the key that retires to the active one, in small transactions.

1. Every vault entry under the old key is opened, held against its token, and stored again under the new token, with the
   alias old -> new (and those of the networks of an address).
2. Every row gets the new tokens by the aliases, a range of blocks at a time; sealed texts are opened and sealed again.
3. What loaders with the old keyring have written meanwhile is done in a further pass.

It can be stopped and started again at any moment: what is done is found done. Analysts read the view meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg import sql

from coatcheck.errors import ConfigError
from coatcheck.keys import Form, FormError, Opener, OpenError, Tokenizer
from coatcheck.pipeline.columns import Column, Mask
from coatcheck.pipeline.mask import form_of, masking
from coatcheck.pipeline.message import Alias, DataKey, Sealed
from coatcheck.pipeline.ports import BodySealer
from coatcheck.sql import query
from coatcheck.sql.connection import translated
from coatcheck.sql.register import Table, all_columns, label
from coatcheck.sql.session import login_path
from coatcheck.vault.audit import append
from coatcheck.vault.store import vault_context

_PAGE = 500
_BLOCKS = 256  # 2 MiB: some ten thousand rows a transaction
_PASSES = 5
_FOREIGN_MOST = 20
_TRIES = 10  # of a step that PostgreSQL has chosen to give way in a deadlock
_ALIAS = '(SELECT new_token FROM coatcheck.alias WHERE old_token OPERATOR(pg_catalog.=) t.{} COLLATE pg_catalog."C")'

Function = Callable[[object], Any]


@dataclass(slots=True)
class Retokenized:
    """What a run has done. `left` are rows by column that still have a text under the old key.

    `mismatched` are vault entries whose original is not that of their token, or has no form under the active key:
    damaged, planted, or of a form that takes all there is of it; they stay. `foreign` are those under data keys that no
    key opens that is here; they stay, too.
    """

    entries: int = 0
    rows: int = 0
    mismatched: int = 0
    foreign: int = 0
    left: dict[str, int] = field(default_factory=dict)


def key_range(domain: str, kid: str, scheme: str = "pt1") -> tuple[str, str]:
    """Return [first, beyond) of all texts of one domain under one key, in byte order."""
    return f"{scheme}_{domain}_{kid}_", f"{scheme}_{domain}_{kid}`"


class Retokenizer:
    """Takes one database from the key of `old` to that of `new`.

    `old_forms` and `new_forms` are the forms frozen for either key.

    `tables` are all that the database has registered, whichever pipelines load them.

    `opener` opens the vault, `sealer` seals for it. `progress` is told of entries and rows done. Raises what they
    raise, and UnreachableError or ConfigError for the database.
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        *,
        tables: Sequence[Table],
        old: Tokenizer,
        new: Tokenizer,
        old_forms: Mapping[str, Form],
        new_forms: Mapping[str, Form] | None = None,
        opener: Opener,
        sealer: BodySealer,
        progress: Callable[[Retokenized], None] = lambda _: None,
    ) -> None:
        self._connection, self._tables, self._progress = connection, tables, progress
        self._old, self._new, self._old_forms, self._new_forms = old, new, old_forms, new_forms or {}
        self._opener, self._sealer = opener, sealer
        self._foreign: dict[bytes, ConfigError] = {}

    def run(self) -> Retokenized:
        """Do all there is to do now; return what was done."""
        done = Retokenized()
        with translated("re-tokenize"):
            append(self._connection, "retokenize begun", old=self._old.kid, new=self._new.kid)
            before = -1
            for _ in range(_PASSES):
                done.mismatched = done.foreign = 0  # those that stay are met in each pass
                for domain in self._vaulted():
                    self._entries(domain, done)
                    if done.left:
                        self._derived(domain)
                self._rows(done)
                done.left = rows_left(self._connection, self._tables, self._old.kid)
                now = sum(done.left.values())
                if now in (0, before):
                    break
                before = now
            counts = {"entries": done.entries, "rows": done.rows, "mismatched": done.mismatched, "left": done.left}
            counts |= {"foreign": done.foreign}
            append(self._connection, "retokenize ended", old=self._old.kid, new=self._new.kid, **counts)
        return done

    def _execute(
        self,
        statement: str | sql.Composed,
        parameters: Mapping[str, Any],
        path: Callable[[psycopg.Connection[Any]], AbstractContextManager[object]] = nullcontext,
    ) -> psycopg.Cursor[Any]:
        """Run a step; again, when somebody else had to go first (SQLSTATE class 40)."""
        for _ in range(_TRIES):
            try:
                with path(self._connection):
                    return self._connection.execute(_as_query(statement), parameters)
            except psycopg.OperationalError as error:
                if (error.sqlstate or "")[:2] != "40":
                    raise
        with path(self._connection):
            return self._connection.execute(_as_query(statement), parameters)

    def _vaulted(self) -> list[str]:
        """Return the domains that may have entries: of the columns, and of those that once were configured."""
        return sorted({column.domain for column in all_columns(self._tables) if column.vault} | self._old_forms.keys())

    # -- the vault

    def _entries(self, domain: str, done: Retokenized) -> None:
        _, new, derived = self._functions(domain)
        for page in self._pages("retokenize_page", domain, done):
            stored, aliases = [], set[Alias]()
            for token, epoch, original in page:
                fresh = None if original is None else _or_none(new, original)
                if original is None or fresh is None:
                    done.mismatched += 1
                    continue
                stored.append((fresh, epoch, self._sealer.seal(original.encode(), *vault_context(fresh, epoch))))
                aliases.add(Alias(token, fresh))
                aliases.update(_aliases(derived, original))
            self._store(sorted(stored, key=lambda entry: entry[:2]), sorted(aliases))
            done.entries += len(stored)
            self._progress(done)

    def _derived(self, domain: str) -> None:
        """Make the aliases of what else is made of the same fields, for entries that are under the active key already.

        A loader whose table has no such column has taken them there without.
        """
        _, _, derived = self._functions(domain)
        counted = Retokenized(entries=1)  # in another place
        for page in self._pages("retokenize_done", domain, counted) if derived else ():
            originals = [original for _, _, original in page if original is not None]
            self._store([], sorted({alias for original in originals for alias in _aliases(derived, original)}))

    def _pages(self, name: str, domain: str, done: Retokenized) -> Iterator[list[tuple[str, int, str | None]]]:
        """Yield pages of (token, epoch, original) under the old key; None as the original of what does not open."""
        old, _, _ = self._functions(domain)
        first, beyond = key_range(domain, self._old.kid)
        at: dict[str, Any] = {"first": first, "beyond": beyond, "token": "", "epoch": 0, "limit": _PAGE}
        while page := self._execute(query(name), at).fetchall():
            opened = []
            for token, epoch, nonce, ciphertext, dek_id, kek, wrapped in page:
                data_key = DataKey(dek_id.bytes, kek, wrapped)
                if not self._is_foreign(data_key, done):
                    sealed = Sealed(dek_id.bytes, nonce, ciphertext)
                    opened.append((token, epoch, self._original(token, epoch, sealed, data_key, old)))
            yield opened
            at |= {"token": page[-1][0], "epoch": page[-1][1]}

    def _is_foreign(self, data_key: DataKey, done: Retokenized) -> bool:
        """Tell whether no key that is here opens a data key: a loader may have planted it, so the others go on.

        Raises the ConfigError if there are many of them, and nothing opens: then the private key is the wrong one.
        """
        if data_key.dek_id not in self._foreign:
            try:
                self._opener.try_key(data_key)
            except OpenError:
                return False  # counted with what does not open
            except ConfigError as error:
                self._foreign[data_key.dek_id] = error
                if not done.entries and len(self._foreign) >= _FOREIGN_MOST:
                    raise
            else:
                return False
        done.foreign += 1
        return True

    def _original(self, token: str, epoch: int, sealed: Sealed, data_key: DataKey, old: Function) -> str | None:
        """Open an entry; None if it does not open, or is not the original of its token."""
        try:
            original = self._opener.open(sealed, data_key, *vault_context(token, epoch)).decode()
            return original if old(original) == token else None
        except (OpenError, FormError, UnicodeDecodeError):
            return None

    def _functions(self, domain: str) -> tuple[Function, Function, list[tuple[Function, Function]]]:
        """Return how tokens of a domain are made under both keys, and what else is made of the same fields."""
        own, beside = None, dict[str, Column]()
        for table in self._tables:
            tokens = [column for column in table.columns if column.mask is not Mask.SEAL]
            mine = [column for column in tokens if column.domain == domain]
            own = own or next(iter(mine), None)
            paths = {column.path for column in mine}
            beside |= {c.domain: c for c in tokens if c.path in paths and c.domain != domain}
        if own is None:  # no column has it any more: its form cannot have changed
            form = self._old_forms[domain]
            return self._old.for_domain(domain, form), self._new.for_domain(domain, form), []
        return *self._both(own), [self._both(column) for column in beside.values()]

    def _both(self, column: Column) -> tuple[Function, Function]:
        form = self._old_forms.get(column.domain, form_of(column))
        return masking(column, self._old, form), self._masking(column)

    def _masking(self, column: Column) -> Function:
        return masking(column, self._new, self._new_forms.get(column.domain))

    def _store(self, entries: list[tuple[str, int, Sealed]], aliases: list[Alias]) -> None:
        sealed = [value for _, _, value in entries]
        keys = [self._sealer.data_key(dek_id) for dek_id in sorted({value.dek_id for value in sealed})]
        self._execute(
            query("retokenize_store"),
            {
                "dek_ids": [UUID(bytes=key.dek_id) for key in keys],
                "keks": [key.kek for key in keys],
                "wrapped": [key.wrapped for key in keys],
                "old_tokens": [alias.old for alias in aliases],
                "new_tokens": [alias.new for alias in aliases],
                "tokens": [token for token, _, _ in entries],
                "epochs": [epoch for _, epoch, _ in entries],
                "vault_deks": [UUID(bytes=value.dek_id) for value in sealed],
                "nonces": [value.nonce for value in sealed],
                "ciphertexts": [value.ciphertext for value in sealed],
            },
        )

    # -- the target table

    def _rows(self, done: Retokenized) -> None:
        for table in self._tables:
            update = self._update(table)
            for part, ranges in self._parts(table):
                statement = update.format(target=part)
                with suppress(psycopg.errors.UndefinedTable):  # a partition that was dropped meanwhile
                    for first, beyond in ranges:
                        block_range = {"first": f"({first},0)", "beyond": f"({beyond},0)"}
                        self._sealed(table, part, block_range)
                        done.rows += self._execute(statement, block_range, path=login_path).rowcount
                        self._progress(done)

    def _parts(self, table: Table) -> list[tuple[sql.Identifier, Iterator[tuple[int, int]]]]:
        at = {"target": table.identifier.as_string()}
        found = self._connection.execute(query("retokenize_parts"), at).fetchall()
        return [
            (sql.Identifier(schema, name), ((at, at + _BLOCKS) for at in range(0, int(blocks) + 1, _BLOCKS)))
            for _, schema, name, blocks in found
        ]

    def _update(self, table: Table) -> sql.SQL:
        """Compose the update but for the table, which is another for each partition."""
        assignments, known = [], []
        for column in map(sql.Identifier, table.names):
            alias = sql.SQL(_ALIAS).format(column)
            assignments.append(sql.SQL("{} = coalesce({}, t.{})").format(column, alias, column))
        for one in table.columns:
            column, prefix = sql.Identifier(one.name), sql.Literal(key_range(one.domain, self._old.kid, one.scheme)[0])
            alias = sql.SQL(_ALIAS).format(column)
            known.append(sql.SQL("(pg_catalog.starts_with(t.{}, {}) AND {} IS NOT NULL)").format(column, prefix, alias))
        text = sql.SQL(query("retokenize_rows")).format(
            target=sql.SQL("{{target}}"), assignments=sql.SQL(", ").join(assignments), known=sql.SQL(" OR ").join(known)
        )
        return sql.SQL(text.as_string().replace("{{target}}", "{target}"))

    def _sealed(self, table: Table, part: sql.Identifier, block_range: dict[str, str]) -> None:
        """Make the aliases of the sealed texts in a range of blocks."""
        for column in table.columns:
            if column.mask is not Mask.SEAL:
                continue
            prefix, _ = key_range(column.domain, self._old.kid, column.scheme)
            statement = sql.SQL(query("retokenize_sealed")).format(target=part, column=sql.Identifier("t", column.name))
            texts = self._execute(statement, block_range | {"prefix": prefix}).fetchall()
            reseal = self._resealing(column)
            renewed = ((text, _or_none(reseal, text)) for (text,) in texts)
            self._store([], sorted(Alias(text, fresh) for text, fresh in renewed if fresh is not None))

    def _resealing(self, column: Column) -> Function:
        form = self._old_forms.get(column.domain, form_of(column))
        unseal, seal = self._old.open_for(column.domain, form), self._masking(column)
        return lambda text: seal(unseal(str(text)))


def _or_none(function: Function, value: str) -> str | None:
    """Return the text that is made of a value; None if it has no canonical form, or does not open."""
    try:
        return str(function(value))
    except (OpenError, FormError):
        return None


def _as_query(statement: str | sql.Composed) -> bytes | sql.Composed:
    return statement.encode() if isinstance(statement, str) else statement


def _aliases(derived: Sequence[tuple[Function, Function]], original: str) -> Iterator[Alias]:
    for function, successor in derived:
        old, new = _or_none(function, original), _or_none(successor, original)
        if old is not None and new is not None:
            yield Alias(old, new)


def rows_left(connection: psycopg.Connection[Any], tables: Sequence[Table], kid: str) -> dict[str, int]:
    """Return how many rows still have a text under key `kid`, by column; columns without any are left out."""
    return {
        label(tables, table, name): count
        for table in tables
        for name, count in _left(connection, table, kid).items()
        if count
    }


def _left(connection: psycopg.Connection[Any], table: Table, kid: str) -> dict[str, int]:
    counts = [
        sql.SQL("count(*) FILTER (WHERE {})").format(
            sql.SQL(" OR ").join(
                sql.SQL("starts_with(t.{}, {})").format(
                    sql.Identifier(name), sql.Literal(key_range(column.domain, kid, column.scheme)[0])
                )
                for column in table.columns
                if column.name == name
            )
        )
        for name in table.names
    ]
    statement = sql.SQL(query("retokenize_left")).format(counts=sql.SQL(", ").join(counts), target=table.identifier)
    found = connection.execute(statement).fetchone() or ()
    return dict(zip(table.names, found, strict=True))
