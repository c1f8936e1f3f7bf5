"""Whatever somebody plants in a schema of the search_path: none of it runs in a session of ours (CVE-2018-1058)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.integration.test_session_settings import looking, of_tour, tour
from tests.support.fix_desk import TICKET, People, Person, approved, devices, opened, texts
from tests.support.fix_postgres import EVENTS, TABLE, Database, batch, postgres_sink, reject, row, write
from tests.support.fix_servers import LoginDatabase
from tests.support.traps import plant
from tests.support.vaults import event, load

from coatcheck import app, desk, erasure, rotation, trail
from coatcheck.erasure import Why
from coatcheck.errors import ConfigError, RefusedError
from coatcheck.pipeline.message import Outcome, Row
from coatcheck.sinks.postgres.quarantine import Quarantine, Selection
from coatcheck.sinks.postgres.schema import inspect, verify
from coatcheck.vault.erase import Erased


def test_no_namesake_runs_in_any_command(bare_database: LoginDatabase, tmp_path: Path) -> None:
    """With them in front of PostgreSQL's own: the harshest search_path that a role or connection string can have."""
    assert plant(bare_database.dsn, "trap") > 1000
    dsn = psycopg.conninfo.make_conninfo(bare_database.dsn, options="-c search_path=public,trap,pg_catalog")
    with psycopg.connect(dsn, autocommit=True) as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute("SELECT relname FROM pg_class")
    assert caught.value.sqlstate == "TRAPS", "else this tells nothing"
    tour(of_tour(dsn, tmp_path), looking(bare_database))


@pytest.fixture
def trapped(desk_database: LoginDatabase) -> Iterator[LoginDatabase]:
    """A database in which every login meets the namesakes first."""
    plant(desk_database.dsn, "trap")
    say = f"ALTER DATABASE {desk_database.name} "
    desk_database.execute(say + "SET search_path = public, trap, pg_catalog")
    yield desk_database
    desk_database.execute(say + "RESET search_path")
    desk_database.execute("DROP SCHEMA trap CASCADE")


def test_no_namesake_runs_for_any_role(trapped: LoginDatabase, people: People, asker: Person, approver: Person) -> None:
    """Each does what it is there for, with the privileges that its role has."""
    operator, eraser, rotator = (people.new(role) for role in ("operator", "eraser", "rotator"))
    assert load(people.new("loader").config, event(70)).loaded == 1
    assert app.quarantine_retry(operator.config, Selection()).rejected == {"not_json": 1}
    assert app.quarantine_entries(operator.config, Selection(), resolved=True, limit=9)
    (wanted,) = devices(asker.config)
    assert texts(opened(asker, approved(asker, approver, [wanted]))) == {wanted: "device-0"}
    assert wanted in desk.find(asker.config, "device-0", domain="device", reason="FRAUD", ticket=TICKET).values()
    assert isinstance(erasure.erase_tokens(eraser.config, [wanted], Why("DSAR", TICKET)).erased, Erased)
    rotated = rotation.rotate(rotator.config)
    assert rotation.retokenize(rotator.config).left.keys() == {"tag"}  # a column without a vault
    with pytest.raises(RefusedError, match="still have tokens"):
        rotation.retire(rotator.config, rotated.old)
    assert trail.verify(lambda: people.new("auditor").config, None, [], None).head is not None
    with psycopg.connect(people.new("auditor").dsn, autocommit=True) as connection, pytest.raises(psycopg.Error):
        connection.execute("SELECT relname FROM pg_class")  # else this tells nothing
    assert trapped.count("coatcheck.audit") > 0


TRIGGER = """
CREATE TABLE public.seen (who text);
CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO seen VALUES (NEW.name); RETURN NEW; END $$;
CREATE TRIGGER noted AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION public.note()
"""


def test_a_trigger_finds_the_names_of_its_own_schema(database: Database) -> None:
    """Those of the table's owner run under the search_path of the login, as they do for everybody else."""
    database.execute(TRIGGER)
    held = reject(9)
    assert write(postgres_sink(database), batch((row(number) for number in range(3)), [held])) == [
        Outcome(loaded=3, quarantined=1)
    ]
    with Quarantine(database.dsn, f"public.{TABLE}", EVENTS) as quarantine:
        for entry in quarantine.opened(Selection()):
            assert quarantine.load(entry, batch([Row(entry.message, entry.key, 0, ("late", 1))])) == "loaded"
    assert database.count("seen") == 4


@pytest.mark.parametrize("everybody", [True, False])
def test_a_schema_where_others_may_create_is_refused_unless_that_is_meant(
    database: Database, *, everybody: bool
) -> None:
    database.role()
    who = "PUBLIC" if everybody else database.roles[-1]
    assert not [one for one in inspect(database.dsn, TABLE, EVENTS).stops if "may create" in one.what]
    database.execute(f"GRANT CREATE ON SCHEMA public TO {who}")
    named = "everybody" if everybody else f"the role {who}"
    (told,) = [one for one in inspect(database.dsn, TABLE, EVENTS).stops if "may create" in one.what]
    assert told.what == f"{named} may create objects in the schema public, where the target table is"
    assert told.hint.startswith(f"REVOKE CREATE ON SCHEMA public FROM {who}")
    with pytest.raises(ConfigError, match="may create objects"):
        verify(database.dsn, TABLE, EVENTS)
    verify(database.dsn, TABLE, EVENTS, shared=True)
