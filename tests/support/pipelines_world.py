"""Three pipelines in two databases that share one keyring, on real servers: what the state machine acts upon."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from tests.support.fix_postgres import LIMIT, until
from tests.support.fix_servers import LoginDatabase
from tests.support.vaults import Loader, configuration

from coatcheck import app
from coatcheck.config import Config
from coatcheck.demo.servers import PostgresServer
from coatcheck.keys.local import create
from coatcheck.pipeline.message import Message

ONE, TWO = "one", "two"
"""The databases."""
HOME = {"default": ONE, "b": ONE, "c": TWO}
"""The database of each pipeline."""
TABLE = {"default": "ta", "b": "tb", "c": "tc"}
OLD_EPOCHS = (20231, 20232)
"""Two quarters that are over: one has a partition at first, the other has none."""

_IP: dict[str, object] = {"from": "ip", "type": "text", "parse": "ip", "mask": "token", "domain": "ip"}
_PLAIN: dict[str, dict[str, object]] = {
    "n": {"from": "n", "type": "integer"},
    "who": {"from": "who", "type": "text"},
    "size": {"from": "size", "type": "integer"},
}
MASKED: dict[str, dict[str, dict[str, object]]] = {
    "default": {"ip": _IP},
    "b": {
        "address": _IP,
        "net": {"from": "ip", "type": "text", "parse": "ip", "mask": "subnet", "domain": "net"},
        "phone": {"from": "phone", "type": "text", "parse": "text", "mask": "seal", "domain": "phone"},
    },
    "c": {"ip": _IP},
}
REMOVABLE = {"default": ("ip",), "b": ("net", "phone"), "c": ("ip",)}
"""The columns that a later configuration of the pipeline may leave out."""

_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Shape:
    """What a pipeline's configuration says that may change: columns left out, and `[vault] keep_epochs`."""

    without: frozenset[str] = frozenset()
    keep_epochs: int = 0


@dataclass(frozen=True, slots=True)
class Templates:
    """Two migrated databases and a keyring, to be copied for each example."""

    server: PostgresServer
    names: dict[str, str]
    keyring: Path


def config_of(pipeline: str, dsn: str, keyring: Path, shape: Shape = Shape()) -> Config:
    """Return the configuration of one pipeline, as its own file has it."""
    masked = {name: column for name, column in MASKED[pipeline].items() if name not in shape.without}
    vault = {"keep_epochs": shape.keep_epochs, "epoch": "quarter"}
    columns = _PLAIN | masked
    return configuration(dsn, keyring, columns, table=TABLE[pipeline], vault=vault).named(pipeline)


@contextmanager
def templates(server: PostgresServer, folder: Path) -> Iterator[Templates]:
    """Make the templates. Each table has a rule that refuses rows whose size is 100 or more."""
    create(folder / "keys", "tenant")
    with ExitStack() as stack:
        names = {}
        for place in (ONE, TWO):
            database = LoginDatabase(server, f"pipelines_{place}_{next(_numbers)}")
            database.create("template1")
            stack.callback(database.drop)
            names[place] = database.name
            for pipeline in (name for name, home in HOME.items() if home == place):
                app.migrate(config_of(pipeline, database.dsn, folder / "keys"))
                database.execute(f"ALTER TABLE {TABLE[pipeline]} ADD CONSTRAINT small CHECK (size < 100)")
            at = OLD_EPOCHS[0]
            database.execute(f"CREATE TABLE coatcheck.vault_{at} PARTITION OF coatcheck.vault FOR VALUES IN ({at})")
            database.close()
        yield Templates(server, names, folder / "keys")


def body(number: int, **fields: object) -> str:
    """Return the body of a message."""
    return json.dumps({"n": number} | fields)


class Crash(Exception):  # noqa: N818 - no error: the process is gone
    """What stands for a kill in the middle of something."""


@dataclass
class World:
    """The databases, the keyring, the configurations in force, and the loaders that run."""

    databases: dict[str, LoginDatabase]
    keyring: Path
    shapes: dict[str, Shape] = field(default_factory=lambda: dict.fromkeys(HOME, Shape()))
    loaders: dict[tuple[str, int], Host] = field(default_factory=dict)
    constrained: set[str] = field(default_factory=lambda: set(HOME))

    def config(self, pipeline: str, keyring: Path | None = None) -> Config:
        """Return the configuration of a pipeline that is in force."""
        dsn = self.databases[HOME[pipeline]].dsn
        return config_of(pipeline, dsn, keyring or self.keyring, self.shapes[pipeline])

    def database(self, pipeline: str) -> LoginDatabase:
        """Return the database of a pipeline."""
        return self.databases[HOME[pipeline]]

    def loader(self, pipeline: str, slot: int) -> Host:
        """Return the loader in a slot, which is started now if there is none."""
        host = self.loaders.get((pipeline, slot))
        if host is None:
            host = self.loaders[pipeline, slot] = Host(self.config(pipeline), self.shapes[pipeline])
        return host

    def start_with(self, pipeline: str, slot: int, keyring: Path) -> None:
        """Start a loader whose host has another copy of the keyring."""
        self.stop(pipeline, slot)
        self.loaders[pipeline, slot] = Host(self.config(pipeline, keyring), self.shapes[pipeline])

    def stop(self, pipeline: str, slot: int | None = None) -> None:
        """Stop the loaders of a pipeline, or that in a slot."""
        for key in [key for key in self.loaders if key[0] == pipeline and slot in (None, key[1])]:
            self.loaders.pop(key).__exit__()

    def copy_keyring(self) -> Path:
        """Return a copy of the keyring as it is now."""
        return Path(shutil.copytree(self.keyring, self.keyring.with_name(f"copy-{next(_numbers)}")))

    def close(self) -> None:
        """Stop everything and remove it."""
        for pipeline in HOME:
            self.stop(pipeline)
        for database in self.databases.values():
            database.drop()
        shutil.rmtree(self.keyring.parent)


def world(base: Templates, folder: Path) -> World:
    """Copy the templates."""
    own = folder / f"world-{next(_numbers)}"
    keyring = Path(shutil.copytree(base.keyring, own / "keys"))
    databases = {}
    for place, template in base.names.items():
        databases[place] = LoginDatabase(base.server, f"{template}_{next(_numbers)}")
        databases[place].create(template)
    return World(databases, keyring)


class Host(Loader):
    """A loader that can be disturbed in the middle of a batch."""

    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__(config)
        self.kid, self.shape = self.kids[0], shape

    def at(self, epoch: int | None) -> Callable[[], None]:
        """Load as in an old epoch, until what is returned is called."""
        before = self.vault._epoch
        if epoch is not None:
            self.vault._epoch = lambda: epoch

        def back() -> None:
            self.vault._epoch = before

        return back

    def answer_lost(self, batch: Sequence[Message], *, crash: bool) -> None:
        """Commit, and lose the answer: the batch is sent again, or with `crash` the process is gone, too."""
        attempt, lost = self.sink._attempt, list[bool]()

        async def losing(statement: bytes, parameters: dict[str, Any]) -> tuple[int, ...]:
            answer = await attempt(statement, parameters)
            if not lost:
                lost.append(True)
                raise Crash if crash else psycopg.OperationalError("the answer is lost")
            return answer

        self.sink._attempt = losing  # type: ignore[method-assign]
        try:
            self.take(batch)
        finally:
            self.sink._attempt = attempt  # type: ignore[method-assign]

    def cut(self, batch: Sequence[Message], database: LoginDatabase, table: str, *, crash: bool) -> None:
        """Have the backend terminated in the middle of its statement, or with `crash` the process: raises Crash then.

        What had been sent may still be committed after a crash; when this returns or raises that is settled.
        """
        self._loop.run(asyncio.wait_for(self._cut(list(batch), database, table, crash=crash), LIMIT))

    async def _cut(self, batch: list[Message], database: LoginDatabase, table: str, *, crash: bool) -> None:
        with psycopg.connect(database.dsn, autocommit=True) as other:
            task = asyncio.ensure_future(self._carry(batch))
            with other.transaction():
                other.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE".encode())
                pids: list[int] = []

                def stuck() -> bool:
                    pids.extend(database.waiting())
                    return bool(pids) or task.done()

                await until(stuck, "its statement waits")
                if crash:
                    task.cancel()
                    self.sink.abort()
                    with suppress(asyncio.CancelledError, psycopg.Error):
                        await task
                else:
                    database.terminate()
            if crash:
                await until(lambda: not set(pids) & _backends(database), "its backend is gone")
                raise Crash
            await task

    def __exit__(self, *_: object) -> None:
        with suppress(psycopg.Error):
            super().__exit__()


def _backends(database: LoginDatabase) -> set[int]:
    return {pid for (pid,) in database.execute("SELECT pid FROM pg_stat_activity WHERE datname = current_database()")}


_ids = itertools.count(1)


def message(text: str) -> Message:
    """Return a message that was sent now: its place in the ledger's ring must not be due to be pruned."""
    return Message(f"00000000-0000-4000-9000-{next(_ids):012x}", text, int(time.time() * 1000), "receipt", 1)
