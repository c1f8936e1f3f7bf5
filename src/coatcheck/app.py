"""The composition root: configuration in, live objects out, closed in reverse order. The only module that knows all.

Every command of the command line is one function here; it returns values, and prints nothing.
"""

from __future__ import annotations

import resource
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from coatcheck.config import Config
from coatcheck.errors import CoatcheckError, Finding
from coatcheck.keys import Opener, Sealer, Tokenizer
from coatcheck.keys.local import CreatedKeys, KeyRow, LocalLoaderKeys, LocalOpenerKeys, create, list_keys
from coatcheck.pipeline.breaker import Breaker
from coatcheck.pipeline.columns import Mask, Parse
from coatcheck.pipeline.message import Message, Reason, Reject, Row
from coatcheck.pipeline.road import Road
from coatcheck.pipeline.runner import Limits, Runner
from coatcheck.sinks.postgres import schema
from coatcheck.sinks.postgres.quarantine import Entry, Held, Quarantine, Selection
from coatcheck.sinks.postgres.sink import PostgresSink
from coatcheck.sources import sqs_queue
from coatcheck.sources.aws import resolve
from coatcheck.sources.sqs import SqsSource
from coatcheck.sources.sqs_client import SqsClient

_DRAIN_GIVE_UP_S = 60.0


def no_core_dumps() -> None:
    """Memory holds personal data in clear; a core dump would write it to disk."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def loader_keys(config: Config) -> LocalLoaderKeys:
    """Load what the road needs of the keyring. Raises ConfigError: no key, no start."""
    return LocalLoaderKeys.load(config.keys.path)


def _passphrase(config: Config) -> str | None:
    return config.keys.passphrase.get_secret_value() if config.keys.passphrase else None


def opener(config: Config) -> Opener:
    """Load what opens sealed bodies. Raises ConfigError."""
    return Opener(LocalOpenerKeys.load(config.keys.path, _passphrase(config)))


def tokenizer(keys: LocalLoaderKeys) -> Tokenizer:
    """Build the tokenizer of the active token key."""
    return Tokenizer(keys.token_root(), tenant=keys.tenant, kid=keys.kid)


def road(config: Config, keys: LocalLoaderKeys, sealer: Sealer) -> Road:
    """Build the pure stages."""
    return Road(columns=config.plan(), tokenizer=tokenizer(keys), sealer=sealer, ledger_key=config.ledger.key)


@asynccontextmanager
async def sqs_client(config: Config) -> AsyncIterator[SqsClient]:
    """Open a client for the configured queue's endpoint. Raises ConfigError."""
    client = _client(config)
    try:
        yield client
    finally:
        await client.close()


def _client(config: Config) -> SqsClient:
    source = config.source
    target = resolve(source.queue, region=source.region, endpoint_url=source.endpoint_url, profile=source.profile)
    return SqsClient(target, ca_bundle=source.ca_bundle)


def runner(config: Config, *, drain: bool) -> Runner:
    """Verify keys and database, and wire a worker; its `run` verifies the queue. Raises CoatcheckError."""
    no_core_dumps()
    keys = loader_keys(config)
    sealer = Sealer(keys)
    dsn, columns = config.conninfo(), config.plan()
    schema.verify(dsn, config.target.table, columns)
    give_up_s = config.run.give_up_seconds or (_DRAIN_GIVE_UP_S if drain else 0.0)
    source = SqsSource(
        client=_client(config),
        queue=config.source.queue,
        wait_s=min(config.source.wait_seconds, 1) if drain else config.source.wait_seconds,
        receivers=config.source.receivers,
        max_in_flight=config.source.max_in_flight,
        max_in_flight_bytes=config.source.max_in_flight_bytes,
        give_up_s=give_up_s,
    )
    sink = PostgresSink(
        dsn=dsn,
        table=config.target.table,
        columns=columns,
        connections=config.target.connections,
        prepare=config.target.prepare,
        give_up_seconds=give_up_s,
    )
    limits = Limits(
        messages=config.batch.messages,
        bytes=config.batch.bytes,
        seconds=config.batch.seconds,
        writers=config.target.connections,
        drain_s=config.run.drain_seconds,
    )
    breaker = Breaker(ratio=config.breaker.ratio, window=config.breaker.window, run=config.breaker.run)
    return Runner(
        source=source, sink=sink, road=road(config, keys, sealer), sealer=sealer, breaker=breaker, limits=limits
    )


def migrate(config: Config) -> schema.Migrated:
    """Create or upgrade schema and target table."""
    return schema.migrate(config.conninfo(), config.target.table, config.plan())


async def check(config: Config) -> list[Finding]:
    """Look at configuration, keys, queue and database, and return everything that is wrong or unwise."""
    findings = list(_weak_columns(config))
    with _as_finding(findings, "keys"):
        loader_keys(config)
    with _as_finding(findings, "queue"):
        async with sqs_client(config) as client:
            state = await sqs_queue.inspect(client, config.source.queue, batch_s=config.batch.seconds)
            findings += state.findings
    with _as_finding(findings, "database"):
        findings += schema.inspect(config.conninfo(), config.target.table, config.plan()).findings
    return findings


def _weak_columns(config: Config) -> Iterator[Finding]:
    for column in config.plan():
        if column.mask is Mask.SHA256_INSECURE:
            what = f"column {column.name} holds unkeyed hashes: anyone can reverse them by enumeration"
            yield Finding("config", "advice", what, 'use mask = "token"')
        elif column.mask is Mask.KEEP and column.parse is Parse.IP:
            what = f"column {column.name} keeps IP addresses in clear"
            yield Finding("config", "advice", what, "give it a domain to mask it")


@contextmanager
def _as_finding(findings: list[Finding], component: Any) -> Iterator[None]:
    try:
        yield
    except CoatcheckError as error:
        findings.append(Finding(component, "error", error.message, error.hint))


@dataclass(frozen=True, slots=True)
class Status:
    """What `coatcheck status` shows. Counts are messages; `lag_s` is send-to-commit of the newest batch's oldest."""

    queue: dict[str, int]
    loaded_last_minute: int
    duplicates_last_minute: int
    newest_commit: str | None
    lag_s: float | None
    quarantined: dict[str, int]
    keys: dict[str, str]


async def status(config: Config) -> Status:
    """Ask queue, database and keyring for the state of things. Raises CoatcheckError."""
    async with sqs_client(config) as client:
        url = await client.queue_url(config.source.queue)
        attributes = await client.get_queue_attributes(url, ["All"])
    with quarantine(config) as held:
        loaded, duplicates, newest, lag_s, reasons = held.status()
    names = {"visible": "", "in_flight": "NotVisible", "delayed": "Delayed"}
    return Status(
        queue={name: int(attributes.get(f"ApproximateNumberOfMessages{suffix}", 0)) for name, suffix in names.items()},
        loaded_last_minute=loaded,
        duplicates_last_minute=duplicates,
        newest_commit=newest.isoformat() if newest else None,
        lag_s=round(lag_s, 3) if lag_s is not None else None,
        quarantined=reasons,
        keys=loader_keys(config).describe(),
    )


async def send(config: Config, lines: Iterable[str], *, as_new: bool, create_queue: bool) -> AsyncIterator[int]:
    """Put bodies on the queue; yield the number sent after each batch."""
    async with sqs_client(config) as client:
        if create_queue:
            await client.create_queue(config.source.queue.rsplit("/", 1)[-1])
        url = await client.queue_url(config.source.queue)
        async for sent in sqs_queue.send(client, url, sqs_queue.file_entries(lines, as_new=as_new)):
            yield sent


async def redrive(config: Config, origin: str | None, limit: int | None) -> AsyncIterator[int]:
    """Move dead letters back to the queue; yield the number of each batch."""
    async with sqs_client(config) as client:
        url = await client.queue_url(config.source.queue)
        dead = await client.queue_url(origin) if origin else await sqs_queue.dead_letter_queue(client, url)
        async for moved in sqs_queue.redrive(client, dead, url, limit=limit):
            yield moved


def quarantine(config: Config) -> Quarantine:
    """Open the quarantine."""
    return Quarantine(config.conninfo(), config.target.table, config.plan())


def quarantine_entries(config: Config, selection: Selection, *, resolved: bool, limit: int) -> list[Entry]:
    """List entries."""
    with quarantine(config) as held:
        return held.entries(selection, resolved=resolved, limit=limit)


def quarantine_body(config: Config, quarantine_id: int) -> str | None:
    """Open one held body; None if there is no such held entry. Needs the private key."""
    opening = opener(config)
    with quarantine(config) as entries:
        for held in entries.held(Selection(ids=(quarantine_id,))):
            return _opened(opening, held).body
    return None


def _opened(opening: Opener, held: Held) -> Message:
    body = opening.open(held.sealed, held.data_key, held.key).decode("utf-8", "surrogatepass")
    message = held.message
    return Message(message.message_id, body, message.sent_ms, "", 1, message.received_ms, message.origin)


@dataclass(frozen=True, slots=True)
class Retried:
    """How a retry ended: messages loaded, and messages rejected again by reason."""

    loaded: int
    rejected: dict[str, int]


def quarantine_retry(config: Config, selection: Selection, *, progress: Callable[[], None] = lambda: None) -> Retried:
    """Send held messages down the road again. Needs the private key."""
    opening, keys = opener(config), loader_keys(config)
    stages = road(config, keys, Sealer(keys))
    loaded, rejected = 0, dict[str, int]()
    with quarantine(config) as entries:
        for held in entries.held(selection):
            reject = _retry(entries, stages, held, _opened(opening, held))
            if reject is None:
                loaded += 1
            else:
                rejected[reject.reason] = rejected.get(reject.reason, 0) + 1
            progress()
    return Retried(loaded, rejected)


def _retry(entries: Quarantine, stages: Road, held: Held, message: Message) -> Reject | None:
    entry = stages.travel(message)
    if isinstance(entry, Row):
        code = entries.load(held, entry.values)
        reject = Reject(Reason.REFUSED_BY_DATABASE, code) if code else None
    else:
        reject = entry.reject
    if reject is not None:
        entries.rejected_again(held, reject)
    return reject


def quarantine_discard(config: Config, selection: Selection) -> int:
    """Erase held bodies; return how many."""
    with quarantine(config) as entries:
        return entries.discard(selection)


def keys_init(config: Config, tenant: str) -> CreatedKeys:
    """Make a local keyring where the configuration expects it. Raises ConfigError: there is one already."""
    return create(config.keys.path, tenant, passphrase=_passphrase(config), clock=time.time)


def keys_list(config: Config) -> list[KeyRow]:
    """List the keyring's keys; never a key byte."""
    return list_keys(config.keys.path)
