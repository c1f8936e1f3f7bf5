"""The campaign: a worker is killed again and again while all else goes wrong too; then the verdict.

    python -m tests.faults.soak --cycles 1000 --seed 1     # `make soak`
    python -m tests.faults.soak --cycles 20 --json FILE

Two pipelines load from two queues into two tables of one database, with one keyring and the same domains. A cycle
starts a supervisor with a worker for each (every fourth time two), sends some messages, lets one or two faults loose,
and ends them: mostly by SIGKILL, at a moment drawn from the seed. After the last cycle everything is let through, the
rest is loaded, and each message is held against what is stored, in the table of its own pipeline. Exit code 1 if a
promise was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.faults.faulty_sqs import DELETE, EXTEND, RECEIVE, Fault
from tests.faults.lab import PAIR, TOGETHER, VISIBILITY_S, Crew, Lab, Verdict, laboratory, own_servers
from tests.support.process import alive, wait_until

SQS_FAULTS = (
    Fault("unavailable", 0.3),
    Fault("internal", 0.3),
    Fault("throttled", 0.5),
    Fault("expired", 0.2),
    Fault("cut", 0.3),
    Fault("lost", 0.2),
    Fault("truncated", 0.2),
    Fault("slow", 0.5),
    Fault("stalled", 0.1),
    Fault("damaged", 0.3, (RECEIVE,)),
    Fault("twice", 0.5, (RECEIVE,)),
    Fault("shuffled", 1.0, (RECEIVE,)),
    Fault("partial", 0.5, (DELETE, EXTEND)),
    Fault("stale", 0.5, (DELETE,)),
    Fault("lost", 0.5, (DELETE,)),
)
PATIENCE_S = 30.0
_OPERATIONS = {RECEIVE: "SQS: receive", DELETE: "SQS: delete", EXTEND: "SQS: extend or release"}


@dataclass
class Campaign:
    """What is done to one laboratory, and what was seen."""

    lab: Lab
    rng: random.Random
    cycles: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    recoveries: dict[str, float] = field(default_factory=dict)

    def cycle(self, number: int) -> None:
        """Start, send, disturb, end."""
        rng, lab = self.rng, self.lab
        self.cycles += 1
        workers = "2" if number % 4 == 3 else "1"
        before = lab.done()
        running = lab.start("run", "--workers", workers)
        lab.send(rng.randrange(30, 120), rng.randrange(5))
        if rng.random() < 0.4:
            lab.sqs.faults = (rng.choice(SQS_FAULTS),)
        self._some_effects(running)
        if rng.random() < 0.5:
            wait_until(
                lambda: lab.done() > before, "it works: a database that is away ends it at its start", PATIENCE_S
            )
            self._disturb(running)
        self._end(running, workers)
        lab.sqs.heal()

    def _some_effects(self, running: Crew) -> None:
        """Let the worker come to where it works, more or less; a fault may well keep it from that."""
        goal, deadline = self.lab.done() + self.rng.randrange(60), time.monotonic() + 1.5
        while self.lab.done() < goal and time.monotonic() < deadline and not running.ended():
            time.sleep(0.01)
        assert not running.ended(), f"it ended by itself: {running.err[-1000:]}"

    def _disturb(self, running: Crew) -> None:
        kinds: dict[str, tuple[int, Callable[[Crew], None]]] = {
            "connections to PostgreSQL cut": (8, self._cut),
            "answers of PostgreSQL lost": (8, self._mute),
            "statements never arrive": (8, self._deafen),
            "backends terminated": (8, self._terminate),
            "table locked": (4, self._lock),
            "PostgreSQL away": (4, self._refuse),
            "answers of PostgreSQL cut in the middle": (6, self._halve),
            "slow network to PostgreSQL": (4, self._slow),
            "PostgreSQL reads only": (4, self._read_only),
            "statements time out": (4, self._statement_timeout),
            "locks time out": (4, self._lock_timeout),
            "another worker comes and is killed": (4, self._another),
            "worker frozen for a moment": (4, self._pause),
            "worker frozen beyond the visibility timeout": (1, self._freeze),
            "PostgreSQL killed": (1, self._crash),
            "PostgreSQL restarted": (1, self._restart),
        }
        kind = self.rng.choices(list(kinds), [weight for weight, _ in kinds.values()])[0]
        self.faults[kind] += 1
        self.lab.send(40)
        kinds[kind][1](running)

    def _recovers(self, kind: str, running: Crew) -> None:
        """Measure the seconds from now, when all is well again, to the next effect."""
        self.lab.sqs.heal()
        self.lab.send(10)
        began, before = time.monotonic(), self.lab.done()
        wait_until(lambda: self.lab.done() > before or running.ended(), f"it recovers: {kind}", PATIENCE_S)
        took = time.monotonic() - began
        assert not running.ended(), f"it ended by itself: {running.err[-1000:]}"
        self.recoveries[kind] = max(self.recoveries.get(kind, 0.0), took)

    def _cut(self, running: Crew) -> None:
        self.lab.wire.cut()
        self._recovers("connections to PostgreSQL cut", running)

    def _mute(self, running: Crew) -> None:
        seen = self.lab.wire.swallowed
        self.lab.wire.mute()
        self._swallowed(seen)
        self.lab.wire.cut()
        self._recovers("answers of PostgreSQL lost", running)

    def _deafen(self, running: Crew) -> None:
        seen = self.lab.wire.swallowed
        self.lab.wire.deafen()
        self._swallowed(seen)
        self.lab.wire.cut()
        self._recovers("statements never arrive", running)

    def _swallowed(self, seen: int) -> None:
        self._in_vain(lambda: self.lab.wire.swallowed == seen, 2.0)

    def _terminate(self, running: Crew) -> None:
        self.lab.database.terminate()
        self._recovers("backends terminated", running)

    def _lock(self, running: Crew) -> None:
        with self.lab.database.session() as session, session.transaction():
            session.execute(f"LOCK TABLE {self._table()}".encode())
            self._in_vain(lambda: not self.lab.database.waiting(), 0.5)
        self._recovers("table locked", running)

    def _table(self) -> str:
        return self.rng.choice(self.lab.lines).table

    def _refuse(self, running: Crew) -> None:
        seen = self.lab.wire.connections
        self.lab.wire.refusing = True
        self.lab.wire.cut()
        self._in_vain(lambda: self.lab.wire.connections < seen + 3, 2.0)
        self.lab.wire.refusing = False
        self._recovers("PostgreSQL away", running)

    def _halve(self, running: Crew) -> None:
        seen = self.lab.wire.halved
        self.lab.wire.halve()
        self._in_vain(lambda: self.lab.wire.halved == seen, 2.0)
        self._recovers("answers of PostgreSQL cut in the middle", running)

    def _slow(self, running: Crew) -> None:
        before = self.lab.done()
        self.lab.wire.delay_s = 0.02
        self._in_vain(lambda: self.lab.done() < before + 30, 1.0)
        self.lab.wire.delay_s = 0.0
        self._recovers("slow network to PostgreSQL", running)

    def _read_only(self, running: Crew) -> None:
        self._setting("ALTER SYSTEM SET default_transaction_read_only = on", "25006", running)
        self.lab.database.execute("ALTER SYSTEM RESET default_transaction_read_only")
        self.lab.database.execute("SELECT pg_reload_conf()")
        self._recovers("PostgreSQL reads only", running)

    def _statement_timeout(self, running: Crew) -> None:
        name = self.lab.database.name
        self._setting(f"ALTER DATABASE {name} SET statement_timeout = '1ms'", "57014", running)
        self.lab.database.execute(f"ALTER DATABASE {name} RESET statement_timeout")
        self.lab.database.terminate()
        self._recovers("statements time out", running)

    def _lock_timeout(self, running: Crew) -> None:
        name = self.lab.database.name
        with self.lab.database.session() as session, session.transaction():
            session.execute(f"LOCK TABLE {self._table()}".encode())
            self._setting(f"ALTER DATABASE {name} SET lock_timeout = '20ms'", "55P03", running)
        self.lab.database.execute(f"ALTER DATABASE {name} RESET lock_timeout")
        self.lab.database.terminate()
        self._recovers("locks time out", running)

    def _setting(self, statement: str, sqlstate: str, running: Crew) -> None:
        """Change a setting for all sessions to come, and give the worker a second to run into it."""
        said = running.err.count(f"sqlstate={sqlstate}")
        self.lab.database.execute(statement)
        self.lab.database.execute("SELECT pg_reload_conf()")
        self.lab.database.terminate()
        self._in_vain(lambda: running.err.count(f"sqlstate={sqlstate}") == said, 1.0)

    def _another(self, running: Crew) -> None:
        before = self.lab.done()
        another = self.lab.start("run")
        self._in_vain(lambda: self.lab.done() < before + 30, 1.0)
        self.faults["SIGKILL of another's processes"] += self.lab.kill(another)
        self._recovers("another worker comes and is killed", running)

    def _pause(self, running: Crew) -> None:
        with running.frozen():
            time.sleep(0.5)  # the fault itself
        self._recovers("worker frozen for a moment", running)

    @staticmethod
    def _in_vain(wait: Callable[[], bool], seconds: float) -> None:
        """Wait while it holds; it may do so to the end: what has nothing to say says nothing."""
        deadline = time.monotonic() + seconds
        while wait() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _freeze(self, running: Crew) -> None:
        with running.frozen():
            time.sleep(VISIBILITY_S + 0.5)  # the fault itself: it sleeps for longer than its leases last
        self._recovers("worker frozen beyond the visibility timeout", running)

    def _crash(self, running: Crew) -> None:
        self.lab.database.server.kill()
        self.lab.database.server.start()
        self._recovers("PostgreSQL killed", running)

    def _restart(self, running: Crew) -> None:
        self.lab.database.server.restart()
        self._recovers("PostgreSQL restarted", running)

    def _end(self, running: Crew, workers: str) -> None:
        members = self.lab.workers(running) if workers == "2" or TOGETHER else []
        drawn = self.rng.random()
        assert not running.ended(), f"it ended by itself: {running.err[-1000:]}"
        if drawn < 0.1:
            self.faults["SIGTERM"] += 1
            running.signal(signal.SIGTERM)
            self._in_vain(lambda: bool(running.running()), self.rng.random())
        elif members and drawn < 0.5:
            self.faults["SIGKILL of one worker of several"] += 1
            with suppress(ProcessLookupError):
                os.kill(self.rng.choice(members), signal.SIGKILL)
        self.faults["SIGKILL of the supervisor" if members else "SIGKILL of the worker"] += running.kill()
        for pid in alive(members):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(members), "the workers are gone")

    def kills(self) -> int:
        """Return how many processes were killed."""
        return sum(count for kind, count in self.faults.items() if kind.startswith("SIGKILL"))


def tell(campaign: Campaign, verdict: Verdict, seed: int, took: float) -> dict[str, object]:
    """Print what was done and what became of it; return it as one record."""
    met = {f"{_OPERATIONS.get(where, where)} {kind}": count for (kind, where), count in campaign.lab.sqs.met.items()}
    faults = campaign.faults + Counter(met)
    print(f"seed {seed}: {campaign.kills():,} kills in {took:,.0f} s")
    print(f"messages {verdict.messages:,}: {verdict.rows:,} rows, {verdict.quarantined:,} in quarantine")
    leaked = len(verdict.leaks)
    print(
        f"lost {verdict.lost}, doubled {verdict.doubled}, leaked {leaked}, in the wrong table {verdict.misplaced}, "
        f"left on the queues {verdict.left}"
    )
    print(f"{len(faults)} kinds of fault, {sum(faults.values()):,} in all:")
    for kind, count in faults.most_common():
        slowest = campaign.recoveries.get(kind)
        print(f"  {count:6,} {kind}" + (f"; slowest recovery {slowest:.1f} s" if slowest is not None else ""))
    return {
        "command": f"python -m tests.faults.soak --cycles {campaign.cycles} --seed {seed}",
        "machine": f"{os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": seed,
        "seconds": round(took),
        "kills": campaign.kills(),
        "verdict": asdict(verdict),
        "faults": dict(faults.most_common()),
        "recovery_s": {kind: round(worst, 2) for kind, worst in campaign.recoveries.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a campaign."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description="kill cycles and their verdict")
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after so long, whatever the cycles")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, own_servers(Path(name)) as (sqs, database, keyring):
        folder = Path(name) / "work"
        folder.mkdir()
        with laboratory(folder, sqs=sqs, database=database, keyring=keyring, seed=options.seed, pipelines=PAIR) as lab:
            campaign = Campaign(lab, random.Random(options.seed))  # noqa: S311 - a campaign that repeats
            for number in range(options.cycles):
                campaign.cycle(number)
                if number % 20 == 19:
                    print(f"{number + 1:,} cycles, {lab.done():,} messages", file=sys.stderr, flush=True)
                if time.monotonic() - began > options.minutes * 60:
                    break
            verdict = lab.finish()
            record = tell(campaign, verdict, options.seed, time.monotonic() - began)
    if options.json:
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    for place in verdict.leaks:
        print(f"leaked: {place}")
    return 0 if verdict.kept else 1


if __name__ == "__main__":
    sys.exit(main())
