"""The benchmark of cost growth: which databases there are, what counts as growth, and what is a wrong run."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from benchmarks.growth import check, growth, main, misses, new_values, show, sizes_of
from benchmarks.loader import BenchmarkError, Outcome
from benchmarks.null_process import Stats
from benchmarks.prefill import CHUNK, Filled, Size, _chunks, dsn_of

FULL = Size(1000, 0)
COUNTS = {"rows": 100, "batch": 100, "duplicates": 0, "ledger": 100, "vault": 40}


def outcome(**changes: int) -> Outcome:
    fields: dict[str, Any] = {"received": 100, "loaded": 100, "duplicates": 0, "rejected": 0, "acked": 100}
    return Outcome(**{**fields, "seconds": 1.0, **changes})


def stats(**changes: int) -> Stats:
    fields: dict[str, Any] = {"received": 100, "deleted": 100, "waiting": 0, "in_flight": 0, "sent": 0, "errors": 0}
    return Stats(**{**fields, "requests": {}, "empty_receives": 0, "elapsed": 1.0, "cpu_seconds": 0.1, **changes})


def run(size: Size, number: int, *, rate: float, cpu: float, postgres: float | None) -> dict[str, Any]:
    where = {"ledger_rows": size.ledger, "vault_rows": size.vault, "round": number}
    return where | {"rate": rate, "running_us": cpu, "postgres_us": postgres}


def rounds(rate: float, cpu: float, postgres: float | None) -> list[dict[str, Any]]:
    """Three rounds, of which the machine was slow in the second."""
    runs = []
    for number, slow in ((1, 1.0), (2, 2.0), (3, 1.0)):
        empty = {"rate": 20_000.0 / slow, "cpu": 20.0 * slow, "postgres": 10.0 * slow}
        runs.append(run(Size(0, 0), number, **empty))
        runs.append(
            run(FULL, number, rate=rate / slow, cpu=cpu * slow, postgres=None if postgres is None else postgres * slow)
        )
    return runs


def test_the_empty_database_comes_first_and_once() -> None:
    assert sizes_of([0, 10, 50], [0, 10]) == [(0, 0), (10, 0), (50, 0), (0, 10)]
    assert sizes_of([10, 10], []) == [(0, 0), (10, 0)]


def test_each_size_has_a_database_of_its_own() -> None:
    assert len({size.database for size in sizes_of([10, 50], [10, 50])}) == 5
    assert (
        dsn_of("postgresql://u:p@127.0.0.1:5/postgres", FULL.database) == "postgresql://u:p@127.0.0.1:5/growth_1000_0"
    )


def test_growth_is_against_the_empty_run_of_the_same_round() -> None:
    runs = rounds(rate=16_000.0, cpu=22.0, postgres=15.0)
    assert growth(runs, FULL, "rate") == pytest.approx(1.25)  # a rate that falls has grown in cost
    assert growth(runs, FULL, "running_us") == pytest.approx(1.1)
    assert growth(runs, FULL, "postgres_us") == pytest.approx(1.5)
    assert growth(runs, Size(0, 0), "postgres_us") == pytest.approx(1.0)


def test_what_grows_beyond_the_limit_is_told() -> None:
    sizes = [Size(0, 0), FULL]
    assert misses(rounds(rate=16_000.0, cpu=22.0, postgres=12.0), sizes) == []
    assert misses(rounds(rate=16_000.0, cpu=22.0, postgres=None), sizes) == []
    missed = misses(rounds(rate=10_000.0, cpu=22.0, postgres=15.0), sizes)
    assert missed == [
        "postgres_us x 1.50 with 1,000 ledger and 0 vault entries",
        "rate x 2.00 with 1,000 ledger and 0 vault entries",
    ]


def test_the_table_shows_medians_and_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        one | {"cpu_us": 30.0, "wal_bytes": 600.0, "full_page_bytes": None, "index_mb": 1.0}
        for one in rounds(rate=16_000.0, cpu=22.0, postgres=12.0)
    ]
    show(runs, [Size(0, 0), FULL])
    printed = capsys.readouterr().out
    assert "16,000.0 x 1.25" in printed
    assert "22.0 x 1.10" in printed
    assert printed.splitlines()[-1] == "limit of 1.3 x the empty database: met"


def test_a_right_run_passes() -> None:
    check(100, outcome(), stats(), COUNTS)
    check(100, outcome(), stats(), {"rows": 100, "batch": 100, "duplicates": 0, "vault": 40})  # the ledger is full


@pytest.mark.parametrize(
    ("told", "changed", "counted", "why"),
    [
        ({"loaded": 99}, {}, {}, "99 loaded"),
        ({}, {"deleted": 99}, {}, "99 deleted"),
        ({}, {"errors": 1}, {}, "1 errors"),
        ({}, {}, {"rows": 101}, "101 in rows, not 100"),
        ({}, {}, {"duplicates": 1}, "1 in duplicates, not 0"),
        ({}, {}, {"ledger": 99}, "99 in ledger, not 100"),
        ({}, {}, {"vault": 39}, "39 in vault, not 40"),
    ],
)
def test_a_wrong_run_is_an_error(told: dict[str, int], changed: dict[str, int], counted: Any, why: str) -> None:
    with pytest.raises(BenchmarkError, match=why):
        check(100, outcome(**told), stats(**changed), COUNTS | counted)


def test_every_fifth_message_brings_two_values() -> None:
    assert [new_values(messages) for messages in (1, 5, 6, 100)] == [2, 2, 4, 40]


def test_chunks_add_up() -> None:
    assert list(_chunks(0)) == []
    assert list(_chunks(2 * CHUNK + 1)) == [CHUNK, CHUNK, 1]


def test_a_filled_database_is_used_again_if_it_holds_the_same() -> None:
    filled = Filled(ledger=10, vault=0, days=1, epoch=20264, kid="k1", sent_ms=5, seconds=3.0)
    assert filled.same(msgspec.structs.replace(filled, sent_ms=6, seconds=1.0))
    for other in ({"ledger": 11}, {"vault": 1}, {"days": 2}, {"epoch": 20271}, {"kid": "k2"}):
        assert not filled.same(msgspec.structs.replace(filled, **other))


@pytest.mark.parametrize("arguments", [["--days", "0"], ["--days", "41"], ["--messages", "0"], ["--ledger", "-1"]])
def test_senseless_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
