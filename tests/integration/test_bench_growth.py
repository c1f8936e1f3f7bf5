"""The benchmarks of cost growth and scaling, small: they run, check themselves, and what they fill in is like real."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from benchmarks import growth, scaling
from benchmarks.envelope import read
from benchmarks.loader import installed_command
from benchmarks.prefill import Size, dsn_of, noted
from psycopg import sql

from coatcheck.demo.servers import PostgresServer
from coatcheck.keys.tokens import TOKEN_PATTERN
from coatcheck.pipeline.keying import DAY_S, SLOTS

pytestmark = pytest.mark.xdist_group("growth")  # what is filled takes half a minute: once, not in each worker
LEDGER, VAULT, MESSAGES = 4_000, 6_000, 1_000
OPTIONS = f"--ledger 0 {LEDGER} --vault 0 {VAULT} --days 3 --runs 2 --messages {MESSAGES}".split()


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    """The databases of a small run, kept; not in pytest's own folder, which the server's user may not pass through."""
    with tempfile.TemporaryDirectory(prefix="coatcheck-growth-") as name:
        folder = Path(name)
        assert growth.main([*OPTIONS, "--data", name, "--json", str(folder / "growth.json")]) == 0
        yield folder


@pytest.fixture(scope="module")
def dsn(data: Path) -> Iterator[str]:
    with PostgresServer(data=data / "postgres") as server:
        yield server.dsn


def connect(dsn: str, size: Size) -> psycopg.Connection:
    return psycopg.connect(dsn_of(dsn, size.database))


def counted(connection: psycopg.Connection, table: str) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table.split(".")))).fetchone()
    assert row
    return int(row[0])


def test_every_run_is_written(data: Path) -> None:
    envelope = read(data / "growth.json")
    assert envelope.experiment == "growth"
    assert envelope.machine["shared_buffers"] == "128MB"
    sizes = [(run["ledger_rows"], run["vault_rows"], run["round"]) for run in envelope.runs]
    assert sorted(sizes) == [*((0, 0, 1), (0, 0, 2), (0, VAULT, 1), (0, VAULT, 2), (LEDGER, 0, 1), (LEDGER, 0, 2))]
    assert sizes[0][:2] != sizes[3][:2]  # another one begins in the second round
    for run in envelope.runs:
        for name in ("cpu_us", "postgres_us", "rate", "wal_bytes", "index_mb"):
            assert isinstance(run[name], float)
            assert run[name] > 0, name  # type: ignore[operator]


def test_what_is_full_stays_and_the_rest_is_emptied(dsn: str) -> None:
    warm_up_and_runs = 3 * MESSAGES
    with connect(dsn, Size(LEDGER, 0)) as full:
        assert counted(full, "coatcheck.ledger") == LEDGER + warm_up_and_runs
        assert counted(full, "coatcheck.vault") == growth.new_values(MESSAGES)
        assert counted(full, "user_logins") == MESSAGES
    with connect(dsn, Size(0, VAULT)) as full:
        assert counted(full, "coatcheck.ledger") == MESSAGES
        assert counted(full, "coatcheck.vault") == VAULT + 3 * growth.new_values(MESSAGES)


def test_the_ledger_is_filled_where_the_messages_go(dsn: str) -> None:
    filled = noted(dsn, Size(LEDGER, 0))
    assert filled
    now = filled.sent_ms // 1000
    with connect(dsn, Size(LEDGER, 0)) as full:
        rows = full.execute(
            "SELECT mod(%s - slot, %s) / %s AS ago, count(*), max(loaded_on) FROM coatcheck.ledger GROUP BY ago",
            (now % SLOTS + SLOTS, SLOTS, DAY_S),
        ).fetchall()
    assert {ago: count for ago, count, _ in rows} == {
        0: pytest.approx(LEDGER / 3 + 3 * MESSAGES, abs=1),
        1: pytest.approx(LEDGER / 3, abs=1),
        2: pytest.approx(LEDGER / 3, abs=1),
    }


def test_vault_entries_look_like_those_of_the_loader(dsn: str) -> None:
    shape = """SELECT split_part(token, '_', 2), split_part(token, '_', 3), epoch, octet_length(ciphertext),
        octet_length(wrapped), kek LIKE 'local:%%', vault.tableoid::regclass::text
        FROM coatcheck.vault AS vault JOIN coatcheck.data_key USING (dek_id) WHERE (kek = 'local:benchmark') = %s"""
    with connect(dsn, Size(0, VAULT)) as full:
        filled, loaded = (set(full.execute(shape, [made]).fetchall()) for made in (True, False))
        tokens = full.execute("SELECT token FROM coatcheck.vault").fetchall()
    assert len(filled) == 2
    assert filled == loaded
    assert all(TOKEN_PATTERN.fullmatch(token) for (token,) in tokens)


def test_rows_come_in_no_order(dsn: str) -> None:
    """An index that was filled in the order of its keys would be packed: kinder than reality."""
    with connect(dsn, Size(0, VAULT)) as full:
        tokens = [
            token for (token,) in full.execute("SELECT token FROM coatcheck.vault ORDER BY ctid LIMIT 2000").fetchall()
        ]
    rising = sum(before < after for before, after in pairwise(tokens))
    assert 800 < rising < 1200


def test_scaling_runs_without_a_row_in_the_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "scaling.json"
    options = ["--runs", "1", "--messages", "2000", "--latency-messages", "2000", "--latency-ms", "5"]
    assert scaling.main([*options, "--json", str(file)]) == 0  # it counts: 2,000 a worker through, none written
    runs = read(file).runs
    assert [(run["setting"], run["workers"]) for run in runs] == [
        *(("saturated", 1), ("saturated", 2), ("latency", 1), ("latency", 2))
    ]
    for run in runs:
        assert isinstance(run["rate"], float)
        assert isinstance(run["null_sqs_us"], float)
        assert run["rate"] > 0
        assert run["null_sqs_us"] > 0
    assert "saturated" in capsys.readouterr().out


def test_rows_in_the_database_are_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Were the product itself to run, or the supervisor to start it, this would tell."""
    monkeypatch.setattr("benchmarks.scaling.write_command", lambda _path: installed_command())
    assert scaling.main(["--runs", "1", "--messages", "200", "--latency-messages", "200"]) == 1
    assert "400 rows in the database, not 0" in capsys.readouterr().err
