"""What `run` would refuse or quarantine by construction, `check` tells: the same tables are held to both.

Each case is a target and what [columns] says of it. `check` says what it finds; then good messages really travel the
road into the table, over a login that is a loader and nothing else.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from tests.support.builders import a_message, a_road
from tests.support.fix_postgres import Database, batch, postgres_sink, write

from coatcheck.config_columns import ColumnConfig
from coatcheck.demo.servers import PostgresServer
from coatcheck.errors import CoatcheckError, ConfigError, Finding
from coatcheck.pipeline.columns import Column
from coatcheck.pipeline.message import Outcome, Row
from coatcheck.sinks.postgres.schema import inspect, migrate, verify
from coatcheck.sql.connection import connect
from coatcheck.sql.register import Pipeline, put

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Case:
    """A target: the statements that make it (`{s}` is its schema, the table is `t`), and the columns that are filled.

    `says` is a part of what `check` has to say. `level` is that of the finding: with an error nothing loads, else a
    full message does, and `bare` tells whether one with the required fields only does, too.
    """

    sql: str
    columns: dict[str, dict[str, Any]]
    level: str = ""
    says: str = ""
    bare: bool = True
    table: str = "t"
    cautious: bool = False  # an error though some good messages would get in
    body: dict[str, Any] | None = None


def of(type_: str, **options: Any) -> dict[str, dict[str, Any]]:
    return {"c": {"type": type_} | options}


def plain(type_: str) -> str:
    return f"CREATE TABLE {{s}}.t (c {type_})"


def ok(sql: str, columns: dict[str, dict[str, Any]], **more: Any) -> Case:
    return Case(sql, columns, **more)


def error(sql: str, columns: dict[str, dict[str, Any]], says: str, **more: Any) -> Case:
    return Case(sql, columns, "error", says, **more)


def advice(sql: str, columns: dict[str, dict[str, Any]], says: str, **more: Any) -> Case:
    return Case(sql, columns, "advice", says, **more)


def note(sql: str, columns: dict[str, dict[str, Any]], says: str, **more: Any) -> Case:
    return Case(sql, columns, "note", says, **more)


Fields = dict[str, dict[str, Any]]
TEXT, INT = of("text"), of("integer")
TOKENS: Fields = {"c": {"type": "varchar(128)", "mask": "token", "domain": "device", "vault": False}}
TWO: Fields = {"a": {"type": "text", "required": True}, "b": {"type": "integer"}}
TRIGGER = """
CREATE FUNCTION {{s}}.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
CREATE TRIGGER tr {when} ON {{s}}.t FOR EACH ROW EXECUTE FUNCTION {{s}}.f()"""

TYPES: dict[str, Case] = {
    "numeric of the same size": ok(plain("numeric(10,2)"), of("numeric(10,2)")),
    "numeric without a size for one": ok(plain("numeric"), of("numeric(10,2)")),
    "a wider numeric": ok(plain("numeric(12,3)"), of("numeric(10,2)")),
    "numeric of less scale": error(plain("numeric(10,1)"), of("numeric(10,2)"), "t.c is numeric(10,1)", cautious=True),
    "numeric of fewer digits": error(plain("numeric(10,3)"), of("numeric(10,2)"), "numeric(10,3)", cautious=True),
    "numeric that rounds tens": error(plain("numeric(12,-1)"), INT, "numeric(12,-1)", cautious=True),
    "numeric for any numeric": error(plain("numeric(10,2)"), of("numeric"), "says numeric", cautious=True),
    "numeric for integers": ok(plain("numeric(10,0)"), INT),
    "numeric too small for integers": error(plain("numeric(9)"), INT, "numeric(9,0)", cautious=True),
    "numeric for bigints": ok(plain("numeric(25,6)"), of("bigint")),
    "bigint for integers": ok(plain("bigint"), INT),
    "smallint for integers": error(plain("smallint"), INT, "is smallint", cautious=True),
    "integer for bigints": error(plain("integer"), of("bigint"), "is integer", cautious=True),
    "oid for integers": error(plain("oid"), INT, "is oid", cautious=True),
    "real for integers": error(plain("real"), INT, "is real", cautious=True),
    "double precision for numeric": error(plain("float8"), of("numeric"), "is double precision", cautious=True),
    "money for numeric": error(plain("money"), of("numeric(10,2)"), "is money", cautious=True),
    "text for varchar": ok(plain("text"), of("varchar(9)")),
    "varchar without a length": ok(plain("varchar"), of("varchar(9)")),
    "a shorter varchar": error(plain("varchar(8)"), of("varchar(9)"), "is character varying(8)", cautious=True),
    "varchar for text": error(plain("varchar(8)"), TEXT, "[columns] says text", cautious=True),
    "char(n)": error(plain("char(9)"), of("varchar(9)"), "is character(9)", cautious=True),
    "a name": error(plain("name"), of("varchar(9)"), "is name", cautious=True),
    "citext in clear": ok(plain("{s}.citext"), TEXT),
    "citext for tokens": error(plain("{s}.citext"), TOKENS, "citext", cautious=True),
    "an enumeration": error("CREATE TYPE {s}.e AS ENUM ('x'); " + plain("{s}.e"), TEXT, "[columns] says text"),
    "a composite type as a column": error("CREATE TYPE {s}.p AS (a int); " + plain("{s}.p"), TEXT, "says text"),
    "an array": error(plain("text[]"), TEXT, "is text[]"),
    "a boolean": ok(plain("boolean"), of("boolean")),
    "a boolean for integers": error(plain("boolean"), INT, "is boolean"),
    "uuid": error(plain("uuid"), TEXT, "is uuid"),
    "inet": error(plain("inet"), TEXT, "is inet"),
    "bytea": error(plain("bytea"), TEXT, "is bytea"),
    "json": error(plain("json"), of("jsonb"), "is json", cautious=True),
    "jsonb": ok(plain("jsonb"), of("jsonb")),
    "jsonb for text": error(plain("jsonb"), TEXT, "is jsonb"),
    "date": ok(plain("date"), of("date")),
    "date for moments": error(plain("date"), of("timestamptz"), "is date", cautious=True),
    "timestamp without time zone": error(plain("timestamp"), of("timestamptz"), "without time zone", cautious=True),
    "timestamptz that rounds": error(plain("timestamptz(0)"), of("timestamptz"), "timestamp(0)", cautious=True),
    "timestamptz": ok(plain("timestamptz"), of("timestamptz")),
    "time": error(plain("time"), of("timestamptz"), "is time", cautious=True),
    "timetz": error(plain("timetz"), of("timestamptz"), "is time", cautious=True),
    "interval": error(plain("interval"), TEXT, "is interval"),
    "a domain": ok("CREATE DOMAIN {s}.d AS text; " + plain("{s}.d"), TEXT),
    "a domain over a domain": ok(
        "CREATE DOMAIN {s}.d AS varchar(9); CREATE DOMAIN {s}.dd AS {s}.d; " + plain("{s}.dd"), of("varchar(9)")
    ),
    "a domain that is too short": error(
        "CREATE DOMAIN {s}.d AS varchar(8); " + plain("{s}.d"), of("varchar(9)"), "[columns] says", cautious=True
    ),
    "a domain of digits": ok("CREATE DOMAIN {s}.d AS numeric(10,2); " + plain("{s}.d"), of("numeric(10,2)")),
    "a domain that refuses NULL": advice(
        "CREATE DOMAIN {s}.d AS text NOT NULL; " + plain("{s}.d"), TEXT, "is NOT NULL", bare=False
    ),
    "a domain with a rule": advice(
        "CREATE DOMAIN {s}.d AS text CONSTRAINT short CHECK (length(VALUE) < 9); " + plain("{s}.d"),
        TEXT, "short (check of a domain)",
    ),
    "a domain that refuses tokens": error(
        "CREATE DOMAIN {s}.d AS text CONSTRAINT address CHECK (VALUE ~ '^[0-9.]{{1,15}}$'); " + plain("{s}.d"),
        TOKENS, "the constraint address of {s}.t refuses every text",
    ),
    "a domain that takes tokens": ok(
        "CREATE DOMAIN {s}.d AS text CHECK (VALUE ~ '^pt1_[a-z]{{1,16}}_'); " + plain("{s}.d"), TOKENS
    ),
}  # fmt: skip

COLUMNS: dict[str, Case] = {
    "generated and stored": error(
        "CREATE TABLE {s}.t (a text, c text GENERATED ALWAYS AS (upper(a)) STORED)", TEXT, "a generated column"
    ),
    "generated and virtual": error(
        "CREATE TABLE {s}.t (a text, c int GENERATED ALWAYS AS (length(a)) VIRTUAL)", INT, "a generated column"
    ),
    "identity always": error(
        plain("int GENERATED ALWAYS AS IDENTITY"), of("integer", required=True), "GENERATED ALWAYS AS IDENTITY"
    ),
    "identity by default": ok(plain("int GENERATED BY DEFAULT AS IDENTITY"), of("integer", required=True)),
    "identity by default, not required": advice(
        plain("int GENERATED BY DEFAULT AS IDENTITY"), INT, "t.c is NOT NULL", bare=False
    ),
    "such columns beside": ok(
        "CREATE TABLE {s}.t (c text, i int GENERATED ALWAYS AS IDENTITY,"
        " u text NOT NULL GENERATED ALWAYS AS ('x') STORED,"
        " n timestamptz NOT NULL DEFAULT now())", TEXT,
    ),
    "a dropped column": ok("CREATE TABLE {s}.t (x int NOT NULL, c text); ALTER TABLE {s}.t DROP x", TEXT),
    "one that is not there": error("CREATE TABLE {s}.t (x text)", TEXT, "has no column c"),
    "NOT NULL, required": ok(plain("text NOT NULL"), of("text", required=True)),
    "NOT NULL, with a default here": ok(plain("text NOT NULL"), of("text", default="none")),
    "NOT NULL, sent_at": ok(plain("date NOT NULL"), of("date", default="sent_at")),
    "NOT NULL, may be missing": advice(plain("text NOT NULL"), TEXT, "goes to quarantine (23502)", bare=False),
    "NOT NULL DEFAULT, may be missing": advice(
        plain("text NOT NULL DEFAULT 'x'"), TEXT, "DEFAULT does not apply", bare=False
    ),
    "NOT NULL and not filled": error("CREATE TABLE {s}.t (c text, x int NOT NULL)", TEXT, "t.x is NOT NULL without"),
    "NOT NULL by a domain and not filled": error(
        "CREATE DOMAIN {s}.d AS int NOT NULL; CREATE TABLE {s}.t (c text, x {s}.d)", TEXT, "t.x is NOT NULL without"
    ),
    "NOT NULL, the domain's default": ok(
        "CREATE DOMAIN {s}.d AS int DEFAULT 1; CREATE TABLE {s}.t (c text, x {s}.d NOT NULL)", TEXT
    ),
    "a primary key by a sequence": ok("CREATE TABLE {s}.t (id bigserial PRIMARY KEY, c text)", TEXT),
    "a sequence that is closed": error(
        "CREATE SEQUENCE {s}.q; REVOKE ALL ON SEQUENCE {s}.q FROM coatcheck_loader;"
        " CREATE TABLE {s}.t (id bigint DEFAULT nextval('{s}.q'), c text)", TEXT, "USAGE on SEQUENCE",
    ),
    "reserved words": ok(
        'CREATE TABLE {s}."order" ("select" text, "Upper" int)',
        {"select": {"type": "text"}, "Upper": {"type": "integer"}}, table="order",
    ),
    "upper case": ok('CREATE TABLE {s}."Table$1" (c text)', TEXT, table="Table$1"),
    "63 bytes": ok(f"CREATE TABLE {{s}}.{'t' * 63} ({'c' * 63} text)", {"c" * 63: {"type": "text"}}, table="t" * 63),
}  # fmt: skip

KINDS: dict[str, Case] = {
    "none": error("SELECT 1", TEXT, "is missing"),
    "an UNLOGGED table": error("CREATE UNLOGGED TABLE {s}.t (c text)", TEXT, "is UNLOGGED", cautious=True),
    "a parent": ok("CREATE TABLE {s}.t (c text); CREATE TABLE {s}.k () INHERITS ({s}.t)", TEXT),
    "a child": ok("CREATE TABLE {s}.p (c text); CREATE TABLE {s}.t () INHERITS ({s}.p)", TEXT),
    "of a type": ok("CREATE TYPE {s}.y AS (c text); CREATE TABLE {s}.t OF {s}.y", TEXT),
    "partitioned, with a default partition": ok(
        "CREATE TABLE {s}.t (c int) PARTITION BY RANGE (c); CREATE TABLE {s}.o PARTITION OF {s}.t DEFAULT", INT
    ),
    "partitioned, without one": advice(
        "CREATE TABLE {s}.t (c int) PARTITION BY RANGE (c);"
        "CREATE TABLE {s}.o PARTITION OF {s}.t FOR VALUES FROM (0) TO (9)", INT, "no default partition", bare=False
    ),
    "partitioned, without any": error(
        "CREATE TABLE {s}.t (c int) PARTITION BY LIST (c)", INT, "is partitioned and has no partition"
    ),
    "partitioned, with an empty part": error(
        "CREATE TABLE {s}.t (c int) PARTITION BY LIST (c);"
        "CREATE TABLE {s}.o PARTITION OF {s}.t DEFAULT PARTITION BY HASH (c)", INT, "has no partition"
    ),
    "partitioned by hash": ok(
        "CREATE TABLE {s}.t (c int) PARTITION BY HASH (c);"
        "CREATE TABLE {s}.a PARTITION OF {s}.t FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE {s}.b PARTITION OF {s}.t FOR VALUES WITH (MODULUS 4, REMAINDER 1);"
        "CREATE TABLE {s}.e PARTITION OF {s}.t FOR VALUES WITH (MODULUS 4, REMAINDER 3)", INT
    ),
    "partitioned by hash, in part": advice(
        "CREATE TABLE {s}.t (c int, x int) PARTITION BY HASH (x);"
        "CREATE TABLE {s}.a PARTITION OF {s}.t FOR VALUES WITH (MODULUS 2, REMAINDER 0)", INT, "no default partition"
    ),
    "a partition that is UNLOGGED": error(
        "CREATE TABLE {s}.t (c int) PARTITION BY LIST (c); CREATE UNLOGGED TABLE {s}.o PARTITION OF {s}.t DEFAULT",
        INT, "is UNLOGGED", cautious=True,
    ),
    "a partition that refuses NULL": advice(
        "CREATE TABLE {s}.t (c int) PARTITION BY LIST (c); CREATE TABLE {s}.o PARTITION OF {s}.t (c NOT NULL) DEFAULT",
        INT, "is NOT NULL", bare=False,
    ),
    "a partition itself": advice(
        "CREATE TABLE {s}.p (c int) PARTITION BY LIST (c);"
        "CREATE TABLE {s}.t PARTITION OF {s}.p FOR VALUES IN (1, NULL)",
        INT, "is a partition of another table",
    ),
    "a view": ok("CREATE TABLE {s}.b (c text); CREATE VIEW {s}.t AS SELECT c FROM {s}.b", TEXT),
    "a view that renames": ok("CREATE TABLE {s}.b (x text NOT NULL); CREATE VIEW {s}.t AS SELECT x AS c FROM {s}.b",
        of("text", required=True)),
    "a view that hides NOT NULL": error(
        "CREATE TABLE {s}.b (c text, x int NOT NULL); CREATE VIEW {s}.t AS SELECT c FROM {s}.b",
        TEXT, "does not show b.x"
    ),
    "a view that shows NOT NULL": error(
        "CREATE TABLE {s}.b (c text, x int NOT NULL); CREATE VIEW {s}.t AS SELECT * FROM {s}.b", TEXT, "t.x is NOT NULL"
    ),
    "a view with a default of its own": ok(
        "CREATE TABLE {s}.b (c text, x int NOT NULL); CREATE VIEW {s}.t AS SELECT * FROM {s}.b;"
        "ALTER VIEW {s}.t ALTER x SET DEFAULT 1", TEXT
    ),
    "a view that computes": error(
        "CREATE TABLE {s}.b (x text, y text); CREATE VIEW {s}.t AS SELECT upper(x) AS c, y FROM {s}.b", TEXT,
        "t.c is a column of a view that takes no values",
    ),
    "a view of groups": error(
        "CREATE TABLE {s}.b (c text); CREATE VIEW {s}.t AS SELECT DISTINCT c FROM {s}.b",
        TEXT, "a view that takes no rows"
    ),
    "a view WITH CHECK OPTION": advice(
        "CREATE TABLE {s}.b (c int); CREATE VIEW {s}.t AS SELECT c FROM {s}.b WHERE c < 9 WITH CHECK OPTION", INT,
        "WITH CHECK OPTION", bare=False,
    ),
    "a view over what its owner may not fill": error(
        "CREATE TABLE {s}.b (c text); CREATE VIEW {s}.t AS SELECT c FROM {s}.b;"
        "ALTER VIEW {s}.t OWNER TO coatcheck_analyst",
        TEXT, "PostgreSQL answers 42501",
    ),
    "a view with an INSTEAD OF trigger": note(
        "CREATE TABLE {s}.b (c text); CREATE VIEW {s}.t AS SELECT DISTINCT c FROM {s}.b;"
        + TRIGGER.format(when="INSTEAD OF INSERT", body="RETURN NEW;"), TEXT, "the trigger tr",
    ),
    "a view with a rule without RETURNING": error(
        "CREATE TABLE {s}.b (c text); CREATE VIEW {s}.t AS SELECT DISTINCT c FROM {s}.b;"
        "CREATE RULE r AS ON INSERT TO {s}.t DO INSTEAD INSERT INTO {s}.b VALUES (NEW.c)",
        TEXT, "PostgreSQL answers 0A000",
    ),
    "a view with a rule": note(
        "CREATE TABLE {s}.b (c text); CREATE VIEW {s}.t AS SELECT DISTINCT c FROM {s}.b;"
        "GRANT INSERT ON {s}.b TO PUBLIC;"
        "CREATE RULE r AS ON INSERT TO {s}.t DO INSTEAD INSERT INTO {s}.b VALUES (NEW.c) RETURNING c",
        TEXT, "the rule r",
    ),
    "a table with a rule beside": error(
        plain("text") + "; CREATE RULE r AS ON INSERT TO {s}.t DO ALSO NOTIFY x", TEXT, "PostgreSQL answers 0A000"
    ),
    "a table whose rule is off": ok(
        plain("text") + "; CREATE RULE r AS ON INSERT TO {s}.t DO ALSO NOTIFY x; ALTER TABLE {s}.t DISABLE RULE r", TEXT
    ),
    "a materialized view": error("CREATE MATERIALIZED VIEW {s}.t AS SELECT 'x'::text AS c",
    TEXT, "a materialized view"),
    "a foreign table of a file": error(
        "CREATE FOREIGN TABLE {s}.t (c text) SERVER files OPTIONS (filename '/dev/null')",
        TEXT, "a foreign table that takes"
    ),
    "a sequence": error("CREATE SEQUENCE {s}.t", of("bigint"), "a sequence"),
    "a composite type": error("CREATE TYPE {s}.t AS (c text)", TEXT, "a composite type"),
    "an index": error("CREATE TABLE {s}.b (c text); CREATE INDEX t ON {s}.b (c)", TEXT, "an index"),
    "a trigger": note(
        plain("text") + ";" + TRIGGER.format(when="BEFORE INSERT", body="RETURN NEW;"), TEXT, "the trigger tr"
    ),
    "a trigger that is off": ok(
        plain("text") + ";" + TRIGGER.format(when="BEFORE INSERT", body="RAISE 'no';")
        + "; ALTER TABLE {s}.t DISABLE TRIGGER tr", TEXT,
    ),
}  # fmt: skip

RLS = "; ALTER TABLE {s}.t ENABLE ROW LEVEL SECURITY"
RULES: dict[str, Case] = {
    "a view over a table of coatcheck's": error(
        "CREATE VIEW {s}.t AS SELECT worker AS c FROM coatcheck.batch", TEXT, "leads to coatcheck's own tables: batch"
    ),
    "a rule into a table of coatcheck's": error(
        plain("text") + "; CREATE RULE r AS ON INSERT TO {s}.t DO INSTEAD DELETE FROM coatcheck.audit", TEXT,
        "leads to coatcheck's own tables: audit", cautious=True,
    ),
    "row security without a policy": error(plain("text") + RLS, TEXT, "no policy permits it"),
    "row security, a policy for reading": error(
        plain("text") + RLS + "; CREATE POLICY p ON {s}.t FOR SELECT USING (true)", TEXT, "no policy permits it"
    ),
    "row security, a policy for others": error(
        plain("text") + RLS + "; CREATE POLICY p ON {s}.t TO coatcheck_owner USING (true)", TEXT, "no policy permits it"
    ),
    "row security, only a restriction": error(
        plain("text") + RLS + "; CREATE POLICY p ON {s}.t AS RESTRICTIVE FOR INSERT WITH CHECK (true)",
        TEXT, "no policy"
    ),
    "row security that is shut": error(
        plain("text") + RLS + "; CREATE POLICY p ON {s}.t FOR INSERT WITH CHECK (false)", TEXT, "no policy permits it"
    ),
    "row security, open": advice(
        plain("text") + RLS + "; CREATE POLICY p ON {s}.t FOR INSERT TO coatcheck_loader WITH CHECK (true)", TEXT,
        "decides on each row: rows that no policy permits are refused (p)",
    ),
    "a UNIQUE column": advice(plain("text CONSTRAINT once UNIQUE"), TEXT, "once (unique)"),
    "a unique index": advice(plain("text") + "; CREATE UNIQUE INDEX i ON {s}.t (lower(c))", TEXT, "i (unique)"),
    "a primary key": advice(plain("text PRIMARY KEY"), of("text", required=True), "t_pkey (primary key)", bare=False),
    "an exclusion": advice("CREATE TABLE {s}.t (c text, CONSTRAINT x EXCLUDE (c WITH =))", TEXT, "x (exclusion)"),
    "a foreign key": advice(
        "CREATE TABLE {s}.f (c text PRIMARY KEY); INSERT INTO {s}.f VALUES ('text');"
        + plain("text REFERENCES {s}.f"), TEXT, "t_c_fkey (foreign key)",
    ),
    "a check": advice(plain("text CONSTRAINT short CHECK (length(c) < 9)"), TEXT, "short (check)"),
    "a check that takes tokens": ok(plain("text CHECK (length(c) < 70 AND c ~ '^p[tx]1_[a-z]{{1,9}}')"), TOKENS),
    "a check that refuses tokens": error(
        plain("text CONSTRAINT address CHECK (c ~ '^[0-9.]+$')"), TOKENS,
        "the constraint address of {s}.t refuses every"
    ),
    "a check of another domain": error(
        plain("text CONSTRAINT c_masked CHECK (left(c, 7) IN ('pt1_ip_', 'px1_ip_'))"), TOKENS,
        "c_masked of {s}.t refuses"
    ),
    "a check that runs code": advice(
        "CREATE FUNCTION {s}.f(text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true';"
        + plain("text CONSTRAINT coded CHECK ({s}.f(c))"), TOKENS, "coded (check)",
    ),
    "INSERT by column": ok(
        "CREATE TABLE {s}.t (a text, b int, c text); REVOKE ALL ON {s}.t FROM coatcheck_loader;"
        "GRANT INSERT (a, b) ON {s}.t TO coatcheck_loader", TWO,
    ),
    "INSERT by column, not of all": error(
        "CREATE TABLE {s}.t (a text, b int, c text); REVOKE ALL ON {s}.t FROM coatcheck_loader;"
        "GRANT INSERT (a, c) ON {s}.t TO coatcheck_loader", TWO, "lacks the privilege INSERT (b) on {s}.t",
    ),
    "no INSERT": error(
        plain("text") + "; REVOKE ALL ON {s}.t FROM coatcheck_loader", TEXT, "lacks the privilege INSERT on {s}.t"
    ),
    "a schema that is closed": error(
        plain("text") + "; REVOKE ALL ON SCHEMA {s} FROM coatcheck_loader", TEXT, "USAGE on SCHEMA {s}"
    ),
    "of another's": ok(plain("text") + "; ALTER TABLE {s}.t OWNER TO coatcheck_analyst", TEXT),
}  # fmt: skip
CASES = TYPES | COLUMNS | KINDS | RULES
GOOD = {"integer": 1, "bigint": 2, "numeric": 1.5, "boolean": True, "date": "2024-02-03", "jsonb": {"k": 1},
        "timestamptz": "2024-02-03T04:05:06Z"}  # fmt: skip


@pytest.fixture(scope="module")
def targets(postgres_server: PostgresServer) -> Iterator[tuple[Database, str]]:
    """One database for all cases, and the connection string of a login that is a loader."""
    database = Database(postgres_server, "targets")
    database.create("template1")
    try:
        migrate(database.dsn, "somewhere", columns_of(TEXT))
        database.execute("CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw")
        yield database, database.role("coatcheck_loader")
    finally:
        database.drop()


def columns_of(config: dict[str, dict[str, Any]]) -> tuple[Column, ...]:
    return tuple(ColumnConfig.model_validate({"from": name} | options).column(name) for name, options in config.items())


def make(database: Database, case: Case) -> str:
    """Make the target of a case in a schema of its own; return the schema."""
    schema = f"s{next(_numbers)}"
    database.execute(
        f"CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO coatcheck_loader;"
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT INSERT ON TABLES TO coatcheck_loader;"
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT USAGE ON SEQUENCES TO coatcheck_loader;"
        f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT EXECUTE ON FUNCTIONS TO coatcheck_loader"
    )
    if "citext" in case.sql:
        database.execute(f"DROP EXTENSION IF EXISTS citext CASCADE; CREATE EXTENSION citext SCHEMA {schema}")
    database.execute(case.sql.format(s=schema))
    with connect(database.dsn) as connection:
        put(connection, Pipeline(schema, schema, case.table), columns_of(case.columns))
    return schema


def messages(columns: tuple[Column, ...], config: dict[str, dict[str, Any]]) -> tuple[Row, Row]:
    """Return the rows of a full message and of one with the required fields only, as the road makes them."""
    road = a_road(columns)
    full = {name: GOOD.get(options["type"].partition("(")[0], "text") for name, options in config.items()}
    bare = {name: value if config[name].get("required") else None for name, value in full.items()}
    made = []
    for body in (full, bare):
        id_ = f"00000000-0000-4000-8000-{next(_numbers):012d}"
        row = road.travel(a_message(json.dumps(body), message_id=id_))
        assert isinstance(row, Row), row
        made.append(row)
    return made[0], made[1]


def run(dsn: str, table: str, columns: tuple[Column, ...], row: Row) -> Outcome | None:
    """Write a row as a worker does; None: the worker stops."""
    try:
        (outcome,) = write(postgres_sink(dsn, columns, table=table, upkeep=False, give_up_seconds=1.0), batch([row]))
    except CoatcheckError:
        return None
    return outcome


@pytest.mark.parametrize("name", CASES)
def test_check_and_run_say_the_same(targets: tuple[Database, str], name: str) -> None:
    (database, dsn), case = targets, CASES[name]
    schema = make(database, case)
    table, columns = f"{schema}.{case.table}", columns_of(case.columns)
    state = inspect(dsn, table, columns, pipeline=table.split(".", maxsplit=1)[0])
    about = [
        one
        for one in state.findings
        if one.level in ("error", case.level) and "masked columns: it lacks" not in one.what
    ]
    says = case.says.format(s=schema)
    assert all(finding.hint for finding in about)
    assert [one.level for one in about if says in one.what] == [case.level] * bool(says), about
    full, bare = messages(columns, case.columns)
    if case.level == "error":
        refused_at_the_start(dsn, table, columns, about)
        outcome = run(dsn, table, columns, full)
        assert case.cautious or outcome is None or outcome.refused, "check is wrong"
        return
    assert [one for one in state.findings if one.level == "error"] == []
    verify(dsn, table, columns, table.split(".", maxsplit=1)[0])
    assert run(dsn, table, columns, full) == Outcome(loaded=1)
    outcome = run(dsn, table, columns, bare)
    assert outcome is not None
    assert (outcome.loaded, len(outcome.refused)) == ((1, 0) if case.bare else (0, 1))


def refused_at_the_start(dsn: str, table: str, columns: tuple[Column, ...], about: list[Finding]) -> None:
    errors = [one for one in about if one.level == "error"]
    with pytest.raises(ConfigError) as caught:
        verify(dsn, table, columns, table.split(".", maxsplit=1)[0])
    assert caught.value.message.startswith(errors[0].what)
    assert caught.value.hint == errors[0].hint


def test_there_are_at_least_fifty() -> None:
    assert len(CASES) >= 50


# --- what `check` calls of what the table's owner wrote ---------------------------------------------------------------


EVIL = {
    "a function of theirs": "{s}.evil(c)",
    "SQL in a string": "query_to_xml('SELECT {s}.evil(''x'')', true, true, c) IS NOT NULL",
    "a file": "pg_read_file('/etc/hostname') <> c",
    "a sequence": "nextval('{s}.counted') > length(c)",
    "an operator": "c OPERATOR({s}.=~) 'x'",
    "a function in their way": "starts_with(c, 'pt1_'::text)",
}


@pytest.mark.parametrize("name", EVIL)
def test_check_runs_no_code_of_the_tables_owner(targets: tuple[Database, str], name: str) -> None:
    """A superuser calls `check`: a CHECK expression would run with all rights."""
    database, _ = targets
    schema = f"s{next(_numbers)}"
    database.execute(
        f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.said (c text); CREATE SEQUENCE {schema}.counted;"
        f"CREATE FUNCTION {schema}.evil(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN"
        f"  INSERT INTO {schema}.said VALUES (current_user); RETURN true; END $$;"
        f"CREATE FUNCTION {schema}.evil(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT {schema}.evil($1)';"
        f"CREATE OPERATOR {schema}.=~ (LEFTARG = text, RIGHTARG = text, FUNCTION = {schema}.evil);"
        f"CREATE TABLE {schema}.t (c text CONSTRAINT k CHECK ({EVIL[name].format(s=schema)}));"
        f"CREATE FUNCTION {schema}.starts_with(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT {schema}.evil($1)'"
    )
    dsn = psycopg.conninfo.make_conninfo(database.dsn, options=f"-c search_path={schema},pg_catalog")
    findings = [
        one for one in inspect(dsn, f"{schema}.t", columns_of(TOKENS), pipeline=schema).findings if " k (" in one.what
    ]
    assert len(findings) == (name != "a function in their way")
    assert database.count(f"{schema}.said") == 0
    assert database.value(f"SELECT is_called FROM {schema}.counted") is False


def test_the_probe_writes_nothing(targets: tuple[Database, str]) -> None:
    database, dsn = targets
    schema = make(database, ok("CREATE TABLE {s}.t (id bigserial, c text)", TEXT))
    verify(dsn, f"{schema}.t", columns_of(TEXT), schema)
    assert database.count(f"{schema}.t") == 0
    assert database.value(f"SELECT is_called FROM {schema}.t_id_seq") is False


def test_a_locked_table_does_not_keep_a_worker_from_starting(targets: tuple[Database, str]) -> None:
    database, dsn = targets
    schema = make(database, ok("CREATE TABLE {s}.t (c text CHECK (c <> ''))", TEXT))
    for mode in ("SHARE", "ACCESS EXCLUSIVE"):
        with database.session() as other, other.transaction():
            other.execute(f"LOCK TABLE {schema}.t IN {mode} MODE".encode())
            verify(dsn, f"{schema}.t", columns_of(TEXT), schema)
            whats = [one.what for one in inspect(dsn, f"{schema}.t", columns_of(TEXT), pipeline=schema).findings]
            assert (f"the target table {schema}.t is locked by somebody else: it was not looked at" in whats) is (
                mode == "ACCESS EXCLUSIVE"
            )


CANARY = "canary-4711-of-a-check"


def test_no_finding_shows_what_an_expression_holds(targets: tuple[Database, str]) -> None:
    """A constraint may quote a value; a finding names it and does not."""
    database, dsn = targets
    sql = f"CREATE TABLE {{s}}.t (c text CONSTRAINT k CHECK (c <> '{CANARY}'),"
    sql += f" d text CONSTRAINT j CHECK (d = '{CANARY}'))"
    schema = make(database, ok(sql, TEXT))
    columns = columns_of({"c": TEXT["c"], "d": TOKENS["c"]})
    state = inspect(dsn, f"{schema}.t", columns, pipeline=schema)
    assert {one.level for one in state.findings if " k (" in one.what or " j of " in one.what} == {"advice", "error"}
    assert CANARY not in repr(state)
