"""A target in a schema of coatcheck's or PostgreSQL's is refused; what a wrong `migrate` granted is taken back."""

from __future__ import annotations

import psycopg
import pytest
from tests.support.fix_postgres import EVENTS, MAY_READ, TABLE, Database, batch, postgres_sink, rows, write
from tests.support.fix_servers import Alone, LoginDatabase

from coatcheck.config import Config
from coatcheck.errors import ConfigError
from coatcheck.pipeline.message import Outcome
from coatcheck.sinks.postgres import schema
from coatcheck.sinks.postgres.schema import Migrated, inspect, migrate, verify

PLACES = {
    "coatcheck.vault": "coatcheck",
    "coatcheck.mine": "coatcheck",
    "pg_catalog.pg_class": "pg_catalog",
    "pg_toast.mine": "pg_toast",
    "pg_temp.mine": "pg_temp",
    "pg_temp_3.mine": "pg_temp_3",
    "information_schema.tables": "information_schema",
    "pg_class": "pg_catalog",
    "pg_stat_activity": "pg_catalog",
}


@pytest.mark.parametrize("table", PLACES)
def test_migrate_check_and_run_refuse_it(database: Database, table: str) -> None:
    before = database.fingerprint()
    named = table if "." in table else f"pg_catalog.{table}"
    words = f"the target table {named} is in the schema {PLACES[table]}, which is"
    with pytest.raises(ConfigError) as caught:
        migrate(database.dsn, table, EVENTS)
    assert caught.value.message.startswith(words)
    assert "[target] table" in caught.value.hint
    assert database.fingerprint() == before
    assert inspect(database.dsn, table, EVENTS).stops[0].what.startswith(words)
    with pytest.raises(ConfigError) as caught:
        verify(database.dsn, table, EVENTS)
    assert caught.value.message.startswith(words)


def test_a_schema_that_is_not_there_is_named(database: Database) -> None:
    """`coatcheck migrate` does not make it, so it is not what helps."""
    before = database.fingerprint()
    with pytest.raises(ConfigError, match=r"there is no schema nowhere for the target table nowhere\.mine") as caught:
        migrate(database.dsn, "nowhere.mine", EVENTS)
    assert caught.value.hint.startswith("CREATE SCHEMA nowhere")
    assert database.fingerprint() == before
    assert inspect(database.dsn, "nowhere.mine", EVENTS).stops[0].what.startswith("there is no schema nowhere")


@pytest.mark.parametrize("path", ["coatcheck, public", "coatcheck", "pg_catalog", "pg_temp, public"])
@pytest.mark.parametrize("table", ["ledger", "new_table"])
def test_where_the_search_path_leads_there(database: Database, path: str, table: str) -> None:
    """A name without a schema is looked up, and made, where the search_path says."""
    dsn = psycopg.conninfo.make_conninfo(database.dsn, options=f"-c search_path={path.replace(' ', '')}")
    before = database.fingerprint()
    with pytest.raises(ConfigError, match=r"is in the schema (coatcheck|pg_catalog|pg_temp)"):
        migrate(dsn, table, EVENTS)
    assert database.fingerprint() == before
    with pytest.raises(ConfigError, match="is in the schema"):
        verify(dsn, table, EVENTS)


REFUSED = (
    "coatcheck.vault", "Coatcheck.vault", "COATCHECK.x", "pg_catalog.x", "PG_TEMP.x", "Pg_toast.x",
    "information_schema.x", "INFORMATION_SCHEMA.x", "pg_temp_12.x",
)  # fmt: skip


@pytest.mark.parametrize("table", REFUSED)
def test_the_configuration_refuses_it(table: str) -> None:
    with pytest.raises(ValueError, match="is not for tables of yours"):
        Config.model_validate({"target": {"table": table}})


@pytest.mark.parametrize("table", ["coatcheck", "coatchecks.vault", "my_coatcheck.t", "pgx.t", "facts.coatcheck"])
def test_names_that_only_look_like_it_are_taken(table: str) -> None:
    assert Config.model_validate({"target": {"table": table}}).target.table == table


def test_the_command_says_so(alone: Alone, login_database: LoginDatabase) -> None:
    done = alone("migrate", code=2, DATABASE_URL=login_database.dsn, COATCHECK_TARGET__TABLE="coatcheck.vault")
    assert "is not for tables of yours" in done.err


# --- privileges in excess ---------------------------------------------------------------------------------------------


BY_A_WRONG_MIGRATE = (
    "SELECT ON coatcheck.vault TO coatcheck_analyst",
    "SELECT ON coatcheck.vault TO coatcheck_eraser",
    "UPDATE (token) ON coatcheck.vault TO coatcheck_eraser",
    "SELECT, UPDATE (ciphertext) ON coatcheck.vault_other TO coatcheck_rotator",
    "CREATE ON SCHEMA coatcheck TO coatcheck_rotator",
    "USAGE ON SCHEMA coatcheck TO coatcheck_analyst",
)
OTHERS = (
    "DELETE ON coatcheck.audit TO coatcheck_auditor",
    "INSERT ON coatcheck.reveal_approval TO coatcheck_approver",
    "EXECUTE ON FUNCTION coatcheck.audit_append(text,text) TO PUBLIC",
    "SELECT (ciphertext) ON coatcheck.quarantine TO PUBLIC",
    "UPDATE ON SEQUENCE coatcheck.quarantine_quarantine_id_seq TO coatcheck_loader",
    "TRUNCATE ON coatcheck.ledger TO PUBLIC",
    "SELECT ON coatcheck.data_key TO coatcheck_analyst WITH GRANT OPTION",
)


def test_what_a_wrong_migrate_granted_is_an_error_and_taken_back(login_database: LoginDatabase) -> None:
    config = Config.model_validate({"target": {"dsn": login_database.dsn}})
    at = (login_database.dsn, config.target.table, config.plan())
    for grant in BY_A_WRONG_MIGRATE + OTHERS:
        login_database.execute(f"GRANT {grant}")
    state = inspect(*at)
    levels = {one.what: one.level for one in state.findings if "should not have" in one.what}
    assert len(levels) == len(BY_A_WRONG_MIGRATE) + len(OTHERS) + 1  # SELECT, UPDATE
    assert {what for what, level in levels.items() if level != "error"} == {
        "coatcheck_analyst should not have USAGE ON SCHEMA coatcheck"
    }
    assert state.stops == ()
    verify(*at)
    done = migrate(*at)
    assert done.roles.refused == ()
    assert len(done.roles.granted) == len(levels)
    assert [one.what for one in inspect(*at).findings] == [MAY_READ]
    assert migrate(*at) == Migrated()


def test_what_others_have_is_an_error_and_left_to_people(login_database: LoginDatabase) -> None:
    config = Config.model_validate({"target": {"dsn": login_database.dsn}})
    at = (login_database.dsn, config.target.table, config.plan())
    login_database.role()
    them = login_database.roles[0]
    grants = ("SELECT (nonce) ON coatcheck.vault", "SELECT ON coatcheck.alias", "UPDATE ON coatcheck.ledger",
              "EXECUTE ON FUNCTION coatcheck.reveal_approve(bigint)", "CREATE ON SCHEMA coatcheck",
              "SELECT ON coatcheck.policy", "SELECT ON coatcheck.audit")  # fmt: skip
    for grant in (*grants, "INSERT ON coatcheck.ledger", "USAGE ON SCHEMA coatcheck"):  # the last: as a loader by hand
        login_database.execute(f"GRANT {grant} TO {them}")
    for _ in range(2):
        found = {one.what: one for one in inspect(*at).findings if "should not have" in one.what}
        assert set(found) == {f"{them} should not have {grant}" for grant in grants}
        assert [one.level for one in found.values()].count("advice") == 1
        assert migrate(*at) == Migrated()
    for one in found.values():
        login_database.execute(one.hint)
    assert [one.what for one in inspect(*at).findings] == [MAY_READ]


def test_what_another_granted_is_told_and_not_said_to_be_done(login_database: LoginDatabase) -> None:
    """A REVOKE by the owner takes back only what the owner granted, and PostgreSQL does not say so."""
    config = Config.model_validate({"target": {"dsn": login_database.dsn}})
    at = (login_database.dsn, config.target.table, config.plan())
    login_database.role()
    them = login_database.roles[0]
    login_database.execute(
        f"GRANT USAGE ON SCHEMA coatcheck TO {them}; GRANT SELECT ON coatcheck.vault TO {them} WITH GRANT OPTION;"
        f"SET ROLE {them}; GRANT SELECT ON coatcheck.vault TO coatcheck_analyst; RESET ROLE"
    )
    done = migrate(*at)
    assert done.roles.refused == ("REVOKE SELECT ON coatcheck.vault FROM coatcheck_analyst",)
    assert done.roles.granted == ()


def test_a_privilege_in_excess_fails_check_and_not_run(
    login_database: LoginDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    login_database.execute("GRANT SELECT ON coatcheck.vault TO coatcheck_analyst")
    config = Config.model_validate({"target": {"dsn": login_database.dsn}})
    schema.verify(login_database.dsn, config.target.table, config.plan())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "coatcheck check" in caplog.text


def test_a_loader_may_be_granted_by_column(database: Database) -> None:
    """What a person has granted by column is not widened by `migrate`."""
    migrate(database.dsn, TABLE, EVENTS)
    database.execute(
        f"REVOKE INSERT ON {TABLE} FROM coatcheck_loader; GRANT INSERT (name, number) ON {TABLE} TO coatcheck_loader"
    )
    assert migrate(database.dsn, TABLE, EVENTS) == Migrated()
    dsn = database.role("coatcheck_loader")
    verify(dsn, TABLE, EVENTS)
    assert write(postgres_sink(dsn), batch(rows(1))) == [Outcome(loaded=1)]
