"""A database in which everything that our SQL calls by name has a namesake that somebody has planted (CVE-2018-1058)."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import psycopg

import coatcheck

SOURCES = Path(coatcheck.__file__).parent
_MORE = ("bool", "int2", "int4", "int8", "timestamptz", "varchar", "bpchar")
"""Types under the names that PostgreSQL itself gives to integer, bigint and the like."""

PLANT = """
SET search_path = pg_catalog;
CREATE SCHEMA IF NOT EXISTS {schema};
GRANT USAGE ON SCHEMA {schema} TO PUBLIC;
CREATE FUNCTION {schema}.spring(what text) RETURNS boolean LANGUAGE plpgsql AS
    $_$ BEGIN RAISE EXCEPTION USING MESSAGE = 'a trap: ' || what, ERRCODE = 'TRAPS'; END $_$;
DO $do$
DECLARE
    words text[] := '{words}';
    body constant text := ' LANGUAGE plpgsql AS $_$ BEGIN RAISE EXCEPTION USING MESSAGE = %L, ERRCODE = ''TRAPS''; END $_$';
    one record;
    types text;
BEGIN
    FOR one IN  -- functions, aggregates and window functions, with the arguments that PostgreSQL's own have
        SELECT p.oid, p.proname, p.pronargs, p.provariadic, oidvectortypes(p.proargtypes) AS arguments,
               format_type(p.prorettype, NULL) AS result, p.proretset
        FROM pg_proc AS p WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = ANY (words)
    LOOP
        IF one.provariadic <> 0 THEN
            FOR n IN 1 .. 6 LOOP
                FOREACH types IN ARRAY ARRAY['text', 'name'] LOOP
                    BEGIN
                        EXECUTE format('CREATE FUNCTION {schema}.%I(%s) RETURNS text', one.proname,
                                       array_to_string(array_fill(types, ARRAY[n]), ', '))
                                || format(body, 'a trap: ' || one.proname);
                    EXCEPTION WHEN others THEN NULL;
                    END;
                END LOOP;
            END LOOP;
        END IF;
        BEGIN
            EXECUTE format('CREATE FUNCTION {schema}.%I(%s) RETURNS %s %s', one.proname,
                           replace(one.arguments, '"any"', 'anyelement'),
                           CASE WHEN one.proretset THEN 'SETOF' ELSE '' END, one.result) || format(body, 'a trap: ' || one.proname);
        EXCEPTION WHEN others THEN NULL;  -- of internal types, which no function of a user's has
        END;
    END LOOP;
    FOR one IN  -- operators
        SELECT o.oprname, o.oprleft, o.oprright, format_type(o.oprleft, NULL) AS l, format_type(o.oprright, NULL) AS r,
               format_type(o.oprresult, NULL) AS result, row_number() OVER () AS n
        FROM pg_operator AS o WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprleft <> 0
    LOOP
        BEGIN
            EXECUTE format('CREATE FUNCTION {schema}.%I(%s, %s) RETURNS %s', 'operator_' || one.n, one.l, one.r, one.result)
                    || format(body, 'a trap: operator ' || one.oprname);
            EXECUTE format('CREATE OPERATOR {schema}.%s (FUNCTION = {schema}.%I, LEFTARG = %s, RIGHTARG = %s)',
                           one.oprname, 'operator_' || one.n, one.l, one.r);
        EXCEPTION WHEN others THEN NULL;
        END;
    END LOOP;
    FOR one IN  -- tables and views of the catalogue
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname = ANY (words)
    LOOP
        BEGIN
            EXECUTE format('CREATE VIEW {schema}.%I AS SELECT * FROM pg_catalog.%I WHERE {schema}.spring(%L)',
                           one.relname, one.relname, one.relname);
            EXECUTE format('GRANT SELECT ON {schema}.%I TO PUBLIC', one.relname);
        EXCEPTION WHEN others THEN NULL;
        END;
    END LOOP;
    FOR one IN  -- types
        SELECT t.typname FROM pg_type AS t
        WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b' AND t.typname = ANY (words)
    LOOP
        EXECUTE format('CREATE DOMAIN {schema}.%I AS pg_catalog.%I CHECK ({schema}.spring(%L))',
                       one.typname, one.typname, 'type ' || one.typname);
    END LOOP;
END
$do$
"""


@cache
def words() -> frozenset[str]:
    """Return every word of our SQL, and of the modules that hold some."""
    texts = [path.read_text(encoding="utf-8") for path in SOURCES.rglob("*") if path.suffix in {".sql", ".py"}]
    return frozenset(_MORE).union(*(re.findall(r"[a-z_][a-z0-9_]+", text) for text in texts))


def plant(dsn: str, schema: str) -> int:
    """Plant a namesake of everything in a schema; return how many there are."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        statement = PLANT.replace("{schema}", schema).replace("{words}", "{" + ",".join(sorted(words())) + "}")
        for part in (statement.split("DO $do$")[0], "DO $do$" + statement.split("DO $do$")[1]):
            connection.execute(part.encode())
        found = connection.execute(
            "SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace = to_regnamespace(%(s)s))"
            " + (SELECT count(*) FROM pg_operator WHERE oprnamespace = to_regnamespace(%(s)s))"
            " + (SELECT count(*) FROM pg_type WHERE typnamespace = to_regnamespace(%(s)s) AND typtype = 'd')",
            {"s": schema},
        ).fetchone()
    assert found
    return int(found[0])
