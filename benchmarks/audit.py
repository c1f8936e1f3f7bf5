"""How long it takes to verify an audit trail: from the database, and from an export.

    python -m benchmarks.audit --entries 1000000

The trail is made here and copied in; an export is written as `coatcheck audit list --json` writes it. The last line
says whether each stayed under the limit of 10 s a million entries; so does the exit code.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import psycopg
from benchmarks.measure import reference_loop_ms
from pydantic import SecretStr

from coatcheck import trail
from coatcheck.config import Config, TargetConfig
from coatcheck.demo.servers import PostgresServer
from coatcheck.sinks.postgres import schema
from coatcheck.vault.chain import Verified

T = TypeVar("T")
LIMIT_S = 10.0
"""Seconds that a million entries may take."""
EVENTS = ("reveal asked", "reveal approved", "reveal opened", "token key added")


def entries(count: int) -> Iterator[tuple[int, int, str, str, str, bytes]]:
    """Yield a trail as the database would have written it."""
    before = bytes(32)
    for seq in range(1, count + 1):
        at_us = 1_790_000_000_000_000 + seq * 1_000_037
        texts = (f"user_{seq % 17}", EVENTS[seq % 4], f'{{"count":{seq % 50},"reason":"FRAUD","ticket":"SEC-{seq}"}}')
        framed = b"".join(struct.pack(">I", len(text.encode())) + text.encode() for text in texts)
        before = hashlib.sha256(before + struct.pack(">qq", seq, at_us) + framed).digest()
        yield seq, at_us, *texts, before


def fill(dsn: str, count: int) -> None:
    """Put a trail into the database."""
    statement = "COPY coatcheck.audit (seq, at_us, actor, event, detail, hash) FROM STDIN"
    with psycopg.connect(dsn) as connection, connection.cursor().copy(statement) as copy:
        for entry in entries(count):
            copy.write_row(entry)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE coatcheck.audit")


def timed(work: Callable[[], T]) -> tuple[tuple[float, float], T]:
    """Return the seconds and the seconds of CPU that work took here, and its result."""
    started, used = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - started, time.process_time() - used), result


def measure(dsn: str, count: int, folder: Path) -> dict[str, tuple[float, float]]:
    """Return seconds, and those of CPU, by what is measured."""
    config = Config(target=TargetConfig(dsn=SecretStr(dsn)))
    exported = folder / "audit.jsonl"

    def export() -> None:
        with exported.open("w", encoding="ascii") as file:
            file.writelines(f"{line}\n" for line in trail.lines(trail.entries(config)))

    def read() -> Verified:
        with exported.open("rb") as file:
            return trail.verify(lambda: config, file, (), None)

    database, found = timed(lambda: trail.verify(lambda: config, None, (), None))
    exporting, _ = timed(export)
    offline, same = timed(read)
    if found != same or found.count != count:
        raise RuntimeError("the export is not the trail")
    return {"verify the database": database, "export": exporting, "verify the export": offline}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    with PostgresServer() as server, tempfile.TemporaryDirectory(prefix="coatcheck-audit-") as folder:
        schema.migrate(server.dsn, "events", ())
        fill(server.dsn, options.entries)
        figures = measure(server.dsn, options.entries, Path(folder))
    print("| one core | entries | seconds | of CPU here | entries a second |\n|---|---|---|---|---|")
    for name, (seconds, cpu) in figures.items():
        print(f"| {name} | {options.entries:,} | {seconds:.2f} | {cpu:.2f} | {options.entries / seconds:,.0f} |")
    limit = LIMIT_S * options.entries / 1_000_000
    missed = [name for name, (seconds, _) in figures.items() if name.startswith("verify") and seconds > limit]
    print(f"\nreference loop: {reference_loop_ms():.0f} ms")
    print(f"missed: {', '.join(missed)}" if missed else "the limit is met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
