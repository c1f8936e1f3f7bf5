"""Several pipelines in one database and one keyring: what is shared is decided from the database's register."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.support.fix_servers import LoginDatabase, Queue
from tests.support.vaults import Loader, configuration, originals, token

from coatcheck import app, custody, desk, erasure, maintenance, rotation
from coatcheck.check import check
from coatcheck.config import Config
from coatcheck.demo.servers import find_postgres
from coatcheck.erasure import Why
from coatcheck.errors import CoatcheckError, ConfigError, RefusedError
from coatcheck.keys.databases import read as databases
from coatcheck.keys.local import create
from coatcheck.keys.seal_pair import kept_files
from coatcheck.loop import run_async
from coatcheck.sinks.postgres.quarantine import Selection
from coatcheck.sql import migrations, register
from coatcheck.sql.connection import connect
from coatcheck.vault.epochs import Epochs
from coatcheck.vault.erase import Erased

WHY = Why("DSAR", "INC-1")
IP = {"from": "ip", "type": "text", "parse": "ip", "mask": "token", "domain": "ip"}
PHONE = {"from": "phone", "type": "text", "parse": "text", "mask": "seal", "domain": "phone"}
NET = {"from": "ip", "type": "text", "parse": "ip", "mask": "subnet", "domain": "net"}
PLAIN = {"from": "id", "type": "text"}
OF_A = {"id": PLAIN, "ip": IP}
OF_B = {"id": PLAIN, "address": IP, "net": NET, "phone": PHONE}


def body(number: int) -> str:
    return json.dumps({"id": f"u{number}", "ip": f"10.0.0.{number}", "phone": f"+49 {number}"})


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    create(folder, "tenant")
    return folder


@dataclass(frozen=True, slots=True)
class Two:
    """Two pipelines of one database, each with a configuration that knows nothing of the other."""

    database: LoginDatabase
    a: Config
    b: Config

    def load(self, config: Config, *numbers: int) -> None:
        with Loader(config) as loader:
            loader.load(*map(body, numbers))

    def joined(self) -> int:
        return int(self.database.value("SELECT count(*) FROM ta JOIN tb ON ta.ip = tb.address"))

    def texts(self, table: str, column: str) -> list[str]:
        return sorted(text for (text,) in self.database.execute(f"SELECT {column} FROM {table}"))


def named(
    database: LoginDatabase, keyring: Path, name: str, table: str, columns: Mapping[str, Mapping[str, object]]
) -> Config:
    return configuration(database, keyring, columns, table=table).named(name)


@pytest.fixture
def two(bare_database: LoginDatabase, keyring: Path) -> Two:
    a = named(bare_database, keyring, "default", "ta", OF_A)
    b = named(bare_database, keyring, "b", "tb", OF_B)
    for config in (a, b):
        app.migrate(config)
    return Two(bare_database, a, b)


# --- the register -----------------------------------------------------------------------------------------------------


def test_migrate_registers_pipelines_and_their_masked_columns(two: Two) -> None:
    with connect(two.database.dsn) as connection:
        there = register.read(connection)
    assert {name: pipeline.qualified for name, pipeline in there.pipelines.items()} == {
        "default": "public.ta", "b": "public.tb",
    }  # fmt: skip
    assert {(one.pipeline, one.table, one.column.name, one.column.domain) for one in there.masked} == {
        ("default", "ta", "ip", "ip"), ("b", "tb", "address", "ip"), ("b", "tb", "net", "net"),
        ("b", "tb", "phone", "phone"),
    }  # fmt: skip
    plan = {column.name: column for column in two.b.plan()}
    for table in there.tables:
        for column in table.columns if table.name == "tb" else ():
            mine = plan[column.name]
            assert (column.mask, column.domain, column.path, column.vault, column.parse, column.type) == (
                mine.mask, mine.domain, mine.path, mine.vault, mine.parse, mine.type,
            )  # fmt: skip
    assert app.migrate(two.a).applied == ()


def test_a_second_file_of_the_same_name_is_refused(two: Two, keyring: Path) -> None:
    other = named(two.database, keyring, "default", "tc", OF_A)
    with pytest.raises(
        ConfigError, match=r'this database.s pipeline "default" loads public\.ta, not public\.tc'
    ) as caught:
        app.migrate(other)
    assert "[pipelines]" in caught.value.hint
    assert two.database.value("SELECT to_regclass('tc') IS NULL"), "nothing is left half made"
    with pytest.raises(ConfigError, match=r"loads public\.tb, not public\.ta") as caught:
        app.migrate(two.a.named("b"))
    assert "another name" in caught.value.hint


def test_a_pipeline_follows_its_table(two: Two) -> None:
    two.database.execute("ALTER TABLE ta RENAME TO renamed")
    moved = two.a.model_copy(update={"target": two.a.target.model_copy(update={"table": "renamed"})})
    app.migrate(moved)
    with connect(two.database.dsn) as connection:
        assert [table.qualified for table in register.tables(connection)] == ["public.renamed", "public.tb"]
    two.load(moved, 1)
    assert two.database.count("renamed") == 1


def test_a_column_stays_registered_until_its_tokens_are_gone(two: Two) -> None:
    two.load(two.a, 1, 2)
    without = named(two.database, two.a.keys.path, "default", "ta", {"id": PLAIN})
    app.migrate(without)
    with connect(two.database.dsn) as connection:
        assert [c.name for t in register.tables(connection) if t.name == "ta" for c in t.columns] == ["ip"]
    rotation.rotate(without)
    rotation.retokenize(without)
    assert {text.split("_")[2] for text in two.texts("ta", "ip")} == {"k2"}
    two.database.execute("UPDATE ta SET ip = NULL")
    two.database.execute("UPDATE coatcheck.masked_column SET left_at = left_at - interval '31 days'")
    app.migrate(without)
    with connect(two.database.dsn) as connection:
        assert [table.name for table in register.tables(connection)] == ["tb"]


def test_a_column_that_leaves_stays_registered_while_loaders_may_fill_it(two: Two) -> None:
    with Loader(two.a) as running:
        for _ in range(2):
            app.migrate(named(two.database, two.a.keys.path, "default", "ta", {"id": PLAIN}))
        running.load(body(1))
    rotation.rotate(two.b)
    with pytest.raises(RefusedError, match=r"still have tokens under k1: ta.ip 1"):
        rotation.retire(two.b, "k1")
    assert rotation.retokenize(two.b).left == {}
    assert {text.split("_")[2] for text in two.texts("ta", "ip")} == {"k2"}


def test_a_table_that_is_registered_during_a_rotation_has_its_view(two: Two) -> None:
    """Analysts join its new tokens with the old ones of others by it."""
    two.load(two.a, 1)
    rotation.rotate(two.a)
    late = named(two.database, two.a.keys.path, "late", "tl", OF_A)
    app.migrate(late)
    two.load(late, 1)
    joined = "SELECT count(*) FROM ta_current JOIN tl_current USING (ip)"
    assert two.database.execute(joined) == [(1,)]
    app.migrate(named(two.database, two.a.keys.path, "late", "tl", OF_A))
    rotation.retokenize(two.a)
    rotation.retire(two.a, "k1")
    app.migrate(named(two.database, two.a.keys.path, "after", "tn", OF_A))
    assert two.database.execute("SELECT to_regclass('tn_current')") == [(None,)]


def test_one_table_of_two_pipelines_is_masked_in_one_way(two: Two) -> None:
    app.migrate(two.a.named("c"))
    with connect(two.database.dsn) as connection:
        assert [len(table.columns) for table in register.tables(connection) if table.name == "ta"] == [1]
    for way in (IP | {"domain": "other"}, IP | {"vault": not IP.get("vault", True)}, PLAIN):
        other = named(two.database, two.a.keys.path, "d", "ta", {"id": PLAIN, "ip": way})
        with pytest.raises(ConfigError, match=r"masks public\.ta\.ip in another way"):
            app.migrate(other)


def test_a_column_that_one_pipeline_fills_without_a_mask_is_masked_by_no_other(two: Two) -> None:
    """In whichever order they come."""
    app.migrate(named(two.database, two.a.keys.path, "clear", "both", {"id": PLAIN, "ip": PLAIN}))
    other = named(two.database, two.a.keys.path, "masks", "both", {"id": PLAIN, "ip": IP})
    with pytest.raises(ConfigError, match=r"the pipeline clear fills public\.both\.ip without a mask"):
        app.migrate(other)
    app.migrate(named(two.database, two.a.keys.path, "clear", "both", {"id": PLAIN}))
    app.migrate(other)


def test_a_pipeline_that_is_not_registered_does_not_load(two: Two) -> None:
    for config, told in (
        (two.a.named("unknown"), "the pipeline unknown is not registered"),
        (two.b.named("default"), 'this database\'s pipeline "default" loads public.ta, not tb'),
        (named(two.database, two.a.keys.path, "default", "ta", OF_A | {"id": IP}), "the masked columns id of"),
    ):
        with pytest.raises(ConfigError, match=told) as caught:
            app.registered(config, custody.loader_keys(config))
        assert "coatcheck migrate" in caught.value.hint
        findings = run_async(check(config))
        assert any(told in finding.what for finding in findings if finding.level == "error")


# --- P2: a key is retired when no table has tokens of it --------------------------------------------------------------


def test_a_rotation_takes_every_table_along(two: Two) -> None:
    for config in (two.a, two.b):
        two.load(config, 1, 2, 3)
    assert two.joined() == 3
    done = rotation.rotate(two.a)
    assert done.views == ("public.ta_current", "public.tb_current")
    rotation.retokenize(two.a)
    assert two.joined() == 3
    for table, column in (("ta", "ip"), ("tb", "address"), ("tb", "net"), ("tb", "phone")):
        assert {text.split("_")[2] for text in two.texts(table, column)} == {"k2"}
    rotation.retire(two.a, "k1")
    assert two.joined() == 3
    assert {token.split("_")[2] for token, _ in originals(two.database, two.a.keys.path)} == {"k2"}
    assert len(originals(two.database, two.a.keys.path)) == 3
    two.load(two.b, 4)
    assert two.database.count("tb") == 4


def test_a_view_of_an_earlier_rotation_is_replaced(two: Two) -> None:
    rotation.rotate(two.a)
    rotation.retire(two.a, "k1")
    app.migrate(named(two.database, two.a.keys.path, "b", "tb", {"id": PLAIN, "address": IP}))
    two.database.execute("GRANT SELECT ON tb TO PUBLIC")
    assert rotation.rotate(two.a).views == ("public.ta_current", "public.tb_current")
    assert two.database.value("SELECT has_table_privilege('public', 'tb_current', 'SELECT')")


@pytest.mark.parametrize("what", ["VIEW ta_current AS SELECT 1 AS mine", "TABLE ta_current (mine integer)"])
def test_what_has_the_name_of_the_view_is_not_replaced(two: Two, what: str) -> None:
    two.database.execute(f"CREATE {what}")
    with pytest.raises(RefusedError, match=r"public\.ta_current is not a view that coatcheck has made"):
        rotation.rotate(two.a)
    assert custody.loader_keys(two.a).kids == ("k1",)
    two.database.execute("SELECT mine FROM ta_current")


def test_tables_with_one_beginning_have_each_its_view(two: Two) -> None:
    names = ["t" * 60 + end for end in "ab"]
    for pipeline, name in zip("cd", names, strict=True):
        config = named(two.database, two.a.keys.path, pipeline, name, OF_A)
        app.migrate(config)
        two.load(config, len(pipeline))
    views = rotation.rotate(two.a).views
    assert len(set(views)) == 4
    assert all(len(view.rpartition(".")[2]) <= 63 for view in views)


def test_networks_are_taken_along_though_another_table_has_brought_the_address(two: Two) -> None:
    """Its loader, which knows of no column with networks, has taken the address to the active key."""
    two.load(two.b, 1)
    rotation.rotate(two.a)
    two.load(two.a, 1)
    assert rotation.retokenize(two.a).left == {}
    again = rotation.retokenize(two.a)
    assert (again.entries, again.rows, again.left) == (0, 0, {})
    assert {text.split("_")[2] for text in two.texts("tb", "net")} == {"k2"}
    rotation.retire(two.a, "k1")


def test_a_key_is_not_retired_while_another_table_has_tokens_of_it(two: Two) -> None:
    old = Path(shutil.copytree(two.b.keys.path, two.b.keys.path.with_name("old")))
    late = two.b.model_copy(update={"keys": two.b.keys.model_copy(update={"path": old})})
    two.load(two.a, 1)
    rotation.rotate(two.a)
    rotation.retokenize(two.a)
    two.load(late, 1, 2)  # a loader that has not been started again
    with pytest.raises(RefusedError, match=r"still have tokens under k1: tb.address 2, tb.net 2, tb.phone 2"):
        rotation.retire(two.a, "k1")
    assert rotation.retokenize(two.a).left == {}
    rotation.retire(two.a, "k1")
    assert two.joined() == 1


def test_a_table_that_cannot_take_part_in_a_rotation_is_everybodys_business(two: Two) -> None:
    prefix = {"from": "ip", "type": "text", "parse": "ip", "mask": "ipcrypt-pfx", "domain": "pfx"}
    app.migrate(named(two.database, two.a.keys.path, "c", "tc", {"near": prefix}))
    with pytest.raises(RefusedError, match="near: ipcrypt-pfx"):
        rotation.rotate(two.a)
    assert custody.loader_keys(two.a).kids == ("k1",)


# --- P3: erasure ------------------------------------------------------------------------------------------------------


def test_a_value_is_erased_from_every_table(two: Two) -> None:
    for config in (two.a, two.b):
        two.load(config, 1, 2)
    before = token(two.a, "ip", "10.0.0.1")
    done = erasure.erase_value(two.a, "ip", "10.0.0.1", WHY)
    assert done.erased.rows == {"ta.ip": 1, "tb.address": 1}  # type: ignore[union-attr]
    assert before not in [*two.texts("ta", "ip"), *two.texts("tb", "address")]
    assert before not in {token for token, _ in originals(two.database, two.a.keys.path)}
    left = "; ".join(remainder.what for remainder in done.remains)
    assert "column net of public.tb, which has the network of the address" in left


@pytest.mark.parametrize("refused", [0, 1])
def test_the_first_batch_after_an_erasure_has_its_originals(two: Two, refused: int) -> None:
    """By a loader that remembers the value as stored, also where the batch is bisected."""
    with Loader(two.a) as loader:
        loader.load(body(1), body(2))
        erasure.erase_value(two.a, "ip", "10.0.0.1", WHY)
        if refused:
            two.database.execute("ALTER TABLE ta ADD CONSTRAINT rule CHECK (id <> 'u9')")
        counts = loader.load(body(1), body(9 if refused else 3))
        assert (counts.loaded, counts.rejected, counts.duplicates) == (4 - refused, refused, 0)
        held = {text for text, _ in originals(two.database, two.a.keys.path)}
        assert token(two.a, "ip", "10.0.0.1") in held
        before = two.database.count("coatcheck.batch")
        loader.load(body(1))
        assert two.database.count("coatcheck.batch") == before + 1, "once is enough"


def test_the_first_batch_after_an_erasure_has_its_aliases(two: Two) -> None:
    old = Loader(two.b)
    rotation.rotate(two.a)
    with old, Loader(two.a) as loader:
        loader.load(body(1))
        erasure.erase_value(two.a, "ip", "10.0.0.1", WHY)
        old.load(body(1))
        loader.load(body(1))
        assert two.database.value("SELECT count(*) FROM ta_current AS a JOIN tb_current AS b ON a.ip = b.address") == 1


def test_a_token_is_erased_from_every_table(two: Two) -> None:
    for config in (two.a, two.b):
        two.load(config, 1, 2)
    before = token(two.a, "ip", "10.0.0.1")
    done = erasure.erase_tokens(two.a, [before], WHY)
    assert done.erased.rows == {"ta.ip": 1, "tb.address": 1}  # type: ignore[union-attr]
    assert two.joined() == 1


def test_a_subjects_original_stays_while_another_table_has_its_token(two: Two) -> None:
    for config in (two.a, two.b):
        two.load(config, 1, 2)
    shared = token(two.a, "ip", "10.0.0.1")
    done = erasure.erase_subject(two.a, "id", "u1", WHY)
    assert done.erased.rows == {"ta.ip": 1}  # type: ignore[union-attr]
    assert shared in two.texts("tb", "address")
    assert shared in {token for token, _ in originals(two.database, two.a.keys.path)}
    left = "; ".join(remainder.what for remainder in done.remains)
    assert "rows of others have as well in public.tb" in left
    assert "rows of the same person in public.tb, which were not looked at" in left
    erasure.erase_subject(two.b, "id", "u1", WHY)
    assert shared not in {token for token, _ in originals(two.database, two.a.keys.path)}


def test_a_domain_of_another_pipeline_can_be_looked_up_and_erased(two: Two) -> None:
    two.load(two.b, 1)
    assert erasure.erase_value(two.a, "phone", "+49 1", WHY).erased.rows == {"tb.phone": 1}  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="no column has tokens of this domain") as caught:
        desk.find(two.a, "x", domain="phone", reason="DSAR", ticket="INC-1")
    assert "ip, net" in caught.value.hint
    with pytest.raises(ConfigError, match="no column has tokens or sealed texts of this domain"):
        erasure.erase_value(two.a, "canary", "canary", WHY)


# --- P4: quarantine ---------------------------------------------------------------------------------------------------


def test_a_reject_is_retried_by_its_own_pipeline_only(two: Two) -> None:
    wrong = '{"id": "u1", "ip": "10.0.0.1", "phone": 7.5}'
    with Loader(two.b) as loader:
        loader.load(wrong, '{"id": 7}')
    with Loader(two.a) as loader:
        loader.load('{"id": 8}')
    assert [entry.pipeline for entry in app.quarantine_entries(two.a, Selection(), resolved=False, limit=9)] == [
        "default"
    ]
    assert len(app.quarantine_entries(two.b, Selection(), resolved=False, limit=9)) == 2
    before = two.database.execute(
        "SELECT quarantine_id, reason, attempts FROM coatcheck.quarantine WHERE pipeline = 'b'"
    )
    app.quarantine_retry(two.a, Selection())
    app.quarantine_retry(two.a, Selection(ids=(1, 2)))
    assert two.database.count("ta") == 0
    assert before == two.database.execute(
        "SELECT quarantine_id, reason, attempts FROM coatcheck.quarantine WHERE pipeline = 'b'"
    )
    assert app.quarantine_discard(two.a, Selection()) == 1
    assert app.quarantine_discard(two.b, Selection()) == 2


def test_status_and_figures_are_of_one_pipeline(two: Two) -> None:
    two.load(two.a, 1, 2, 3)
    with Loader(two.b) as loader:
        loader.load(body(1), '{"id": 7}')
    with app.quarantine(two.a) as held:
        assert (held.status()[0], held.status()[4]) == (3, {})
    with app.quarantine(two.b) as held:
        assert (held.status()[0], held.status()[4]) == (1, {"wrong_type": 1})
    held_by = {
        config.pipeline: {label: value for name, label, value in app.database_figures(config) if "quarantine" in name}
        for config in (two.a, two.b)
    }
    assert (held_by["default"]["wrong_type"], held_by["b"]["wrong_type"]) == (0, 1)


# --- P6, P7: one keyring, several databases; another keyring ----------------------------------------------------------


@pytest.fixture
def second(another_database: LoginDatabase, keyring: Path) -> Config:
    config = named(another_database, keyring, "default", "ta", OF_A)
    app.migrate(config)
    return config


def test_a_key_stays_in_the_keyring_until_every_database_has_let_it_go(two: Two, second: Config) -> None:
    two.load(two.a, 1)
    with Loader(second) as loader:
        loader.load(body(1))
    assert len(databases(two.a.keys.path).databases) == 2
    rotation.rotate(two.a)
    rotation.retokenize(two.a)
    done = rotation.retire(two.a, "k1")
    assert len(done.others) == 1
    assert second.conninfo().split("dbname=")[-1].split()[0].strip("'") in done.others[0]
    assert custody.loader_keys(two.a).kids == ("k2", "k1")
    rotation.retokenize(second)
    assert rotation.retire(second, "k1").others == ()
    assert custody.loader_keys(two.a).kids == ("k2",)
    with Loader(second) as loader:
        loader.load(body(2))
    two.load(two.a, 2)


def test_a_database_that_is_gone_can_be_forgotten(two: Two, second: Config) -> None:
    two.load(two.a, 1)
    with Loader(second) as loader:
        loader.load(body(1))
    rotation.rotate(two.a)
    rotation.retokenize(two.a)
    [other] = rotation.retire(two.a, "k1").others
    number = other.rpartition("(")[2].rstrip(")")
    assert custody.forget_database(two.a, number)
    assert not custody.forget_database(two.a, number)
    assert rotation.retire(two.a, "k1").others == ()
    assert custody.loader_keys(two.a).kids == ("k2",)
    with pytest.raises(ConfigError, match="this keyring lacks k1, under which this database has tokens"):
        app.registered(second, custody.loader_keys(second))


def test_a_seal_key_stays_in_the_keyring_until_every_database_has_let_it_go(two: Two, second: Config) -> None:
    two.load(two.a, 1)
    with Loader(second) as loader:
        loader.load(body(1))
    done, _ = rotation.rotate_seal(two.a)
    others = rotation.other_databases(two.a, done.old_id)
    assert len(others) == 1
    assert list(rotation.retire_seal(two.a, done.old_id).others) == others
    with pytest.raises(ConfigError, match="this database does not know the seal key"):
        rotation.retire_seal(second, done.old_id)
    assert rotation.rewrap(second) == 1
    assert rotation.retire_seal(second, done.old_id).others == ()
    assert not kept_files(two.a.keys.path)
    with Loader(second) as loader:
        loader.load(body(2))


def test_what_cannot_be_retired_is_refused_before_the_database_shuts_it_out(two: Two) -> None:
    active = custody.seal_kek(two.a)
    assert active is not None
    app.registered(two.a, custody.loader_keys(two.a))
    for key_id, error in ((active.rpartition(":")[2], RefusedError), ("0" * 16, ConfigError)):
        with pytest.raises(error):
            rotation.retire_seal(two.a, key_id)
    two.load(two.a, 1)
    assert two.database.execute("SELECT state FROM coatcheck.seal_key") == [("in use",)]


def acting(config: Config, dsn: str) -> Config:
    return config.model_copy(update={"target": config.target.model_copy(update={"dsn": SecretStr(dsn)})})


def test_rows_that_are_hidden_are_not_taken_for_none(two: Two) -> None:
    two.load(two.a, 1)
    two.load(two.b, 1)
    two.database.execute("ALTER TABLE tb ENABLE ROW LEVEL SECURITY")
    rotator, eraser = (acting(two.a, two.database.role(f"coatcheck_{role}")) for role in ("rotator", "eraser"))
    rotation.rotate(two.a)
    told = r"row-level security may hide rows of public\.tb from this login"
    for attempt in (
        lambda: rotation.retokenize(rotator),
        lambda: rotation.retire(rotator, "k1"),
        lambda: erasure.erase_value(eraser, "ip", "10.0.0.1", WHY),
    ):
        with pytest.raises(ConfigError, match=told):
            attempt()
    assert custody.loader_keys(two.a).kids == ("k2", "k1")
    rotation.retokenize(two.a)
    assert rotation.retire(two.a, "k1").others == ()
    assert two.joined() == 1


MOVES = {
    "a table that is renamed": "ALTER TABLE ta RENAME TO old",
    "a table that is moved": "CREATE SCHEMA arch; ALTER TABLE ta SET SCHEMA arch; ALTER TABLE arch.ta RENAME TO old",
    "a column that is renamed": "ALTER TABLE ta RENAME ip TO masked; ALTER TABLE ta RENAME TO old",
    "a view in its place": "ALTER TABLE ta RENAME TO old; CREATE VIEW ta AS SELECT * FROM old WHERE false",
    "another table in its place": "ALTER TABLE ta RENAME TO old; CREATE TABLE ta (id text, ip text)",
    "two that swap": "ALTER TABLE ta RENAME TO old; ALTER TABLE tb RENAME TO ta; ALTER TABLE old RENAME TO tb",
}


@pytest.mark.parametrize("left", [False, True], ids=["configured", "left"])
@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES)
def test_the_register_follows(two: Two, move: str, left: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """What is looked up by oid cannot get lost: a rotation takes it along, whoever migrates, or does not."""
    two.load(two.a, 1)
    two.load(two.b, 1)
    if left:
        app.migrate(named(two.database, two.a.keys.path, "default", "ta", {"id": PLAIN}))
    two.database.execute(move)
    with connect(two.database.dsn) as connection:
        table, column = next(
            (table.identifier.as_string(), column.name)
            for table in register.tables(connection)
            for column in table.columns
            if column.domain == "ip" and table.name in ("old", "tb") and len(table.columns) == 1
        )
    rotation.rotate(two.b)
    assert rotation.retokenize(two.b).left == {}
    assert rotation.retire(two.b, "k1").others == ()
    [(text,)] = two.database.execute(f"SELECT {column} FROM {table}")
    assert text.split("_")[2] == "k2"
    assert text in {token for token, _ in originals(two.database, two.a.keys.path)}


def test_the_table_of_before_stays_registered_when_another_takes_its_name(two: Two) -> None:
    two.load(two.a, 1)
    two.database.execute("ALTER TABLE ta RENAME TO ta_2025")
    app.migrate(two.a)
    two.load(two.a, 2)
    rotation.rotate(two.a)
    rotation.retokenize(two.a)
    rotation.retire(two.a, "k1")
    assert {text.split("_")[2] for name in ("ta", "ta_2025") for text in two.texts(name, "ip")} == {"k2"}


def test_a_table_that_is_dropped_is_no_longer_registered(two: Two) -> None:
    two.load(two.a, 1)
    two.database.execute("DROP TABLE ta")
    rotation.rotate(two.b)
    rotation.retokenize(two.b)
    assert rotation.retire(two.b, "k1").others == ()


def test_a_rotation_is_refused_while_rows_are_behind_a_view(two: Two) -> None:
    two.database.execute("CREATE TABLE base (id text, ip text); CREATE VIEW vw AS SELECT * FROM base WHERE id <> 'u1'")
    view = named(two.database, two.a.keys.path, "v", "vw", OF_A)
    app.migrate(view)
    two.load(view, 1)
    for refused in (
        lambda: rotation.rotate(two.b),
        lambda: erasure.erase_value(two.b, "ip", "10.0.0.1", WHY),
        lambda: erasure.erase_subject(view, "id", "u1", WHY),
    ):
        with pytest.raises(RefusedError, match=r"rows behind a view .*: public\.vw") as caught:
            refused()
        assert "pipeline of its own" in caught.value.hint
    assert custody.loader_keys(two.a).kids == ("k1",)


def test_the_rows_behind_a_view_are_those_of_a_table_that_is_registered_too(two: Two) -> None:
    two.database.execute("CREATE TABLE base (id text, ip text); CREATE VIEW vw AS SELECT * FROM base WHERE id <> 'u1'")
    view = named(two.database, two.a.keys.path, "v", "vw", OF_A)
    behind = named(two.database, two.a.keys.path, "behind", "base", OF_A)
    app.migrate(view)
    app.migrate(behind)
    two.load(view, 1, 2)
    rotation.rotate(two.b)
    assert rotation.retokenize(two.b).left == {}
    rotation.retire(two.b, "k1")
    assert [text.split("_")[2] for text in two.texts("base", "ip")] == ["k2", "k2"]
    with pytest.raises(ConfigError, match=r"public\.vw is a view") as caught:
        erasure.erase_subject(view, "id", "u1", WHY)
    assert "--pipeline NAME" in caught.value.hint
    done = erasure.erase_subject(behind, "id", "u1", WHY).erased
    assert isinstance(done, Erased)
    assert done.rows == {"base.ip": 1}


def test_rows_in_children_of_a_table_are_taken_along(two: Two) -> None:
    """INHERITS, of which pg_partition_tree does not know."""
    two.load(two.a, 1)
    two.database.execute(
        "CREATE TABLE child () INHERITS (ta); CREATE TABLE grandchild () INHERITS (child);"
        "INSERT INTO child SELECT * FROM ONLY ta; INSERT INTO grandchild SELECT * FROM ONLY ta"
    )
    rotation.rotate(two.a)
    assert rotation.retokenize(two.a).left == {}
    rotation.retire(two.a, "k1")
    assert [text.split("_")[2] for text in two.texts("ta", "ip")] == ["k2"] * 3


def test_rows_in_a_foreign_part_cannot_be_taken_along(two: Two) -> None:
    two.database.execute(
        "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere;"
        "CREATE FOREIGN TABLE elsewhere () INHERITS (ta) SERVER far"
    )
    with pytest.raises(RefusedError, match=r"in a foreign table, .*: public\.ta$"):
        rotation.rotate(two.b)


def test_tokens_of_before_the_register_are_not_forgotten(bare_database: LoginDatabase, keyring: Path) -> None:
    """The last version has loaded one file; the upgrade begins with the file of another team."""
    first = named(bare_database, keyring, "default", "ta", OF_A)
    other = named(bare_database, keyring, "b", "tb", OF_B)
    bare_database.execute(
        "CREATE SCHEMA coatcheck; CREATE TABLE coatcheck.migration "
        "(version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    for version, name, text in migrations():
        if version <= 6:
            bare_database.execute(text)
            bare_database.execute(f"INSERT INTO coatcheck.migration (version, name) VALUES ({version}, '{name}')")
    root = custody.fingerprints(custody.loader_keys(first))["k1"]
    bare_database.execute(f"INSERT INTO coatcheck.token_key (kid, fingerprint) VALUES ('k1', '{root}')")
    app.migrate(other)
    for attempt in (lambda: rotation.rotate(other), lambda: erasure.erase_value(other, "ip", "10.0.0.1", WHY)):
        with pytest.raises(RefusedError, match="tokens of before the upgrade") as caught:
            attempt()
        assert "coatcheck migrate" in caught.value.hint
    assert custody.loader_keys(first).kids == ("k1",)
    app.migrate(first)
    rotation.rotate(other)


def test_a_restored_dump_has_its_register(two: Two, another_database: LoginDatabase) -> None:
    """Tables have other oids there, and columns other numbers where one was dropped before."""
    two.load(two.a, 1)
    two.database.execute("ALTER TABLE ta DROP COLUMN id")
    two.database.execute("CREATE TABLE before_ta (i integer)")
    dump = subprocess.run(
        [find_postgres() / "pg_dump", "--no-owner", "--no-privileges", two.database.dsn],
        capture_output=True,
        check=True,
    )
    restored = subprocess.run(
        [find_postgres() / "psql", "-q", "-v", "ON_ERROR_STOP=1", another_database.dsn],
        input=dump.stdout,
        capture_output=True,
        check=False,
    )
    assert restored.returncode == 0, restored.stderr.decode()
    with connect(two.database.dsn) as here, connect(another_database.dsn) as there:
        assert register.tables(there) == register.tables(here)
        oid = "SELECT DISTINCT relation::oid FROM coatcheck.masked_column"
        assert here.execute(oid).fetchall() != there.execute(oid).fetchall(), "else this tells nothing"


def test_the_partitions_of_every_pipelines_table_are_maintained(two: Two) -> None:
    at: Mapping[str, Mapping[str, object]] = {"at": {"from": "$sent_at", "type": "timestamptz", "required": True}}
    configs = []
    for name in ("c", "d"):
        config = named(two.database, two.a.keys.path, name, f"t{name}", {**OF_A, **at})
        target = config.target.model_copy(update={"partition_by": "at", "partition": "day"})
        configs.append(config.model_copy(update={"target": target}))
        app.migrate(configs[-1])
    for (name,) in two.database.execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'td'::regclass"
    ):
        if not name.endswith("other"):
            two.database.execute(f"DROP TABLE {name}")
    done = maintenance.maintain(configs[0], beside=configs[1:])
    assert done.partitions_made
    assert all(name.rpartition(".")[2].startswith("td") for name in done.partitions_made)


@pytest.fixture
def aws(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """A queue that `status` can ask, with the environment that leads there."""
    values = {"ENDPOINT_URL": queue.endpoint, "REGION": "us-east-1", "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x"}
    for name, value in values.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return queue


def reading(config: Config, queue: Queue) -> Config:
    return config.model_copy(update={"source": config.source.model_copy(update={"queue": queue.name})})


def strange(config: Config, folder: Path) -> Config:
    if not folder.exists():
        create(folder, "tenant")
    return config.model_copy(update={"keys": config.keys.model_copy(update={"path": folder})})


def test_another_keyring_is_refused_before_anything_is_changed(two: Two, tmp_path: Path, aws: Queue) -> None:
    two.load(two.a, 1)
    other = strange(reading(two.a, aws), tmp_path / "other")
    before = {path.name: path.read_bytes() for path in (tmp_path / "other").iterdir()}
    trail = two.database.count("coatcheck.audit")
    told = "k1 of this keyring is another key than the k1 that this database knows"
    assert told in {finding.what for finding in run_async(check(other)) if finding.level == "error"}
    for attempt in (
        lambda: run_async(app.status(other)),
        lambda: desk.find(other, "10.0.0.1", domain="ip", reason="DSAR", ticket="INC-1"),
        lambda: rotation.rotate(other),
        lambda: app.quarantine_retry(other, Selection()),
        lambda: app.registered(other, custody.loader_keys(other)),
    ):
        with pytest.raises(ConfigError, match=told):
            attempt()
    with pytest.raises(ConfigError, match="does not know the seal key"):
        rotation.rotate_seal(other)
    with pytest.raises(ConfigError, match="this keyring does not have the database's k1"):
        erasure.erase_value(other, "ip", "10.0.0.1", WHY)
    with pytest.raises(CoatcheckError):
        rotation.rewrap(other)
    after = {path.name: path.read_bytes() for path in (tmp_path / "other").iterdir() if path.name != ".lock"}
    assert after == before
    assert two.database.count("coatcheck.audit") == trail


def test_a_swapped_seal_pair_is_seen_before_anything_is_sealed(two: Two, tmp_path: Path) -> None:
    two.load(two.a, 1)
    swapped = strange(two.a, tmp_path / "swapped")
    shutil.copy(two.a.keys.path / "token-root.json", tmp_path / "swapped" / "token-root.json")
    with pytest.raises(ConfigError, match="this database does not know the seal key"):
        app.registered(swapped, custody.loader_keys(swapped))
    assert any("does not know the seal key" in finding.what for finding in run_async(check(swapped)))
    with pytest.raises(ConfigError, match="does not know the seal key"):
        app.quarantine_retry(swapped, Selection())


def test_a_seal_pair_that_was_rotated_is_known_and_the_old_one_can_go(two: Two) -> None:
    two.load(two.a, 1)
    done, wrapped = rotation.rotate_seal(two.a)
    assert wrapped == 1
    two.load(two.b, 2)
    rotation.rewrap(two.a)
    rotation.retire_seal(two.a, done.old_id)
    states = two.database.execute("SELECT state FROM coatcheck.seal_key ORDER BY changed_at")
    assert sorted(states) == [("in use",), ("retired",)]
    assert len(originals(two.database, two.a.keys.path)) == 2


def test_a_missing_keyring_beside_tokens_gets_no_hint_to_make_one(two: Two, tmp_path: Path, aws: Queue) -> None:
    missing = reading(two.a, aws).model_copy(
        update={"keys": two.a.keys.model_copy(update={"path": tmp_path / "nowhere"})}
    )
    with pytest.raises(ConfigError, match="missing") as caught:
        run_async(app.status(missing))
    assert "keys init" in caught.value.hint, "nothing is loaded yet"
    two.load(two.a, 1)
    for attempt in (
        lambda: run_async(app.status(missing)),
        lambda: rotation.rotate(missing),
        lambda: desk.find(missing, "10.0.0.1", domain="ip", reason="DSAR", ticket="INC-1"),
        lambda: app.quarantine_retry(missing, Selection()),
        lambda: erasure.erase_value(missing, "ip", "10.0.0.1", WHY),
    ):
        with pytest.raises(ConfigError, match="missing") as caught:
            attempt()
        assert "keys init" not in caught.value.hint
        assert "k1" in caught.value.hint
    findings = [finding for finding in run_async(check(missing)) if finding.component == "keys"]
    assert findings
    assert not any("keys init" in finding.hint for finding in findings)


# --- epochs and forms -------------------------------------------------------------------------------------------------


def keeping(config: Config, epochs: int, period: str = "quarter") -> Config:
    vault = config.vault.model_copy(update={"keep_epochs": epochs, "epoch": period})
    return config.model_copy(update={"vault": vault})


def test_an_epoch_goes_when_no_pipeline_keeps_it(two: Two) -> None:
    two.load(two.a, 1)
    old = Epochs("quarter", clock=lambda: 1_600_000_000).now()
    two.database.execute(f"UPDATE coatcheck.vault SET epoch = {old}")
    a = keeping(two.a, 1)
    app.migrate(a)
    app.migrate(two.b)  # keeps all
    done = maintenance.maintain(a, WHY)
    assert done.epochs_erased == ()
    assert any("the pipeline b keeps the epochs" in left.what for left in done.left)
    app.migrate(keeping(two.b, 2, "year"))
    assert maintenance.maintain(a, WHY).epochs_erased == (old,)


def test_two_forms_of_one_domain_in_two_files_are_told_by_check(two: Two) -> None:
    text = {"from": "e", "type": "text", "parse": "text", "mask": "token", "domain": "mail"}
    c = named(two.database, two.a.keys.path, "c", "tc", {"e": text})
    d = named(two.database, two.a.keys.path, "d", "td", {"e": text | {"casefold": True}})
    for config in (c, d):
        app.migrate(config)
    with Loader(c) as loader:
        loader.load('{"e": "Ada"}')
    told = 'the canonical form of domain mail is "text/v1" under k1'
    assert any(told in finding.what for finding in run_async(check(d)) if finding.level == "error")
    with pytest.raises(ConfigError, match=told):
        app.registered(d, custody.loader_keys(d))
    with pytest.raises(RefusedError, match="give the domain mail different canonical forms"):
        rotation.rotate(two.a)
    assert custody.loader_keys(two.a).kids == ("k1",)


def test_a_keyring_knows_a_database_from_its_migration_on(two: Two, second: Config) -> None:
    noted = databases(two.a.keys.path).databases
    assert len({database.id for database in noted}) == 2
    assert all(second.conninfo().split("password=")[-1] not in database.place for database in noted)


def test_a_folder_without_a_keyring_stays_as_it_is(bare_database: LoginDatabase, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    app.migrate(named(bare_database, empty, "default", "ta", OF_A))
    assert list(empty.iterdir()) == []
    create(empty, "tenant")


def test_a_search_path_that_leads_elsewhere_changes_nothing(two: Two) -> None:
    """Found: with a table of the same name earlier on the path, rows and jobs went there."""
    two.load(two.a, 1)
    name = two.database.name
    two.database.execute(
        f"CREATE SCHEMA evil; CREATE TABLE evil.ta (x int); ALTER DATABASE {name} SET search_path = evil"
    )
    app.migrate(two.a)
    assert not [
        finding for finding in run_async(check(two.a)) if finding.component == "database" and finding.level == "error"
    ]
    two.load(two.a, 2)
    rotation.rotate(two.a)
    rotation.retokenize(two.a)
    rotation.retire(two.a, "k1")
    assert erasure.erase_value(two.a, "ip", "10.0.0.1", WHY).erased.rows == {"ta.ip": 1}  # type: ignore[union-attr]
    assert (two.database.count("public.ta"), two.database.count("evil.ta")) == (2, 0)
