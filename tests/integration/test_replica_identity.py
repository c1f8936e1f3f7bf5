"""Databases under a publication (FOR ALL TABLES, of a schema, of tables): what updates or deletes goes on."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import psycopg
import pytest
from tests.support.fix_servers import LoginDatabase
from tests.support.vaults import COLUMNS, TABLE, configuration, event, load

from coatcheck import app, custody, maintenance, rotation
from coatcheck.config import Config
from coatcheck.errors import ConfigError
from coatcheck.keys.local import create
from coatcheck.sinks.postgres import schema
from coatcheck.sql import migrations, serves

PUBLICATIONS = (
    "FOR ALL TABLES",
    "FOR TABLES IN SCHEMA coatcheck",
    "FOR TABLE coatcheck.batch, coatcheck.ledger, coatcheck.vault, coatcheck.alias, coatcheck.quarantine",
)
KEYLESS = """
SELECT c.relname FROM pg_class AS c
WHERE relnamespace = 'coatcheck'::regnamespace AND relkind IN ('r', 'p')
  AND NOT EXISTS (SELECT FROM pg_index AS i WHERE indrelid = c.oid AND indisprimary)
"""
NEEDS = "is published and has no replica identity"


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    create(folder, "tenant")
    return folder


def advice(config: Config) -> dict[str, str]:
    """Return what `check` says about replica identities, and the statements that cure it."""
    found = schema.inspect(custody.dsn(config), config.target.table, config.plan(), app.partitioning(config)).findings
    return {one.what.partition(" ")[0]: one.hint for one in found if NEEDS in one.what}


@pytest.mark.parametrize("publication", PUBLICATIONS)
def test_all_tables_of_ours_can_be_changed(bare_database: LoginDatabase, keyring: Path, publication: str) -> None:
    """From the first `migrate` on, and partitions that are made later, too."""
    config = configuration(bare_database, keyring)
    if "ALL" in publication:
        bare_database.execute(f"CREATE PUBLICATION p {publication}")
    done = app.migrate(config)
    assert done.roles.refused == ()
    assert done.roles.busy == ()
    if "ALL" not in publication:
        bare_database.execute(f"CREATE PUBLICATION p {publication}")
    year = bare_database.value("SELECT extract(year FROM now())::int")
    bare_database.execute(f"SELECT coatcheck.make_epochs('{{{year + 5}}}')")
    assert bare_database.execute(KEYLESS) == []
    load(config, *map(event, range(5)), "no json")
    bare_database.execute("UPDATE coatcheck.batch SET committed_at = now() - interval '3 days'")
    bare_database.execute("UPDATE coatcheck.ledger SET loaded_on = '2020-01-01'")
    assert app.migrate(config) == schema.Migrated(pruned=bare_database.count("coatcheck.ledger") or 1)
    assert bare_database.count("coatcheck.batch") == 0
    maintenance.maintain(config)
    assert set(advice(config)) == ({"public.logins"} if "ALL" in publication else set())


def test_a_target_without_one_is_told_with_its_cure(bare_database: LoginDatabase, keyring: Path) -> None:
    config = configuration(bare_database, keyring)
    bare_database.execute("CREATE PUBLICATION p FOR ALL TABLES")
    app.migrate(config)
    load(config, *map(event, range(5)))
    rotation.rotate(config)
    with pytest.raises(ConfigError, match=r"PostgreSQL answers 55000") as caught:
        rotation.retokenize(config)
    assert "replica identity" in caught.value.hint
    assert "is it a view" not in caught.value.hint
    ((table, cure),) = advice(config).items()
    assert (table, cure) == (
        "public.logins", "ALTER TABLE public.logins REPLICA IDENTITY FULL, or give it a primary key",
    )  # fmt: skip
    schema.verify(custody.dsn(config), TABLE, config.plan())
    bare_database.execute(cure.partition(",")[0])
    assert advice(config) == {}
    assert rotation.retokenize(config).left.keys() <= {"tag"}  # kept without a vault


def test_each_partition_needs_its_own(bare_database: LoginDatabase, keyring: Path) -> None:
    fields = ", ".join(f"{name} text" for name in COLUMNS)
    bare_database.execute(
        f"CREATE TABLE {TABLE} (id bigserial, {fields}) PARTITION BY HASH (id); CREATE PUBLICATION p FOR TABLE {TABLE};"
        f"CREATE TABLE one PARTITION OF {TABLE} FOR VALUES WITH (MODULUS 3, REMAINDER 0);"
        f"CREATE TABLE two PARTITION OF {TABLE} FOR VALUES WITH (MODULUS 3, REMAINDER 1);"
        f"CREATE TABLE three PARTITION OF {TABLE} (PRIMARY KEY (id)) FOR VALUES WITH (MODULUS 3, REMAINDER 2)"
    )
    config = configuration(bare_database, keyring)
    app.migrate(config)
    assert set(advice(config)) == {"public.one", "public.two"}
    load(config, *map(event, range(20)))
    rotation.rotate(config)
    for cure in advice(config).values():
        bare_database.execute(cure.partition(",")[0])
    assert rotation.retokenize(config).left.keys() <= {"tag"}  # kept without a vault
    assert advice(config) == {}


BY_INDEX = (
    "ALTER TABLE events ALTER number SET NOT NULL; CREATE UNIQUE INDEX i ON events (number);"
    "ALTER TABLE events REPLICA IDENTITY USING INDEX i"
)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("ALTER TABLE events REPLICA IDENTITY NOTHING", True),
        ("ALTER TABLE events ADD UNIQUE (number)", True),
        ("ALTER TABLE events ADD PRIMARY KEY (number) DEFERRABLE", True),
        ("ALTER TABLE events ADD PRIMARY KEY (number)", False),
        ("ALTER TABLE events REPLICA IDENTITY FULL", False),
        (BY_INDEX, False),
        ("ALTER PUBLICATION p SET (publish = 'insert')", False),
        ("DROP PUBLICATION p", False),
    ],
)  # fmt: skip
def test_what_check_says_is_what_postgresql_does(bare_database: LoginDatabase, statement: str, *, told: bool) -> None:
    columns = {
        "name": {"from": "n", "type": "text", "mask": "token", "domain": "x"},
        "number": {"from": "m", "type": "integer"},
    }
    config = configuration(bare_database, Path("no-keys"), columns, table="events")
    bare_database.execute("CREATE TABLE events (name text, number int); CREATE PUBLICATION p FOR ALL TABLES")
    app.migrate(config)
    bare_database.execute(statement)
    bare_database.execute("INSERT INTO events VALUES ('pt1_x_k1_' || repeat('0', 40), 1)")
    assert ("public.events" in advice(config)) is told
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState) if told else nullcontext():
        bare_database.execute("UPDATE events SET name = 'px1_x_k1_' || repeat('0', 40)")


def test_the_migration_serves_those_before() -> None:
    (text,) = [text for _, name, text in migrations() if name == "0008_replica_identity.sql"]
    assert serves(text) == 5


def test_a_loader_of_the_schema_before_goes_on(
    bare_database: LoginDatabase, keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(bare_database, keyring)
    with monkeypatch.context() as before:
        known = [one for one in migrations() if one[0] < 9]
        before.setattr(schema, "migrations", lambda: known)
        before.setattr(schema, "newest", lambda: known[-1][0])
        app.migrate(config)
        load(config, event(1))
    bare_database.execute("CREATE PUBLICATION p FOR ALL TABLES")
    app.migrate(config)
    with monkeypatch.context() as before:
        before.setattr(schema, "newest", lambda: known[-1][0])
        assert load(config, event(2)).loaded == 2 - 1
    ids = bare_database.execute("SELECT batch_id FROM coatcheck.batch ORDER BY 1")
    assert ids == [(1,), (2,)]


def test_a_partition_made_later_takes_the_identity_of_the_others(bare_database: LoginDatabase, keyring: Path) -> None:
    columns = COLUMNS | {"day": {"from": "day", "type": "date", "default": "sent_at"}}
    target = {"table": TABLE, "partition_by": "day", "partition": "year"}
    target["dsn"] = bare_database.dsn
    config = configuration(bare_database, keyring, columns, target=target)
    bare_database.execute("CREATE PUBLICATION p FOR ALL TABLES")
    app.migrate(config)
    assert len(advice(config)) > 1
    for cure in advice(config).values():
        bare_database.execute(cure.partition(",")[0])
    year = bare_database.value("SELECT extract(year FROM now())::int")
    bare_database.execute(f"DROP TABLE {TABLE}_{year}")
    assert maintenance.maintain(config).partitions_made == (f"{TABLE}_{year}",)
    assert advice(config) == {}
