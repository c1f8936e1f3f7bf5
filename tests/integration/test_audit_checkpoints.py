"""Checkpoints of a real trail: into files, printed, and by a process that goes on, whatever goes away meanwhile."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.support.fix_postgres import LIMIT, Database
from tests.support.process import Command, wait_until

from coatcheck import custody, trail
from coatcheck.config import AuditConfig, Config, KeysConfig, TargetConfig
from coatcheck.errors import ConfigError, RefusedError
from coatcheck.keys.notes import NoteError
from coatcheck.vault.checkpoints import note_name, read_checkpoint
from coatcheck.vault.follower import Follower, Outage, Schedule
from coatcheck.vault.notes_files import read_notes
from coatcheck.vault.signing import Checkpoints

CANARY = "canary-7f3a"


@pytest.fixture
def config(database: Database, tmp_path: Path) -> Config:
    config = Config(
        target=TargetConfig(dsn=SecretStr(database.dsn)),
        keys=KeysConfig(path=tmp_path / "keys"),
        audit=AuditConfig(checkpoint_to=f"{tmp_path}/notes/", checkpoint_entries=3, checkpoint_minutes=60),
    )
    trail.init_key(config, "acme")
    return config


def fill(database: Database, count: int = 3) -> None:
    for _ in range(count):
        database.execute("SELECT coatcheck.audit_append('reveal opened', %s)", CANARY)


def nowhere(note: str) -> None:
    raise AssertionError(note)


def checkpoint(config: Config, target: str | None = None) -> tuple[str | None, int]:
    return trail.checkpoint(config, target, nowhere)


def numbers(config: Config, folder: Path) -> list[int]:
    key = custody.audit_verifier(config)
    return [read_checkpoint(note, key, place).seq for place, note in read_notes(folder)]


def refused(config: Config, words: str, target: str | None = None) -> None:
    with pytest.raises(RefusedError, match=words) as caught:
        checkpoint(config, target)
    assert caught.value.exit_code == 4
    assert CANARY not in f"{caught.value.message} {caught.value.hint} {caught.value.__cause__!r}"


def test_one_file_a_checkpoint_and_none_without_anything_new(
    database: Database, config: Config, tmp_path: Path
) -> None:
    folder = tmp_path / "notes"
    assert checkpoint(config) == (None, 0), "an empty trail"
    assert not folder.exists()
    fill(database)
    assert checkpoint(config) == (str(folder / note_name(3)), 3)
    assert checkpoint(config) == (None, 3)
    fill(database, 1)
    assert checkpoint(config) == (str(folder / note_name(4)), 4)
    assert numbers(config, folder) == [3, 4]
    found = trail.verify(lambda: config, None, [folder], None)
    assert (found.confirmed, found.confirmed_to, found.before) == (2, 4, 0)


def test_what_is_signed_is_the_last_entry(database: Database, config: Config, tmp_path: Path) -> None:
    fill(database)
    checkpoint(config)
    [(place, note)] = read_notes(tmp_path / "notes")
    found = read_checkpoint(note, custody.audit_verifier(config), place)
    [(seq, hash_, at_us)] = database.execute("SELECT seq, hash, at_us FROM coatcheck.audit ORDER BY seq DESC LIMIT 1")
    assert (found.origin, found.seq, found.hash, found.at_us) == ("coatcheck/audit/v1 acme", seq, hash_, at_us)


def test_notes_in_one_file_and_printed(database: Database, config: Config, tmp_path: Path) -> None:
    path, printed = tmp_path / "notes.txt", list[str]()
    for _ in range(2):
        fill(database)
        assert checkpoint(config, str(path))[0] == str(path)
        assert checkpoint(config, str(path))[0] is None
        assert trail.checkpoint(config, "-", printed.append)[0] == "-"
    assert numbers(config, path) == [3, 6]
    assert "".join(printed) == path.read_text()
    assert trail.verify(lambda: config, None, [path, path], None).confirmed == 4


def test_a_trail_that_was_cut_off_is_not_signed(database: Database, config: Config, tmp_path: Path) -> None:
    fill(database)
    checkpoint(config)
    database.execute("DELETE FROM coatcheck.audit WHERE seq = 3")
    refused(config, "no checkpoint is signed: the audit trail was cut off: it ends with entry 2, and had 3 at")
    fill(database, 2)
    refused(config, "no checkpoint is signed: the audit trail was rewritten: entry 3")
    database.execute("TRUNCATE coatcheck.audit")
    refused(config, "it is empty, and had 3 at")
    assert numbers(config, tmp_path / "notes") == [3]


def test_a_trail_that_was_rewritten_is_not_signed(database: Database, config: Config) -> None:
    fill(database)
    checkpoint(config)
    rows = database.count("coatcheck.audit")
    database.execute("TRUNCATE coatcheck.audit")
    fill(database, rows + 2)
    refused(config, "no checkpoint is signed: the audit trail was rewritten: entry 3")


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE coatcheck.audit SET detail = 'x' WHERE seq = 3", "entry 3 was changed"),
        ("UPDATE coatcheck.audit SET detail = 'x' WHERE seq = 5", "entry 5 was changed"),
        ("DELETE FROM coatcheck.audit WHERE seq = 2", "entry 2 is missing"),
        ("DELETE FROM coatcheck.audit WHERE seq IN (3, 4)", "entries 3 to 4 are missing"),
    ],
)
def test_what_is_broken_since_the_last_checkpoint_is_not_signed(
    database: Database, config: Config, statement: str, words: str
) -> None:
    fill(database)
    checkpoint(config)
    fill(database)
    database.execute(statement)
    refused(config, f"no checkpoint is signed: {words}")


def test_what_is_broken_is_not_signed_for_the_first_time(database: Database, config: Config) -> None:
    fill(database)
    database.execute("DELETE FROM coatcheck.audit WHERE seq = 1")
    refused(config, "the first entries are missing: the trail begins with entry 2")


def test_notes_of_another_key_are_not_followed(database: Database, config: Config, tmp_path: Path) -> None:
    fill(database)
    checkpoint(config)
    for name in ("audit-private.pem", "audit-public.txt"):
        (tmp_path / "keys" / name).unlink()
    trail.init_key(config, "acme")
    with pytest.raises(NoteError, match=f"{note_name(3)} is not signed by the key coatcheck/audit/acme"):
        checkpoint(config)
    with pytest.raises(NoteError):
        trail.verify(lambda: config, None, [tmp_path / "notes"], None)


def test_another_note_in_the_place_is_not_overwritten(database: Database, config: Config, tmp_path: Path) -> None:
    fill(database)
    notes = trail.notes_at(config, f"{tmp_path}/notes/", nowhere)
    checkpoints = Checkpoints(custody.audit_signer(config), notes)
    checkpoints._looked = True  # as one does that began before another one wrote
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / note_name(3)).write_text("another")
    with database.session() as connection, pytest.raises(RefusedError, match="exists and is another checkpoint"):
        checkpoints.make(connection)
    assert (tmp_path / "notes" / note_name(3)).read_text() == "another"


def test_the_private_key_as_a_secret(database: Database, config: Config, tmp_path: Path) -> None:
    path = tmp_path / "keys" / "audit-private.pem"
    secret = path.rename(tmp_path / "secret.pem")
    fill(database)
    with pytest.raises(ConfigError, match=r"audit-private.pem is missing"):
        checkpoint(config)
    keys = config.keys.model_copy(update={"audit_key": SecretStr(f"file:{secret}")})
    assert checkpoint(config.model_copy(update={"keys": keys}))[1] == 3


# -- one that goes on


class Following:
    """A follower in a thread, and what it has told."""

    def __init__(self, config: Config, *, seconds: float = 3600.0) -> None:
        self.warned: list[str] = []
        self.wrote: list[int] = []
        self.failed: BaseException | None = None
        self._stop = threading.Event()
        self._follower = Follower(
            custody.dsn(config),
            trail._checkpoints(config, None, nowhere),
            Schedule(config.audit.checkpoint_entries, seconds, time.monotonic),
            Outage(time.monotonic, self.warned.append),
            lambda _, seq: self.wrote.append(seq),
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._follower.run(self._stop)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.failed = error

    def until(self, *numbers: int) -> None:
        wait_until(lambda: self.wrote == list(numbers) or self.failed, f"checkpoints {numbers}, not {self.wrote}")
        assert self.failed is None

    def end(self) -> BaseException | None:
        """Wait for its own end."""
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        return self.failed

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(LIMIT)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coatcheck.vault.follower._POLL_S", 0.01)
    monkeypatch.setattr("coatcheck.vault.follower._FIRST_S", 0.01)


@contextmanager
def following(config: Config, *, seconds: float = 3600.0) -> Iterator[Following]:
    follower = Following(config, seconds=seconds)
    try:
        yield follower
    finally:
        follower.stop()


def test_it_follows_by_entries(database: Database, config: Config, tmp_path: Path) -> None:
    fill(database, 1)
    with following(config) as follower:
        follower.until(1)
        fill(database, 2)
        fill(database, 1)
        follower.until(1, 4)
    assert follower.failed is None
    assert numbers(config, tmp_path / "notes") == [1, 4]
    assert database.connections() == 0


def test_it_follows_by_time(database: Database, config: Config) -> None:
    with following(config, seconds=0.05) as follower:
        fill(database, 1)
        follower.until(1)
        fill(database, 1)
        follower.until(1, 2)


def test_it_survives_the_databases_absence(database: Database, config: Config) -> None:
    with following(config, seconds=0.0) as follower:
        fill(database, 1)
        follower.until(1)
        database.terminate()
        wait_until(lambda: follower.warned, "it warns")
        fill(database, 1)
        follower.until(1, 2)
    assert all(text.endswith("; trying again") for text in follower.warned)
    assert CANARY not in "".join(follower.warned)


def test_it_ends_when_the_trail_was_tampered_with(database: Database, config: Config) -> None:
    fill(database)
    with following(config) as follower:
        follower.until(3)
        database.execute("DELETE FROM coatcheck.audit WHERE seq = 3")
        error = follower.end()
    assert isinstance(error, RefusedError)
    assert "was cut off" in error.message


def test_it_ends_when_the_last_entry_is_another_one(database: Database, config: Config) -> None:
    fill(database, 2)
    with following(config) as follower:
        follower.until(2)
        database.execute("UPDATE coatcheck.audit SET hash = sha256(hash) WHERE seq = 2")
        assert isinstance(follower.end(), RefusedError)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_in_good_order(
    database: Database, config: Config, tmp_path: Path, number: signal.Signals
) -> None:
    fill(database)
    command = Command(
        tmp_path,
        {"DATABASE_URL": database.dsn, "COATCHECK_KEYS__PATH": str(config.keys.path)}
        | {"COATCHECK_AUDIT__CHECKPOINT_TO": "notes/"},
    )
    try:
        running = command.start("audit", "checkpoint", "--follow")
        running.said(f"wrote the checkpoint of entry 3 to notes/{note_name(3)}")
        running.signal(number)
        done = running.wait()
    finally:
        command.close()
    assert (done.code, done.err) == (0, "")
