"""What each part of the road costs by itself, in one process without a socket: where the CPU of a message goes.

    python -m benchmarks.stages --runs 15

Each part does what the worker does with 1,000 messages, a fifth of them with new values; the lowest of all runs counts,
as only noise can add to it. HTTP, PostgreSQL and the event loop are not in it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import msgspec
from benchmarks.events import login_events
from benchmarks.measure import reference_loop_ms
from benchmarks.null_supply import Supply

from coatcheck import app, custody
from coatcheck.config import Config
from coatcheck.keys import Sealer
from coatcheck.keys.local import create
from coatcheck.pipeline.breaker import Breaker
from coatcheck.pipeline.message import Batch, Message, Row, size_of
from coatcheck.sinks.postgres import arrays, sink
from coatcheck.sources.aws import Keys, Signer
from coatcheck.sources.sqs_leases import Leases
from coatcheck.sources.sqs_message import message_of
from coatcheck.sources.sqs_wire import body_intact, decode_batch, decode_receive

COUNT, DISTINCT, SENT_MS = 1000, 0.2, 1_790_000_000_000
KEYS = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI", "")


def lowest(work: Callable[[], object], runs: int) -> float:
    """Return the least time of `runs` runs, in microseconds a message."""
    best = float("inf")
    for _ in range(runs):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best / COUNT * 1e6


def parts(folder: Path) -> dict[str, Callable[[], object]]:
    """Return the parts by name, ready to run."""
    create(folder / "keys", "bench")
    config = Config.model_validate({"keys": {"path": str(folder / "keys")}})
    keys = custody.loader_keys(config)
    sealer = Sealer(keys)
    road, columns = app.road(config, keys, sealer), config.plan()
    supply = Supply(messages=COUNT, distinct=DISTINCT, seed=1, sent_ms=SENT_MS)
    answers = [response.partition(b"\r\n\r\n")[2] for response in supply._responses]  # noqa: SLF001 - as they are sent
    wires = [wire for answer in answers for wire in decode_receive(answer)]
    messages = [message_of(wire, SENT_MS, fifo=False) for wire in wires]
    rows = [row for row in map(road.travel, messages) if isinstance(row, Row)]
    stored = [column for column in columns if column.stored]
    encoders = [arrays.encoding(column)[1] for column in stored]
    breaker = Breaker(ratio=0.8, window=500, run=200)
    deleted = msgspec.json.encode({"Successful": [{"Id": str(place)} for place in range(10)], "Failed": []})
    warm = Batch(rows=[r for r in map(road.travel, _known(messages)) if isinstance(r, Row)])

    def keep() -> Batch:
        vault = app.vault_store(config, keys, sealer, None)
        vault.keep(warm_batch := Batch(rows=warm.rows))
        vault.stored(warm_batch)
        batch = Batch(rows=rows)
        keep.started = time.perf_counter()  # type: ignore[attr-defined]
        vault.keep(batch)
        vault.stored(batch)
        keep.took = time.perf_counter() - keep.started  # type: ignore[attr-defined]
        return batch

    whole = keep()
    whole.data_keys = [sealer.data_key(dek_id) for dek_id in {entry.sealed.dek_id for entry in whole.vault}]

    def travel() -> None:
        for message in messages:
            size_of(message.body)
            if isinstance(road.travel(message), Row):
                breaker.observe(rejected=False)

    def lease() -> None:
        leases = Leases(None)  # type: ignore[arg-type]  # nothing is extended
        for start in range(0, COUNT, 10):
            leases.hold([message.receipt for message in messages[start : start + 10]], 0.0)
        for start in range(0, COUNT, 10):
            leases.drop(message.receipt for message in messages[start : start + 10])

    signer = Signer("https://sqs.eu-west-1.amazonaws.com/", "eu-west-1", clock=lambda: SENT_MS / 1000)

    def acks() -> None:
        for start in range(0, COUNT, 10):
            entries = [
                {"Id": str(place), "ReceiptHandle": message.receipt}
                for place, message in enumerate(messages[start : start + 10])
            ]
            payload = msgspec.json.encode({"QueueUrl": "https://sqs/1/login-queue", "Entries": entries})
            signer.sign("DeleteMessageBatch", payload, KEYS)
            decode_batch(deleted)

    return {
        "decode receives": lambda: [decode_receive(answer) for answer in answers],
        "check MD5, make messages": lambda: [
            message_of(wire, SENT_MS, fifo=False) for wire in wires if body_intact(wire)
        ],
        "leases": lease,
        "decode, validate, mask": travel,
        "vault: find, seal (20 % new)": keep,
        "arrays for PostgreSQL": lambda: sink._lists(sink._without_repeats(whole), encoders),  # noqa: SLF001
        "acks: build, sign, read": acks,
    }


def _known(messages: Sequence[Message]) -> list[Message]:
    """Messages that bring the values of the others but a fifth: those are new to the vault then."""
    bodies = list(islice(login_events(seed=1, distinct=DISTINCT), COUNT))
    return [message for message, body in zip(messages, bodies, strict=True) if hash(body) % 5]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description="CPU of each part of the road.")
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args(arguments).runs
    with tempfile.TemporaryDirectory() as folder:
        total = 0.0
        for name, work in parts(Path(folder)).items():
            took = lowest(work, runs)
            if name.startswith("vault"):
                took = min(_vault_alone(work) for _ in range(runs))
            total += took
            print(f"{name:<30} {took:6.2f} us")
        print(f"{'all of these':<30} {total:6.2f} us; reference loop {reference_loop_ms():.0f} ms")
    return 0


def _vault_alone(work: Callable[[], object]) -> float:
    work()
    return float(work.took) / COUNT * 1e6  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
