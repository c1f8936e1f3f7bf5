"""Loaders wired as `coatcheck run` wires them, fed by hand, and what the vault holds afterwards, opened."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.support.fix_postgres import LIMIT, SENT_MS
from tests.support.fix_servers import LoginDatabase

from coatcheck import app, custody
from coatcheck.config import Config
from coatcheck.keys import Opener, Sealer
from coatcheck.keys.local import LocalOpenerKeys
from coatcheck.pipeline.breaker import Breaker
from coatcheck.pipeline.message import Batch, Counts, DataKey, Message, Sealed
from coatcheck.pipeline.writer import Writer
from coatcheck.sinks.postgres.sink import PostgresSink
from coatcheck.vault.epochs import Epochs
from coatcheck.vault.store import vault_context

TABLE = "logins"
PLAIN = {"device": "who", "ip": "address", "net": "place", "phone": "phone_plain", "tag": "tag_plain"}
"""The columns that hold a masked column's value in clear, so that a test can tell values apart. By masked column."""

_ids = itertools.count(1)


def _column(field: str, **options: object) -> dict[str, object]:
    return {"from": field, "type": "text"} | options


MASKED: dict[str, dict[str, object]] = {
    "device": _column("device", parse="text", mask="token", domain="device"),
    "ip": _column("ip", parse="ip", mask="token", domain="ip"),
    "net": _column("ip", parse="ip", mask="subnet", domain="net"),
    "phone": _column("phone", parse="text", mask="seal", domain="phone"),
    "tag": _column("tag", parse="text", mask="token", domain="tag", vault=False),
}
"""A column of every kind that has a key id."""

COLUMNS = {plain: _column(plain) for plain in PLAIN.values()} | MASKED


def configuration(
    database: LoginDatabase | str, keyring: Path, columns: Mapping[str, Mapping[str, object]] = COLUMNS, **sections: Any
) -> Config:
    dsn = database if isinstance(database, str) else database.dsn
    values: dict[str, Any] = {
        "target": {"dsn": dsn, "table": sections.pop("table", TABLE)},
        "keys": {"path": str(keyring)},
        "columns": {name: dict(column) for name, column in columns.items()},
    }
    return Config(**values | sections)


def event(number: int, /, **changes: object) -> str:
    """Return a body: a device, its address, phone and tag, each also in clear (see PLAIN); some share a net."""
    address = f"10.0.{number % 7}.{number % 250}" if number < 250 else f"10.{number // 250}.{number % 7}.{number % 250}"
    fields: dict[str, object] = {
        "who": f"device-{number}", "device": f"device-{number}",
        "address": address, "ip": address, "place": address.rpartition(".")[0],
        "phone_plain": f"+49 {number}", "phone": f"+49 {number}",
        "tag_plain": f"tag-{number % 10}", "tag": f"tag-{number % 10}",
    }  # fmt: skip
    return json.dumps(fields | changes)


class Loader:
    """One worker with its keyring as of now. Not for several threads."""

    def __init__(self, config: Config, *, connections: int = 1) -> None:
        keys = custody.loader_keys(config)
        sealer = Sealer(keys)
        self.kids = keys.kids
        there = app.registered(config, keys)
        self.vault = app.vault_store(config, keys, sealer, there.old_forms)
        self.sink = PostgresSink(
            dsn=custody.dsn(config),
            table=there.table,
            columns=config.plan(),
            pipeline=config.pipeline,
            connections=connections,
            kid=keys.kid,
            epochs=Epochs(config.vault.epoch).ahead,
        )
        self.sealer = sealer
        self._writer = Writer(
            sink=self.sink,
            road=app.road(config, keys, sealer),
            sealer=sealer,
            vault=self.vault,
            breaker=Breaker(ratio=1.0, window=1_000_000, run=1_000_000),
        )
        self._loop = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run(self.sink.close())
        self._loop.close()

    def open(self) -> None:
        """As at the start of a run: connect, and do the upkeep."""
        self._loop.run(self.sink.open())

    def load(self, *bodies: str) -> Counts:
        """Take one batch down the road and into the database; return the counts so far."""
        return self.take(messages(bodies))

    def take(self, batch: Sequence[Message]) -> Counts:
        self._loop.run(asyncio.wait_for(self._carry(list(batch)), LIMIT))
        return self._writer.counts

    async def _carry(self, messages: list[Message]) -> None:
        batch = Batch()
        await self._writer.take(batch, messages)
        await self._writer.write(batch)


def messages(bodies: Iterable[str]) -> list[Message]:
    return [Message(f"00000000-0000-4000-9000-{next(_ids):012x}", body, SENT_MS, "receipt", 1) for body in bodies]


def load(config: Config, *bodies: str) -> Counts:
    with Loader(config) as loader:
        return loader.load(*bodies)


def originals(database: LoginDatabase, keyring: Path) -> dict[tuple[str, int], str]:
    """Open everything in the vault: the original of each token and epoch."""
    opener = Opener(LocalOpenerKeys.load(keyring))
    found = database.execute(
        "SELECT token, epoch, dek_id, nonce, ciphertext, kek, wrapped"
        " FROM coatcheck.vault JOIN coatcheck.data_key USING (dek_id)"
    )
    return {
        (token, epoch): opener.open(
            Sealed(dek.bytes, nonce, text), DataKey(dek.bytes, kek, wrapped), *vault_context(token, epoch)
        ).decode()
        for token, epoch, dek, nonce, text, kek, wrapped in found
    }


def token(config: Config, name: str, value: object, kid: str | None = None) -> str:
    """Return what the column `name` holds for a value."""
    [column] = [column for column in config.plan() if column.name == name]
    tokenizer, form = custody.tokenizer(custody.loader_keys(config), kid), custody.forms((column,))[column.domain]
    if column.scheme == "ps1":
        return tokenizer.seal_for(column.domain, form)(value)
    return tokenizer.token(column.domain, value, form)


def torn(database: LoginDatabase, *, table: str = f"{TABLE}_current", names: Iterable[str] = tuple(PLAIN)) -> list[str]:
    """Return the masked columns in which values and texts are not one to one; all seen in one snapshot."""
    taken = list(names)
    counts = ", ".join(
        f"count(DISTINCT {PLAIN[name]}), count(DISTINCT {name}), count(DISTINCT ({PLAIN[name]}, {name}))"
        for name in taken
    )
    [found] = database.execute(f"SELECT {counts} FROM {table}")
    return [
        f"{name}: {found[3 * at : 3 * at + 3]}"
        for at, name in enumerate(taken)
        if len(set(found[3 * at : 3 * at + 3])) > 1
    ]


def prefixes(database: LoginDatabase, table: str = TABLE, names: Iterable[str] = tuple(PLAIN)) -> dict[str, set[str]]:
    """Return the key ids of each masked column's texts."""
    return {
        name: {kid for (kid,) in database.execute(f"SELECT DISTINCT split_part({name}, '_', 3) FROM {table}")}
        for name in names
    }
