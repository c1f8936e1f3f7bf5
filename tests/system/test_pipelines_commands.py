"""Commands with a file of two pipelines, each with a database of its own: what is shown of each, and what is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.fix_servers import BAD, Alone, LoginDatabase, Queue, login, logins, new_queue

from coatcheck.demo.servers import SqsServer

FILE = """
[pipelines.logins.source]
queue = "{logins}"

[pipelines.logins.target]
dsn = "{one}"

[pipelines.orders.source]
queue = "{orders}"

[pipelines.orders.target]
dsn = "{other}"
"""


@pytest.fixture
def second(sqs: SqsServer) -> Iterator[Queue]:
    with new_queue(sqs, VisibilityTimeout=120) as new:
        yield new


@pytest.fixture
def two(  # noqa: PLR0917 - each is a server, or what is on one
    alone: Alone,
    queue: Queue,
    second: Queue,
    login_database: LoginDatabase,
    bare_database: LoginDatabase,
    keyring: Path,
) -> Alone:
    """The command with a file of two pipelines: `logins` into a migrated database, `orders` into an empty one."""
    login_database.execute("DROP SCHEMA coatcheck CASCADE; DROP TABLE user_logins")
    file = FILE.format(logins=queue.name, orders=second.name, one=bare_database.dsn, other=login_database.dsn)
    (alone.folder / "coatcheck.toml").write_text(file)
    alone.environment |= {"AWS_ENDPOINT_URL": queue.endpoint, "COATCHECK_KEYS__PATH": str(keyring)}
    alone("migrate", "logins")
    return alone


def loaded(two: Alone, queue: Queue, second: Queue) -> None:
    """Load a good and a bad message of each pipeline."""
    two("migrate", "orders")
    queue.send([login(1), BAD % 1])
    second.send([login(2), "no JSON"])
    two("run", "logins", "--drain")
    two("run", "orders", "--drain")


def test_the_quarantine_of_each_is_listed(two: Alone, queue: Queue, second: Queue) -> None:
    loaded(two, queue, second)
    head, *lines = two("quarantine", "list").out.splitlines()
    assert head.split()[:3] == ["pipeline", "id", "reason"]
    assert [line.split()[:3] for line in lines] == [["logins", "1", "missing_field"], ["orders", "1", "not_json"]]
    rows = [json.loads(line) for line in two("quarantine", "list", "--json").out.splitlines()]
    assert [(row["pipeline"], row["reason"]) for row in rows] == [("logins", "missing_field"), ("orders", "not_json")]
    assert len(two("quarantine", "list", "--limit", "1").out.splitlines()) == 2
    (row,) = two("quarantine", "list", "--pipeline", "orders", "--json").out.splitlines()
    assert json.loads(row)["reason"] == "not_json"


@pytest.mark.parametrize(
    "command", [("quarantine", "retry", "--all"), ("quarantine", "discard", "1", "--yes"), ("redrive",)]
)
def test_what_changes_something_is_told_which_pipeline(two: Alone, command: tuple[str, ...]) -> None:
    err = two(*command, code=2).err
    assert "has several pipelines: logins, orders" in err
    assert "--pipeline NAME" in err


def test_retry_and_discard_are_of_the_pipeline_that_is_named(two: Alone, queue: Queue, second: Queue) -> None:
    loaded(two, queue, second)
    assert two("quarantine", "retry", "--all", "--pipeline", "orders").out == "0 loaded, 1 rejected again: not_json 1\n"
    assert two("quarantine", "discard", "1", "--yes", COATCHECK_PIPELINE="orders").out == "discarded 1 messages\n"
    assert [line.split()[0] for line in two("quarantine", "list").out.splitlines()] == ["pipeline", "logins"]


def test_the_status_of_one_that_is_away_does_not_hide_the_other(two: Alone, queue: Queue) -> None:
    """The database of `orders` has no tables."""
    queue.send(logins(3))
    done = two("status", code=2)
    assert done.out.startswith("pipeline logins\nqueue        3 waiting")
    assert "pipeline orders" not in done.out
    assert "coatcheck: error: pipeline orders: " in done.err
    pipelines = two("status", "--json", code=2).json()["pipelines"]
    assert {name: each["queue"]["visible"] for name, each in pipelines.items()} == {"logins": 3}


def test_check_says_once_what_is_so_for_all(two: Alone) -> None:
    rows: list[dict[str, Any]] = two("check", "--json", code=1).json()
    errors = [(row["pipeline"], row["what"]) for row in rows if row["level"] == "error"]
    assert ("orders", "the schema coatcheck is missing") in errors
    assert {name for name, _ in errors} == {"orders"}
    assert len([row for row in rows if row["component"] == "keys"]) == 1
    assert {row["pipeline"] for row in rows if row["component"] == "keys"} == {None}
    lines = two("check", code=1).out.splitlines()
    heads = [line for line in lines if not line.startswith(("ok ", "error ", "advice ", "note ", " "))]
    assert heads == ["all pipelines", "pipeline logins", "pipeline orders"]
    of = {name: lines[lines.index(f"pipeline {name}") :] for name in ("logins", "orders")}
    assert "ok      database" in of["logins"][: of["logins"].index("pipeline orders")]
    assert "ok      database" not in of["orders"]
    assert two("check", "logins", "--json").json()[0].keys() == {"component", "level", "what", "hint"}


def test_an_error_of_migrate_names_its_pipeline(two: Alone) -> None:
    done = two("migrate", code=3, COATCHECK_PIPELINES__ORDERS__TARGET__DSN="postgresql://127.0.0.1:1/x")
    assert done.out == "pipeline logins\nnothing to do: the schema is up to date\n"
    assert "coatcheck: error: pipeline orders: " in done.err


@pytest.mark.parametrize("command", [("keys", "rotate"), ("audit", "list"), ("maintain",), ("reveal", "list")])
def test_work_on_a_database_asks_which_where_there_are_several(two: Alone, command: tuple[str, ...]) -> None:
    err = two(*command, code=2).err
    assert "coatcheck: error: the configuration has several pipelines on several databases" in err
    assert "COATCHECK_PIPELINE=logins" in err
    if command[0] != "keys":
        two(*command, COATCHECK_PIPELINE="logins")


def test_a_keyring_is_one_for_all_databases(two: Alone) -> None:
    assert "k1" in two("keys", "list").out


def test_an_erasure_by_column_is_of_one_table(two: Alone, queue: Queue, second: Queue) -> None:
    loaded(two, queue, second)
    arguments = ("erase", "--where", "user_id=user-2", "--ticket", "DSAR-7", "--yes")
    assert "has several pipelines" in two(*arguments, code=2).err
    assert "erased 2 originals" in two(*arguments, "--pipeline", "orders").out
