"""The fault laboratory: the installed command between a faulty SQS and a cuttable PostgreSQL, and the verdict.

Every message of a queue has a user of its own, so that one that is lost or doubled is known by name, and holds a word
that may be stored or said nowhere; the verdict looks for all of them. A laboratory may have several pipelines, each
with a queue and a table; they share database, keyring and domains, and their messages name the same users.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from tests.faults.faulty_sqs import FaultySqs
from tests.support.canaries import forms
from tests.support.fix_servers import LoginDatabase, Queue, commanding, login, new_queue
from tests.support.process import Command, Running, alive, frozen, wait_until
from tests.support.tcp_proxy import TcpProxy

from coatcheck.demo.servers import PostgresServer, SqsServer

VISIBILITY_S = 3
PAIR = ("default", "second")
"""Two pipelines of one database."""
TOGETHER = True
"""Whether one supervisor runs all pipelines; else each has a process of its own."""
LEDGER_KEY = "field:user_id"
"""What tells messages of a pair apart: the same keys come from both queues."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the messages. All but the first three are to be 0 or empty.

    `misplaced` are rows in the table of another pipeline, and not counted as lost or strange.
    """

    messages: int
    rows: int
    quarantined: int
    lost: int
    doubled: int
    strange: int
    misplaced: int
    left: int
    leaks: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether the promises were kept."""
        return not (self.lost or self.doubled or self.strange or self.misplaced or self.left or self.leaks)


@dataclass
class Line:
    """One pipeline: its queue and table, and how many messages were sent to it that become rows, and rejects."""

    name: str
    queue: Queue
    table: str
    good: int = 0
    bad: int = 0

    def send(self, word: str, good: int, bad: int) -> None:
        """Send messages past the proxy. `device_type` says whose they are, and is kept."""
        bodies = [
            login(number, device_type=self.name, device_id=f"{word}-{number}", note=f"{word}-n{number}")
            for number in range(self.good, self.good + good)
        ]
        bodies += [
            json.dumps({"type": "heartbeat", "note": f"{word}-b{number}"}) for number in range(self.bad, self.bad + bad)
        ]
        self.queue.send(bodies)
        self.good += good
        self.bad += bad


@dataclass(frozen=True, slots=True)
class Crew:
    """The processes that run all pipelines of a laboratory."""

    members: tuple[Running, ...]

    @property
    def err(self) -> str:
        """What they have printed on stderr so far."""
        return "".join(member.err for member in self.members)

    def ended(self) -> bool:
        """Tell whether one of them has ended."""
        return any(member.ended() for member in self.members)

    def signal(self, number: int) -> None:
        """Send each a signal."""
        for member in self.members:
            member.signal(number)

    def running(self) -> list[Running]:
        """Return those that have not ended."""
        return [member for member in self.members if not member.ended()]

    def kill(self) -> int:
        """End those that run as a crash does; return how many."""
        killed = self.running()
        for member in killed:
            member.kill()
        return len(killed)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop them all with all their processes (SIGSTOP)."""
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(frozen(member.pid))
            yield


@dataclass
class Lab:
    """One database, a queue for each pipeline, and the command that reaches all of them through proxies."""

    command: Command
    lines: tuple[Line, ...]
    database: LoginDatabase
    sqs: FaultySqs
    wire: TcpProxy
    word: str = field(default_factory=lambda: f"canary{secrets.token_hex(6)}")

    @property
    def queue(self) -> Queue:
        """The queue of the first pipeline."""
        return self.lines[0].queue

    @property
    def good(self) -> int:
        """How many messages were sent that become rows."""
        return sum(line.good for line in self.lines)

    @property
    def bad(self) -> int:
        """How many were sent that are rejected."""
        return sum(line.bad for line in self.lines)

    def send(self, good: int, bad: int = 0) -> None:
        """Send messages past the proxy: so many that become rows, so many that are rejected; each queue its share."""
        count = len(self.lines)
        for place, line in enumerate(self.lines):
            line.send(self.word, (good + place) // count, (bad + place) // count)

    def start(self, *arguments: str) -> Crew:
        """Start all pipelines."""
        if TOGETHER:
            return Crew((self.command.start(*arguments),))
        return Crew(tuple(self.command.start(*arguments, COATCHECK_PIPELINE=line.name) for line in self.lines))

    def workers(self, crew: Crew) -> list[int]:
        """Return the pids of the workers of supervisors that run."""
        return [pid for member in crew.running() for pid in self.command.workers(member)]

    def kill(self, crew: Crew) -> int:
        """End processes and their workers as a crash does; return how many."""
        workers = self.workers(crew)
        killed = crew.kill()
        for pid in alive(workers):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        wait_until(lambda: not alive(workers), "the workers are gone")
        return killed

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
        for line in self.lines:
            self.command("run", "--drain", "--json", COATCHECK_PIPELINE=line.name)
        return all(line.queue.depth() == (0, 0, 0) for line in self.lines)

    def verdict(self) -> Verdict:
        """Hold what is stored against what was sent."""
        found = [self._verdict(line) for line in self.lines]
        counts = {name: sum(one[name] for one in found) for name in found[0]}
        return Verdict(**counts, leaks=tuple(self.leaks()))

    def _verdict(self, line: Line) -> dict[str, int]:
        """Count what became of the messages of one pipeline, wherever they are."""
        mine = f"device_type = '{line.name}'" if len(self.lines) > 1 else "true"
        where = {
            other.name: dict[str, int](
                self.database.execute(f"SELECT user_id, count(*) FROM {other.table} WHERE {mine} GROUP BY user_id")
            )
            for other in self.lines
        }
        users = where.pop(line.name)
        sent = {f"user-{number}" for number in range(line.good)}
        elsewhere = set[str]().union(*where.values())
        rows = int(self.database.value(f"SELECT count(*) FROM {line.table}"))
        quarantined, rejects = self.database.execute(
            "SELECT count(*), count(DISTINCT message_key) FROM coatcheck.quarantine WHERE pipeline = %s", line.name
        )[0]
        return {
            "messages": line.good + line.bad,
            "rows": rows,
            "quarantined": quarantined,
            "lost": len(sent - users.keys() - elsewhere) + max(0, line.bad - rejects),
            "doubled": sum(count - 1 for count in users.values()) + quarantined - rejects,
            "strange": len(users.keys() - sent) + max(0, rejects - line.bad),
            "misplaced": sum(sum(counts.values()) for counts in where.values()),
            "left": sum(line.queue.depth()),
        }

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
    pipelines: Sequence[str] = PAIR[:1],
) -> Iterator[Lab]:
    """Put up the proxies, the queues and the command. The database is migrated for the first pipeline."""
    with ExitStack() as stack:
        queues = [stack.enter_context(new_queue(sqs, VisibilityTimeout=visibility_s)) for _ in pipelines]
        faulty = stack.enter_context(FaultySqs(sqs.port, seed=seed))
        wire = stack.enter_context(TcpProxy("127.0.0.1", database.server.port))
        command = stack.enter_context(commanding(folder, queues[0], database, keyring))
        command.environment["AWS_ENDPOINT_URL"] = faulty.url
        command.environment["DATABASE_URL"] = psycopg.conninfo.make_conninfo(database.dsn, port=wire.port)
        command.set(SOURCE__WAIT_SECONDS=1, SOURCE__MAX_IN_FLIGHT=400, BATCH__MESSAGES=100, RUN__DRAIN_SECONDS=5)
        lines = tuple(
            Line(name, queue, "user_logins" if name == PAIR[0] else f"{name}_logins")
            for name, queue in zip(pipelines, queues, strict=True)
        )
        if len(lines) > 1:
            _several(command, lines)
        yield Lab(command, lines, database, faulty, wire)


def _several(command: Command, lines: Sequence[Line]) -> None:
    """Configure pipelines by the environment, and make the tables of those that have none."""
    command.set(LEDGER__KEY=LEDGER_KEY)
    for line in lines:
        own = {"SOURCE__QUEUE": line.queue.name, "TARGET__TABLE": line.table}
        command.set(**{f"PIPELINES__{line.name.upper()}__{option}": value for option, value in own.items()})
    for line in lines[1:]:
        command("migrate", COATCHECK_PIPELINE=line.name)


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
