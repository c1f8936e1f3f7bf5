"""The audit trail in a real PostgreSQL, and what becomes of it in the hands of a superuser: chain and checkpoints."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pydantic import SecretStr
from tests.support.fix_postgres import Database, Pool

from coatcheck import trail
from coatcheck.config import Config, KeysConfig, TargetConfig
from coatcheck.errors import CoatcheckError, ConfigError, UnreachableError
from coatcheck.vault import reading
from coatcheck.vault.chain import BrokenTrailError, Kind, Verified

CANARY = "canary-7f3a"
COUNT = 6
TOKYO = {
    "TimeZone": "Asia/Tokyo", "DateStyle": "German,DMY", "IntervalStyle": "sql_standard", "bytea_output": "escape",
    "lc_numeric": "C", "lc_time": "POSIX", "lc_monetary": "POSIX", "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
}  # fmt: skip
SETTINGS = ({"TimeZone": "UTC", "DateStyle": "ISO,YMD"}, TOKYO)


@pytest.fixture
def config(database: Database, tmp_path: Path) -> Config:
    return configuration(database.dsn, tmp_path / "keys")


@pytest.fixture(scope="module")
def _kept(_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Config]]:
    """A trail of COUNT entries, with a checkpoint after the fourth and one of all; and a copy to bring it back from."""
    folder = tmp_path_factory.mktemp("audit")
    with _pool.lend(migrated=True) as database:
        config = configuration(database.dsn, folder / "keys")
        trail.init_key(config, "acme")
        for count in (4, COUNT - 4):
            fill(database, count)
            trail.checkpoint(config, f"{folder}/notes/", nowhere)
        database.execute("CREATE TABLE kept AS TABLE coatcheck.audit")
        yield database, config


@pytest.fixture
def filled(_kept: tuple[Database, Config]) -> Database:
    _kept[0].execute("TRUNCATE coatcheck.audit; INSERT INTO coatcheck.audit TABLE kept")
    return _kept[0]


@pytest.fixture
def signed(_kept: tuple[Database, Config]) -> Config:
    return _kept[1]


def configuration(dsn: str, keys: Path) -> Config:
    return Config(target=TargetConfig(dsn=SecretStr(dsn)), keys=KeysConfig(path=keys))


def append(connection: psycopg.Connection[Any], event: str, **detail: object) -> None:
    text = json.dumps(detail, ensure_ascii=False, sort_keys=True)
    connection.execute("SELECT coatcheck.audit_append(%s, %s)", (event, text))


def nowhere(note: str) -> None:
    raise AssertionError(note)


def fill(database: Database, count: int) -> None:
    with database.session() as connection:
        for number in range(count):
            append(connection, "reveal opened", count=number, reason="BETRUG é", ticket=CANARY)


def verified(config: Config, *checkpoints: Path) -> Verified:
    return trail.verify(lambda: config, None, checkpoints, None)


def broken(config: Config, *checkpoints: Path) -> tuple[Kind, int, int]:
    with pytest.raises(BrokenTrailError) as caught:
        verified(config, *checkpoints)
    assert CANARY not in caught.value.message + caught.value.hint + repr(caught.value.__context__)
    return caught.value.kind, caught.value.seq, caught.value.until


def notes(config: Config) -> Path:
    return config.keys.path.parent / "notes"


def test_an_untouched_trail(filled: Database, signed: Config) -> None:
    found = verified(signed, notes(signed))
    assert (found.count, found.confirmed, found.confirmed_to, found.begun) == (COUNT, 2, COUNT, True)
    assert found.head is not None
    [(hash_,)] = filled.execute("SELECT hash FROM coatcheck.audit ORDER BY seq DESC LIMIT 1")
    assert found.head.hash == hash_


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("at_us", "at_us + 1"),
        ("actor", "'somebody else'"),
        ("event", "event || ' '"),
        ("detail", "replace(detail, '1', '2')"),
        ("hash", "sha256(hash)"),
    ],
)
@pytest.mark.parametrize("seq", [2, COUNT])
def test_each_field_that_is_changed(filled: Database, signed: Config, field: str, value: str, seq: int) -> None:
    filled.execute(f"UPDATE coatcheck.audit SET {field} = {value} WHERE seq = {seq}")
    assert broken(signed) == (Kind.CHANGED, seq, seq)


def test_a_number_that_is_changed(filled: Database, signed: Config) -> None:
    filled.execute(f"UPDATE coatcheck.audit SET seq = 9 WHERE seq = {COUNT}")
    assert broken(signed) == (Kind.MISSING, COUNT, 8)


def test_entries_that_are_deleted(filled: Database, signed: Config) -> None:
    filled.execute("DELETE FROM coatcheck.audit WHERE seq IN (3, 4)")
    assert broken(signed) == (Kind.MISSING, 3, 4)


def test_the_first_entries_are_deleted(filled: Database, signed: Config) -> None:
    filled.execute("DELETE FROM coatcheck.audit WHERE seq <= 2")
    assert broken(signed) == (Kind.BEGINNING, 1, 2)


def test_the_last_entries_are_deleted(filled: Database, signed: Config) -> None:
    """The chain alone cannot know; a checkpoint does. What is appended from there on does not cover it up."""
    filled.execute("DELETE FROM coatcheck.audit WHERE seq > 4")
    assert verified(signed).count == 4
    assert broken(signed, notes(signed)) == (Kind.TRUNCATED, 5, COUNT)
    fill(filled, 3)
    assert verified(signed).count == 7
    assert broken(signed, notes(signed)) == (Kind.REWRITTEN, 5, COUNT)


def test_everything_is_deleted(filled: Database, signed: Config) -> None:
    filled.execute("TRUNCATE coatcheck.audit")
    assert verified(signed).count == 0
    assert broken(signed, notes(signed)) == (Kind.TRUNCATED, 1, COUNT)


def test_two_entries_are_swapped(filled: Database, signed: Config) -> None:
    filled.execute("UPDATE coatcheck.audit SET seq = -seq WHERE seq IN (3, 5)")
    filled.execute("UPDATE coatcheck.audit SET seq = CASE seq WHEN -3 THEN 5 ELSE 3 END WHERE seq < 0")
    assert broken(signed) == (Kind.CHANGED, 3, 3)


def test_an_entry_is_put_in(filled: Database, signed: Config) -> None:
    filled.execute("UPDATE coatcheck.audit SET seq = -seq WHERE seq >= 3")
    filled.execute("UPDATE coatcheck.audit SET seq = 1 - seq WHERE seq < 0")
    filled.execute(
        "INSERT INTO coatcheck.audit SELECT 3, at_us, actor, event, detail,"
        " coatcheck.audit_hash(hash, 3, at_us, actor, event, detail) FROM coatcheck.audit WHERE seq = 2"
    )
    assert broken(signed) == (Kind.CHANGED, 4, 4)


@pytest.mark.parametrize("seq", [0, -3])
def test_an_entry_is_put_before_the_first(filled: Database, signed: Config, seq: int) -> None:
    filled.execute("INSERT INTO coatcheck.audit SELECT %s, at_us, actor, event, detail, hash FROM coatcheck.audit"
                   " WHERE seq = 1", seq)  # fmt: skip
    assert broken(signed) == (Kind.DISORDER, seq, seq)


REWRITE = """
DO $$
DECLARE
    entry coatcheck.audit;
    before bytea := decode(repeat('00', 32), 'hex');
BEGIN
    FOR entry IN SELECT * FROM coatcheck.audit ORDER BY seq LOOP
        IF entry.seq >= {first} THEN
            entry.actor := 'nobody';
        END IF;
        before := coatcheck.audit_hash(before, entry.seq, entry.at_us, entry.actor, entry.event, entry.detail);
        UPDATE coatcheck.audit SET actor = entry.actor, hash = before WHERE seq = entry.seq;
    END LOOP;
END
$$
"""


@pytest.mark.parametrize(("first", "found"), [(1, (1, 4)), (3, (1, 4)), (5, (5, COUNT))])
def test_a_rewrite_with_hashes_that_fit(filled: Database, signed: Config, first: int, found: tuple[int, int]) -> None:
    """What a superuser can do and no chain can show; checkpoints show it, and between which two of them it begins."""
    filled.execute(REWRITE.format(first=first))
    assert verified(signed).count == COUNT
    assert broken(signed, notes(signed)) == (Kind.REWRITTEN, *found)


# -- what does not change the hashes


def test_settings_of_the_session_make_no_difference(database: Database, tmp_path: Path) -> None:
    """Written under the ones and read under the others, by the database's own function and by ours."""
    dsns = [
        psycopg.conninfo.make_conninfo(
            database.dsn, options=" ".join(f"-c {name}={value}" for name, value in s.items())
        )
        for s in SETTINGS
    ]
    for dsn in dsns * 3:
        with psycopg.connect(dsn, autocommit=True) as connection:
            append(connection, "reveal opened", reason="é \\ ' \u2028 𝄞", at="2026-11-23")
    heads = []
    for dsn in dsns:
        with psycopg.connect(dsn) as connection:
            found = connection.execute(
                "SELECT count(*) FILTER (WHERE hash = coatcheck.audit_hash(coalesce(before,"
                " decode(repeat('00', 32), 'hex')), seq, at_us, actor, event, detail)), count(*)"
                " FROM (SELECT *, lag(hash) OVER (ORDER BY seq) AS before FROM coatcheck.audit) AS a"
            ).fetchone()
        assert found is not None
        assert found[0] == found[1] >= 6
        heads.append(verified(configuration(dsn, tmp_path)).head)
    assert heads[0] == heads[1]


def test_appends_at_once_leave_one_chain(database: Database, config: Config) -> None:
    before = verified(config).count
    barrier = threading.Barrier(8)

    def work(name: int) -> None:
        with database.session() as connection:
            barrier.wait()
            for number in range(10):
                append(connection, "rotation asked", thread=name, number=number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    found = verified(config)
    assert (found.count - before, found.first) == (80, 1)


def test_an_append_that_is_rolled_back_leaves_no_gap(database: Database, config: Config) -> None:
    fill(database, 2)
    with database.session() as connection:
        for _ in range(3):
            with connection.transaction(force_rollback=True):
                append(connection, "reveal opened", count=1)
    fill(database, 2)
    found = verified(config)
    assert found.head is not None
    assert found.count == found.head.seq == database.count("coatcheck.audit")


def test_a_clock_that_was_set_back_is_no_break(database: Database, config: Config) -> None:
    fill(database, 3)
    database.execute("UPDATE coatcheck.audit SET at_us = at_us + 3600000000 WHERE seq = 2")
    database.execute(REWRITE.format(first=99))
    found = verified(config)
    assert (found.backwards, found.backwards_at) == (1, 3)


# -- an export, and a verifier that shares nothing with ours


def independent(path: Path) -> tuple[int, str]:
    """Verify an export with the standard library only; return how many entries, and the last hash."""
    before, count = bytes(32), 0
    with path.open(encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            count += 1
            assert entry["seq"] == count, "an entry is missing"
            data = before + struct.pack(">qq", entry["seq"], entry["at_us"])
            for name in ("actor", "event", "detail"):
                text = entry[name].encode("utf-8")
                data += struct.pack(">I", len(text)) + text
            before = hashlib.sha256(data).digest()
            assert before.hex() == entry["hash"], f"entry {count} was changed"
    return count, before.hex()


@pytest.fixture
def exported(filled: Database, signed: Config, tmp_path: Path) -> Path:
    assert filled.count("coatcheck.audit") == COUNT
    path = tmp_path / "audit.jsonl"
    path.write_text("".join(f"{line}\n" for line in trail.lines(trail.entries(signed))))
    return path


def offline(path: Path, signed: Config) -> Verified:
    def configured() -> Config:
        raise AssertionError("no configuration is needed")

    with path.open("rb") as file:
        return trail.verify(configured, file, [notes(signed)], signed.keys.path / "audit-public.txt")


def test_an_export_is_verified_by_anybody(exported: Path, signed: Config) -> None:
    count, head = independent(exported)
    found = offline(exported, signed)
    assert found == verified(signed, notes(signed))
    assert found.head is not None
    assert (count, head) == (found.count, found.head.hash.hex())


def test_an_export_that_was_tampered_with(exported: Path, signed: Config, tmp_path: Path) -> None:
    lines = exported.read_text().splitlines(keepends=True)
    other = tmp_path / "other.jsonl"
    for changed, kind, seq in (
        (lines[:2] + lines[3:], Kind.MISSING, 3),
        ([lines[1], lines[0], *lines[2:]], Kind.DISORDER, 1),
        ([*lines[:2], lines[4], lines[3], lines[2], lines[5]], Kind.DISORDER, 4),
        (lines[:-1], Kind.TRUNCATED, COUNT),
        ([line.replace("reveal", "revea1") for line in lines], Kind.CHANGED, 1),
    ):
        other.write_text("".join(changed))
        with pytest.raises(BrokenTrailError) as caught:
            offline(other, signed)
        assert (caught.value.kind, caught.value.seq) == (kind, seq)
        assert CANARY not in caught.value.message + caught.value.hint


def test_an_export_that_starts_later(exported: Path, signed: Config, tmp_path: Path) -> None:
    lines = exported.read_text().splitlines(keepends=True)
    for start, begun in ((4, True), (3, False)):
        (tmp_path / "later.jsonl").write_text("".join(lines[start:]))
        found = offline(tmp_path / "later.jsonl", signed)
        assert (found.first, found.begun) == (start + 1, begun)


def test_a_line_that_is_no_entry_is_not_repeated(exported: Path, signed: Config) -> None:
    exported.write_text(exported.read_text().replace('"seq":2', '"seq":"2"'))
    with pytest.raises(CoatcheckError, match="is no entry of an audit trail") as caught:
        offline(exported, signed)
    assert f"line 2 of {exported}" in caught.value.message
    assert CANARY not in f"{caught.value!r} {caught.value.hint} {caught.value.__context__!r}"


# -- who may read


def test_who_may_not_read_is_told_the_role(database: Database, tmp_path: Path) -> None:
    config = configuration(database.role("USAGE ON SCHEMA coatcheck"), tmp_path)
    for work in (lambda: verified(config), lambda: list(trail.entries(config))):
        with pytest.raises(
            ConfigError, match=r"cannot read the audit trail: PostgreSQL answers 42501 \(audit\)"
        ) as hint:
            work()
        assert hint.value.hint == f'let the owner say: GRANT coatcheck_auditor TO "{database.roles[0]}"'


def test_reading_ends_with_the_transaction(database: Database) -> None:
    """A reader that is left in the middle holds nothing afterwards."""
    fill(database, 3)
    with database.session() as connection:
        found = reading.entries(connection)
        next(found)
        assert connection.info.transaction_status.name == "INTRANS"
        found.close()
        assert connection.info.transaction_status.name == "IDLE"


def test_a_long_trail_comes_in_pages(database: Database, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PAGE", 7)
    fill(database, 30)
    found = [entry.seq for entry in trail.entries(config)]
    assert len(found) >= 30
    assert all(later == earlier + 1 for earlier, later in pairwise(found))
    assert [entry.seq for entry in trail.entries(config, limit=10)] == found[-10:]


def test_a_database_that_goes_away(database: Database, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PAGE", 2)
    fill(database, 9)

    def interrupted() -> Iterator[int]:
        for entry in trail.entries(config):
            if entry.seq == 2:
                database.terminate()
            yield entry.seq

    with pytest.raises(UnreachableError, match="cannot read the audit trail"):
        list(interrupted())
