"""`coatcheck maintain` at the command line: what it says of a table with partitions, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import pytest
from tests.support.fix_servers import Alone, LoginDatabase
from tests.support.process import Done

from coatcheck.sinks.postgres import partitions

Maintain = Callable[..., Done]
BY = {"COATCHECK_TARGET__PARTITION_BY": "create_date", "COATCHECK_TARGET__PARTITION": "day"}
KEEP = {"COATCHECK_TARGET__KEEP_PARTITIONS": "2"}


@pytest.fixture
def maintain(alone: Alone, bare_database: LoginDatabase, monkeypatch: pytest.MonkeyPatch) -> Maintain:
    """Run the command on a table that was made on 17 November, on the 19th."""
    alone.environment |= {"DATABASE_URL": bare_database.dsn} | BY
    monkeypatch.setattr(partitions, "today", lambda: date(2026, 11, 17))
    alone("migrate")
    monkeypatch.setattr(partitions, "today", lambda: date(2026, 11, 19))

    def run(*arguments: str, code: int = 0, **variables: str) -> Done:
        return alone("maintain", *arguments, code=code, **variables)

    return run


def insert(database: LoginDatabase, *days: str) -> None:
    for day in days:
        database.execute("INSERT INTO user_logins (user_id, create_date) VALUES ('canary', %s)", day)


def test_it_says_what_it_does(maintain: Maintain, bare_database: LoginDatabase) -> None:
    insert(bare_database, "2020-01-01", "2020-01-02", "2026-11-16", "2026-11-17")
    done = maintain()
    assert done.out.splitlines() == [
        "made partition user_logins_20261202",
        "made partition user_logins_20261203",
        "nothing is left to do",
    ]
    assert done.err == ""
    done = maintain(**KEEP)
    lines = done.out.splitlines()
    assert lines[:2] == ["dropped partition user_logins_20261103", "dropped partition user_logins_20261104"]
    assert lines[-3:] == [
        "dropped partition user_logins_20261116",
        "deleted 2 rows that were in no partition of their own",
        "nothing is left to do",
    ]
    assert done.err == ""
    assert bare_database.rows() == 1
    assert maintain(**KEEP).out == "nothing is left to do\n"


def test_what_is_left_ends_it_with_1(
    maintain: Maintain, bare_database: LoginDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "_MOST_MOVED", 0)
    insert(bare_database, "2026-12-02")
    done = maintain(code=1)
    what = "partition user_logins_20261202 is missing"
    hint = "over 0 rows of its time are in the default partition: move them by hand in a quiet hour"
    assert done.out == "made partition user_logins_20261203\n"
    assert done.err == f"coatcheck: warning: {what}\ncoatcheck: hint: {hint}\n"
    done = maintain("--json", code=1)
    assert done.json() == {
        "ledger_days": 0, "epochs_made": 0, "epochs_erased": [], "partitions_made": [], "partitions_dropped": [],
        "rows_deleted": 0, "left": [{"what": what, "hint": hint}],
    }  # fmt: skip
    assert done.err == f"coatcheck: warning: {what}\ncoatcheck: hint: {hint}\n"


def test_epochs_are_told_and_erased(maintain: Maintain, bare_database: LoginDatabase) -> None:
    bare_database.execute("CREATE TABLE coatcheck.vault_20201 PARTITION OF coatcheck.vault FOR VALUES IN (20201)")
    maintain()
    kept = {"COATCHECK_VAULT__KEEP_EPOCHS": "8"}
    done = maintain(code=1, **kept)
    assert done.out == ""
    assert done.err.splitlines() == [
        "coatcheck: warning: epochs of the vault are due to be erased: 20201",
        "coatcheck: hint: say under which case, as policy wants it: --ticket RET-1",
    ]
    refused = maintain("--ticket", "please", code=1, **kept)
    assert refused.err.startswith("coatcheck: warning: the epoch 20201 was not erased: this ticket does not look like")
    done = maintain("--ticket", "RET-1", **kept)
    assert (done.out, done.err) == ("erased the originals of the epoch 20201\nnothing is left to do\n", "")


def test_a_table_that_is_partitioned_otherwise(maintain: Maintain, bare_database: LoginDatabase) -> None:
    bare_database.execute("DROP TABLE user_logins; CREATE TABLE user_logins (create_date date)")
    done = maintain(code=2)
    error, hint = done.err.splitlines()
    assert (done.out, error) == (
        "",
        "coatcheck: error: public.user_logins is not partitioned by create_date, as [target] partition_by says",
    )
    assert hint.startswith("coatcheck: hint: a table is partitioned when it is created: ")


def test_a_database_that_is_away(maintain: Maintain) -> None:
    done = maintain(code=3, DATABASE_URL="postgresql://127.0.0.1:1/x")
    assert done.err.startswith("coatcheck: error: cannot connect to the database")
