"""Promise of a rotation, as a user sees it: no group of duplicates is torn at any moment, and the old key is gone."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.support.fix_servers import LoginDatabase, Queue, commanding, feeding, login, logins, new_queue
from tests.support.process import Command, Done, Running, wait_until

from coatcheck.demo.servers import SqsServer

ROWS = 100_000
VALUES = 2000
MASKED = ("masked_ip", "masked_device_id")
CONFIG = """
[columns]
user_id          = { from = "user_id", type = "varchar(128)", required = true }
masked_device_id = { from = "device_id", type = "varchar(256)", mask = "token", domain = "device"%s }
"""
FROZEN = 'the canonical form of domain device is "text/v1" under k1, [columns] says "text/v1+casefold"'
UNDO = "its tokens would change unseen: undo parse, casefold and strip_chars, or begin a new key with "


@pytest.fixture(autouse=True)
def _one_database(command: Command) -> None:
    """Let the keyring, which other tests have used, know of this test's database only."""
    (Path(command.environment["COATCHECK_KEYS__PATH"]) / "databases.json").unlink(missing_ok=True)


@pytest.fixture
def queue(sqs: SqsServer) -> Iterator[Queue]:
    """A queue whose messages come back soon."""
    with new_queue(sqs, VisibilityTimeout=30) as new:
        yield new


@pytest.fixture
def command(tmp_path: Path, queue: Queue, login_database: LoginDatabase, own_keyring: Path) -> Iterator[Command]:
    """The command with a keyring that is its own."""
    with commanding(tmp_path, queue, login_database, own_keyring) as ready:
        ready.set(SOURCE__WAIT_SECONDS=1)
        yield ready


def said(done: Done, *lines: str) -> None:
    """Hold everything that was printed against the transcript."""
    assert (done.out + done.err).splitlines() == list(lines)


def refused(command: Command, code: int, *arguments: str, error: str, hint: str) -> None:
    said(command(*arguments, code=code), f"coatcheck: error: {error}", f"coatcheck: hint: {hint}")


def token_keys(command: Command) -> list[tuple[str, bool]]:
    return [(key["kid"], key["active"]) for key in command("keys", "list", "--json").json() if key["kind"] == "token"]


def key_ids(database: LoginDatabase) -> set[str]:
    found = database.execute(
        "SELECT DISTINCT split_part(masked_ip, '_', 3), split_part(masked_device_id, '_', 3) FROM user_logins"
    )
    return {kid for row in found for kid in row}


class Eye:
    """Looks at the view over and over, from a connection of its own."""

    def __init__(self, database: LoginDatabase) -> None:
        self._database = LoginDatabase(database.server, database.name)
        self.torn: list[tuple[int, ...]] = []
        self.samples: list[tuple[int, bool]] = []

    def look(self, table: str = "user_logins_current") -> None:
        """Every user has one address and one device of its own: as many groups as there are users, of any column.

        All of it is one snapshot.
        """
        [(groups, users, addresses, devices, old, new)] = self._database.execute(
            "SELECT count(*), count(DISTINCT user_id), count(DISTINCT masked_ip), count(DISTINCT masked_device_id),"
            " (SELECT count(*) FROM user_logins WHERE starts_with(masked_ip, 'pt1_ip_k1_')),"
            " (SELECT count(*) FROM user_logins WHERE starts_with(masked_ip, 'pt1_ip_k2_'))"
            f" FROM (SELECT DISTINCT user_id, masked_ip, masked_device_id FROM {table}) AS seen"
        )
        self.samples.append((users, old > 0 and new > 0))
        if len({groups, users, addresses, devices}) > 1:
            self.torn.append((groups, users, addresses, devices))

    @contextmanager
    def looking(self) -> Iterator[None]:
        over = threading.Event()

        def look() -> None:
            while not over.is_set():
                self.look()

        with ThreadPoolExecutor(1) as pool:
            task = pool.submit(look)
            try:
                yield
            finally:
                over.set()
            task.result()

    def close(self) -> None:
        self._database.close()


class Stream:
    """Sends values that are known and new ones, half and half, as fast as they are taken."""

    def __init__(self, queue: Queue) -> None:
        self._queue = Queue(queue.endpoint, queue.name)
        self.sent, self.next = 0, VALUES

    def _send(self) -> None:
        known = [login((self.sent + number) % self.next) for number in range(50)]
        self.sent += self._queue.send([*known, *logins(25, first=self.next), *logins(25, first=self.next)])
        self.next += 25

    @contextmanager
    def flowing(self) -> Iterator[Stream]:
        over = threading.Event()

        def flow() -> None:
            while not over.is_set():
                if self._queue.depth()[0]:
                    over.wait(0.02)
                else:
                    self._send()

        with ThreadPoolExecutor(1) as pool:
            task = pool.submit(flow)
            try:
                yield self
            finally:
                over.set()
            task.result()
        self._queue.close()


def batches(database: LoginDatabase) -> set[str]:
    """Return the keys that batches were masked under since the rotation."""
    found = database.execute(
        "SELECT DISTINCT kid FROM coatcheck.batch"
        " WHERE committed_at > (SELECT changed_at FROM coatcheck.token_key WHERE kid = 'k2')"
    )
    return {kid for (kid,) in found}


def filled(command: Command, queue: Queue, database: LoginDatabase) -> None:
    """Load each value once, then multiply the rows."""
    with feeding(queue, logins(VALUES)):
        assert command.drain()["loaded"] == VALUES
    copies = ROWS // VALUES - 1
    database.execute(f"INSERT INTO user_logins SELECT l.* FROM user_logins AS l, generate_series(1, {copies})")
    database.execute("ANALYZE user_logins")
    assert database.rows() == ROWS


def resumed(command: Command, database: LoginDatabase) -> None:
    """Re-tokenize, killed in the middle of the table and started again."""
    running = command.start("keys", "retokenize")
    wait_until(lambda: "k2" in kids_of(database, "coatcheck.vault", "token"), "the vault is at it")
    wait_until(lambda: done_rows(database) > ROWS // 20 or running.ended(), "rows are done")
    assert running.kill().code == -signal.SIGKILL, "it came too late to mean anything"
    assert done_rows(database) < ROWS
    command("keys", "retokenize")


def kids_of(database: LoginDatabase, table: str, column: str) -> set[str]:
    return {kid for (kid,) in database.execute(f"SELECT DISTINCT split_part({column}, '_', 3) FROM {table}")}


def done_rows(database: LoginDatabase) -> int:
    return int(database.value("SELECT count(*) FROM user_logins WHERE starts_with(masked_ip, 'pt1_ip_k2_')"))


def shut_out(command: Command, queue: Queue, database: LoginDatabase, before: Running) -> None:
    """A worker that has run on with the old key since before the rotation: its next batch ends it, and comes back."""
    rows = database.rows()
    queue.send(logins(10, first=50_000))
    ended = before.wait()
    assert ended.code == 2
    assert "coatcheck: error: cannot write to the database: PostgreSQL answers CC001\n" in ended.err
    assert "coatcheck: hint: another keyring is in use by now: bring it here and start again\n" in ended.err
    assert database.rows() == rows
    assert sum(queue.depth()) == 10
    assert command.drain()["loaded"] == 10


def test_a_rotation_tears_no_group_at_any_moment(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    """200,000 rows, a worker with the old keyring and one with the new one, and the job killed in the middle."""
    filled(command, queue, login_database)
    before = command.start("run")
    wait_until(lambda: login_database.connections() or before.ended(), "the old worker is there")
    said(
        command("keys", "rotate"),
        "k2 is the active token key, k1 retires",
        "until then groups and joins are whole in the view public.user_logins_current",
        "next: bring the keyring to every loader and start it again, then `coatcheck keys retokenize` and "
        "`coatcheck keys retire k1`",
    )
    after = command.start("run")
    with closing(Eye(login_database)) as eye, eye.looking(), Stream(queue).flowing() as stream:
        wait_until(lambda: stream.sent and batches(login_database) >= {"k1", "k2"}, "both write")
        resumed(command, login_database)
    wait_until(lambda: sum(queue.depth()) == 0, "all is loaded")
    assert not before.ended()
    after.signal(signal.SIGTERM)
    assert after.wait().code == 0
    command("keys", "retokenize")
    assert eye.torn == []
    assert sum(mixture for _, mixture in eye.samples) >= 5, "the samples came too late to mean anything"
    assert eye.samples[-1][0] > VALUES, "no new value came while it was looked at"
    said(
        command("keys", "retire", "k1"),
        "k1 is retired in this database: no token of it is left, and none can be written",
    )
    assert token_keys(command) == [("k2", True)]
    assert key_ids(login_database) == {"k2"}
    assert kids_of(login_database, "coatcheck.vault", "token") == {"k2"}
    assert login_database.rows() == ROWS + stream.sent
    shut_out(command, queue, login_database, before)
    with closing(Eye(login_database)) as last:
        last.look("user_logins")
        last.look()
    assert (last.torn, [users for users, _ in last.samples]) == ([], [stream.next + 10] * 2)


def test_transcripts_of_a_token_key(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    refused(
        command, 4, "keys", "retokenize",
        error="k1 is the only token key", hint="begin with `coatcheck keys rotate`",
    )  # fmt: skip
    refused(
        command, 4, "keys", "retire", "k1",
        error="k1 is the active key", hint="rotate first: `coatcheck keys rotate`",
    )  # fmt: skip
    queue.send([*logins(5), *logins(5)])
    command.drain()
    keyring = Path(command.environment["COATCHECK_KEYS__PATH"])
    outdated = str(shutil.copytree(keyring, keyring.with_name("outdated")))
    command("keys", "rotate")
    refused(
        command, 4, "keys", "rotate",
        error="the rotation to k2 is not over",
        hint="finish it with `coatcheck keys retokenize` and `coatcheck keys retire k1`",
    )  # fmt: skip
    refused(
        command, 2, "keys", "retire", "k7",
        error='the key "k7" is not in the keyring', hint="see `coatcheck keys list` for those that are",
    )  # fmt: skip
    refused(
        command, 4, "keys", "retire", "k1",
        error="rows of public.user_logins still have tokens under k1: masked_ip 10, masked_device_id 10",
        hint="run `coatcheck keys retokenize`; columns without a vault have to be loaded anew",
    )  # fmt: skip
    assert token_keys(command) == [("k1", False), ("k2", True)]
    said(command("keys", "retokenize"), "10 vault entries and 10 rows are under the active key now")
    said(command("keys", "retokenize"), "0 vault entries and 0 rows are under the active key now")
    said(
        command("keys", "retire", "k1"),
        "k1 is retired in this database: no token of it is left, and none can be written",
    )
    refused(
        command, 2, "keys", "retire", "k1",
        error='the key "k1" is not in the keyring', hint="see `coatcheck keys list` for those that are",
    )  # fmt: skip
    ended = command("run", "--drain", code=2, COATCHECK_KEYS__PATH=outdated)
    assert ended.err.splitlines()[-2:] == [
        "coatcheck: error: the token key k1 is retired in this database",
        "coatcheck: hint: this keyring is out of date: bring the one in use",
    ]
    rows = command("keys", "list").out.splitlines()
    assert rows[1].split()[:2] == ["k2", "token"]
    assert not any(line.startswith("k1") for line in rows)
    assert login_database.rows() == 10


def test_transcripts_of_columns_that_cannot_move(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    config = command.folder / "coatcheck.toml"
    config.write_text(CONFIG % ", vault = false")
    login_database.execute("DROP TABLE user_logins")
    command("migrate")
    queue.send(logins(3))
    command.drain()
    config.write_text(CONFIG % ", vault = false, casefold = true")
    ended = command("run", "--drain", code=2)
    assert ended.err.splitlines()[-2:] == [
        f"coatcheck: error: {FROZEN}",
        f"coatcheck: hint: {UNDO}`coatcheck keys rotate`",
    ]
    said(
        command("keys", "rotate"),
        "k2 is the active token key, k1 retires",
        "until then groups and joins are whole in the view public.user_logins_current",
        "coatcheck: warning: column masked_device_id keeps no originals: its rows stay under k1 until they are "
        "loaded anew",
        "next: bring the keyring to every loader and start it again, then `coatcheck keys retokenize` and "
        "`coatcheck keys retire k1`",
    )
    said(
        command("keys", "retokenize"),
        "0 vault entries and 0 rows are under the active key now",
        "coatcheck: warning: 3 rows of column masked_device_id are still under the old key",
    )
    queue.send(logins(3))
    command.drain()
    said(command("keys", "retokenize"), "0 vault entries and 3 rows are under the active key now")
    command("keys", "retire", "k1")


def test_transcripts_of_a_seal_key(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    queue.send([*logins(3), "no json"])
    command.drain()
    [old] = [key["kid"] for key in command("keys", "list", "--json").json() if key["kind"] == "seal"]
    folder = Path(command.environment["COATCHECK_KEYS__PATH"])
    refused(
        command, 4, "keys", "retire-seal", old,
        error=f"{old} is the seal key in use", hint="rotate first: `coatcheck keys rotate-seal`",
    )  # fmt: skip
    lines = command("keys", "rotate-seal").out.splitlines()
    assert lines[-1] == "wrapped 1 data keys anew"
    assert f"wrote {folder / f'seal-private.{old}.pem'}" in lines
    said(command("keys", "rewrap"), "wrapped 0 data keys anew")
    said(command("keys", "retire-seal", old), f"seal key {old} is gone")
    refused(
        command, 2, "keys", "retire-seal", old,
        error=f'the keyring {folder} keeps no older seal key "{old}"',
        hint="see `coatcheck keys list` for those that it keeps",
    )  # fmt: skip
    shown = command.folder / "body"
    command("reveal", "policy", "one_person=true")
    command("quarantine", "show", "1", "--reason", "INCIDENT", "--ticket", "OPS-1", "--output", str(shown))
    assert shown.read_text() == "no json\n"
    trail = login_database.execute("SELECT event, detail FROM coatcheck.audit ORDER BY seq")
    assert [event for event, _ in trail][-5:] == [
        "seal key retired", "policy changed", "reveal requested", "reveal opened", "reveal shown",
    ]  # fmt: skip
    assert [json.loads(detail) for event, detail in trail if event == "seal key retired"] == [{"key": old}]
