"""The target table as coatcheck makes it: columns, checks of masked columns, and the view for analysts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql

from coatcheck.pipeline.columns import Column, Mask
from coatcheck.sinks.postgres.sink import table_identifier

_TEXTS = {
    Mask.TOKEN: "p[tx]1_{domain}_[0-9a-z]{{2,7}}_[0-9a-f]{{40}}",
    Mask.SUBNET: "p[tx]1_{domain}_[0-9a-z]{{2,7}}_[0-9a-f]{{40}}",
    Mask.SEAL: "p[sx]1_{domain}_[0-9a-z]{{2,7}}_[A-Za-z0-9_-]{{40,}}",
}
"""What a masked column holds, as regular expressions; px1 marks what was erased."""


def checks(columns: Sequence[Column]) -> Iterator[tuple[str, sql.Composed]]:
    """Yield (name, CHECK clause) for each column under a key: a raw value cannot get into it, whoever writes."""
    for column in columns:
        if column.stored and column.mask in _TEXTS:
            pattern = f"^{_TEXTS[column.mask].format(domain=column.domain)}$"
            clause = sql.SQL("CHECK ({} ~ {})").format(sql.Identifier(column.name), sql.Literal(pattern))
            yield f"{column.name[:54]}_masked", clause


def create_table(table: str, columns: Sequence[Column]) -> sql.Composed:
    """Return the statement that creates the target table."""
    parts = [
        sql.SQL("{} " + column.type.sql).format(sql.Identifier(column.name)) for column in columns if column.stored
    ]
    parts += [sql.SQL("CONSTRAINT {} {}").format(sql.Identifier(name), clause) for name, clause in checks(columns)]
    body = sql.SQL(",\n    ").join(parts)
    return sql.SQL("CREATE TABLE IF NOT EXISTS {} (\n    {}\n)").format(table_identifier(table), body)


def add_checks(table: str, columns: Sequence[Column]) -> Iterator[tuple[str, sql.Composed, sql.Composed]]:
    """Yield (name, statement that adds it, statement that validates it) for each check of an existing table.

    Added without a look at the rows there are, so that the lock is short; then validated beside the writers.
    """
    target = table_identifier(table)
    for name, clause in checks(columns):
        identifier = sql.Identifier(name)
        add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {} NOT VALID").format(target, identifier, clause)
        yield name, add, sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(target, identifier)


def view_name(table: str) -> str:
    """Return the name of the view over a table, in its schema."""
    schema, dot, name = table.rpartition(".")
    return f"{schema}{dot}{name[:55]}_current"


def create_view(table: str, columns: Sequence[Column], actual: Sequence[tuple[str, str, bool]]) -> sql.Composed:
    """Return the statement that creates the view in which every text is under the active key.

    `actual` are the table's columns as (name, type, ...). While a key retires the aliases give old rows their new
    tokens, so that groups and joins stay whole; else the view shows the table.
    """
    keyed = {column.name for column in columns if column.stored and column.scheme}
    fields, joins = [], []
    for number, (name, type_, _) in enumerate(actual):
        column = sql.Identifier("t", name)
        if name not in keyed:
            fields.append(sql.SQL("{}").format(column))
            continue
        alias = sql.Identifier(f"a{number}")
        joins.append(
            sql.SQL('LEFT JOIN coatcheck.alias AS {alias} ON {alias}.old_token = {column} COLLATE "C"').format(
                alias=alias, column=column
            )
        )
        fields.append(
            sql.SQL("coalesce({alias}.new_token, {column})::" + type_ + " AS {name}").format(
                alias=alias, column=column, name=sql.Identifier(name)
            )
        )
    return sql.SQL("CREATE OR REPLACE VIEW {} AS SELECT {} FROM {} AS t {}").format(
        table_identifier(view_name(table)),
        sql.SQL(", ").join(fields),
        table_identifier(table),
        sql.SQL(" ").join(joins),
    )
