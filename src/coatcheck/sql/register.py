"""The database's register: which pipelines load into it, and which of its columns are masked.

`coatcheck migrate` writes it. Whatever decides about keys, originals or tokens reads it, since one configuration knows
the pipelines of one file only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from coatcheck.errors import ConfigError, RefusedError
from coatcheck.pipeline.columns import Column, ColumnType, Mask, Parse
from coatcheck.sql import query

_CLEAR = (Mask.KEEP, Mask.DROP, Mask.REDACT)
"""Masks that leave nothing in the table that was made of a value."""
_ONE_WAY = "pipelines that load one table give its columns the same mask, domain and vault"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline as it is registered: its table, its queue as configured, and how long its file keeps originals.

    `epoch` and `keep_epochs` are those of `[vault]`; `clear` are the columns that it fills without a mask.
    """

    name: str = "default"
    schema: str = ""
    table: str = ""
    queue: str = ""
    epoch: str = "quarter"
    keep_epochs: int = 0
    exists: bool = True
    clear: Sequence[str] = ()

    @property
    def qualified(self) -> str:
        """Its table as schema.table."""
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True)
class MaskedColumn:
    """A masked column of a pipeline's table. `configured` is false when it has left the configuration."""

    pipeline: str
    schema: str
    table: str
    column: Column
    configured: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """A table with the columns that hold texts made under a key; a column is there twice if it has held two domains."""

    schema: str
    name: str
    columns: tuple[Column, ...]

    @property
    def qualified(self) -> str:
        """The table as schema.table."""
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """The table as SQL."""
        return sql.Identifier(self.schema, self.name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its columns, each once."""
        return tuple(dict.fromkeys(column.name for column in self.columns))


@dataclass(frozen=True, slots=True)
class Register:
    """All that is registered: tables with texts under a key, all masked columns, and the pipelines by name."""

    tables: tuple[Table, ...]
    masked: tuple[MaskedColumn, ...]
    pipelines: dict[str, Pipeline]


def read(connection: psycopg.Connection[Any]) -> Register:
    """Return all that is registered. Raises psycopg.Error."""
    return Register(tables(connection), tuple(masked_columns(connection)), pipelines(connection))


def pipelines(connection: psycopg.Connection[Any]) -> dict[str, Pipeline]:
    """Return the registered pipelines by name. Raises psycopg.Error."""
    found = (Pipeline(*row) for row in connection.execute(query("register_pipelines")).fetchall())
    return {pipeline.name: pipeline for pipeline in found}


def masked_columns(connection: psycopg.Connection[Any]) -> list[MaskedColumn]:
    """Return all registered columns that exist, by table, those that are configured first. Raises psycopg.Error."""
    return [_masked(_Row(*row)) for row in connection.execute(query("register_columns")).fetchall()]


def tables(connection: psycopg.Connection[Any]) -> tuple[Table, ...]:
    """Return the tables that hold texts made under a key, whichever pipeline loads them.

    A view is left out if a table behind it is registered, too: its rows are found there. Raises psycopg.Error.
    """
    views = {at for at, covered in _elsewhere(connection).items() if covered}
    keyed = [
        masked
        for masked in masked_columns(connection)
        if masked.column.scheme and (masked.schema, masked.table) not in views
    ]
    return tuple(
        Table(schema, name, tuple(_distinct(masked.column for masked in group)))
        for (schema, name), group in groupby(keyed, key=attrgetter("schema", "table"))
    )


def refuse_hidden_rows(connection: psycopg.Connection[Any], tables: Sequence[Table]) -> None:
    """Refuse a login from which row-level security may hide rows: it would call done what it has not seen.

    Raises ConfigError, psycopg.Error.
    """
    at = {"schemas": [table.schema for table in tables], "tables": [table.name for table in tables]}
    hidden = [name for (name,) in connection.execute(query("register_hidden"), at).fetchall()]
    if hidden:
        raise ConfigError(
            f"row-level security may hide rows of {', '.join(hidden)} from this login",
            hint="log in as a role that has BYPASSRLS; it still needs membership in coatcheck_rotator",
        )


def refuse_unknown_tables(connection: psycopg.Connection[Any]) -> None:
    """Refuse while the tables with tokens of before the register are not on it. Raises RefusedError, psycopg.Error."""
    found = connection.execute(query("register_unknown")).fetchone()
    if found and found[0]:
        raise RefusedError(
            "this database has tokens of before the upgrade, and their table is not registered",
            hint="run `coatcheck migrate` with the file that loaded it then, without [pipelines]",
        )


def refuse_elsewhere(connection: psycopg.Connection[Any]) -> None:
    """Refuse what has to find every row while some are behind a view or in a foreign table.

    A view may hide rows, and neither has places of its own to go by. Raises RefusedError, psycopg.Error.
    """
    found = [f"{schema}.{name}" for (schema, name), covered in _elsewhere(connection).items() if not covered]
    if found:
        raise RefusedError(
            f"tokens may be in rows behind a view or in a foreign table, which cannot all be found: {', '.join(found)}",
            hint="register the table behind the view, with its masked columns, as a pipeline of its own, then run "
            "`coatcheck migrate`; it need not load anything",
        )


def _elsewhere(connection: psycopg.Connection[Any]) -> dict[tuple[str, str], bool]:
    """Return the relations whose rows are elsewhere, and of each whether it is a view over a registered table."""
    return {(schema, name): covered for schema, name, covered in connection.execute(query("register_elsewhere"))}


def database_id(connection: psycopg.Connection[Any]) -> str:
    """Return what tells this database from others. Raises psycopg.Error."""
    found = connection.execute(query("database_id")).fetchone()
    return str(found[0]) if found else ""


def label(tables: Sequence[Table], table: Table, column: str) -> str:
    """Return the name of a column for people: with its table where there are several."""
    return column if len(tables) == 1 else f"{table.name}.{column}"


def all_columns(of: Iterable[Table]) -> list[Column]:
    """Return the columns of all tables."""
    return [column for table in of for column in table.columns]


class _Row(NamedTuple):
    pipeline: str
    schema: str
    table: str
    column: str
    domain: str
    mask: str
    type: str
    path: list[str]
    parse: str
    casefold: bool
    strip_chars: str
    vault: bool
    configured: bool


def _masked(row: _Row) -> MaskedColumn:
    column = Column(
        name=row.column,
        path=tuple(row.path),
        type=ColumnType.from_text(row.type),
        parse=Parse(row.parse) if row.parse else None,
        mask=Mask(row.mask),
        domain=row.domain,
        vault=row.vault,
        casefold=row.casefold,
        strip_chars=row.strip_chars,
    )
    return MaskedColumn(row.pipeline, row.schema, row.table, column, row.configured)


def _distinct(columns: Iterable[Column]) -> Iterator[Column]:
    """Yield one column for each name, scheme and domain: of several pipelines, the one that keeps originals."""
    found: dict[tuple[str, str, str], Column] = {}
    for column in columns:
        key = column.name, column.scheme, column.domain
        if key not in found or (column.vault and not found[key].vault):
            found[key] = column
    yield from found.values()


def put(connection: psycopg.Connection[Any], pipeline: Pipeline, columns: Sequence[Column]) -> None:
    """Register a pipeline with its masked columns, in the caller's transaction.

    Columns that have left its configuration stay until no row has a text of theirs. Raises ConfigError: the name
    belongs to another table here, or another pipeline fills a column of the same table in another way; psycopg.Error.
    """
    masked = [column for column in columns if column.stored and column.mask not in _CLEAR]
    clear = [column.name for column in columns if column.stored and column.mask in _CLEAR]
    known = pipelines(connection)
    _refuse_other_table(known.get(pipeline.name), pipeline)
    _refuse_other_masks(masked_columns(connection), pipeline, columns)
    _refuse_clear(known.values(), pipeline, masked)
    at = {"pipeline": pipeline.name, "schema": pipeline.schema, "table": pipeline.table}
    settings = {"queue": pipeline.queue, "epoch": pipeline.epoch, "keep_epochs": pipeline.keep_epochs, "clear": clear}
    connection.execute(query("register_pipeline"), at | settings)
    for column in masked:
        connection.execute(query("register_column"), at | _as_parameters(column))
    _forget_left(connection, pipeline, masked)


def _as_parameters(column: Column) -> dict[str, object]:
    return {
        "column": column.name,
        "scheme": column.scheme,
        "domain": column.domain,
        "mask": str(column.mask),
        "type": column.type.sql,
        "path": list(column.path),
        "parse": str(column.parse or ""),
        "casefold": column.casefold,
        "strip_chars": column.strip_chars,
        "vault": column.vault,
    }


def _forget_left(connection: psycopg.Connection[Any], pipeline: Pipeline, masked: Sequence[Column]) -> None:
    found = connection.execute(
        query("register_left"),
        {
            "pipeline": pipeline.name,
            "schema": pipeline.schema,
            "table": pipeline.table,
            "columns": [column.name for column in masked],
            "schemes": [column.scheme for column in masked],
            "domains": [column.domain for column in masked],
        },
    ).fetchall()
    rows = [_Left(*row) for row in found]
    needed = {row.key for row in rows if _may_have_texts(connection, row)}
    for relation, column, scheme, domain in {row.key for row in rows} - needed:
        at = {"relation": relation, "column": column, "scheme": scheme, "domain": domain}
        connection.execute(query("register_forget"), {"pipeline": pipeline.name} | at)


class _Left(NamedTuple):
    relation: int
    registered: str
    scheme: str
    domain: str
    schema: str
    table: str
    column: str | None
    recent: bool

    @property
    def key(self) -> tuple[int, str, str, str]:
        return self.relation, self.registered, self.scheme, self.domain


def _may_have_texts(connection: psycopg.Connection[Any], left: _Left) -> bool:
    """Tell whether a column that is configured no more has texts of its own, or may get some from a running loader."""
    if left.column is None:
        return False
    prefix = f"{left.scheme}_{left.domain}_"
    return left.recent or not left.scheme or _any(connection, left.schema, left.table, left.column, prefix)


def _any(connection: psycopg.Connection[Any], schema: str, table: str, column: str, prefix: str) -> bool:
    statement = sql.SQL(query("register_any")).format(
        target=sql.Identifier(schema, table), column=sql.Identifier("t", column)
    )
    found = connection.execute(statement, {"prefix": prefix}).fetchone()
    return bool(found and found[0])


def _refuse_other_table(known: Pipeline | None, pipeline: Pipeline) -> None:
    if known is not None and known.exists and known.qualified != pipeline.qualified:
        hint = "name this one under [pipelines]: [pipelines.NAME.target] table = ..., and so on"
        if pipeline.name != "default":
            hint = "give this one another name under [pipelines]"
        raise ConfigError(
            f'this database\'s pipeline "{pipeline.name}" loads {known.qualified}, not {pipeline.qualified}', hint=hint
        )


def _refuse_other_masks(there: Iterable[MaskedColumn], pipeline: Pipeline, columns: Sequence[Column]) -> None:
    mine = {column.name: column for column in columns if column.stored}
    for other in there:
        same = mine.get(other.column.name)
        if same is None or not other.configured or other.pipeline == pipeline.name:
            continue
        if (other.schema, other.table) != (pipeline.schema, pipeline.table):
            continue
        if (same.mask, same.domain, same.vault) != (other.column.mask, other.column.domain, other.column.vault):
            raise ConfigError(
                f"the pipeline {other.pipeline} masks {pipeline.qualified}.{same.name} in another way",
                hint=_ONE_WAY,
            )


def _refuse_clear(known: Iterable[Pipeline], pipeline: Pipeline, masked: Sequence[Column]) -> None:
    for other in known:
        if other.name == pipeline.name or other.qualified != pipeline.qualified:
            continue
        if both := sorted({column.name for column in masked}.intersection(other.clear)):
            raise ConfigError(
                f"the pipeline {other.name} fills {pipeline.qualified}.{both[0]} without a mask", hint=_ONE_WAY
            )


def held_against(
    connection: psycopg.Connection[Any], name: str, table: str, columns: Sequence[Column]
) -> tuple[Pipeline | None, str]:
    """Return the pipeline as it is registered, and how the configuration differs from that (empty: it does not).

    `table` is as configured, with or without a schema. Raises psycopg.Error.
    """
    known = pipelines(connection).get(name)
    if known is None:
        return None, f"the pipeline {name} is not registered in this database"
    schema, _, bare = table.rpartition(".")
    if bare != known.table or schema not in ("", known.schema):
        return known, f'this database\'s pipeline "{name}" loads {known.qualified}, not {table}'
    registered = {
        _identity(masked.column)
        for masked in masked_columns(connection)
        if masked.configured and (masked.pipeline, masked.schema, masked.table) == (name, known.schema, known.table)
    }
    masked = [column for column in columns if column.stored and column.mask not in _CLEAR]
    missing = [column.name for column in masked if _identity(column) not in registered]
    if missing:
        return known, f"the masked columns {', '.join(missing)} of the pipeline {name} are not registered as configured"
    return known, ""


def _identity(column: Column) -> tuple[object, ...]:
    return column.name, column.mask, column.domain, column.path, column.vault
