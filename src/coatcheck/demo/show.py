"""`coatcheck demo`: the whole road on embedded servers, shown step by step as a user would type it."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from coatcheck import app, custody, terminal
from coatcheck.config import Config
from coatcheck.demo.guarded import LOOPBACK, free_port
from coatcheck.demo.keep import keep as go_on
from coatcheck.demo.officers import reveal_one
from coatcheck.demo.samples import Samples, sample_logins
from coatcheck.demo.servers import PostgresServer, SqsServer
from coatcheck.errors import CoatcheckError
from coatcheck.loop import run_async
from coatcheck.pipeline.message import Counts
from coatcheck.sql import query
from coatcheck.worker import run_worker

_FOREIGN = ("AWS_", "COATCHECK_", "PG")
_EMULATOR = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def show(*, messages: int, keep: bool) -> None:
    """Run the demonstration; with `keep` the stack then goes on. Raises CoatcheckError when a figure is wrong."""
    started = time.monotonic()
    _forget_environment()
    samples = sample_logins(messages)
    with ExitStack() as stack:
        sqs, postgres = _servers(stack)
        terminal.out(
            f"SQS and PostgreSQL are up after {time.monotonic() - started:.1f} s: real servers, on loopback only"
        )
        _walk(_config(sqs, postgres.dsn), postgres, samples)
        reveal_one(postgres, lambda dsn: _config(sqs, dsn), samples, _step)
        terminal.out(f"the whole road, twice, and one original back, in {time.monotonic() - started:.1f} s")
        if keep:
            go_on(_config(sqs, postgres.dsn, f"{LOOPBACK}:{free_port()}"), sqs, postgres, _variables(sqs, postgres))


def _forget_environment() -> None:
    """The demo is complete in itself: neither a profile nor a setting of the user's may turn it elsewhere."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN) or name == "DATABASE_URL":
            del os.environ[name]
    os.environ.update(_EMULATOR)


def _servers(stack: ExitStack) -> tuple[SqsServer, PostgresServer]:
    sqs, postgres = SqsServer(), PostgresServer()
    with ThreadPoolExecutor(2) as pool:
        starting = [pool.submit(stack.enter_context, server) for server in (sqs, postgres)]
        for start in starting:
            start.result()
    return sqs, postgres


def _config(sqs: SqsServer, dsn: str, listen: str = "") -> Config:
    return Config.model_validate(
        {
            "source": {"queue": "login-queue", "endpoint_url": sqs.url},
            "target": {"dsn": dsn},
            "keys": {"path": _keys(sqs)},
            "metrics": {"listen": listen},
        }
    )


def _variables(sqs: SqsServer, postgres: PostgresServer) -> dict[str, str]:
    """Return what leads another terminal's coatcheck here."""
    return _EMULATOR | {
        "AWS_ENDPOINT_URL": sqs.url,
        "DATABASE_URL": postgres.dsn,
        "COATCHECK_KEYS__PATH": str(_keys(sqs)),
    }


def _keys(sqs: SqsServer) -> Path:
    """The keyring lies in a server's folder: whatever ends this process, it goes when the server goes."""
    return sqs.folder / "coatcheck-keys"


def _walk(config: Config, postgres: PostgresServer, samples: Samples) -> None:
    _step("coatcheck keys init", "a token root and a sealing key pair, in a folder of their own")
    custody.create(config, "default")
    _step("coatcheck migrate", "the ledger, the quarantine, and the table user_logins")
    app.migrate(config)
    _step("coatcheck send logins.jsonl", f"{len(samples.bodies)} sample logins: repeats, IPv6, and some broken ones")
    _send(config, samples)
    terminal.out(f"in   {samples.bodies[0]}")
    first = _run(config, len(samples.bodies))
    terminal.out("out")
    terminal.out(postgres.psql("-c", query("demo_rows")).rstrip())
    _step("psql", "who shares an address? equal values have equal tokens")
    terminal.out(postgres.psql("-c", query("demo_repeated")).rstrip())
    _step("coatcheck quarantine list", "what could not be loaded: sealed, with a reason, to be retried")
    terminal.out(postgres.psql("-c", query("demo_quarantine")).rstrip())
    _step("coatcheck send logins.jsonl", "everything once more")
    _send(config, samples)
    second = _run(config, len(samples.bodies))
    _prove(samples, first, second)


def _step(command: str, why: str) -> None:
    terminal.out(f"\n$ {command}    # {why}")


def _send(config: Config, samples: Samples) -> None:
    async def work() -> None:
        with terminal.progress("sending", total=len(samples.bodies)) as bar:
            total = 0
            async for sent in app.send(config, samples.bodies, as_new=False, create_queue=True):
                total += sent
                bar(total, "")

    run_async(work())


def _run(config: Config, sent: int) -> Counts:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the worker has handlers of its own
    _step("coatcheck run --drain", "receive, decode, validate, mask, write, ack")
    with terminal.progress("loading") as bar:
        counts = run_worker(
            config, drain=True, tick=lambda now, _: bar(now.acked, f"{now.loaded:,} loaded"), tick_s=0.05
        )
    if counts.received < sent:  # a signal ends a worker in good order; here somebody wants the demo to end
        raise KeyboardInterrupt
    terminal.out(terminal.summary(counts))
    return counts


def _prove(samples: Samples, first: Counts, second: Counts) -> None:
    """Hold what happened against what the samples hold."""
    wanted = (samples.good, sum(samples.rejected.values()), 0, 0, len(samples.bodies))
    seen = (first.loaded, first.rejected, second.loaded, second.rejected, second.duplicates)
    if seen != wanted:
        raise CoatcheckError(f"the demo loaded {seen}, not {wanted}", hint="please report this as a bug")
    terminal.out(
        f"\nthe second run added nothing: {second.duplicates} of {second.received} messages were known to the ledger"
    )
