"""The benchmark of scaling: a wrong run is no figure, what bounds a run is named, the target is looked at fairly."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from benchmarks.loader import BenchmarkError, Outcome
from benchmarks.null_process import Stats
from benchmarks.null_sink import NullSink, write_command
from benchmarks.scaling import bound_by, check, machine_seconds, main, middle, scale, verdict

from coatcheck.pipeline.message import Batch, Message, Row

EMPTY = {"rows": 0, "ledger": 0, "vault": 0}


def outcome(**changes: int) -> Outcome:
    fields: dict[str, Any] = {"received": 100, "loaded": 100, "duplicates": 0, "rejected": 0, "acked": 100}
    return Outcome(**{**fields, "seconds": 1.0, **changes})


def stats(**changes: int) -> Stats:
    fields: dict[str, Any] = {"received": 100, "deleted": 100, "waiting": 0, "in_flight": 0, "sent": 0, "errors": 0}
    return Stats(**{**fields, "requests": {}, "empty_receives": 0, "elapsed": 1.0, "cpu_seconds": 0.1, **changes})


def run(setting: str, workers: int, number: int, rate: float, worker_cores: float = 0.3) -> dict[str, Any]:
    cores = worker_cores * workers
    shares = {"busy_cores": cores + 0.1, "worker_cores": worker_cores, "null_sqs_cores": 0.1}
    return {"setting": setting, "workers": workers, "round": number, "rate": rate, **shares}


def test_a_right_run_passes() -> None:
    check(100, outcome(), stats(), EMPTY)


@pytest.mark.parametrize(
    ("told", "changed", "counts", "why"),
    [
        ({"loaded": 99}, {}, EMPTY, "99 went through, not 100"),
        ({"rejected": 1}, {}, EMPTY, "1 rejected, not 0"),
        ({}, {"deleted": 98}, EMPTY, "98 deleted from the queue, not 100"),
        ({}, {"received": 101}, EMPTY, "101 received, not 100"),
        ({}, {"errors": 2}, EMPTY, "2 errors at the queue, not 0"),
        ({}, {}, EMPTY | {"rows": 100}, "100 rows in the database, not 0"),
        ({}, {}, EMPTY | {"vault": None}, "None vault in the database, not 0"),
    ],
)
def test_a_wrong_run_is_an_error(told: dict[str, int], changed: dict[str, int], counts: Any, why: str) -> None:
    with pytest.raises(BenchmarkError, match=why):
        check(100, outcome(**told), stats(**changed), counts)


@pytest.mark.parametrize(
    ("sqs", "worker", "busy", "other", "name"),
    [
        (0.95, 0.5, 1.9, 0.0, "the null SQS server"),
        (0.3, 0.95, 1.25, 0.0, "each worker's core"),
        (0.3, 0.8, 1.9, 0.0, "all cores"),
        (0.3, 0.5, 1.3, 0.7, "others on the machine"),
        (0.1, 0.3, 0.4, 0.1, "waiting"),
        (0.1, 0.3, 0.4, None, "waiting"),
    ],
)
def test_what_bounds_a_run_is_named(sqs: float, worker: float, busy: float, other: float | None, name: str) -> None:
    run = {"null_sqs_cores": sqs, "worker_cores": worker, "busy_cores": busy, "other_cores": other}
    assert bound_by(run, cores=2) == name


def test_the_machine_counts_what_a_process_uses() -> None:
    before = machine_seconds()
    if before is None:
        pytest.skip("there is no /proc")
    started = time.process_time()
    while time.process_time() - started < 0.2:
        pass
    assert (machine_seconds() or 0.0) - before >= 0.15


def test_scaling_compares_within_a_round() -> None:
    runs = [run("latency", 1, 1, 100.0), run("latency", 2, 1, 200.0)]
    runs += [run("latency", 1, 2, 50.0), run("latency", 2, 2, 95.0)]  # the machine was slow in the second round
    runs += [run("latency", 1, 3, 100.0), run("latency", 2, 3, 170.0)]
    runs += [run("saturated", 1, 1, 1.0), run("saturated", 2, 1, 1.1)]
    assert scale(runs, "latency", 2) == pytest.approx(1.9)
    assert scale(runs, "saturated", 2) == pytest.approx(1.1)
    assert middle(runs, "latency", 2)["rate"] == 170.0


@pytest.mark.parametrize(
    ("rate", "cores", "said"),
    [(190.0, 0.3, "met, x 1.90"), (170.0, 0.3, "missed, x 1.70"), (190.0, 0.6, "not looked at, one worker takes")],
)
def test_the_target(rate: float, cores: float, said: str) -> None:
    runs = [run("latency", 1, 1, 100.0, cores), run("latency", 2, 1, rate, cores)]
    assert said in verdict(runs, [1, 2])
    assert "not looked at" in verdict(runs, [2])


def test_the_null_sink_takes_everything_for_new() -> None:
    row = Row(Message("id", "{}", 0, "receipt"), b"k" * 16, 0, ())
    written = asyncio.run(NullSink(dsn="", table="t").write(Batch(rows=[row, row])))
    assert (written.loaded, written.quarantined, written.duplicates, written.refused) == (2, 0, 0, [])


def test_the_command_is_a_program(tmp_path: Path) -> None:
    command = write_command(tmp_path / "coatcheck")
    assert command.stat().st_mode & 0o111
    compile(command.read_text(), "command", "exec")


def test_no_messages_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--messages", "0"])
    assert "at least 1" in capsys.readouterr().err
