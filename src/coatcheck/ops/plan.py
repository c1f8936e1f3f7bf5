"""How much of everything a rate of messages takes: by what was measured (docs/benchmarks.md) and AWS's price list.

Prices: us-east-1, November 2026, without tiers or free requests ("Amazon SQS pricing", "AWS KMS pricing").
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

LOADER_US, DATABASE_US = 25.0, 16.0
"""CPU of a message in a worker that runs, and in PostgreSQL: two tokens, vault, a ledger of fifty million."""
VAULT_FULL_US = 23.0
"""The latter with ten million originals in the vault: whole pages go into the write-ahead log more often."""
WAL_BYTES, WAL_BYTES_FULL = 700, 2900
LEDGER_BYTES = 50
"""A ledger entry with its share of the index: 2,495 MB for fifty million."""
REQUESTS = 0.2
"""SQS requests a message: receive and delete, ten at a time. The third, the send, is the producer's."""
WORKER_MB, BUSY = 130, 0.6
"""Memory of a worker with small messages; and how busy a core should be, so that it can catch up."""
CONNECTIONS = 2
_SQS_MILLION, _KMS_TEN_THOUSAND, _CHUNK = 0.40, 0.03, 64 * 1024
_MONTH_S = 30 * 86_400
_IN_FLIGHT_LIMIT = 120_000
_UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "kib": 1024, "mib": 1024**2}
_PER = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that is needed: how much of it, in which unit, and why."""

    what: str
    value: float
    unit: str
    why: str


def read_rate(text: str) -> float:
    """Return messages a second of "50000/s", "2000000/h" or "120". Raises ValueError."""
    match = re.fullmatch(r"([0-9][0-9_,]{0,15}(?:\.[0-9]{1,6})?)(?:/(s|min|h|d))?", text.strip())
    rate = float(match[1].replace(",", "").replace("_", "")) / _PER[match[2] or ""] if match else 0.0
    if rate <= 0:
        raise ValueError("a rate is a number of messages, as in 50000/s, 300/min or 2000000/h")
    return rate


def read_size(text: str) -> int:
    """Return bytes of "1KiB", "300" or "0.5MiB", at most SQS's mebibyte. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,7}(?:\.[0-9]{1,3})?)\s*([a-z]{0,3})", text.strip().lower())
    size = float(match[1]) * _UNITS.get(match[2], 0) if match else 0.0
    if not 1 <= size <= _UNITS["mib"]:
        raise ValueError("a size is that of a message's body, as in 300, 1KiB or 0.5MiB; SQS takes up to 1MiB")
    return round(size)


def plan(rate: float, size: int) -> list[Line]:
    """Return what `rate` messages a second of `size` bytes take."""
    workers = max(1, math.ceil(rate * LOADER_US / 1e6 / BUSY))
    in_flight = 2 * size * min(6000, 64 * 2**20 // size) / 1e6
    chunks = math.ceil(10 * size / _CHUNK)
    monthly = rate * _MONTH_S * REQUESTS / 2 * (1 + chunks)  # a receive counts by what it carries, a delete once
    return [
        Line("workers", workers, "", f"{LOADER_US:g} us of CPU a message, cores {BUSY:.0%} busy; one core each"),
        Line(
            "memory of a worker", round(WORKER_MB + in_flight), "MB", "with bodies in flight, as received and decoded"
        ),
        Line("connections", workers * CONNECTIONS, "", "two a worker; above some hundreds put PgBouncer between"),
        Line("cores of PostgreSQL", _ceil(rate * DATABASE_US / 1e6 / BUSY), "", f"{DATABASE_US:g} us a message"),
        Line("with a vault of ten million", _ceil(rate * VAULT_FULL_US / 1e6 / BUSY), "", f"{VAULT_FULL_US:g} us"),
        Line("write-ahead log", rate * WAL_BYTES / 1e6, "MB/s", f"{WAL_BYTES} bytes a message"),
        Line("with a vault of ten million", rate * WAL_BYTES_FULL / 1e6, "MB/s", f"{WAL_BYTES_FULL:,} bytes"),
        Line("ledger", rate * 15 * 86_400 * LEDGER_BYTES / 1e9, "GB", "15 days: SQS keeps a message for 14 at most"),
        Line("messages in flight", rate * 0.5, "", f"half a second; SQS allows {_IN_FLIGHT_LIMIT:,}"),
        Line("SQS requests a month", monthly / 1e6, "million", "receives count by 64 KiB; sends are the producers'"),
        Line("SQS a month", monthly / 1e6 * _SQS_MILLION, "USD", f"${_SQS_MILLION:.2f} a million"),
        Line(
            "SQS a million messages",
            REQUESTS / 2 * (1 + chunks) * _SQS_MILLION,
            "USD",
            "standard queue; FIFO is dearer",
        ),
        Line(
            "KMS a month",
            (workers * 24 * 30 + rate * _MONTH_S * 0.4 / 2**20) * _KMS_TEN_THOUSAND / 10_000,
            "USD",
            "a data key an hour and worker, or a million seals; none with local keys",
        ),
    ]


def _ceil(cores: float) -> int:
    return max(1, math.ceil(cores))
