"""The page: made from the result files alone, the same each time, and told to be out of date when they change."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.envelope import Envelope, write
from benchmarks.page import main
from benchmarks.sections import cell, table
from benchmarks.targets import TARGETS
from tests.unit.benchmarks.made_up import everything, road, wrap


def put(docs: Path, results: dict[str, Envelope]) -> None:
    for name, result in results.items():
        write(docs / "benchmarks" / f"{name}.json", result)


def run(docs: Path, *options: str) -> int:
    return main(["--docs", str(docs), *options])


def page(docs: Path) -> str:
    assert run(docs) == 0
    return (docs / "benchmarks.md").read_text("utf-8")


def row(text: str, start: str) -> list[str]:
    return [one.strip() for one in next(line for line in text.splitlines() if line.startswith(f"| {start}")).split("|")]


def test_without_results_everything_is_not_measured(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert text.count("| not measured |") == len(TARGETS)
    assert f"0 of {len(TARGETS)} met, 0 missed, {len(TARGETS)} not measured." in text
    assert "svg" not in text
    assert run(tmp_path, "--check") == 0


def test_all_results_make_a_whole_page(tmp_path: Path) -> None:
    put(tmp_path, everything())
    text = page(tmp_path)
    assert "| not measured |" not in text
    assert row(text, "end to end, 20 %")[2:5] == [
        ">= 25,000 msg/s",
        "24,200 (22,264-25,168 of 5 runs), 2 workers",
        "**missed** by 800 msg/s (3 %)",
    ]
    assert row(text, "2 workers, vault off")[4] == "31,000 (28,520-32,240)"
    assert row(text, "boto3_rows")[3:6] == ["26.2", "900 (828-936)", "29.4"]
    assert row(text, "10 M in the vault")[3] == "29.3 (x 1.34)"
    assert "dlt was skipped: no wheel for this Python." in text
    assert "Made Up 3000" in text
    assert "messages 300000 |" in text


def test_each_plot_is_linked_and_there(tmp_path: Path) -> None:
    put(tmp_path, everything())
    linked = re.findall(r"!\[[^\]]+\]\((benchmarks/[^)]+\.svg)\)", page(tmp_path))
    assert {Path(name).stem for name in linked} >= {"throughput", "latency", "growth", "memory", "peers-rate-0ms"}
    assert sorted(linked) == sorted(f"benchmarks/{path.name}" for path in (tmp_path / "benchmarks").glob("*.svg"))


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        put(tmp_path / name, everything())
        page(tmp_path / name)
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "other" / path.relative_to(tmp_path / "one")).read_bytes()


def test_the_check_finds_what_is_out_of_date(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, everything())
    page(tmp_path)
    assert run(tmp_path, "--check") == 0
    put(tmp_path, {"road": wrap("road", road(1, 99.0, 9.0))})
    before = (tmp_path / "benchmarks.md").read_bytes()
    assert run(tmp_path, "--check") == 1
    told = capsys.readouterr().err
    assert "benchmarks.md is out of date: python -m benchmarks.page" in told
    assert "throughput.svg is out of date" in told
    assert "latency.svg" not in told
    assert (tmp_path / "benchmarks.md").read_bytes() == before


def test_plots_of_no_figures_are_out_of_date_and_go(tmp_path: Path) -> None:
    put(tmp_path, everything())
    page(tmp_path)
    (tmp_path / "benchmarks" / "memory.json").unlink()
    assert run(tmp_path, "--check") == 1
    page(tmp_path)
    assert not (tmp_path / "benchmarks" / "memory.svg").exists()


def test_a_broken_result_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, everything())
    (tmp_path / "benchmarks" / "road.json").write_text('{"experiment": 1}')
    assert run(tmp_path) == 1
    assert "benchmark: error: road.json: " in capsys.readouterr().err
    assert not (tmp_path / "benchmarks.md").exists()


def test_two_machines_are_both_told(tmp_path: Path) -> None:
    results = everything()
    put(tmp_path, results)
    road_result = results["road"]
    other = Envelope("road", road_result.taken, "abc", {"processor": "Another"}, {}, road_result.runs)
    put(tmp_path, {"road": other})
    assert row(page(tmp_path), "processor")[2] == "Made Up 3000, Another"


def test_columns_of_figures_stand_to_the_right() -> None:
    assert table(("a", "b", "c"), [("x", "1", "y"), ("z", "-", "2")]).splitlines()[1] == "| --- | ---: | --- |"


def test_a_cell_tells_the_spread_where_there_is_one() -> None:
    assert cell([3.0, 1.0, 2.0]) == "2.00 (1.00-3.00)"
    assert cell([2.0, 2.0]) == "2.00"
    assert cell([]) == "-"
