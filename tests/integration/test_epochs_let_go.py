"""`coatcheck maintain --ticket`: originals go with the epochs that are kept no longer, wherever they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from tests.support.fix_servers import LoginDatabase
from tests.support.fix_versions import fresh
from tests.support.vaults import TABLE, Loader, configuration, event, originals, token

from coatcheck import app, desk, trail
from coatcheck.config import Config
from coatcheck.demo.servers import PostgresServer
from coatcheck.erasure import Why
from coatcheck.keys.local import create
from coatcheck.maintenance import Maintained, maintain
from coatcheck.vault.epochs import epoch_of

WHY = Why("LEGAL", "RET-1")
PARTED, OTHER = 20231, 20232
"""Two old quarters: one has a partition, the other is in `vault_other`, where it landed for want of one."""
NOW = epoch_of(datetime.now(UTC).date(), "quarter")


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("epochs") / "keys"
    create(folder, "tenant")
    return folder


@pytest.fixture(scope="module")
def _template(postgres_server: PostgresServer, keyring: Path) -> Iterator[LoginDatabase]:
    """An original of each old epoch, and two of now, of which one was seen before."""
    database = LoginDatabase(postgres_server, "epochs")
    database.create("template1")
    config = keeping(database, keyring)
    app.migrate(config)
    database.execute(f"CREATE TABLE coatcheck.vault_{PARTED} PARTITION OF coatcheck.vault FOR VALUES IN ({PARTED})")
    for epoch, numbers in ((PARTED, (1, 3)), (OTHER, (2,)), (NOW, (3, 4))):
        load(config, epoch, *numbers)
    database.close()
    yield database
    database.drop()


@pytest.fixture
def database(postgres_server: PostgresServer, _template: LoginDatabase) -> Iterator[LoginDatabase]:
    with fresh(postgres_server, _template.name) as database:
        yield database


@pytest.fixture
def config(database: LoginDatabase, keyring: Path) -> Config:
    return keeping(database, keyring)


def keeping(target: LoginDatabase | str, keyring: Path, epochs: int = 1) -> Config:
    return configuration(target, keyring, vault={"keep_epochs": epochs})


def load(config: Config, epoch: int, *numbers: int) -> None:
    with Loader(config) as loader:
        at(loader, epoch)
        loader.load(*map(event, numbers))


def at(loader: Loader, epoch: int) -> None:
    loader.vault._epoch = lambda: epoch


def stored(database: LoginDatabase) -> dict[int, int]:
    return dict(database.execute("SELECT epoch, count(*) FROM coatcheck.vault GROUP BY epoch ORDER BY epoch"))


def told(done: Maintained) -> list[tuple[str, str]]:
    return [(left.what, left.hint) for left in done.left]


def events(database: LoginDatabase) -> list[str]:
    return [name for (name,) in database.execute("SELECT event FROM coatcheck.audit ORDER BY seq")]


def revealed(config: Config, *devices: int) -> list[str]:
    """What the desk gives back for the tokens of devices; what it has no original of is the problem."""
    desk.set_policy(config, "one_person", "true")
    items = [token(config, "device", f"device-{number}") for number in devices]
    number = desk.request(config, items, reason="FRAUD", ticket="INC-1").request_id
    found = {one.item: one.problem or one.text for one in desk.reveal(config, number, lambda _: None)}
    return [found[item] for item in items]


def test_without_a_ticket_they_are_told_only(database: LoginDatabase, config: Config) -> None:
    before = stored(database)
    assert before == {PARTED: 4, OTHER: 2, NOW: 4}
    done = maintain(config)
    assert told(done) == [
        (
            f"epochs of the vault are due to be erased: {PARTED}, {OTHER}",
            "say under which case, as policy wants it: --ticket RET-1",
        )
    ]
    assert (done.epochs_erased, stored(database), events(database)) == ((), before, [])


def test_with_one_they_go(database: LoginDatabase, config: Config, keyring: Path) -> None:
    rows = database.execute(f"SELECT * FROM {TABLE}")
    assert revealed(config, 1, 2, 3, 4) == ["device-1", "device-2", "device-3", "device-4"]
    begun = len(events(database))
    done = maintain(config, WHY)
    assert (done.epochs_erased, done.left) == ((PARTED, OTHER), ())
    assert stored(database) == {NOW: 4}
    assert sorted(originals(database, keyring).values()) == ["10.0.3.3", "10.0.4.4", "device-3", "device-4"]
    assert not database.value(f"SELECT to_regclass('coatcheck.vault_{PARTED}') IS NOT NULL")
    assert database.execute(f"SELECT * FROM {TABLE}") == rows, "rows keep their tokens"
    assert events(database)[begun:] == ["erasure begun", "epoch erased", "erasure ended"] * 2
    lost = revealed(config, 1, 2, 3, 4)
    assert lost[2:] == ["device-3", "device-4"]
    assert not {"device-1", "device-2"} & {*lost}
    trail.verify(lambda: config, None, (), None)
    assert maintain(config, WHY).epochs_erased == ()


def test_a_loader_that_was_there_all_the_time_keeps_it_anew(database: LoginDatabase, config: Config) -> None:
    """It forgets what it knew to be stored; and what it brings of an old epoch goes with the next run."""
    with Loader(config) as loader:
        at(loader, PARTED)
        loader.load(event(5))
        assert maintain(config, WHY).epochs_erased == (PARTED, OTHER)
        loader.load(event(6))
        loader.load(event(5))
        assert stored(database) == {PARTED: 4, NOW: 4}
        assert maintain(config, WHY).epochs_erased == (PARTED,)
        at(loader, NOW)
        loader.load(event(6))
        loader.load(event(5))
    assert stored(database) == {NOW: 8}


def test_as_many_are_kept_as_is_said(database: LoginDatabase, config: Config, keyring: Path) -> None:
    """That of now never goes, nor one to come; none goes if nothing is said."""
    assert maintain(keeping(database, keyring, 0), WHY) == Maintained(0, 0, (), (), (), 0, ())
    behind = (NOW // 10 - 2023) * 4 + NOW % 10 - 1  # of the first one
    assert maintain(keeping(database, keyring, behind), WHY).epochs_erased == ()
    assert maintain(keeping(database, keyring, behind - 1), WHY).epochs_erased == (PARTED,)
    assert maintain(config, WHY).epochs_erased == (OTHER,)
    assert stored(database) == {NOW: 4}


def test_epochs_of_another_length_and_what_is_none(database: LoginDatabase, config: Config) -> None:
    """A year ends with its last day; a partition with a number that is no epoch is somebody else's."""
    for number in (2022, 202301, 20239, 202313, NOW // 10):
        database.execute(f"CREATE TABLE coatcheck.vault_{number} PARTITION OF coatcheck.vault FOR VALUES IN ({number})")
    done = maintain(config, WHY)
    assert (done.epochs_erased, done.left) == ((2022, PARTED, OTHER, 202301), ())


def test_what_policy_refuses_is_told(database: LoginDatabase, config: Config) -> None:
    before = stored(database)
    done = maintain(config, Why("LEGAL", "please"))
    assert [what for what, _ in told(done)] == [
        f"the epoch {epoch} was not erased: this ticket does not look like one" for epoch in (PARTED, OTHER)
    ]
    assert {hint for _, hint in told(done)} == {"`coatcheck reveal policy` shows the pattern"}
    assert (done.epochs_erased, stored(database)) == ((), before)
    assert events(database) == ["erasure refused"] * 2


def test_who_may_not_erase_is_told(database: LoginDatabase, keyring: Path) -> None:
    before = stored(database)
    done = maintain(keeping(database.role("coatcheck_owner"), keyring), WHY)
    for (what, hint), epoch in zip(told(done), (PARTED, OTHER), strict=True):
        assert what.startswith(f"the epoch {epoch} was not erased: this user may not erase: it lacks ")
        assert "GRANT coatcheck_eraser TO" in hint
    done = maintain(keeping(database.role("coatcheck_loader"), keyring), WHY)
    what, hint = told(done)[0]
    assert what == "this login cannot see whether coatcheck.vault_other has epochs that are due"
    assert hint == "run it as a member of coatcheck_owner"
    assert told(done)[1][0].startswith(f"the epoch {PARTED} was not erased: this user may not erase")
    assert (stored(database), events(database)) == (before, [])


def test_owner_and_eraser_at_once_may(database: LoginDatabase, keyring: Path) -> None:
    done = maintain(keeping(database.role("coatcheck_owner", "coatcheck_eraser"), keyring), WHY)
    assert (done.epochs_erased, done.left) == ((PARTED, OTHER), ())


def test_an_epoch_in_use_is_left_for_the_next_run(database: LoginDatabase, config: Config) -> None:
    database.execute("ALTER FUNCTION coatcheck.erase_epoch(bigint, integer) SET lock_timeout = '50ms'")
    with database.session() as reader, reader.transaction():
        reader.execute(f"SELECT FROM coatcheck.vault_{PARTED}")
        done = maintain(config, WHY)
    assert done.epochs_erased == (OTHER,)
    [(what, _)] = told(done)
    assert what.startswith(f"the epoch {PARTED} was not erased: the vault was in use")
    assert maintain(config, WHY).epochs_erased == (PARTED,)


def test_a_database_that_is_older_is_told(database: LoginDatabase, config: Config) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute("DROP FUNCTION coatcheck.prune(integer)")
    with pytest.raises(Exception, match="cannot maintain the database: PostgreSQL answers 42883") as caught:
        maintain(config, WHY)
    assert "coatcheck migrate" in caught.value.hint  # type: ignore[attr-defined]
