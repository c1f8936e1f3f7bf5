"""What a worker tells about its database beside the road: partitions, quarantine, desk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.fix_postgres import EVENTS, TABLE, Database, batch, column, postgres_sink, reject, rows, write

from coatcheck.pipeline.message import Reason
from coatcheck.sinks.postgres import figures, partitions
from coatcheck.sinks.postgres.partitions import Partitioning
from coatcheck.sinks.postgres.schema import migrate
from coatcheck.vault.epochs import Epochs

DAYS = (*EVENTS, column("day", "date"))
BY_DAY = Partitioning("day", "day")


def told(dsn: str, by: Partitioning | None = None, epochs: tuple[int, ...] = ()) -> dict[tuple[str, str], float]:
    return {(name, label): value for name, label, value in figures.samples(dsn, TABLE, by, epochs)}


def loader(database: Database) -> str:
    return database.role("coatcheck_loader")


@contextmanager
def requested(database: Database) -> Iterator[None]:
    database.execute(
        "INSERT INTO coatcheck.reveal_request (kind, requested_by, requested_id, reason, ticket, items, approvals,"
        " break_glass, requested_at, expires_at, denied_at) SELECT 'token', 'x', 1, 'LEGAL', 'INC-1', 1, 1, false,"
        " now(), now(), CASE WHEN n > 1 THEN now() END FROM generate_series(1, 3) AS n"
    )
    yield


def test_what_waits_and_what_was_asked_for(database: Database) -> None:
    rejects = [reject(1), reject(2), reject(3, Reason.MISSING_FIELD)]
    write(postgres_sink(database), batch(rows(9), rejects))
    with requested(database):
        found = told(loader(database))
    name = "coatcheck_quarantine_messages"
    held = {label: value for (metric, label), value in found.items() if metric == name}
    assert {reason: count for reason, count in held.items() if count} == {"not_json": 2, "missing_field": 1}
    assert held.keys() == set(Reason), "a reason that nothing is held for any more is told as 0"
    assert {label: value for (metric, label), value in found.items() if metric == "coatcheck_reveals"} == {
        "requested": 3, "denied": 2, "approved": 0, "opened": 0,
    }  # fmt: skip


def test_partitions_of_the_vault(database: Database) -> None:
    wanted = Epochs("month").ahead()
    assert told(loader(database), epochs=wanted)["coatcheck_partitions_missing", "vault"] == len(wanted)
    database.execute("SELECT coatcheck.make_epochs(%s)", list(wanted[:-1]))
    assert told(loader(database), epochs=wanted)["coatcheck_partitions_missing", "vault"] == 1


def test_partitions_of_the_target(empty_database: Database) -> None:
    migrate(empty_database.dsn, TABLE, DAYS, by=BY_DAY)
    login = loader(empty_database)
    assert told(login, BY_DAY)["coatcheck_partitions_missing", "target"] == 0
    last = max(partitions.wanted(BY_DAY, partitions.today())).start
    empty_database.execute(f"DROP TABLE {last.strftime(f'{TABLE}_%Y%m%d')}")
    assert told(login, BY_DAY)["coatcheck_partitions_missing", "target"] == 0, "the daily run will make it"
    empty_database.execute(f"DROP TABLE {partitions.today().strftime(f'{TABLE}_%Y%m%d')}")
    assert told(login, BY_DAY)["coatcheck_partitions_missing", "target"] == 1
    assert ("coatcheck_partitions_missing", "target") not in told(login)


def test_a_table_that_is_not_partitioned_hides_nothing_else(database: Database) -> None:
    write(postgres_sink(database), batch((), [reject(1)]))
    found = told(loader(database), Partitioning("name", "day"), ())
    assert ("coatcheck_partitions_missing", "target") not in found
    assert found["coatcheck_quarantine_messages", "not_json"] == 1


def test_one_who_may_not_ask_for_counts_tells_the_rest(database: Database) -> None:
    found = told(database.role("USAGE ON SCHEMA coatcheck"), epochs=(20991,))
    assert found == {("coatcheck_partitions_missing", "vault"): 1}


def test_a_database_that_is_away_is_no_trouble() -> None:
    assert told("host=127.0.0.1 port=1") == {}
