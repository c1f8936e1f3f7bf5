"""What each part of the road costs by itself, in one process without a socket: where the CPU of a message goes.

    python -m benchmarks.stages --runs 15

Each part does what the worker does with 1,000 messages, a fifth of them with new values; the lowest of all runs counts,
as only noise can add to it. HTTP and PostgreSQL are not in it. The last part is the runner itself between two ends that
do nothing: event loop, batches and tasks, and once more what happens to a message between receive and write.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from benchmarks.measure import reference_loop_ms
from benchmarks.null_supply import Ready

from coatcheck import app, custody
from coatcheck.config import Config
from coatcheck.keys import Sealer
from coatcheck.keys.local import create
from coatcheck.keys.provider import LoaderKeys
from coatcheck.loop import run_async
from coatcheck.pipeline.breaker import Breaker
from coatcheck.pipeline.message import Batch, Depth, Message, Outcome, Rejected, Row, size_of_all
from coatcheck.pipeline.runner import Limits, Runner
from coatcheck.pipeline.writer import Writer
from coatcheck.sinks.postgres import arrays, sink
from coatcheck.sinks.postgres.trial import without_repeats
from coatcheck.sources.aws import Keys, Signer
from coatcheck.sources.sqs_leases import Leases
from coatcheck.sources.sqs_message import message_of
from coatcheck.sources.sqs_wire import body_intact, decode_batch, decode_receive

RUNNER = "runner between null ends"
"""It does again what other parts do, so it is not added to them."""
COUNT, DISTINCT, SENT_MS = 1000, 0.2, 1_790_000_000_000
TOGETHER = 100
"""What a busy source hands over at once: ten receives; it may be more."""
KEYS = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI", "")


class NullSource:
    """Implements ports.Source: hands out what it was given, and forgets what is acked."""

    visibility_s = 30.0
    found_empty = True

    def __init__(self, messages: Sequence[Message]) -> None:
        self._receives = _by(messages, TOGETHER)

    async def start(self) -> None:
        """Nothing is to be verified."""

    async def receive(self, timeout: float) -> list[Message]:  # noqa: ARG002 - nothing comes later
        """Return the next messages, or none at the end."""
        await asyncio.sleep(0)  # as a receive does: others get their turn, the writers too
        return next(self._receives, [])

    async def ack(self, messages: Sequence[Message]) -> int:  # noqa: ARG002 - all are forgotten
        """Return that none failed."""
        return 0

    async def release(self, messages: Sequence[Message]) -> None:
        """Nothing comes again."""

    async def depth(self) -> Depth:
        """Return that nothing is left."""
        return Depth(0, 0, 0)

    async def dead_letters(self) -> int | None:
        """Return that there is no such queue."""
        return None

    async def quiesce(self) -> None:
        """Nothing is under way."""

    async def close(self) -> None:
        """Nothing is open."""


class NullSink:
    """Implements ports.Sink: every row counts as loaded."""

    async def open(self) -> None:
        """Nothing is to be verified."""

    async def write(self, batch: Batch) -> Outcome:
        """Return that all is new."""
        return Outcome(loaded=len(batch.rows))

    def abort(self) -> None:
        """Nothing to give up."""

    async def close(self) -> None:
        """Nothing is open."""


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
    supply = Ready(messages=COUNT, distinct=DISTINCT, seed=1, sent_ms=SENT_MS)
    answers = [response.partition(b"\r\n\r\n")[2] for response in supply.responses]
    wires = [wire for answer in answers for wire in decode_receive(answer)]
    messages = [message_of(wire, SENT_MS, fifo=False) for wire in wires]
    rows = [row for row in map(road.travel, messages) if isinstance(row, Row)]
    stored = [column for column in columns if column.stored]
    encoders = [arrays.encoding(column)[1] for column in stored]
    breaker = Breaker(ratio=0.8, window=500, run=200)
    deleted = msgspec.json.encode({"Successful": [{"Id": str(place)} for place in range(10)], "Failed": []})

    def keep() -> Batch:
        batch, vault = Batch(rows=rows), app.vault_store(config, keys, sealer, None)  # it remembers nothing yet
        vault.keep(batch)
        vault.stored(batch)
        return batch

    whole = keep()
    whole.data_keys = [sealer.data_key(dek_id) for dek_id in {entry.sealed.dek_id for entry in whole.vault}]

    def travel() -> None:
        for together in _by(messages, TOGETHER):
            size_of_all(together)
            entries = road.travel_together(together)
            if not any(isinstance(entry, Rejected) for entry in entries):
                breaker.passed(len(entries))

    def lease() -> None:
        leases = Leases(None)  # type: ignore[arg-type]  # nothing is extended
        for ten in _by(messages, 10):
            leases.hold([message.receipt for message in ten], 0.0)
        for ten in _by(messages, 10):
            leases.drop([message.receipt for message in ten])

    signer = Signer("https://sqs.eu-west-1.amazonaws.com/", "eu-west-1", clock=lambda: SENT_MS / 1000)

    def acks() -> None:
        for ten in _by(messages, 10):
            entries = [{"Id": str(place), "ReceiptHandle": message.receipt} for place, message in enumerate(ten)]
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
        "arrays for PostgreSQL": lambda: sink._lists(without_repeats(whole), encoders),  # noqa: SLF001
        "acks: build, sign, read": acks,
        RUNNER: _runner(config, keys, sealer, messages),
    }


def _runner(config: Config, keys: LoaderKeys, sealer: Sealer, messages: Sequence[Message]) -> Callable[[], object]:
    """Return what takes the messages from a null source to a null sink."""

    def run() -> None:
        limits = Limits(messages=COUNT // 2, seconds=60.0)  # five hand-overs fill a batch: none waits for the clock
        runner = Runner(
            source=NullSource(messages),
            writer=Writer(
                sink=NullSink(),
                road=app.road(config, keys, sealer),
                sealer=sealer,
                vault=app.vault_store(config, keys, sealer, None),
                breaker=Breaker(ratio=0.8, window=500, run=200),
            ),
            limits=limits,
        )
        if run_async(runner.run(drain=True)).acked != COUNT:
            raise RuntimeError("the runner lost messages")

    return run


def _by(messages: Sequence[Message], count: int) -> Iterator[list[Message]]:
    """Yield the messages, `count` at a time."""
    return (list(messages[start : start + count]) for start in range(0, len(messages), count))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description="CPU of each part of the road.")
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args(arguments).runs
    with tempfile.TemporaryDirectory() as folder:
        total = 0.0
        for name, work in parts(Path(folder)).items():
            took = lowest(work, runs)
            total += took if name != RUNNER else 0.0
            print(f"{name:<30} {took:6.2f} us")
        print(f"{'all but the runner':<30} {total:6.2f} us; reference loop {reference_loop_ms():.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
