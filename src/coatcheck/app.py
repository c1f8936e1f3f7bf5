"""The composition root: configuration in, live objects out, closed in reverse order. The only module that knows all.

Every command of the command line is one function here; it returns values, and prints nothing.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from coatcheck import config_advice, custody, keyring
from coatcheck.config import Config
from coatcheck.errors import ConfigError
from coatcheck.keys import LoaderKeys, Opener, OpenError, Sealer
from coatcheck.keys.forms import parse_form
from coatcheck.ops.metrics import Metrics
from coatcheck.pipeline.breaker import Breaker
from coatcheck.pipeline.message import Batch, Message, Reject, Row
from coatcheck.pipeline.ports import Tracer, untraced
from coatcheck.pipeline.road import Road
from coatcheck.pipeline.runner import Limits, Runner
from coatcheck.pipeline.writer import Writer
from coatcheck.sinks.postgres import figures, schema
from coatcheck.sinks.postgres.partitions import Partitioning
from coatcheck.sinks.postgres.quarantine import Added, Entry, Held, Quarantine, Selection
from coatcheck.sinks.postgres.sink import PostgresSink
from coatcheck.sources import sqs_queue, sqs_redrive
from coatcheck.sources.aws import resolve
from coatcheck.sources.queue_address import named_beside, without_user
from coatcheck.sources.sqs import SqsSource
from coatcheck.sources.sqs_client import SqsClient
from coatcheck.sql.connection import connect, translated
from coatcheck.sql.register import Pipeline, held_against
from coatcheck.vault.epochs import Epochs
from coatcheck.vault.register import register
from coatcheck.vault.store import VaultStore

_log = logging.getLogger(__name__)
_DRAIN_GIVE_UP_S = 60.0


def road(config: Config, keys: LoaderKeys, sealer: Sealer) -> Road:
    """Build the pure stages."""
    return Road(
        columns=config.plan(),
        tokenizer=custody.tokenizer(keys),
        ledger_hash=custody.ledger_hashes(keys),
        sealer=sealer,
        ledger_key=config.ledger.key,
        pipeline=config.pipeline,
        rotating=len(keys.kids) > 1,
    )


def vault_store(config: Config, keys: LoaderKeys, sealer: Sealer, old_forms: Mapping[str, str] | None) -> VaultStore:
    """Build the road's side of the vault; `old_forms` are those frozen for the key that retires (None: none does)."""
    return VaultStore(
        columns=config.plan(),
        sealer=sealer,
        epoch=Epochs(config.vault.epoch).now,
        retiring=custody.tokenizer(keys, keys.kids[1]) if old_forms is not None else None,
        old_forms={domain: parse_form(form_id) for domain, form_id in (old_forms or {}).items()},
        remember=config.vault.remember,
    )


@dataclass(frozen=True, slots=True)
class Registered:
    """What the database says at a start: the pipeline's table, and the forms frozen for a retiring key, if any."""

    table: str
    old_forms: dict[str, str] | None


def registered(config: Config, keys: LoaderKeys) -> Registered:
    """Hold pipeline and keyring against the database's registers. Raises ConfigError, UnreachableError."""
    with connect(custody.dsn(config)) as connection:
        with translated("read the register of pipelines"):
            pipeline, wrong = held_against(connection, config.pipeline, config.target.table, config.plan())
        if pipeline is None or wrong:
            raise ConfigError(wrong, hint="run `coatcheck migrate` (safe while workers run)")
        old_forms = register(connection, custody.keyring_id(keys), custody.form_ids(config))
        keyring.note_if_possible(config, connection)
        return Registered(pipeline.qualified, old_forms)


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


def writer(
    config: Config, *, give_up_s: float, metrics: Metrics, tracer: Tracer = untraced, upkeep: bool = True
) -> Writer:
    """Verify keys and database, and wire the road to the sink, which waits out outages for `give_up_s` (0: for ever).

    `upkeep` is whether the sink does the daily upkeep. Raises CoatcheckError.
    """
    keys = keyring.loader_keys(config)
    sealer = Sealer(keys, give_up_s=give_up_s)
    metrics.watch("coatcheck_up", lambda: not sealer.in_trouble, "keys")
    metrics.watch("coatcheck_data_keys_total", lambda: sealer.drawn)
    metrics.watch("coatcheck_key_errors_total", lambda: sealer.failures["away"], "away")
    metrics.watch("coatcheck_key_errors_total", lambda: sealer.failures["refused"], "refused")
    dsn, columns = custody.dsn(config), config.plan()
    schema.verify(dsn, config.target.table, columns, config.pipeline, shared=config.target.shared_schema)
    there = registered(config, keys)
    for finding in config_advice.weak_columns(config):
        _log.warning(finding.what)
    sink = PostgresSink(
        dsn=dsn,
        table=there.table,
        columns=columns,
        connections=config.target.connections,
        prepare=config.target.prepare,
        give_up_seconds=give_up_s,
        login_patience_s=config.target.login_patience_seconds,
        kid=keys.kid,
        pipeline=config.pipeline,
        epochs=Epochs(config.vault.epoch).ahead,
        upkeep=upkeep,
        accept_suppressed=config.target.suppressed == "accept",
        metrics=metrics,
    )
    return Writer(
        sink=sink,
        road=road(config, keys, sealer),
        sealer=sealer,
        vault=vault_store(config, keys, sealer, there.old_forms),
        breaker=Breaker(ratio=config.breaker.ratio, window=config.breaker.window, run=config.breaker.run),
        metrics=metrics,
        tracer=tracer,
    )


def runner(config: Config, *, drain: bool, metrics: Metrics, tracer: Tracer = untraced) -> Runner:
    """Wire a worker; its `run` verifies the queue. Raises CoatcheckError."""
    give_up_s = config.run.give_up_seconds or (_DRAIN_GIVE_UP_S if drain else 0.0)
    write = writer(config, give_up_s=give_up_s, metrics=metrics, tracer=tracer)
    source = SqsSource(
        client=_client(config),
        queue=config.source.queue,
        wait_s=min(config.source.wait_seconds, 1) if drain else config.source.wait_seconds,
        receivers=config.source.receivers,
        max_in_flight=config.source.max_in_flight,
        max_in_flight_bytes=config.source.max_in_flight_bytes,
        give_up_s=give_up_s,
        metrics=metrics,
        traced=tracer is not untraced,
    )
    limits = Limits(
        messages=config.batch.messages,
        bytes=config.batch.bytes,
        seconds=config.batch.seconds,
        writers=config.target.connections,
        drain_s=config.run.drain_seconds,
    )
    return Runner(source=source, writer=write, limits=limits, metrics=metrics)


def partitioning(config: Config) -> Partitioning | None:
    """Return how the target table is partitioned, if it is by us."""
    target = config.target
    return Partitioning(target.partition_by, target.partition, target.keep_partitions) if target.partition_by else None


def migrate(config: Config, *, constrain: bool = False) -> schema.Migrated:
    """Create or upgrade schema and target table; with `constrain` an existing table gets its masked columns' checks."""
    dsn = custody.dsn(config)
    done = schema.migrate(
        dsn,
        config.target.table,
        config.plan(),
        constrain=constrain,
        epochs=Epochs(config.vault.epoch).ahead(),
        by=partitioning(config),
        pipeline=Pipeline(
            config.pipeline,
            queue=without_user(config.source.queue),
            epoch=config.vault.epoch,
            keep_epochs=config.vault.keep_epochs,
        ),
    )
    with connect(dsn) as connection:
        keyring.note_if_possible(config, connection)
    return done


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
    keys = keyring.loader_keys(config)
    keyring.hold(config, keys, every=False)
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
        keys=keys.describe(),
    )


def database_figures(config: Config) -> list[figures.Gauge]:
    """Return what metrics tell about the database beside the road."""
    epochs = Epochs(config.vault.epoch).overdue()
    return figures.samples(custody.dsn(config), config.target.table, partitioning(config), epochs, config.pipeline)


async def send(config: Config, lines: Iterable[str], *, as_new: bool, create_queue: bool) -> AsyncIterator[int]:
    """Put bodies on the queue; yield the number sent after each batch."""
    async with sqs_client(config) as client:
        if create_queue:
            await sqs_queue.create(client, config.source.queue)
        url = await client.queue_url(config.source.queue)
        async for sent in sqs_queue.send(client, url, sqs_queue.file_entries(lines, as_new=as_new)):
            yield sent


async def redrive(config: Config, origin: str | None, limit: int | None) -> AsyncIterator[int]:
    """Move dead letters back to the queue; yield the number of each batch."""
    async with sqs_client(config) as client:
        url = await client.queue_url(config.source.queue)
        if origin:
            dead = await client.url_of(named_beside(origin, url))
        else:
            dead = await sqs_queue.dead_letter_queue(client, url)
        async for moved in sqs_redrive.redrive(client, dead, url, limit=limit):
            yield moved


def quarantine(config: Config, *, kid: str = "", table: str = "") -> Quarantine:
    """Open a pipeline's quarantine; `kid` is the token key that what is loaded is masked under, `table` where to."""
    return Quarantine(
        custody.dsn(config),
        table or config.target.table,
        config.plan(),
        kid=kid,
        pipeline=config.pipeline,
        accept_suppressed=config.target.suppressed == "accept",
    )


def quarantine_entries(config: Config, selection: Selection, *, resolved: bool, limit: int) -> list[Entry]:
    """List entries."""
    with quarantine(config) as held:
        return held.entries(selection, resolved=resolved, limit=limit)


def _opened(opening: Opener, held: Held) -> Message:
    body = opening.open(held.sealed, held.data_key, held.key).decode("utf-8", "surrogatepass")
    message = held.message
    return Message(message.message_id, body, message.sent_ms, "", 1, message.received_ms, message.origin)


@dataclass(slots=True)
class Retried:
    """How a retry ended: messages loaded, known before, rejected again by reason, and bodies that do not open."""

    loaded: int = 0
    duplicates: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    unopened: int = 0


def quarantine_retry(config: Config, selection: Selection, *, progress: Callable[[], None] = lambda: None) -> Retried:
    """Send held messages down the road again. Needs the private key."""
    keys = keyring.loader_keys(config)
    there, opening, sealer = registered(config, keys), custody.opener(config), Sealer(keys)
    stages, vault = road(config, keys, sealer), vault_store(config, keys, sealer, there.old_forms)
    retried, foreign = Retried(), None
    with quarantine(config, kid=keys.kid, table=there.table) as entries:
        for held in entries.opened(selection):
            try:
                message = _opened(opening, held)
            except OpenError:
                retried.unopened += 1
                continue
            except ConfigError as error:  # sealed for another key, or planted: the others are tried
                foreign = error
                retried.unopened += 1
                continue
            match _retry(entries, stages, vault, sealer, held, message):
                case "loaded":
                    retried.loaded += 1
                case "duplicate":
                    retried.duplicates += 1
                case reject:
                    retried.rejected[reject.reason] = retried.rejected.get(reject.reason, 0) + 1
            progress()
        entries.settle()
    if foreign is not None and not (retried.loaded or retried.rejected):
        raise foreign
    return retried


def _retry(  # noqa: PLR0917 - private, and each is what a try takes
    entries: Quarantine, stages: Road, vault: VaultStore, sealer: Sealer, held: Held, message: Message
) -> Reject | Added:
    entry = stages.travel(message)
    ended: Reject | Added
    if isinstance(entry, Row):
        batch = Batch([entry])
        vault.keep(batch)
        batch.data_keys = [sealer.data_key(dek_id) for dek_id in {kept.sealed.dek_id for kept in batch.vault}]
        ended = entries.load(held, batch)
        if ended == "loaded":
            vault.stored(batch)
    else:
        ended = entry.reject
    if isinstance(ended, Reject):
        entries.rejected_again(held, ended)
    return ended


def quarantine_discard(config: Config, selection: Selection) -> int:
    """Erase held bodies; return how many."""
    with quarantine(config) as entries:
        return entries.discard(selection)
