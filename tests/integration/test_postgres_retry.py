"""What may pass is waited out with the same batch: locks, lost connections, restarts, read-only times. Exactly once."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import psycopg
import pytest
from tests.support.fix_postgres import (
    Database,
    batch,
    key,
    postgres_sink,
    reject,
    row,
    rows,
    until,
    using,
    write,
)
from tests.support.tcp_proxy import TcpProxy

from coatcheck.errors import UnreachableError
from coatcheck.pipeline.message import Batch, DataKey, Outcome, Row
from coatcheck.sinks.postgres.sink import PostgresSink

pytestmark = pytest.mark.usefixtures("quick_retries")
LOCK = 4711
GATE = f"""
CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared({LOCK});
    RETURN NULL;
END $$;
"""
GATES = {
    "ledger": "CREATE TRIGGER gate AFTER INSERT ON coatcheck.ledger FOR EACH ROW",
    "rows": "CREATE TRIGGER gate AFTER INSERT ON events FOR EACH ROW",
    "data key": "CREATE TRIGGER gate AFTER INSERT ON coatcheck.data_key FOR EACH ROW",
    "quarantine": "CREATE TRIGGER gate AFTER INSERT ON coatcheck.quarantine FOR EACH ROW",
    "record": "CREATE TRIGGER gate AFTER INSERT ON coatcheck.batch FOR EACH ROW",
    "commit": "CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
}
"""A trigger for each phase of a transaction; while the lock is held, the transaction stands there."""


@pytest.fixture
def proxy(database: Database) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", database.server.port) as running:
        yield running


def through(proxy: TcpProxy, database: Database, **options: Any) -> PostgresSink:
    return postgres_sink(psycopg.conninfo.make_conninfo(database.dsn, port=proxy.port), **options)


def refusals(caplog: pytest.LogCaptureFixture) -> set[str]:
    """Return the SQLSTATEs of the retries that were logged."""
    return {record.__dict__["sqlstate"] for record in caplog.records if "refuses a batch for now" in record.message}


def a_batch(first: int = 0) -> Batch:
    return batch(rows(*range(first, first + 20)), map(reject, range(first + 20, first + 25)))


def assert_once(database: Database, batches: int = 1) -> None:
    """Each message of so many batches has had one effect."""
    assert database.counts() == (batches * 20, batches * 25, batches * 5)
    assert database.value("SELECT count(DISTINCT number) FROM events") == batches * 20
    assert database.value("SELECT count(DISTINCT message_key) FROM coatcheck.quarantine") == batches * 5


def while_writing(sink: PostgresSink, disturb: Callable[[], Awaitable[None]]) -> int:
    """Write batches on and on while they are disturbed; return how many. Each is reported as written."""
    firsts = itertools.count(step=50)
    over = asyncio.Event()
    written = 0

    async def write_on() -> None:
        nonlocal written
        while not over.is_set():
            first = next(firsts)
            outcome = await sink.write(a_batch(first))
            assert outcome.refused == []
            assert outcome.loaded + outcome.quarantined + outcome.duplicates == 25
            written += 1

    async def work() -> int:
        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(write_on())
            await disturb()
            before = written
            await until(lambda: written >= before + 12, "each goes on")
            over.set()
        return written

    return asyncio.run(using(sink, work()))


def disturbed(database: Database, sink: PostgresSink, disturb: Callable[[], Awaitable[None]]) -> Outcome:
    """Write a batch; when it has come to stand at a lock, `disturb` it."""

    async def work() -> Outcome:
        writing = asyncio.create_task(sink.write(a_batch()))
        await until(database.waiting, "the batch waits for the lock")
        await disturb()
        return await writing

    return asyncio.run(using(sink, work()))


# --- backends that are terminated, connections that are cut -----------------------------------------------------------


@pytest.mark.parametrize("phase", GATES)
def test_a_backend_that_is_terminated_in_any_phase(
    database: Database, phase: str, caplog: pytest.LogCaptureFixture
) -> None:
    database.execute(f"{GATE} {GATES[phase]} EXECUTE FUNCTION gate()")
    with database.session() as holder:
        holder.execute(f"SELECT pg_advisory_lock({LOCK})".encode())

        async def terminate() -> None:
            for _ in range(3):  # it comes back, and is terminated again
                before = set(database.waiting())
                assert database.terminate() == 1
                await until(lambda: set(database.waiting()) - before, "it has come back")  # noqa: B023 - awaited here
            assert database.counts() == (0, 0, 0)
            holder.execute(f"SELECT pg_advisory_unlock({LOCK})".encode())

        outcome = disturbed(database, postgres_sink(database), terminate)
    assert outcome == Outcome(loaded=20, quarantined=5)
    assert_once(database)
    assert refusals(caplog) <= {"57P01", "08006"}
    assert refusals(caplog)


def test_a_backend_that_is_terminated_while_idle(database: Database) -> None:
    sink = postgres_sink(database, connections=1)

    async def work() -> list[Outcome]:
        outcomes = []
        for first in range(0, 500, 50):
            outcomes.append(await sink.write(a_batch(first)))
            assert database.terminate() == 1
        return outcomes

    assert asyncio.run(using(sink, work())) == [Outcome(loaded=20, quarantined=5)] * 10
    assert_once(database, 10)


def test_backends_that_are_terminated_at_any_moment(database: Database) -> None:
    async def disturb() -> None:
        ended = 0
        while ended < 40:
            ended += database.terminate()
            await asyncio.sleep(0)

    assert_once(database, while_writing(postgres_sink(database, connections=4), disturb))


def test_the_answer_to_a_commit_is_lost(database: Database, proxy: TcpProxy, caplog: pytest.LogCaptureFixture) -> None:
    """The batch is committed, and the sink cannot know: its second try meets its own ledger entries."""
    sink = through(proxy, database, connections=1)

    async def work() -> Outcome:
        await sink.open()
        proxy.mute()
        writing = asyncio.create_task(sink.write(a_batch()))
        await until(lambda: database.count() == 20, "the batch is committed")
        await until(lambda: proxy.swallowed, "the answer is on its way")
        assert not writing.done()
        proxy.cut()
        return await writing

    outcome = asyncio.run(using(sink, work()))
    assert outcome == Outcome(duplicates=25)
    assert_once(database)
    assert proxy.connections == 2
    assert refusals(caplog) == {"08006"}


def test_the_answer_is_lost_in_the_middle_of_bisecting(database: Database, proxy: TcpProxy) -> None:
    """What was committed before the cut is known, what was not is written, the faulty row is refused: all once."""
    database.execute("ALTER TABLE events ADD CHECK (name <> 'bad')")
    sink = through(proxy, database, connections=1)
    bad = row(19, "bad", 19)
    one = batch([*rows(*range(19)), bad], [reject(20)])

    async def work() -> Outcome:
        await sink.open()
        gone = asyncio.create_task(cut_when_half_is_there())
        outcome = await sink.write(one)
        await gone
        return outcome

    async def cut_when_half_is_there() -> None:
        await until(lambda: database.count() >= 5, "a part is committed")
        proxy.cut()

    outcome = asyncio.run(using(sink, work()))
    assert [entry for entry, _ in outcome.refused] == [bad]
    assert outcome.loaded + outcome.quarantined + outcome.duplicates == 20
    assert database.counts() == (19, 20, 1)


def test_the_statement_never_arrives(database: Database, proxy: TcpProxy) -> None:
    sink = through(proxy, database, connections=1)

    async def work() -> Outcome:
        await sink.open()
        proxy.deafen()
        writing = asyncio.create_task(sink.write(a_batch()))
        await until(lambda: proxy.swallowed, "the statement is on its way")
        assert database.counts() == (0, 0, 0)
        proxy.cut()
        return await writing

    assert asyncio.run(using(sink, work())) == Outcome(loaded=20, quarantined=5)
    assert_once(database)


def test_connections_that_are_cut_at_any_moment(database: Database, proxy: TcpProxy) -> None:
    async def disturb() -> None:
        for cuts in range(45):
            seen, swallowed = proxy.connections, proxy.swallowed
            if cuts % 3:
                (proxy.mute, proxy.deafen)[cuts % 2]()
                await until(lambda: proxy.swallowed > swallowed, "something is lost")  # noqa: B023 - awaited here
            proxy.cut()
            await until(lambda: proxy.connections > seen, "it connects again")  # noqa: B023 - awaited here

    assert_once(database, while_writing(through(proxy, database, connections=3), disturb))


# --- the server goes away and comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["restart", "kill"])
def test_the_server_goes_away_while_batches_are_written(
    database: Database, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was reported as committed is there after a kill -9, and nothing is there twice."""

    def go() -> None:
        if way == "kill":
            database.server.kill()
            database.server.start()
        else:
            database.server.restart()

    async def disturb() -> None:
        for _ in range(2):
            written = database.count()
            await until(lambda: database.count() >= written + 400, "batches are committed")  # noqa: B023 - awaited here
            database.close()
            await asyncio.to_thread(go)

    assert_once(database, while_writing(postgres_sink(database, connections=3), disturb))
    assert refusals(caplog)


def test_the_server_is_down_at_first(database: Database, proxy: TcpProxy) -> None:
    sink = through(proxy, database)
    proxy.refusing = True

    async def work() -> Outcome:
        writing = asyncio.create_task(sink.write(a_batch()))
        await until(lambda: proxy.connections > 3, "it tries")
        proxy.refusing = False
        return await writing

    assert asyncio.run(using(sink, work())) == Outcome(loaded=20, quarantined=5)


def test_an_outage_is_given_up_after_a_while(database: Database, proxy: TcpProxy) -> None:
    sink = through(proxy, database, give_up_seconds=0.5)
    proxy.refusing = True
    with pytest.raises(UnreachableError, match=r"has not taken a batch for 0\.5 s \(last answer 08006\)") as caught:
        write(sink, a_batch())
    assert "nothing is lost" in caught.value.hint
    assert proxy.connections > 1
    assert database.counts() == (0, 0, 0)


def test_a_batch_that_was_given_up_can_be_written_later(database: Database, proxy: TcpProxy) -> None:
    sink = through(proxy, database, give_up_seconds=0.05, connections=1)

    async def work() -> Outcome:
        await sink.open()
        proxy.refusing = True
        proxy.cut()
        with pytest.raises(UnreachableError):
            await sink.write(a_batch())
        proxy.refusing = False
        sink._give_up = 0.0  # a busy machine may need longer than that
        return await sink.write(a_batch())

    assert asyncio.run(using(sink, work())) == Outcome(loaded=20, quarantined=5)
    assert_once(database)


def test_a_write_that_is_cancelled_leaves_the_sink_usable(database: Database) -> None:
    """As at the end of the drain deadline: the batch stays on the queue and is written by somebody, once."""
    database.execute(f"{GATE} {GATES['rows']} EXECUTE FUNCTION gate()")
    sink = postgres_sink(database, connections=1)

    async def work() -> Outcome:
        with database.session() as holder:
            holder.execute(f"SELECT pg_advisory_lock({LOCK})".encode())
            writing = asyncio.create_task(sink.write(a_batch()))
            await until(database.waiting, "the batch waits for the lock")
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
        return await sink.write(a_batch())

    outcome = asyncio.run(using(sink, work()))
    assert outcome.loaded + outcome.quarantined + outcome.duplicates == 25
    assert_once(database)


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_lock_that_is_not_had_in_time(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    database.execute(f"ALTER DATABASE {database.name} SET lock_timeout = '20ms'")
    sink = postgres_sink(database)

    async def work() -> Outcome:
        with database.session() as holder, holder.transaction():
            holder.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
            writing = asyncio.create_task(sink.write(a_batch()))
            await until(lambda: refusals(caplog), "it is refused")
        return await writing

    assert asyncio.run(using(sink, work())) == Outcome(loaded=20, quarantined=5)
    assert refusals(caplog) == {"55P03"}
    assert_once(database)


def test_a_lock_that_is_never_had_is_given_up(database: Database) -> None:
    database.execute(f"ALTER DATABASE {database.name} SET lock_timeout = '20ms'")
    sink = postgres_sink(database, give_up_seconds=1.0)
    with database.session() as holder, holder.transaction():
        holder.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(UnreachableError, match="last answer 55P03"):
            write(sink, a_batch())


def test_a_lock_that_nobody_limits_is_given_up(database: Database) -> None:
    """PostgreSQL's own default is to wait for ever, and then there is no answer at all."""
    sink = postgres_sink(database, give_up_seconds=0.1, connections=1)

    async def work() -> Outcome:
        with database.session() as holder, holder.transaction():
            holder.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(UnreachableError, match=r"for 0\.1 s \(last answer none\)"):
                await sink.write(a_batch())
        sink._give_up = 0.0  # a busy machine may need longer than that
        return await sink.write(a_batch())

    assert asyncio.run(using(sink, work())) == Outcome(loaded=20, quarantined=5)
    assert_once(database)


def test_a_statement_that_takes_too_long(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    database.execute(f"{GATE} {GATES['rows']} EXECUTE FUNCTION gate()")
    database.execute(f"ALTER DATABASE {database.name} SET statement_timeout = '50ms'")

    async def release() -> None:
        await until(lambda: refusals(caplog), "it is refused")
        holder.execute(f"SELECT pg_advisory_unlock({LOCK})".encode())

    with database.session() as holder:
        holder.execute(f"SET statement_timeout = 0; SELECT pg_advisory_lock({LOCK})".encode())
        assert disturbed(database, postgres_sink(database), release) == Outcome(loaded=20, quarantined=5)
    assert refusals(caplog) == {"57014"}
    assert_once(database)


def test_sinks_that_meet_the_same_keys_wait_instead_of_deadlocking(database: Database) -> None:
    """Two sinks, batches of overlapping messages in any order, all at once: no loss, no double, no deadlock."""
    sinks = [postgres_sink(database, connections=3) for _ in range(2)]
    choice = random.Random(7)  # noqa: S311 - an order, no secret
    chosen = [choice.sample(range(400), 200) for _ in range(40)]
    batches = [batch(rows(*numbers[:150]), map(reject, numbers[150:])) for numbers in chosen]

    async def work() -> list[Outcome]:
        return await asyncio.gather(*(sinks[i % 2].write(one) for i, one in enumerate(batches)))

    outcomes = asyncio.run(using(sinks[0], using(sinks[1], work())))
    met = {number for numbers in chosen for number in numbers}
    assert sum(outcome.loaded + outcome.quarantined for outcome in outcomes) == len(met)
    assert database.count() + database.count("coatcheck.quarantine") == len(met)
    assert database.count("coatcheck.ledger") == len(met)
    assert database.value("SELECT count(DISTINCT name) FROM events") == database.count()
    assert "deadlock" not in database.log()


def test_ledger_entries_are_written_in_the_order_of_their_keys(database: Database) -> None:
    """Two batches in opposite orders, stopped half way by a third that holds the key between: sure to deadlock else."""
    low, middle, high = sorted((row(number) for number in (1, 2, 3)), key=lambda one: (one.slot, one.key))
    sink = postgres_sink(database, connections=2)

    async def work() -> list[Outcome]:
        with database.session() as holder, holder.transaction(force_rollback=True):
            holder.execute(
                "INSERT INTO coatcheck.ledger (message_key, slot) VALUES (%s::uuid, %s)",
                [middle.key.hex(), middle.slot],
            )
            writing = [
                asyncio.create_task(sink.write(batch(order))) for order in ([low, middle, high], [high, middle, low])
            ]
            await until(lambda: len(database.waiting()) == 2, "both wait")
        return await asyncio.gather(*writing)

    outcomes = asyncio.run(using(sink, work()))
    assert sorted(outcome.loaded for outcome in outcomes) == [0, 3]
    assert "deadlock" not in database.log()


def test_data_keys_are_written_in_the_order_of_their_ids(database: Database) -> None:
    """As above, when several data keys are new at once."""
    low, middle, high = (DataKey(dek_id, "local:test", b"wrapped") for dek_id in sorted(map(key, (11, 12, 13))))
    sink = postgres_sink(database, connections=2)
    batches = [Batch([], [reject(1)], [low, middle, high]), Batch([], [reject(2)], [high, middle, low])]

    async def work() -> list[Outcome]:
        with database.session() as holder, holder.transaction(force_rollback=True):
            holder.execute(
                "INSERT INTO coatcheck.data_key (dek_id, kek, wrapped) VALUES (%s::uuid, 'local:test', '')",
                [middle.dek_id.hex()],
            )
            writing = [asyncio.create_task(sink.write(one)) for one in batches]
            await until(lambda: len(database.waiting()) == 2, "both wait")
        return await asyncio.gather(*writing)

    assert asyncio.run(using(sink, work())) == [Outcome(quarantined=1)] * 2
    assert "deadlock" not in database.log()


def test_a_deadlock_is_tried_again(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """Locks that the table's own trigger takes in the order of the rows: PostgreSQL ends one of the two."""
    database.execute(
        "CREATE FUNCTION lock() RETURNS trigger LANGUAGE plpgsql AS $$"
        " BEGIN PERFORM pg_advisory_xact_lock(NEW.number); RETURN NEW; END $$;"
        "CREATE TRIGGER locking BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION lock()"
    )
    sink = postgres_sink(database, connections=2)
    batches = [batch(numbered(10, 1, 100, 2)), batch(numbered(20, 2, 200, 1))]

    async def work() -> list[Outcome]:
        with database.session() as holder:
            holder.execute("SELECT pg_advisory_lock(100), pg_advisory_lock(200)")
            writing = [asyncio.create_task(sink.write(one)) for one in batches]
            await until(lambda: len(database.waiting()) == 2, "each has its first lock, and waits")
            holder.execute("SELECT pg_advisory_unlock_all()")
            return await asyncio.gather(*writing)

    assert asyncio.run(using(sink, work())) == [Outcome(loaded=3)] * 2
    assert refusals(caplog) == {"40P01"}
    assert "deadlock detected" in database.log()
    assert database.counts() == (6, 6, 0)


def numbered(first: int, *numbers: int) -> list[Row]:
    return [row(first + place, "x", number) for place, number in enumerate(numbers)]


def test_transactions_that_must_not_meet(database: Database) -> None:
    """Where the database's default is SERIALIZABLE, PostgreSQL ends one of those that do; it is tried again."""
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_isolation = 'serializable'")
    sink = postgres_sink(database, connections=4)

    async def work() -> list[Outcome]:
        batches = [batch(rows(*range(first, first + 50))) for first in range(0, 300, 25)]
        return await asyncio.gather(*map(sink.write, batches))

    outcomes = asyncio.run(using(sink, work()))
    assert sum(outcome.loaded for outcome in outcomes) == 325
    assert database.counts() == (325, 325, 0)


# --- a database that only reads ---------------------------------------------------------------------------------------


def test_a_server_that_reads_only_for_a_while(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """As during a switch-over; the sessions that were open stay open and see the setting change."""
    sink = postgres_sink(database)

    async def work() -> Outcome:
        await sink.open()
        set_read_only(database, "on")
        try:
            await until(lambda: read_only(database), "the server reads only")
            writing = asyncio.create_task(sink.write(a_batch()))
            await until(lambda: refusals(caplog), "it is refused")
        finally:
            set_read_only(database, "off")
        return await writing

    assert asyncio.run(using(sink, work())) == Outcome(loaded=20, quarantined=5)
    assert refusals(caplog) == {"25006"}
    assert_once(database)


def set_read_only(database: Database, value: str) -> None:
    database.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
    database.execute("SELECT pg_reload_conf()")


def read_only(database: Database) -> bool:
    return bool(database.value("SHOW default_transaction_read_only") == "on")


def test_sessions_that_read_only_are_left(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """A session keeps what it was opened with; only a new one can write (also after a fail-over behind a proxy)."""
    sink = postgres_sink(database, connections=1)
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")

    async def work() -> Outcome:
        writing = asyncio.create_task(sink.write(a_batch()))
        await until(lambda: refusals(caplog), "it is refused")
        database.execute(f"SET default_transaction_read_only = off; ALTER DATABASE {database.name} RESET ALL")
        return await writing

    assert asyncio.run(using(sink, work())) == Outcome(loaded=20, quarantined=5)
    assert refusals(caplog) == {"25006"}


def test_a_retry_is_logged_with_its_code_and_no_more(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    sink = postgres_sink(database, connections=1)

    async def work() -> None:
        await sink.open()
        database.terminate()
        await sink.write(a_batch())

    asyncio.run(using(sink, work()))
    record, back = [record for record in caplog.records if record.name.startswith("coatcheck")]
    assert back.getMessage() == "the database takes batches again"
    assert 0 <= back.__dict__["seconds"] < 60
    assert record.getMessage() == "the database refuses a batch for now"
    assert record.__dict__["messages"] == 25
    assert record.__dict__["sqlstate"] in ("57P01", "08006")
    assert record.exc_info is None
