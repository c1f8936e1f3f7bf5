"""`migrate` leaves the old state of schema and target or the new one, whatever fails on the way."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from tests.support.builders import a_column
from tests.support.fix_postgres import EVENTS, TABLE, Database, batch, column, postgres_sink, rows, write

from coatcheck.errors import CoatcheckError
from coatcheck.pipeline.columns import Mask
from coatcheck.pipeline.message import Outcome
from coatcheck.sinks.postgres.partitions import Partitioning
from coatcheck.sinks.postgres.schema import inspect, migrate
from coatcheck.sql import migrations
from coatcheck.sql.register import Pipeline

OBJECTS = """
SELECT n.nspname, c.relname, c.relkind::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace
WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
UNION ALL SELECT n.nspname, proname, 'f' FROM pg_proc JOIN pg_namespace AS n ON n.oid = pronamespace
WHERE n.nspname = 'coatcheck'
UNION ALL SELECT 'constraint', conname, contype::text FROM pg_constraint
UNION ALL SELECT 'schema', nspname, '' FROM pg_namespace
ORDER BY 1, 2, 3
"""
FAILS = """
CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
DECLARE made text;
BEGIN
    FOR made IN SELECT object_identity FROM pg_event_trigger_ddl_commands() LOOP
        IF made LIKE '%s' THEN RAISE 'not now'; END IF;
    END LOOP;
END $$;
CREATE EVENT TRIGGER refuse ON ddl_command_end EXECUTE FUNCTION public.refuse()
"""
STEPS = {
    "the target": "public.logs",
    "a partition of the target": "public.logs\\_2%",
    "the default partition": "public.logs\\_other",
    "an epoch": "coatcheck.vault\\_2%",
    "the last migration": "coatcheck.figures%",
}
COLUMNS = (column("name", "varchar(64)"), column("seen", "date"))
BY = Partitioning("seen", "month")


def year(database: Database) -> int:
    return int(database.value("SELECT extract(year FROM now())::int"))


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_leaves_what_was_there(empty_database: Database, step: str) -> None:
    empty_database.execute(FAILS % STEPS[step])
    before = empty_database.execute(OBJECTS)
    epochs = [year(empty_database)]
    with pytest.raises(CoatcheckError, match="P0001"):
        migrate(empty_database.dsn, "logs", COLUMNS, epochs=epochs, by=BY)
    assert empty_database.execute(OBJECTS) == before
    empty_database.execute("DROP EVENT TRIGGER refuse")
    done = migrate(empty_database.dsn, "logs", COLUMNS, epochs=epochs, by=BY)
    assert (done.applied, done.created_table) == (tuple(name for _, name, _ in migrations()), True)


def test_roles_that_fail_are_granted_by_the_next_run(empty_database: Database) -> None:
    """Roles belong to the server and are granted one by one: what comes before them is whole."""
    empty_database.execute(
        "CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;"
        "CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('GRANT') EXECUTE FUNCTION public.refuse()"
    )
    with pytest.raises(CoatcheckError, match="P0001"):
        migrate(empty_database.dsn, TABLE, EVENTS)
    assert write(postgres_sink(empty_database), batch(rows(1))) == [Outcome(loaded=1)]
    empty_database.execute("DROP EVENT TRIGGER refuse")
    assert migrate(empty_database.dsn, TABLE, EVENTS).roles.granted
    assert [one for one in inspect(empty_database.dsn, TABLE, EVENTS).findings if "lacks" in one.what] == []


def test_pruning_that_fails_leaves_everything_else_done(empty_database: Database) -> None:
    """Rows of the ledger's record that cannot be deleted are no reason to go without roles."""
    migrate(empty_database.dsn, TABLE, EVENTS)
    empty_database.execute(
        "CREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;"
        "CREATE TRIGGER no BEFORE DELETE ON coatcheck.batch EXECUTE FUNCTION public.no();"
        "REVOKE INSERT ON coatcheck.vault FROM coatcheck_loader"
    )
    with pytest.raises(CoatcheckError, match="P0001"):
        migrate(empty_database.dsn, TABLE, EVENTS)
    assert empty_database.value("SELECT has_table_privilege('coatcheck_loader', 'coatcheck.vault', 'INSERT')")


MASKED = tuple(a_column("text", name=name, mask=Mask.TOKEN, domain="x") for name in ("a", "b"))
GOOD = "pt1_x_k1_" + "0" * 40
CHECKS = (
    "SELECT conname, convalidated FROM pg_constraint WHERE conrelid = 'theirs'::regclass AND contype = 'c' ORDER BY 1"
)


@pytest.mark.parametrize("raw", ["a", "b"])
def test_checks_that_rows_break_are_added_all_or_not(empty_database: Database, raw: str) -> None:
    empty_database.execute(f"CREATE TABLE theirs (a text, b text); INSERT INTO theirs ({raw}) VALUES ('raw')")
    with pytest.raises(CoatcheckError, match="23514") as caught:
        migrate(empty_database.dsn, "theirs", MASKED, constrain=True)
    assert "mask or remove them first" in caught.value.hint
    assert empty_database.execute(CHECKS) == []
    empty_database.execute("TRUNCATE theirs")
    assert migrate(empty_database.dsn, "theirs", MASKED, constrain=True).constrained == ("a_masked", "b_masked")
    assert empty_database.execute(CHECKS) == [("a_masked", True), ("b_masked", True)]


def test_a_check_that_was_there_stays(empty_database: Database) -> None:
    """Only what this run has added is taken back."""
    empty_database.execute("CREATE TABLE theirs (a text, b text); INSERT INTO theirs VALUES (NULL, 'raw')")
    with pytest.raises(CoatcheckError):
        migrate(empty_database.dsn, "theirs", MASKED, constrain=True)
    migrate(empty_database.dsn, "theirs", MASKED[:1], constrain=True)
    with pytest.raises(CoatcheckError):
        migrate(empty_database.dsn, "theirs", MASKED, constrain=True)
    assert empty_database.execute(CHECKS) == [("a_masked", True)]


def test_a_lock_that_does_not_come_leaves_the_old_state(database: Database) -> None:
    """Somebody reads the target for hours: new checks need a short lock, and nothing is half added."""
    database.execute("CREATE TABLE theirs (a text, b text)")
    before: Any = database.execute(OBJECTS)
    with psycopg.connect(database.dsn) as reader:
        reader.execute("SELECT FROM theirs")
        with pytest.raises(CoatcheckError, match="55P03"):
            migrate(
                database.dsn, "theirs", MASKED, constrain=True, epochs=[year(database)], pipeline=Pipeline("theirs")
            )
    assert database.execute(OBJECTS) == before
