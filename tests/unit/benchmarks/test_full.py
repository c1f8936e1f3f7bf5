"""All experiments in a row: one that fails takes nothing from the others, and the exit code tells."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from benchmarks.envelope import read
from benchmarks.full import EXPERIMENTS, Experiment, main, parse_arguments, take_all
from benchmarks.page import DOCS
from benchmarks.road import parse_arguments as road_arguments
from benchmarks.targets import TARGETS
from tests.unit.benchmarks.made_up import everything

MODULE = "tests.unit.benchmarks.made_up"


def experiment(name: str, options: str = "") -> Experiment:
    return Experiment(name, MODULE, full=f"--experiment {name} {options}", quick=f"--experiment road {options}")


def test_each_result_is_written_and_the_page_too(tmp_path: Path) -> None:
    assert take_all([experiment("idle"), experiment("scaling")], tmp_path, quick=False) == 0
    results = tmp_path / "benchmarks"
    assert {path.stem: read(path).experiment for path in results.glob("*.json")} == {
        "idle": "idle", "scaling": "scaling",
    }  # fmt: skip
    assert "180" in (tmp_path / "benchmarks.md").read_text("utf-8")


def test_one_that_fails_does_not_lose_the_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert take_all([experiment("peers")], tmp_path, quick=False) == 0
    before = (tmp_path / "benchmarks" / "peers.json").read_bytes()
    failing = [experiment("peers", "--exit 3"), Experiment("idle", "benchmarks.no_such_module"), experiment("growth")]
    assert take_all(failing, tmp_path, quick=False) == 1
    told = capfd.readouterr().err
    assert "benchmark: error: peers: exit code 3" in told
    assert "benchmark: error: idle: exit code 1" in told
    assert "error: growth" not in told
    assert (tmp_path / "benchmarks" / "peers.json").read_bytes() == before
    assert sorted(path.stem for path in (tmp_path / "benchmarks").glob("*.json")) == ["growth", "peers"]


def test_one_that_writes_nothing_has_failed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert take_all([experiment("road", "--silent")], tmp_path, quick=False) == 1
    assert "road: it wrote no result file" in capfd.readouterr().err


def test_a_quick_run_has_options_of_its_own(tmp_path: Path) -> None:
    assert take_all([experiment("memory")], tmp_path, quick=True) == 0
    assert read(tmp_path / "benchmarks" / "memory.json").experiment == "road"


def test_the_experiments_are_those_that_the_page_reads() -> None:
    names = [one.name for one in EXPERIMENTS]
    assert set(names) == set(everything())
    assert {target.source for target in TARGETS} <= set(names)


@pytest.mark.parametrize(
    "one", [one for one in EXPERIMENTS if one.module == "benchmarks.road"], ids=lambda one: one.name
)
def test_the_road_understands_its_options(one: Experiment) -> None:
    assert importlib.util.find_spec(one.module)
    for options in (one.full, one.quick):
        assert road_arguments(options.split()).no_gate
    assert road_arguments(one.full.split()).runs >= 5


def test_only_some_can_be_asked_for_and_quick_runs_stay_out_of_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_arguments(["--only", "road", "peers"]).only == ["road", "peers"]
    assert parse_arguments([]).docs == DOCS
    quick = parse_arguments(["--quick"]).docs
    assert quick != DOCS
    quick.rmdir()
    with pytest.raises(SystemExit):
        main(["--only", "nothing"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err
