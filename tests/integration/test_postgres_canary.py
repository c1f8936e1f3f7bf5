"""Canaries: unique values in masked fields, every way to fail, and a search for them wherever anybody writes."""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import psycopg
import pytest
from tests.support.fix_postgres import SENT_MS, Database, postgres_sink, until, using
from tests.support.tcp_proxy import TcpProxy

import coatcheck
from coatcheck.config import Config
from coatcheck.errors import CoatcheckError
from coatcheck.keys import Opener, Sealer, Tokenizer
from coatcheck.keys.local import LocalLoaderKeys, LocalOpenerKeys, create
from coatcheck.keys.tokens import ledger_hash
from coatcheck.pipeline.message import Batch, Message, Outcome, Reason, Reject, Rejected, Row
from coatcheck.pipeline.road import Road
from coatcheck.sinks.postgres.quarantine import Quarantine, Selection
from coatcheck.sinks.postgres.schema import migrate
from coatcheck.sinks.postgres.sink import PostgresSink

pytestmark = pytest.mark.usefixtures("quick_retries")
TABLE = "user_logins"
SOURCE = str(Path(coatcheck.__file__).parent)
TALKATIVE = (
    "log_statement = 'all'", "log_min_error_statement = 'debug5'", "log_min_duration_statement = 0",
    "log_parameter_max_length = -1", "log_parameter_max_length_on_error = -1", "log_duration = on",
)  # fmt: skip
"""The server writes down all it gets to know: every statement, every parameter."""


@dataclass
class Aviary:
    """Canaries, the road they travel, and all places where one could turn up."""

    database: Database
    road: Road
    sealer: Sealer
    opener: Opener
    caplog: pytest.LogCaptureFixture
    canaries: list[str] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def message(self, number: int, **fields: object) -> Message:
        """A login whose address and device are canaries."""
        address = str(IPv4Address(0x0B000000 + secrets.randbelow(2**24)))  # net 11: nothing else here has such one
        device = f"canary-{secrets.token_hex(12)}"
        self.canaries += [address, device]
        login = {"user_id": f"user-{number}", "ip": address, "device_id": device, "app_version": "1.2.3"}
        body = msgspec.json.encode(login | fields).decode()
        return Message(f"message-{number}", body, SENT_MS + number, "receipt", 1, SENT_MS + number)

    def spoilt(self, number: int) -> Message:
        """A message that cannot be loaded, with a canary in what cannot be read of it."""
        device = f"canary-{secrets.token_hex(12)}"
        self.canaries.append(device)
        return Message(
            f"message-{number}", f'{{"device_id": "{device}", "ip": ', SENT_MS + number, "receipt", 1, SENT_MS
        )

    def batch(self, *messages: Message) -> Batch:
        entries = [self.road.travel(message) for message in messages]
        rejected = [entry for entry in entries if isinstance(entry, Rejected)]
        return self.rejected([entry for entry in entries if isinstance(entry, Row)], rejected)

    def rejected(self, rows: list[Row], rejected: list[Rejected]) -> Batch:
        return Batch(rows, rejected, [self.sealer.data_key(dek) for dek in {entry.sealed.dek_id for entry in rejected}])

    def logins(self) -> Batch:
        """Twelve logins, of which the rules of these tests dislike two, and three messages that are none."""
        return self.batch(*(self.message(number) for number in range(12)), *(self.spoilt(n) for n in range(12, 15)))

    def sink(self, dsn: str | None = None, **options: Any) -> PostgresSink:
        return postgres_sink(dsn or self.database.dsn, Config().plan(), table=TABLE, **options)

    async def carry(self, sink: PostgresSink, batch: Batch) -> Outcome:
        """Write a batch and what comes back refused, as the runner does; keep the error, if there is one."""
        try:
            outcome = await sink.write(batch)
            refused = [self.road.refuse(row, code) for row, code in outcome.refused]
            outcome.quarantined += (await sink.write(self.rejected([], refused))).quarantined
        except CoatcheckError as error:
            self.errors.append(error)
            raise
        return outcome

    def written(self, batch: Batch, **options: Any) -> Outcome:
        sink = self.sink(**options)
        return asyncio.run(using(sink, self.carry(sink, batch)))

    def places(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the text of every place that may be looked at by others."""
        yield "server log", self.database.log()
        for name, dump in self.dumped():
            yield f"table {name}", dump
        for record in self.caplog.records:
            yield f"log record of {record.name}", repr(record.__dict__) + record.getMessage()
        yield "log text", self.caplog.text
        for error in self.errors:
            for chained in chain(error):
                yield f"exception {type(chained).__name__}", told(chained)

    def dumped(self) -> Iterator[tuple[str, str]]:
        """Yield every table of the database as text."""
        tables = self.database.execute(
            "SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace"
            " WHERE relkind = 'r' AND (nspname IN ('public', 'coatcheck') OR relname IN ('pg_statistic', 'pg_proc'))"
        )
        for (name,) in tables:
            yield name, "\n".join(text for (text,) in self.database.execute(f"SELECT t::text FROM {name} AS t"))

    def nowhere(self) -> None:
        """No canary is in any place, in clear or in a form that anybody could turn back."""
        assert len(self.canaries) >= 27
        found = [(place, canary) for place, text in self.places() for canary in self.canaries if sings(canary, text)]
        assert found == []


def sings(canary: str, text: str) -> bool:
    raw = canary.encode()
    return canary in text or raw.hex() in text or base64.b64encode(raw).decode().rstrip("=")[:-1] in text


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and all that it came from, suppressed or not."""
    seen: set[int] = set()
    rest: list[BaseException | None] = [error]
    while rest:
        one = rest.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            rest += [one.__context__, one.__cause__, *getattr(one, "exceptions", ())]


def told(error: BaseException) -> str:
    """Return all that an exception tells a report: text, arguments, fields, and the locals of our own frames."""
    parts = [str(error), repr(error), repr(error.args), repr(vars(error)), "".join(traceback.format_exception(error))]
    if isinstance(error, psycopg.Error):
        parts += [str(getattr(error.diag, name)) for name in dir(error.diag) if not name.startswith("_")]
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code.co_filename
        if code.startswith(SOURCE) or "psycopg" in code:
            parts.append(repr(trace.tb_frame.f_locals))
        trace = trace.tb_next
    return "\n".join(parts)


@pytest.fixture
def aviary(empty_database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Aviary:
    caplog.set_level(logging.DEBUG)
    migrate(empty_database.dsn, TABLE, Config().plan())
    for setting in TALKATIVE:
        empty_database.execute(f"ALTER DATABASE {empty_database.name} SET {setting}")
    create(tmp_path / "keys")
    keys = LocalLoaderKeys.load(tmp_path / "keys")
    sealer = Sealer(keys)
    road = Road(
        columns=Config().plan(),
        tokenizer=Tokenizer(keys.token_root(), tenant=keys.tenant, kid=keys.kid),
        ledger_hash=ledger_hash(keys.ledger_root(), keys.tenant),
        sealer=sealer,
    )
    return Aviary(empty_database, road, sealer, Opener(LocalOpenerKeys.load(tmp_path / "keys")), caplog)


def test_the_search_finds_what_is_there(aviary: Aviary) -> None:
    """Were a canary let out, each of these places would be seen to have it."""
    batch = aviary.logins()
    address, device = aviary.canaries[:2]
    aviary.database.execute("SELECT 1")  # the log is this test's
    aviary.database.close()
    aviary.database.execute("INSERT INTO user_logins (user_id, locale) VALUES (%s, %s)", "x", address)
    aviary.database.execute("CREATE TABLE hexed AS SELECT %s::bytea AS b", device.encode())
    logging.getLogger("anybody").info("received %s", device)
    try:
        assert batch.rows
        aviary.database.execute("SELECT %s::int", address)
    except psycopg.Error as caught:
        aviary.errors.append(ValueError("harmless"))
        aviary.errors[0].__context__ = caught
    places = {place for place, text in aviary.places() for canary in (address, device) if sings(canary, text)}
    assert places >= {"server log", "table user_logins", "table hexed", "log record of anybody", "log text"}
    assert "exception InvalidTextRepresentation" in places


def test_when_all_goes_well(aviary: Aviary) -> None:
    assert aviary.written(aviary.logins()) == Outcome(loaded=12, quarantined=3)
    assert aviary.database.log().count("INSERT INTO coatcheck.ledger") >= 1  # it is talkative indeed
    assert "pt1_ip_k1_" in aviary.database.log()
    aviary.nowhere()


REFUSING = {
    "check": "ALTER TABLE user_logins ADD CHECK (user_id NOT IN ('user-7', 'user-9'))",
    "not null": "ALTER TABLE user_logins ALTER locale SET NOT NULL",
    "unique": "CREATE UNIQUE INDEX ON user_logins (app_version)",
    "exclusion": "ALTER TABLE user_logins ADD EXCLUDE USING btree (app_version WITH =)",
    "raise": "RAISE EXCEPTION 'refused: % % %', NEW, NEW.masked_ip, NEW.masked_device_id",
    "cast": "PERFORM NEW.masked_ip::inet",
    "divide": "PERFORM 1 / (length(NEW.masked_ip) - length(NEW.masked_ip))",
    "too long": "ALTER TABLE user_logins ALTER masked_ip TYPE varchar(20)",
    "deferred": "CREATE TABLE known (id text PRIMARY KEY); ALTER TABLE user_logins ADD FOREIGN KEY (user_id)"
    " REFERENCES known DEFERRABLE INITIALLY DEFERRED",
    "partition": "DROP TABLE user_logins; CREATE TABLE user_logins (user_id text, device_type text, masked_ip text,"
    " masked_device_id text, locale text, app_version integer, create_date date) PARTITION BY LIST (user_id);"
    "CREATE TABLE part_1 PARTITION OF user_logins FOR VALUES IN ('user-1', 'user-2')",
}


@pytest.mark.parametrize("rule", REFUSING)
def test_when_rows_are_refused(aviary: Aviary, rule: str) -> None:
    """PostgreSQL quotes the whole row then, in its error and in its log: what it quotes are tokens."""
    statement = REFUSING[rule]
    if not statement.startswith(("ALTER", "CREATE", "DROP")):
        statement = (
            f"CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {statement}; RETURN NEW; END $$;"
            "CREATE TRIGGER t BEFORE INSERT ON user_logins FOR EACH ROW"
            " WHEN (NEW.user_id IN ('user-7', 'user-9')) EXECUTE FUNCTION t()"
        )
    aviary.database.execute(statement)
    outcome = aviary.written(aviary.logins())
    assert outcome.refused
    assert outcome.loaded + outcome.quarantined == 15
    aviary.nowhere()
    with Quarantine(aviary.database.dsn, f"public.{TABLE}", Config().plan()) as quarantine:
        for held in quarantine.opened(Selection()):  # but here they are, for who has the key
            body = aviary.opener.open(held.sealed, held.data_key, held.key).decode()
            assert any(canary in body for canary in aviary.canaries)


STOPPING = {
    "no table": "DROP TABLE user_logins",
    "no column": "ALTER TABLE user_logins DROP masked_ip",
    "wrong type": "ALTER TABLE user_logins ALTER masked_ip TYPE inet USING NULL",
    "no ledger": "DROP TABLE coatcheck.ledger",
    "quarantine refuses": "ALTER TABLE coatcheck.quarantine ADD CHECK (reason <> 'not_json')",
    "trigger fails": "CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " RAISE '%', NEW USING ERRCODE = 'XX000'; END $$;"
    "CREATE TRIGGER t BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION t()",
}


@pytest.mark.parametrize("fault", STOPPING)
def test_when_the_worker_stops(aviary: Aviary, fault: str) -> None:
    aviary.database.execute(STOPPING[fault])
    with pytest.raises(CoatcheckError):
        aviary.written(aviary.logins())
    assert len(aviary.errors) == 1
    aviary.nowhere()


def test_when_a_privilege_or_the_password_is_missing(aviary: Aviary) -> None:
    dsn = aviary.database.role("USAGE ON SCHEMA coatcheck", "INSERT, SELECT ON coatcheck.ledger")
    for wrong in (dsn, psycopg.conninfo.make_conninfo(dsn, password="wrong")):
        with pytest.raises(CoatcheckError):
            aviary.written(aviary.logins(), dsn=wrong)
    assert len(aviary.errors) == 2
    aviary.nowhere()


def test_when_the_wait_is_given_up(aviary: Aviary) -> None:
    aviary.database.execute(f"ALTER DATABASE {aviary.database.name} SET lock_timeout = '10ms'")
    with aviary.database.session() as holder, holder.transaction():
        holder.execute("LOCK TABLE user_logins")
        with pytest.raises(CoatcheckError):
            aviary.written(aviary.logins(), give_up_seconds=0.5)
    assert len(aviary.errors) == 1
    aviary.nowhere()


def interrupted(aviary: Aviary, sink: PostgresSink, interrupt: Callable[[], Awaitable[None]]) -> None:
    """Write a batch that stands still in the middle of its transaction, and interrupt it there."""
    aviary.database.execute(
        "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NEW; END $$;"
        "CREATE TRIGGER gate BEFORE INSERT ON user_logins FOR EACH ROW EXECUTE FUNCTION gate()"
    )

    async def work() -> None:
        with aviary.database.session() as holder:
            holder.execute("SELECT pg_advisory_lock(4711)")
            writing = asyncio.create_task(aviary.carry(sink, aviary.logins()))
            await until(aviary.database.waiting, "the batch stands still")
            await interrupt()
        try:
            await writing
        except asyncio.CancelledError as error:
            aviary.errors.append(error)

    asyncio.run(using(sink, work()))


def test_when_the_backend_is_killed(aviary: Aviary) -> None:
    async def interrupt() -> None:
        aviary.database.terminate()

    interrupted(aviary, aviary.sink(), interrupt)
    assert aviary.database.count(TABLE) == 12
    assert "57P01" in aviary.database.log()
    aviary.nowhere()


def test_when_the_statement_is_cancelled_by_an_administrator(aviary: Aviary) -> None:
    async def interrupt() -> None:
        [pid] = aviary.database.waiting()
        aviary.database.execute("SELECT pg_cancel_backend(%s)", pid)

    interrupted(aviary, aviary.sink(), interrupt)
    assert aviary.database.count(TABLE) == 12
    assert "57014" in aviary.database.log()
    aviary.nowhere()


def test_when_the_write_is_cancelled(aviary: Aviary) -> None:
    async def interrupt() -> None:
        tasks = [task for task in asyncio.all_tasks() if "carry" in repr(task.get_coro())]
        assert len(tasks) == 1
        tasks[0].cancel()

    interrupted(aviary, aviary.sink(), interrupt)
    assert len(aviary.errors) == 1
    aviary.nowhere()


def test_when_the_connection_is_cut(aviary: Aviary) -> None:
    with TcpProxy("127.0.0.1", aviary.database.server.port) as proxy:

        async def interrupt() -> None:
            proxy.cut()

        dsn = psycopg.conninfo.make_conninfo(aviary.database.dsn, port=proxy.port)
        interrupted(aviary, aviary.sink(dsn), interrupt)
    assert aviary.database.count(TABLE) == 12
    aviary.nowhere()


def test_when_the_quarantine_is_emptied(aviary: Aviary) -> None:
    """A retry that the table refuses, one that it takes, and one that is given up."""
    aviary.database.execute("ALTER TABLE user_logins ADD CONSTRAINT rule CHECK (user_id <> 'user-7')")
    aviary.written(aviary.logins())
    with Quarantine(aviary.database.dsn, f"public.{TABLE}", Config().plan()) as quarantine:
        [held] = quarantine.opened(Selection(reason="refused_by_database"))
        body = aviary.opener.open(held.sealed, held.data_key, held.key).decode()
        retried = aviary.road.travel(msgspec.structs.replace(held.message, body=body))
        assert isinstance(retried, Row)
        assert quarantine.load(held, Batch([retried])) == Reject(Reason.REFUSED_BY_DATABASE, "23514 rule")
        aviary.database.execute("ALTER TABLE user_logins DROP CONSTRAINT rule")
        assert quarantine.load(held, Batch([retried])) == "loaded"
        assert quarantine.discard(Selection()) == 3
        aviary.database.execute("DROP TABLE user_logins")
        with pytest.raises(CoatcheckError) as caught:
            quarantine.load(held, Batch([retried]))
    aviary.errors.append(caught.value)
    aviary.nowhere()
