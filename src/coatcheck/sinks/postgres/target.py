"""The target table as coatcheck makes it: columns, checks of masked columns, and the view for analysts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

from psycopg import sql

from coatcheck.pipeline.columns import Column, Mask
from coatcheck.sinks.postgres.sink import table_identifier

# p[tx]1_{domain}_[0-9a-z]{2,7}_[0-9a-f]{40}, without the counts: PostgreSQL's regular expressions take 2 us to count to
# forty, for each column of each row (docs/decisions/0017).
_HASHED = """left({column}, {start}) IN ({texts}) AND length({column}) BETWEEN {start} + 43 AND {start} + 48 \
AND substr({column}, length({column}) - 40, 1) = '_' AND substr({column}, {start} + 1) ~ '^[0-9a-z]+_[0-9a-f]+$'"""
# p[sx]1_{domain}_[0-9a-z]{2,7}_[A-Za-z0-9_-]{40,}
_SEALED = """left({column}, {start}) IN ({texts}) AND substr({column}, {start} + 1) ~ '^[0-9a-z]+_[A-Za-z0-9_-]+$' \
AND strpos(substr({column}, {start} + 1), '_') BETWEEN 3 AND 8 \
AND length({column}) - strpos(substr({column}, {start} + 1), '_') >= {start} + 40"""
_TEXTS = {Mask.TOKEN: ("pt1", _HASHED), Mask.SUBNET: ("pt1", _HASHED), Mask.SEAL: ("ps1", _SEALED)}
"""What a masked column holds: its scheme and a condition in SQL; the scheme px1 marks what was erased."""

_PLAIN = sql.SQL("")


def checks(columns: Sequence[Column]) -> Iterator[tuple[str, sql.Composed]]:
    """Yield (name, CHECK clause) for each column under a key: a raw value cannot get into it, whoever writes."""
    for column in columns:
        if column.stored and column.mask in _TEXTS:
            scheme, condition = _TEXTS[column.mask]
            starts = [f"{one}_{column.domain}_" for one in (scheme, "px1")]
            clause = sql.SQL("CHECK (" + condition + ")").format(
                column=sql.Identifier(column.name),
                start=sql.Literal(len(starts[0])),
                texts=sql.SQL(", ").join(map(sql.Literal, starts)),
            )
            yield f"{column.name[:54]}_masked", clause


def create_table(table: str, columns: Sequence[Column], partition_by: sql.Composable = _PLAIN) -> sql.Composed:
    """Return the statement that creates the target table; `partition_by` is its clause, if it is to be partitioned."""
    parts = [
        sql.SQL("{} " + column.type.sql).format(sql.Identifier(column.name)) for column in columns if column.stored
    ]
    parts += [sql.SQL("CONSTRAINT {} {}").format(sql.Identifier(name), clause) for name, clause in checks(columns)]
    body = sql.SQL(",\n    ").join(parts)
    return sql.SQL("CREATE TABLE IF NOT EXISTS {} (\n    {}\n) {}").format(table_identifier(table), body, partition_by)


def add_checks(table: str, columns: Sequence[Column]) -> Iterator[tuple[str, sql.Composed, sql.Composed]]:
    """Yield (name, statement that adds it, statement that validates it) for each check of an existing table.

    Added without a look at the rows there are, so that the lock is short; then validated beside the writers.
    """
    target = table_identifier(table)
    for name, clause in checks(columns):
        identifier = sql.Identifier(name)
        add = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {} NOT VALID").format(target, identifier, clause)
        yield name, add, sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(target, identifier)


_VIEWED = 55  # bytes of a table's name that leave room for "_current"


def view_name(table: str) -> str:
    """Return the name of the view over a table, in its schema: another one for each table, within 63 bytes."""
    schema, dot, name = table.rpartition(".")
    if len(name.encode()) > _VIEWED:
        start = name.encode()[: _VIEWED - 9].decode(errors="ignore")
        name = f"{start}_{sha256(name.encode()).hexdigest()[:8]}"
    return f"{schema}{dot}{name}_current"


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
