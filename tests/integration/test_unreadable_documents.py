"""A real database with a jsonb column: whatever is sent, its table can be read again, and nothing is acked unseen."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from tests.support.builders import a_column, a_message, a_road
from tests.support.fix_postgres import TABLE, Database, postgres_sink, write

from coatcheck.keys import Sealer
from coatcheck.keys.local import LocalLoaderKeys, create
from coatcheck.pipeline.message import Batch, Outcome, Rejected, Row

COLUMNS = (a_column("text", name="name", path="name"), a_column("jsonb", name="rest", path="rest"))
NESTED = "[" * 400 + "1" + "]" * 400


@pytest.fixture
def documents(database: Database) -> Database:
    database.execute(f"ALTER TABLE {TABLE} DROP COLUMN number, ADD COLUMN rest jsonb")
    return database


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> LocalLoaderKeys:
    folder = tmp_path_factory.mktemp("keys") / "keys"
    create(folder, "tenant")
    return LocalLoaderKeys.load(folder)


@pytest.fixture
def taken(documents: Database, keyring: LocalLoaderKeys) -> Callable[..., Outcome]:
    """Send bodies down the road and into the database; both ways of the road must agree."""
    return partial(_taken, documents, keyring)


Taken = Callable[..., Outcome]


def _taken(database: Database, keyring: LocalLoaderKeys, bodies: Sequence[str], **options: Any) -> Outcome:
    sealer = Sealer(keyring)
    road = a_road(COLUMNS, sealer=sealer, **options)
    messages = [a_message(body, message_id=f"id-{place}") for place, body in enumerate(bodies)]
    entries = road.travel_together(messages)
    apart = [road.travel(message) for message in messages]
    assert list(map(type, entries)) == list(map(type, apart))
    rejected = [entry for entry in entries if isinstance(entry, Rejected)]
    keys = [sealer.data_key(dek_id) for dek_id in {entry.sealed.dek_id for entry in rejected}]
    batch = Batch([entry for entry in entries if isinstance(entry, Row)], rejected, keys)
    [outcome] = write(postgres_sink(database, columns=COLUMNS), batch)
    assert outcome.refused == [], "PostgreSQL is never the first to refuse it"
    return outcome


def held(database: Database) -> list[tuple[str, str]]:
    return [
        (reason, detail)
        for reason, detail in database.execute("SELECT reason, detail FROM coatcheck.quarantine ORDER BY quarantine_id")
    ]


@pytest.mark.parametrize(
    "rest",
    [
        "[" + ",".join(["1e131071"] * 8300) + "]",
        '{"n": 1e131071}',
        '{"n": [1e-16383]}',
        '{"n": -1e99999}',
        "[" + ",".join(["1e1000"] * 149_000) + "]",
        "9" * 4000,
        "[0." + "3" * 5000 + "]",
    ],
    ids=range(7),
)
def test_75_kb_do_not_make_a_table_unreadable(documents: Database, taken: Taken, rest: str) -> None:
    """Found: jsonb stores such a number in some bytes, and neither SELECT nor pg_dump could write the table out."""
    assert len(rest) < 2**20
    assert taken([f'{{"name": "a", "rest": {rest}}}', '{"name": "b", "rest": {}}']) == Outcome(1, 1)
    assert held(documents) == [("out_of_range", "rest")]
    assert documents.execute(f"SELECT name, rest::text FROM {TABLE}") == [("b", "{}")]


@pytest.mark.parametrize(
    "rest",
    [
        "[" + ",".join(["1e1000"] * 20_000) + "]",
        "[" + ",".join(["1e-1000"] * 20_000) + "]",
        "[" + ",".join(["1E99"] * 200_000) + "]",
        "[" + "9" * 1000 + ", 0." + "7" * 1000 + "]",
        NESTED,
        json.dumps({"k" * 200_000: "v" * 700_000}),
        '{"text": "1e131071 E+131071 ' + "9" * 5000 + '"}',
    ],
    ids=range(7),
)
def test_what_is_taken_can_be_read_again(documents: Database, taken: Taken, rest: str) -> None:
    assert taken([f'{{"name": "a", "rest": {rest}}}']) == Outcome(1)
    [(size, same)] = documents.execute(f"SELECT length(rest::text), rest = %s::jsonb FROM {TABLE}", rest)
    assert same
    assert size <= 33 * 2**20
    assert documents.execute(f"COPY (SELECT rest FROM {TABLE}) TO PROGRAM 'cat > /dev/null'") == []


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ('"\\u0000"', "invalid_text"),
        ('{"a": [{"b": "x\\u0000"}]}', "invalid_text"),
        ('{"a": {"\\u0000": 1}}', "invalid_text"),
        ('["\\ud800"]', "invalid_text"),
        ('{"a": {"\\udfff": 1}}', "invalid_text"),
        ('{"a": "\\ude00\\ud83d"}', "invalid_text"),
        ("[" * 501 + "]" * 501, "too_deep"),
        ("[" * 5000 + "]" * 5000, "too_deep"),
    ],
)
def test_what_jsonb_cannot_hold_is_held(documents: Database, taken: Taken, rest: str, reason: str) -> None:
    assert taken([f'{{"name": "a", "rest": {rest}}}']).quarantined == 1
    assert [found for found, _ in held(documents)] == [reason]
    assert documents.count() == 0


def test_a_foreign_message_is_held_and_not_a_row_of_nulls(documents: Database, taken: Taken) -> None:
    bodies = [
        '{"hello": "world"}',
        '{"Type": "Notification", "MessageId": "1", "Message": "{\\"name\\": \\"a\\"}"}',
        '{"Records": [{"name": "a"}]}',
        "{}",
        '{"name": null}',
        '{"rest": null, "other": 1}',
    ]
    assert taken(bodies) == Outcome(loaded=2, quarantined=4)
    assert held(documents) == [("no_field_found", "")] * 4


def test_a_message_without_its_key_is_held_once(documents: Database, taken: Taken) -> None:
    bodies = ['{"name": "a"}', '{"name": "b", "id": 1}', '{"name": "c", "id": null}', '{"name": "d", "id": 1}']
    assert taken(bodies, ledger_key="field:id") == Outcome(loaded=1, quarantined=2, duplicates=1)
    assert taken(bodies, ledger_key="field:id") == Outcome(duplicates=4)
    assert held(documents) == [("no_ledger_key", "id")] * 2
    assert documents.names() == ["b"]


def test_one_event_on_two_queues_is_a_row_of_each_pipeline(documents: Database, taken: Taken) -> None:
    """Found: what the second pipeline received was a duplicate of the first one's, acked, and nowhere."""
    bodies = [json.dumps({"name": "a", "id": number}) for number in range(3)]
    for key in ("content", "field:id"):
        for pipeline in ("default", "orders"):
            assert taken(bodies, ledger_key=key, pipeline=pipeline) == Outcome(loaded=3)
            assert taken(bodies, ledger_key=key, pipeline=pipeline) == Outcome(duplicates=3)
    assert documents.count() == 12
