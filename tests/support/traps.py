"""A database in which what our SQL calls by name has a namesake that somebody has planted (CVE-2018-1058)."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import psycopg

import coatcheck

SOURCES = Path(coatcheck.__file__).parent
_MORE = ("bool", "int2", "int4", "int8", "timestamptz", "varchar", "bpchar")
"""Types under the names that PostgreSQL itself gives to integer, bigint and the like."""

PLANT = Path(__file__).with_name("traps.sql")


@cache
def words() -> frozenset[str]:
    """Return every word of our SQL, and of the modules that hold some."""
    texts = [path.read_text(encoding="utf-8") for path in SOURCES.rglob("*") if path.suffix in {".sql", ".py"}]
    return frozenset(_MORE).union(*(re.findall(r"[a-z_][a-z0-9_]+", text) for text in texts))


def plant(dsn: str, schema: str) -> int:
    """Plant a namesake of everything in a schema; return how many there are."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        text = PLANT.read_text(encoding="utf-8").replace("{schema}", schema)
        connection.execute(text.replace("{words}", "{" + ",".join(sorted(words())) + "}").encode())
        found = connection.execute(
            "SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace = to_regnamespace(%(s)s))"
            " + (SELECT count(*) FROM pg_operator WHERE oprnamespace = to_regnamespace(%(s)s))"
            " + (SELECT count(*) FROM pg_type WHERE typnamespace = to_regnamespace(%(s)s) AND typtype = 'd')",
            {"s": schema},
        ).fetchone()
    assert found
    return int(found[0])
