"""A database as it is after months of work: a ledger and a vault full of rows like the loader's own.

Rows are inserted into indexed tables in the order in which they would come, so that the indexes have the pages and gaps
of normal work, not those of a fresh build. The server that fills has much memory and syncs nothing; the one that is
measured later has the settings of every other benchmark.

Ledger entries were sent evenly over the last `days` days: 50 million in one day are 580 messages a second around the
clock. Vault entries come in no order at all: their tokens have none.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import msgspec
import psycopg
from benchmarks.envelope import say
from benchmarks.loader import BenchmarkError
from psycopg import sql

from coatcheck.config import Config
from coatcheck.demo.servers import PostgresServer
from coatcheck.keys.local import LocalLoaderKeys
from coatcheck.pipeline.keying import DAY_S, SLOTS
from coatcheck.vault.epochs import Epochs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.loader import Loader

CHUNK = 500_000
"""Rows of one statement. All vault entries of one have the same data key; a loader's seals up to 2^20 values."""
TELL_EVERY = 10  # chunks
MOST_BUFFERS_MB = 4096

FILL_LEDGER = """
INSERT INTO coatcheck.ledger (message_key, slot, loaded_on)
SELECT gen_random_uuid(), mod(second, %(slots)s), date '1970-01-01' + (second / 86400)::int
FROM (SELECT %(until)s::bigint - %(seconds)s::bigint * (%(all)s - n) / %(all)s AS second
      FROM generate_series(%(first)s::bigint, %(first)s + %(rows)s - 1) AS n)
"""
# message ids of SQS are random UUIDs, too

FILL_VAULT = """
WITH data_key AS (
    INSERT INTO coatcheck.data_key (dek_id, kek, wrapped)
    SELECT gen_random_uuid(), 'local:benchmark', decode(repeat('00', 80), 'hex') RETURNING dek_id
)
INSERT INTO coatcheck.vault (token, epoch, dek_id, nonce, ciphertext)
SELECT prefix || substr(encode(random_bytes, 'hex'), 1, 40), %(epoch)s, dek_id, substr(random_bytes, 21, 12),
       random_bytes || substr(random_bytes, 1, 16) -- an address or device id padded to 32 bytes, and the tag
FROM data_key, (
    SELECT CASE mod(n, 2) WHEN 0 THEN %(ip)s ELSE %(device)s END AS prefix,
           sha256(uuid_send(gen_random_uuid())) AS random_bytes
    FROM generate_series(1, %(rows)s) AS n
)
"""


class Size(NamedTuple):
    """How many rows are in a database before anything is measured."""

    ledger: int
    vault: int

    @property
    def database(self) -> str:
        """The name of the database."""
        return f"growth_{self.ledger}_{self.vault}"


class Filled(msgspec.Struct, frozen=True):
    """What a database was filled with, as noted in it. `sent_ms` is the send time that leads to the slot filled."""

    ledger: int
    vault: int
    days: int
    epoch: int
    kid: str
    sent_ms: int
    seconds: float

    def same(self, other: Filled) -> bool:
        """Tell whether it can be used in place of the other: time and duration do not matter."""
        return msgspec.structs.replace(self, sent_ms=0, seconds=0) == msgspec.structs.replace(
            other, sent_ms=0, seconds=0
        )


def dsn_of(dsn: str, database: str) -> str:
    """Return the connection string of another database of the server."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))


def filling_server(data: Path) -> PostgresServer:
    """Return a server, not started, that fills fast: nothing is synced, and a quarter of the memory is its."""
    quarter = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**22
    options = (
        f"shared_buffers={min(quarter, MOST_BUFFERS_MB)}MB",
        "full_page_writes=off",
        "max_wal_size=4GB",
        "checkpoint_timeout=1h",
        "autovacuum=off",
        "maintenance_work_mem=512MB",
    )
    return PostgresServer(options=options, data=data)


def fill(dsn: str, loader: Loader, keys: Path, sizes: Sequence[Size], days: int) -> None:
    """Make the databases of `sizes` that are not there as they should be."""
    wanted = _Wanted(LocalLoaderKeys.load(keys).kid, days)
    for size in sizes:
        if (found := noted(dsn, size)) is not None and found.same(wanted.filled(size, 0.0)):
            say(f"{size.ledger:,} ledger entries, {size.vault:,} vault entries: there from an earlier time")
            continue
        with psycopg.connect(dsn, autocommit=True) as connection:
            name = sql.Identifier(size.database)
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))
            connection.execute(sql.SQL("CREATE DATABASE {}").format(name))
        loader.migrate(dsn_of(dsn, size.database))
        seconds = _fill_one(dsn_of(dsn, size.database), size, wanted)
        say(f"{size.ledger:,} ledger entries, {size.vault:,} vault entries: filled in {seconds:.0f} s")
        _note(dsn_of(dsn, size.database), wanted.filled(size, seconds))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CHECKPOINT")  # stopping must not have to


def noted(dsn: str, size: Size) -> Filled | None:
    """Return what a database was filled with; None if there is none, or it was not finished."""
    with psycopg.connect(dsn) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [size.database]).fetchone():
            return None
    with psycopg.connect(dsn_of(dsn, size.database)) as connection:
        if not connection.execute("SELECT 1 WHERE to_regclass('benchmark_filled') IS NOT NULL").fetchone():
            return None
        row = connection.execute("SELECT note FROM benchmark_filled").fetchone()
    return msgspec.json.decode(row[0], type=Filled) if row else None


def _note(dsn: str, filled: Filled) -> None:
    """Note it last: a database without it is made anew."""
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE benchmark_filled (note text NOT NULL)")
        connection.execute("INSERT INTO benchmark_filled VALUES (%s)", [msgspec.json.encode(filled).decode()])


class _Wanted:
    """What rows of now look like."""

    def __init__(self, kid: str, days: int) -> None:
        config = Config()
        self.kid, self.days = kid, days
        self.epoch = Epochs(config.vault.epoch).now()
        self.sent_ms = int(datetime.now(UTC).timestamp() * 1000)
        self.domains = [column.domain for column in config.plan() if column.vault]
        if self.domains != ["ip", "device"]:
            raise BenchmarkError(f"the vault is filled for the domains ip and device, not {self.domains}")

    def filled(self, size: Size, seconds: float) -> Filled:
        return Filled(size.ledger, size.vault, self.days, self.epoch, self.kid, self.sent_ms, seconds)


def _fill_one(dsn: str, size: Size, wanted: _Wanted) -> float:
    """Fill one database and leave it as autovacuum would; return the seconds it took."""
    started = time.perf_counter()
    until, span = wanted.sent_ms // 1000, wanted.days * DAY_S
    ledger = {"slots": SLOTS, "until": until, "seconds": span, "all": size.ledger}
    prefixes = {domain: f"pt1_{domain}_{wanted.kid}_" for domain in wanted.domains}
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name, count, statement, given in (
            ("ledger", size.ledger, FILL_LEDGER, ledger),
            ("vault", size.vault, FILL_VAULT, {"epoch": wanted.epoch, **prefixes}),
        ):
            for number, rows in enumerate(_chunks(count), 1):
                connection.execute(statement, {**given, "rows": rows, "first": (number - 1) * CHUNK + 1})
                if number % TELL_EVERY == 0:
                    say(f"{name}: {number * CHUNK:,} entries after {time.perf_counter() - started:.0f} s")
        connection.execute("VACUUM ANALYZE")
    return time.perf_counter() - started


def _chunks(count: int) -> Iterator[int]:
    while count > 0:
        yield min(count, CHUNK)
        count -= CHUNK
