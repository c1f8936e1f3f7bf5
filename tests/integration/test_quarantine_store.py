"""The quarantine's table: what can be seen of it, what opens, loaded once, tried again, given up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from tests.support.fix_postgres import (
    EVENTS,
    LIMIT,
    SENT_MS,
    TABLE,
    Database,
    batch,
    column,
    postgres_sink,
    reject,
    rows,
    until,
    write,
)

from coatcheck.errors import ConfigError, UnreachableError
from coatcheck.keys import Opener, OpenError, Sealer, Tokenizer
from coatcheck.keys.local import LocalLoaderKeys, LocalOpenerKeys, create
from coatcheck.keys.tokens import ledger_hash
from coatcheck.pipeline.message import Batch, Message, Outcome, Reason, Reject, Rejected, Row, Value
from coatcheck.pipeline.road import Road
from coatcheck.sinks.postgres.quarantine import Entry, Held, Quarantine, Selection
from coatcheck.sinks.postgres.schema import migrate

EVERY = Selection()
BODY = '{"name": "Grüße, 日本 🧥", "number": "no number"}'


@pytest.fixture
def quarantine(database: Database) -> Iterator[Quarantine]:
    with Quarantine(database.dsn, f"public.{TABLE}", EVENTS) as opened:
        yield opened


def hold(database: Database, *entries: Rejected) -> None:
    assert write(postgres_sink(database), batch(rejected=entries)) == [Outcome(quarantined=len(entries))]


def ids(entries: Sequence[Entry]) -> list[int]:
    return [entry.quarantine_id for entry in entries]


def states(database: Database) -> list[tuple[int, str]]:
    found = database.execute("SELECT quarantine_id, state FROM coatcheck.quarantine ORDER BY quarantine_id")
    return [(number, state) for number, state in found]


# --- what can be seen -------------------------------------------------------------------------------------------------


def test_nothing_is_held(quarantine: Quarantine) -> None:
    assert quarantine.entries(EVERY) == []
    assert list(quarantine.opened(EVERY)) == []
    assert quarantine.discard(EVERY) == 0


def test_an_entry_shows_everything_but_the_body(database: Database, quarantine: Quarantine) -> None:
    hold(database, reject(7, Reason.TOO_LONG, "name"))
    [entry] = quarantine.entries(EVERY)
    sent = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=SENT_MS + 7)
    assert entry == Entry(
        quarantine_id=1,
        pipeline="default",
        message_id="message-7",
        reason="too_long",
        detail="name",
        sent_at=sent,
        received_at=sent + timedelta(seconds=1),
        quarantined_at=entry.quarantined_at,
        attempts=1,
        state="held",
    )
    assert abs(entry.quarantined_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_entries_are_chosen_by_id_and_reason(database: Database, quarantine: Quarantine) -> None:
    hold(database, *(reject(n, Reason.NOT_JSON if n % 2 else Reason.TOO_LONG) for n in range(10)))
    assert ids(quarantine.entries(EVERY)) == list(range(1, 11))
    assert ids(quarantine.entries(Selection(reason="not_json"))) == [2, 4, 6, 8, 10]
    assert ids(quarantine.entries(Selection(ids=(9, 2, 77)))) == [2, 9]
    assert ids(quarantine.entries(Selection(ids=(9, 2), reason="not_json"))) == [2]
    assert ids(quarantine.entries(Selection(ids=()))) == []
    assert ids(quarantine.entries(Selection(reason="no such reason"))) == []
    assert [held.quarantine_id for held in quarantine.opened(Selection(reason="too_long"))] == [1, 3, 5, 7, 9]
    assert [held.quarantine_id for held in quarantine.opened(Selection(ids=(4, 3)))] == [3, 4]


def test_the_oldest_come_first_up_to_the_limit(database: Database, quarantine: Quarantine) -> None:
    hold(database, *map(reject, range(30)))
    assert ids(quarantine.entries(EVERY, limit=7)) == list(range(1, 8))
    assert len(quarantine.entries(EVERY)) == 30
    hold(database, *map(reject, range(30, 150)))
    assert len(quarantine.entries(EVERY)) == 100


def test_resolved_entries_are_shown_on_demand(database: Database, quarantine: Quarantine) -> None:
    hold(database, *map(reject, range(4)))
    one, two, *_ = quarantine.opened(EVERY)
    quarantine.load(one, loading(one, "late", 1))
    quarantine.discard(Selection(ids=(two.quarantine_id,)))
    assert [entry.state for entry in quarantine.entries(EVERY)] == ["held", "held"]
    everything = quarantine.entries(EVERY, resolved=True)
    assert [entry.state for entry in everything] == ["loaded", "discarded", "held", "held"]
    assert ids(quarantine.entries(EVERY, resolved=True, limit=2)) == [1, 2]


@pytest.mark.parametrize("count", [499, 500, 501, 1201])
def test_held_entries_come_page_by_page(database: Database, quarantine: Quarantine, count: int) -> None:
    hold(database, *map(reject, range(count)))
    found = list(quarantine.opened(EVERY))
    assert [held.message.message_id for held in found] == [f"message-{number}" for number in range(count)]
    assert len({held.sealed.nonce for held in found}) == count


def test_entries_that_are_resolved_while_they_are_read(database: Database, quarantine: Quarantine) -> None:
    """As a retry does it: each is met once, and those given up meanwhile by somebody else are not met."""
    hold(database, *map(reject, range(1100)))
    met = []
    for held in quarantine.opened(EVERY):
        met.append(held.quarantine_id)
        if held.quarantine_id == 1:
            database.execute(
                "UPDATE coatcheck.quarantine SET state = 'loaded', ciphertext = NULL, nonce = NULL"
                " WHERE quarantine_id > 1000"
            )
        if held.quarantine_id % 2:
            quarantine.rejected_again(held, Reject(Reason.TOO_LONG, "name"))
        else:
            quarantine.load(held, loading(held, "late", held.quarantine_id))
    assert met == list(range(1, 1001))
    assert database.count() == 500


def loading(held: Held, *values: Value) -> Batch:
    """Return the batch that loads a held message with these values."""
    return Batch([Row(held.message, held.key, 0, values)])


# --- what opens -------------------------------------------------------------------------------------------------------


class Keys:
    """A keyring of one's own and what is made of it."""

    def __init__(self, folder: Path) -> None:
        create(folder, "tenant")
        self.loader = LocalLoaderKeys.load(folder)
        self.sealer = Sealer(self.loader)
        self.opener = Opener(LocalOpenerKeys.load(folder))
        tokenizer = Tokenizer(self.loader.token_root(), tenant="tenant", kid=self.loader.kid)
        hashes = ledger_hash(self.loader.ledger_root(), "tenant")
        self.another_road = partial(
            lambda ledger_key, **made_of: Road(ledger_key=ledger_key, **made_of),
            columns=EVENTS,
            tokenizer=tokenizer,
            ledger_hash=hashes,
            sealer=self.sealer,
        )
        self.road = self.another_road("message_id")

    def batch(self, *messages: Message) -> Batch:
        entries = [self.road.travel(message) for message in messages]
        rejected = [entry for entry in entries if isinstance(entry, Rejected)]
        data_keys = [self.sealer.data_key(dek_id) for dek_id in {entry.sealed.dek_id for entry in rejected}]
        return Batch([entry for entry in entries if isinstance(entry, Row)], rejected, data_keys)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


def arrived(number: int, body: str) -> Message:
    return Message(f"id-{number}", body, SENT_MS + number, "receipt", 2, SENT_MS + number + 5, f"key:{number}")


@pytest.mark.parametrize("body", [BODY, "", "no json", '{"name": "\ud800"}', "x" * 100_000])
def test_a_held_body_opens(database: Database, quarantine: Quarantine, keys: Keys, body: str) -> None:
    came = arrived(1, body)
    write(postgres_sink(database), keys.batch(came))
    [held] = quarantine.opened(EVERY)
    assert keys.opener.open(held.sealed, held.data_key, held.key).decode("utf-8", "surrogatepass") == body
    assert held.message == Message("id-1", "", came.sent_ms, "", 1, came.received_ms, "key:1")
    assert held.key == keys.road.travel(came).key


def test_bodies_of_several_data_keys_open(database: Database, quarantine: Quarantine, keys: Keys) -> None:
    sink = postgres_sink(database)

    async def work() -> None:
        try:
            for number in range(6):
                await sink.write(keys.batch(arrived(number, f"body {number}")))
                if number % 2:
                    keys.sealer.retire()
        finally:
            await sink.close()

    asyncio.run(work())
    found = list(quarantine.opened(EVERY))
    bodies = [keys.opener.open(held.sealed, held.data_key, held.key) for held in found]
    assert bodies == [f"body {number}".encode() for number in range(6)]
    assert len({held.data_key for held in found}) == database.count("coatcheck.data_key") == 3


def test_a_body_opens_in_its_own_entry_only(database: Database, quarantine: Quarantine, keys: Keys) -> None:
    write(postgres_sink(database), keys.batch(arrived(1, "one"), arrived(2, "two")))
    one, two = quarantine.opened(EVERY)
    with pytest.raises(OpenError):
        keys.opener.open(one.sealed, one.data_key, two.key)
    database.execute(
        "UPDATE coatcheck.quarantine SET ciphertext = set_byte(ciphertext, 0, get_byte(ciphertext, 0) # 1)"
    )
    [changed, _] = quarantine.opened(EVERY)
    with pytest.raises(OpenError):
        keys.opener.open(changed.sealed, changed.data_key, changed.key)


def test_a_row_that_the_database_refused_opens(database: Database, quarantine: Quarantine, keys: Keys) -> None:
    """From the road to the table, back as refused, into quarantine, and out again when the table was mended."""
    database.execute("ALTER TABLE events ADD CONSTRAINT small CHECK (number < 10)")
    body = '{"name": "late", "number": 11}'
    sink = postgres_sink(database)

    async def work() -> None:
        try:
            outcome = await sink.write(keys.batch(arrived(1, body)))
            [(row, reason)] = outcome.refused
            refused = keys.road.refuse(row, reason)
            one = Batch([], [refused], [keys.sealer.data_key(refused.sealed.dek_id)])
            assert await sink.write(one) == Outcome(quarantined=1)
            assert await sink.write(keys.batch(arrived(1, body))) == Outcome(duplicates=1)
        finally:
            await sink.close()

    asyncio.run(work())
    [held] = quarantine.opened(EVERY)
    assert keys.opener.open(held.sealed, held.data_key, held.key) == body.encode()
    [entry] = quarantine.entries(EVERY)
    assert (entry.reason, entry.detail) == ("refused_by_database", "23514 small")
    assert quarantine.load(held, loading(held, "late", 11)) == Reject(Reason.REFUSED_BY_DATABASE, "23514 small")
    assert states(database) == [(1, "held")]
    database.execute("ALTER TABLE events DROP CONSTRAINT small")
    assert quarantine.load(held, loading(held, "late", 11)) == "loaded"
    assert database.execute("SELECT * FROM events") == [("late", 11)]


# --- load -------------------------------------------------------------------------------------------------------------


def test_load_inserts_the_row_and_marks_the_entry(database: Database, quarantine: Quarantine) -> None:
    hold(database, reject(1), reject(2))
    first, _ = quarantine.opened(EVERY)
    assert quarantine.load(first, loading(first, "late", None)) == "loaded"
    assert database.execute("SELECT * FROM events") == [("late", None)]
    assert states(database) == [(1, "loaded"), (2, "held")]
    [(at, by)] = database.execute("SELECT resolved_at, resolved_by FROM coatcheck.quarantine WHERE quarantine_id = 1")
    assert abs(at - datetime.now(UTC)) < timedelta(minutes=1)
    assert by == "postgres"


def test_load_happens_once(database: Database, quarantine: Quarantine) -> None:
    hold(database, reject(1))
    [held] = quarantine.opened(EVERY)
    found = [quarantine.load(held, loading(held, "late", 1)) for _ in range(3)]
    assert found == ["loaded", "duplicate", "duplicate"]
    assert database.count() == 1


def test_a_discarded_entry_is_not_loaded(database: Database, quarantine: Quarantine) -> None:
    hold(database, reject(1))
    [held] = quarantine.opened(EVERY)
    quarantine.discard(EVERY)
    quarantine.load(held, loading(held, "late", 1))
    assert database.count() == 0
    assert states(database) == [(1, "discarded")]


def test_two_operators_load_the_same_entry_at_once(database: Database) -> None:
    """One stands in the middle of it, the other waits for him, and finds that there is nothing left to do."""
    hold(database, reject(1))
    database.execute(
        "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NEW; END $$;"
        "CREATE TRIGGER gate BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION gate()"
    )

    def load() -> object:
        with Quarantine(database.dsn, f"public.{TABLE}", EVENTS) as mine:
            barrier.wait()
            [held] = mine.opened(EVERY)
            barrier.wait()
            return mine.load(held, loading(held, "late", 1))

    barrier = threading.Barrier(2)
    with database.session() as holder, ThreadPoolExecutor(2) as pool:
        holder.execute("SELECT pg_advisory_lock(4711)")
        tries = [pool.submit(load) for _ in range(2)]
        asyncio.run(until(lambda: len(database.waiting()) == 2, "both are at it"))
        holder.execute("SELECT pg_advisory_unlock(4711)")
        assert {one.result(LIMIT) for one in tries} == {"loaded", "duplicate"}
    assert database.count() == 1
    assert states(database) == [(1, "loaded")]


def test_many_operators_load_many_entries(database: Database) -> None:
    hold(database, *map(reject, range(100)))

    def load_all(_: int) -> None:
        with Quarantine(database.dsn, f"public.{TABLE}", EVENTS) as mine:
            for held in mine.opened(EVERY):
                assert mine.load(held, loading(held, held.message.message_id, 1)) in {"loaded", "duplicate"}

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load_all, range(4)))
    assert sorted(database.names()) == sorted(f"message-{number}" for number in range(100))


EVENT_BODY = '{"name": "late", "number": 7}'


def by_number(keys: Keys) -> None:
    """From now on the field `number` is the key, not a field that no message has."""
    keys.road = keys.another_road("field:number")


def without_a_key(database: Database, keys: Keys, *numbers: int) -> None:
    """Have messages held as one holds them whose configuration misspells the key."""
    keys.road = keys.another_road("field:numbr")
    entries = keys.batch(*(arrived(number, EVENT_BODY) for number in numbers))
    assert {entry.reject for entry in entries.rejected} == {Reject(Reason.NO_LEDGER_KEY, "numbr")}
    assert write(postgres_sink(database), entries) == [Outcome(quarantined=len(numbers))]
    assert write(postgres_sink(database), entries) == [Outcome(duplicates=len(numbers))], "a redelivery is held once"


def test_a_retry_goes_through_the_ledger_with_the_key_that_the_row_has_now(
    database: Database, quarantine: Quarantine, keys: Keys
) -> None:
    """Held under its message id, for it had no other key; the configuration was mended since."""
    without_a_key(database, keys, 1)
    by_number(keys)
    [held] = quarantine.opened(EVERY)
    assert quarantine.load(held, keys.batch(arrived(1, EVENT_BODY))) == "loaded"
    assert (database.names(), states(database)) == (["late"], [(1, "loaded")])
    assert write(postgres_sink(database), keys.batch(arrived(9, EVENT_BODY))) == [Outcome(duplicates=1)]
    assert database.names() == ["late"]


def test_repeats_that_were_held_are_one_message_when_they_are_retried(
    database: Database, quarantine: Quarantine, keys: Keys
) -> None:
    without_a_key(database, keys, 1, 2, 3)
    by_number(keys)
    found = [
        quarantine.load(held, keys.batch(arrived(place, EVENT_BODY)))
        for place, held in enumerate(quarantine.opened(EVERY), 1)
    ]
    assert found == ["loaded", "duplicate", "duplicate"]
    assert database.names() == ["late"]
    assert states(database) == [(1, "loaded"), (2, "loaded"), (3, "loaded")]


def test_a_retry_of_what_has_come_again_meanwhile_adds_nothing(
    database: Database, quarantine: Quarantine, keys: Keys
) -> None:
    without_a_key(database, keys, 1)
    by_number(keys)
    assert write(postgres_sink(database), keys.batch(arrived(9, EVENT_BODY))) == [Outcome(loaded=1)]
    [held] = quarantine.opened(EVERY)
    assert quarantine.load(held, keys.batch(arrived(1, EVENT_BODY))) == "duplicate"
    assert (database.names(), states(database)) == (["late"], [(1, "loaded")])


def test_a_row_that_is_refused_leaves_no_ledger_entry(database: Database, quarantine: Quarantine, keys: Keys) -> None:
    without_a_key(database, keys, 1)
    by_number(keys)
    database.execute("ALTER TABLE events ADD CONSTRAINT small CHECK (number < 7)")
    [held] = quarantine.opened(EVERY)
    refused = quarantine.load(held, keys.batch(arrived(1, EVENT_BODY)))
    assert refused == Reject(Reason.REFUSED_BY_DATABASE, "23514 small")
    database.execute("ALTER TABLE events DROP CONSTRAINT small")
    assert quarantine.load(held, keys.batch(arrived(1, EVENT_BODY))) == "loaded"
    assert database.names() == ["late"]


def test_loaded_messages_stay_known(database: Database, quarantine: Quarantine) -> None:
    """The queue may deliver the message again, long after: as a row, too."""
    hold(database, reject(1))
    [held] = quarantine.opened(EVERY)
    quarantine.load(held, loading(held, "late", 1))
    assert write(postgres_sink(database), batch(rows(1))) == [Outcome(duplicates=1)]
    assert database.names() == ["late"]


@pytest.mark.parametrize("name", ["quarantine_id", "released", "batch", "state"])
def test_load_into_a_column_of_any_name(empty_database: Database, name: str) -> None:
    columns = (column(name, "numeric"), column("other", "jsonb"))
    migrate(empty_database.dsn, TABLE, columns)
    write(postgres_sink(empty_database, columns), batch(rejected=[reject(1)]))
    with Quarantine(empty_database.dsn, f"public.{TABLE}", columns) as quarantine:
        [held] = quarantine.opened(EVERY)
        assert quarantine.load(held, loading(held, "1.50", '{"a": 1}')) == "loaded"
    assert [str(value) for value in empty_database.execute("SELECT * FROM events")[0]] == ["1.50", "{'a': 1}"]


# --- tried again, given up --------------------------------------------------------------------------------------------


def test_a_try_that_failed_is_counted(database: Database, quarantine: Quarantine) -> None:
    hold(database, reject(1), reject(2))
    first, _ = quarantine.opened(EVERY)
    quarantine.rejected_again(first, Reject(Reason.TOO_LONG, "name"))
    quarantine.rejected_again(first, Reject(Reason.REFUSED_BY_DATABASE, "23514"))
    seen = [(entry.attempts, entry.reason, entry.detail, entry.state) for entry in quarantine.entries(EVERY)]
    assert seen == [(3, "refused_by_database", "23514", "held"), (1, "not_json", "", "held")]


def test_a_resolved_entry_counts_no_more(database: Database, quarantine: Quarantine) -> None:
    hold(database, reject(1))
    [held] = quarantine.opened(EVERY)
    quarantine.load(held, loading(held, "late", 1))
    quarantine.rejected_again(held, Reject(Reason.TOO_LONG, "name"))
    [entry] = quarantine.entries(EVERY, resolved=True)
    assert (entry.attempts, entry.reason, entry.state) == (1, "not_json", "loaded")


def test_discard_erases_bodies_and_keeps_the_record(database: Database, quarantine: Quarantine) -> None:
    hold(database, *(reject(n, Reason.NOT_JSON if n % 2 else Reason.TOO_LONG) for n in range(6)))
    assert quarantine.discard(Selection(reason="not_json")) == 3
    assert quarantine.discard(Selection(reason="not_json")) == 0
    assert quarantine.discard(Selection(ids=(1, 2))) == 1
    found = database.execute(
        "SELECT quarantine_id, ciphertext IS NULL, nonce IS NULL, resolved_by, message_id FROM coatcheck.quarantine"
        " WHERE state = 'discarded' ORDER BY quarantine_id"
    )
    assert found == [(n, True, True, "postgres", f"message-{n - 1}") for n in (1, 2, 4, 6)]
    assert [held.quarantine_id for held in quarantine.opened(EVERY)] == [3, 5]
    assert quarantine.discard(EVERY) == 2
    assert write(postgres_sink(database), batch(rejected=[reject(1)])) == [Outcome(duplicates=1)]


def test_a_body_cannot_vanish_unless_it_is_discarded(database: Database) -> None:
    hold(database, reject(1))
    for change in ("ciphertext = NULL", "state = 'discarded'", "state = 'lost'", "nonce = 'short'"):
        with pytest.raises(Exception, match="violates check constraint"):
            database.execute(f"UPDATE coatcheck.quarantine SET {change}")


# --- status -----------------------------------------------------------------------------------------------------------


def test_status_of_an_empty_database(quarantine: Quarantine) -> None:
    assert quarantine.status() == (0, 0, None, None, {})


def test_status_counts_the_last_minute(database: Database, quarantine: Quarantine) -> None:
    one = batch(rows(1, 2, 3), [reject(4, Reason.NOT_JSON), reject(5, Reason.TOO_LONG), reject(6, Reason.TOO_LONG)])
    write(postgres_sink(database), one, one)
    database.execute(
        "INSERT INTO coatcheck.batch SELECT committed_at - interval '61 seconds', worker, 1000, 1000, 1000, oldest_sent"
        " FROM coatcheck.batch"
    )
    loaded, duplicates, newest, lag, held = quarantine.status()
    assert (loaded, duplicates) == (3, 6)
    assert held == {"not_json": 1, "too_long": 2}
    assert abs(newest - datetime.now(UTC)) < timedelta(minutes=1)
    assert lag == pytest.approx((newest - datetime.fromtimestamp((SENT_MS + 1) / 1000, UTC)).total_seconds(), abs=1e-3)


def test_status_counts_what_is_held_only(database: Database, quarantine: Quarantine) -> None:
    hold(database, *map(reject, range(3)))
    quarantine.discard(Selection(ids=(1,)))
    assert quarantine.status()[4] == {"not_json": 2}


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_table_that_is_missing(database: Database, quarantine: Quarantine) -> None:
    hold(database, reject(1))
    [held] = quarantine.opened(EVERY)
    database.execute("DROP TABLE events")
    with pytest.raises(ConfigError, match="cannot load from the quarantine: PostgreSQL answers 42P01"):
        quarantine.load(held, loading(held, "late", 1))
    assert states(database) == [(1, "held")]


def test_a_schema_that_is_missing(empty_database: Database) -> None:
    with Quarantine(empty_database.dsn, f"public.{TABLE}", EVENTS) as quarantine:
        for attempt in (
            lambda: quarantine.entries(EVERY),
            lambda: list(quarantine.opened(EVERY)),
            lambda: quarantine.discard(EVERY),
            quarantine.status,
        ):
            with pytest.raises(ConfigError, match=r"42P01|3F000") as caught:
                attempt()
            assert "coatcheck migrate" in caught.value.hint


def test_a_connection_that_is_lost(database: Database, quarantine: Quarantine) -> None:
    hold(database, reject(1))
    [held] = quarantine.opened(EVERY)
    database.terminate()
    with pytest.raises(UnreachableError):
        quarantine.load(held, loading(held, "late", 1))
    assert states(database) == [(1, "held")]
    assert database.count() == 0
