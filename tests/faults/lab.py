"""The fault laboratory: the installed command between a faulty SQS and a cuttable PostgreSQL, and the verdict.

Every message has a user of its own, so that one that is lost or doubled is known by name, and holds a word that may be
stored or said nowhere; the verdict looks for all of them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from tests.faults.faulty_sqs import FaultySqs
from tests.support.canaries import forms
from tests.support.fix_servers import LoginDatabase, Queue, commanding, login, new_queue
from tests.support.process import Command, wait_until
from tests.support.tcp_proxy import TcpProxy

from coatcheck.demo.servers import PostgresServer, SqsServer

VISIBILITY_S = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the messages. All but the first three are to be 0 or empty."""

    messages: int
    rows: int
    quarantined: int
    lost: int
    doubled: int
    strange: int
    left: int
    leaks: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether the promises were kept."""
        return not (self.lost or self.doubled or self.strange or self.left or self.leaks)


@dataclass
class Lab:
    """One queue, one database, and the command that reaches both through proxies."""

    command: Command
    queue: Queue
    database: LoginDatabase
    sqs: FaultySqs
    wire: TcpProxy
    word: str = field(default_factory=lambda: f"canary{secrets.token_hex(6)}")
    good: int = 0
    bad: int = 0

    def send(self, good: int, bad: int = 0) -> None:
        """Send messages past the proxy: so many that become rows, and so many that are rejected."""
        bodies = [
            login(number, device_id=f"{self.word}-{number}", note=f"{self.word}-n{number}")
            for number in range(self.good, self.good + good)
        ]
        bodies += [
            json.dumps({"type": "heartbeat", "note": f"{self.word}-b{number}"})
            for number in range(self.bad, self.bad + bad)
        ]
        self.queue.send(bodies)
        self.good += good
        self.bad += bad

    def done(self) -> int:
        """Return how many messages have had their effect."""
        return self.database.count("coatcheck.ledger")

    def more(self, count: int, seconds: float = 60.0) -> None:
        """Wait until so many further messages have had their effect, or all."""
        goal = min(self.done() + count, self.good + self.bad)
        wait_until(lambda: self.done() >= goal, f"{goal} effects", seconds)

    def heal(self) -> None:
        """Let everything through again."""
        self.sqs.heal()
        self.wire.refusing = False
        self.wire.cut()

    def finish(self) -> Verdict:
        """Let everything through, load the rest, and tell what became of the messages."""
        self.heal()
        self.database.server.start()  # nothing, if it runs
        wait_until(self._drained, "the queue is empty", 120.0)
        return self.verdict()

    def _drained(self) -> bool:
        self.command.drain()
        return self.queue.depth() == (0, 0, 0)

    def verdict(self) -> Verdict:
        """Hold what is stored against what was sent."""
        users: dict[str, int] = dict(
            self.database.execute("SELECT user_id, count(*) FROM user_logins GROUP BY user_id")
        )
        sent = {f"user-{number}" for number in range(self.good)}
        rows, _, quarantined = self.database.figures()
        rejects = int(self.database.value("SELECT count(DISTINCT message_key) FROM coatcheck.quarantine"))
        return Verdict(
            messages=self.good + self.bad,
            rows=rows,
            quarantined=quarantined,
            lost=len(sent - users.keys()) + max(0, self.bad - rejects),
            doubled=sum(count - 1 for count in users.values()) + quarantined - rejects,
            strange=len(users.keys() - sent) + max(0, rejects - self.bad),
            left=sum(self.queue.depth()),
            leaks=tuple(self.leaks()),
        )

    def leaks(self) -> Iterator[str]:
        """Yield the name of each place that holds the word of this laboratory, in any of its forms."""
        spelled = list(forms(self.word))
        places = {path.name: path.read_text(errors="replace") for path in self.command.folder.glob("*.*")}
        places["tables"] = self.database.text()
        places["log of PostgreSQL"] = self.database.server.log_path.read_text(errors="replace")
        yield from (name for name, text in places.items() if any(form in text for form in spelled))


@contextmanager
def laboratory(
    folder: Path,
    *,
    sqs: SqsServer,
    database: LoginDatabase,
    keyring: Path,
    seed: int = 0,
    visibility_s: int = VISIBILITY_S,
) -> Iterator[Lab]:
    """Put up the proxies, the queue and the command."""
    with ExitStack() as stack:
        queue = stack.enter_context(new_queue(sqs, VisibilityTimeout=visibility_s))
        faulty = stack.enter_context(FaultySqs(sqs.port, seed=seed))
        wire = stack.enter_context(TcpProxy("127.0.0.1", database.server.port))
        command = stack.enter_context(commanding(folder, queue, database, keyring))
        command.environment["AWS_ENDPOINT_URL"] = faulty.url
        command.environment["DATABASE_URL"] = psycopg.conninfo.make_conninfo(database.dsn, port=wire.port)
        command.set(SOURCE__WAIT_SECONDS=1, SOURCE__MAX_IN_FLIGHT=400, BATCH__MESSAGES=100, RUN__DRAIN_SECONDS=5)
        yield Lab(command, queue, database, faulty, wire)


@contextmanager
def own_servers(folder: Path) -> Iterator[tuple[SqsServer, LoginDatabase, Path]]:
    """Start an SQS server and PostgreSQL with a migrated database, and make a keyring."""
    with SqsServer() as sqs, PostgresServer() as postgres:
        database = LoginDatabase(postgres, "laboratory")
        database.create("template1")
        command = Command(folder, {"DATABASE_URL": database.dsn, "COATCHECK_KEYS__PATH": str(folder / "keys")})
        command("keys", "init")
        command("migrate")
        try:
            yield sqs, database, folder / "keys"
        finally:
            postgres.start()
            database.close()
