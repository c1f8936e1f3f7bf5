"""PostgreSQL away, full, slow, another one: batches wait for it, and nothing is lost or doubled."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from tests.faults.lab import Lab, laboratory
from tests.support.fix_servers import LoginDatabase
from tests.support.process import Running, wait_until

from coatcheck.demo.servers import PostgresServer, SqsServer, find_postgres

RECOVERY_S = 5.0
"""How soon after PostgreSQL is back the next effect is there."""
MIB = 1 << 20


def stop(running: Running) -> None:
    """Stop it in good order."""
    running.signal(15)
    assert running.wait().code == 0


@pytest.mark.parametrize("way", ["restart", "kill"])
def test_how_soon_it_goes_on(lab: Lab, way: str) -> None:
    """Down for long enough that it has backed off as far as it does in seconds."""
    running = lab.command.start("run")
    lab.send(200)
    lab.more(20)
    seen = lab.wire.connections
    lab.wire.refusing = True  # while the server itself comes back in a moment
    if way == "kill":
        lab.database.server.kill()
        lab.database.server.start()
    else:
        lab.database.server.restart()
    lab.send(200)
    wait_until(lambda: lab.wire.connections >= seen + 20, "it waits as long as it ever does between two tries")
    lab.wire.refusing = False
    began, before = time.monotonic(), lab.done()
    wait_until(lambda: lab.done() > before, "it goes on")
    took = time.monotonic() - began
    lab.more(400)
    stop(running)
    verdict = lab.finish()
    assert verdict.kept, verdict
    assert took <= RECOVERY_S


def test_a_slow_network(lab: Lab) -> None:
    lab.wire.delay_s = 0.02
    lab.send(300, 5)
    running = lab.command.start("run")
    lab.more(305)
    stop(running)
    verdict = lab.finish()
    assert verdict.kept, verdict


def test_answers_that_are_cut_in_the_middle(lab: Lab) -> None:
    lab.send(10)
    running = lab.command.start("run")
    lab.more(10)  # at its start it would say that it cannot connect, and end
    for _ in range(8):
        lab.send(60, 1)
        seen = lab.wire.halved
        lab.wire.halve()
        wait_until(lambda: lab.wire.halved > seen, "an answer is cut")  # noqa: B023 - waited for here
    lab.more(498)
    stop(running)
    verdict = lab.finish()
    assert verdict.kept, verdict


def told(running: Running, sqlstate: str) -> None:
    """Wait until it says that PostgreSQL refuses a batch for now, and why."""
    wait_until(lambda: f"sqlstate={sqlstate}" in running.err or running.ended(), f"it says {sqlstate}")
    assert not running.ended(), running.err


def test_too_many_connections(lab: Lab) -> None:
    """The limit is reached while it runs, and there is room again later."""
    role = lab.database.role("coatcheck_loader", "INSERT, SELECT ON user_logins")
    lab.command.environment["DATABASE_URL"] = psycopg.conninfo.make_conninfo(role, port=lab.wire.port)
    running = lab.command.start("run")
    lab.send(100)
    lab.more(20)
    lab.database.execute(f"ALTER ROLE {lab.database.roles[-1]} CONNECTION LIMIT 0")
    lab.wire.cut()
    lab.send(100)
    told(running, "53300")
    lab.database.execute(f"ALTER ROLE {lab.database.roles[-1]} CONNECTION LIMIT -1")
    lab.more(200)
    stop(running)
    verdict = lab.finish()
    assert verdict.kept, verdict


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """Mount a file system of 24 MiB that belongs to the server's user."""
    place.mkdir()
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=24m,mode=0777", "none", str(place)]
    if mount is None or os.geteuid() or subprocess.run([mount, *options], capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)


def test_the_disk_is_full(lab: Lab, tmp_path: Path) -> None:
    """The table's own disk: PostgreSQL refuses rows (53100) until somebody makes room."""
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o711)
    with small_disk(tmp_path / "disk") as disk:
        data = disk / "data"
        data.mkdir()
        shutil.chown(data, "nobody")
        lab.database.execute(f"CREATE TABLESPACE full_{os.getpid()} LOCATION '{data}'")
        lab.database.execute(f"ALTER TABLE user_logins SET TABLESPACE full_{os.getpid()}")
        ballast = disk / "ballast"
        running = lab.command.start("run")
        lab.send(50)
        lab.more(50)
        with suppress_full(), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(64 * 1024))
        lab.send(1500)
        told(running, "53100")
        assert lab.done() < 1550
        ballast.unlink()
        lab.more(1550)
        stop(running)
        verdict = lab.finish()
        lab.database.execute("ALTER TABLE user_logins SET TABLESPACE pg_default")
        lab.database.execute(f"DROP TABLESPACE full_{os.getpid()}")
    assert verdict.kept, verdict


@contextmanager
def suppress_full() -> Iterator[None]:
    """Expect that there is no space left."""
    with pytest.raises(OSError, match="No space left"):
        yield


class Standby(PostgresServer):
    """A copy of a server that follows it until it is promoted."""

    label = "PostgreSQL standby"

    def _answers(self, port: int) -> bool:  # noqa: ARG002 - its own status file says it
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()[7].strip() in ("ready", "standby")
        except (OSError, IndexError):
            return False


def follow(primary: PostgresServer, folder: Path) -> Standby:
    """Make a standby of a server, without starting it."""
    data = folder / "standby"
    done = subprocess.run(
        [find_postgres() / "pg_basebackup", "-D", data, "-d", primary.dsn, "-R", "-c", "fast", "-X", "stream"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if os.geteuid() == 0:
        for path in (data, *data.rglob("*")):
            shutil.chown(path, "nobody")
        for parent in data.parents[:4]:
            parent.chmod(parent.stat().st_mode | 0o711)
    return Standby(data=data, options=("hot_standby=on",))


def test_a_standby_takes_over(tmp_path: Path, sqs: SqsServer, keyring: Path) -> None:
    """Commits wait for the standby; the primary is killed under load, the standby promoted, the name leads to it."""
    replicating = ("wal_level=replica", "max_wal_senders=5")
    with PostgresServer(options=replicating) as primary:
        database = LoginDatabase(primary, "logins")
        database.create("template1")
        folder = tmp_path / "lab"
        folder.mkdir()
        with laboratory(folder, sqs=sqs, database=database, keyring=keyring) as lab:
            lab.command("migrate")
            with follow(primary, tmp_path) as standby:
                database.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                database.execute("ALTER SYSTEM SET synchronous_commit = 'remote_apply'")
                database.execute("SELECT pg_reload_conf()")
                wait_until(
                    lambda: database.value("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"),
                    "the standby follows",
                )
                running = lab.command.start("run")
                lab.send(300, 5)
                lab.more(100)
                lab.send(300, 5)
                primary.kill()
                lab.wire.aim("127.0.0.1", standby.port)
                lab.wire.cut()
                database.close()
                lab.database = LoginDatabase(standby, "logins")
                lab.database.execute("SELECT pg_promote()")
                lab.database.execute("ALTER SYSTEM RESET synchronous_standby_names")
                lab.database.execute("SELECT pg_reload_conf()")
                began = time.monotonic()
                before = lab.done()
                wait_until(lambda: lab.done() > before, "it goes on")
                assert time.monotonic() - began <= RECOVERY_S
                lab.more(610)
                stop(running)
                verdict = lab.finish()
                lab.database.close()
    assert verdict.kept, verdict
