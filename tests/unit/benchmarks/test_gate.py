"""The regression gate: what the road costs now is held against the baseline, and dearer parts do not get through."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from benchmarks import gate
from benchmarks.gate import MINOR, Baseline, Cost, missed
from benchmarks.stages import COUNT, parts

if TYPE_CHECKING:
    from pathlib import Path

TEN = 10


def times(count: int) -> gate.Part:
    """Return a part that does the reference loop `count` times."""

    def part() -> None:
        for _ in range(count):
            gate.reference()

    return part


def baseline(**parts: Cost) -> Baseline:
    return Baseline(processor="any", python=MINOR, parts=parts)


def test_the_road_takes_no_more_steps_than_the_baseline() -> None:
    known = gate.read()
    if not all(MINOR in cost.steps for cost in known.parts.values()):
        pytest.skip(f"the baseline has no steps of Python {MINOR}: python -m benchmarks.gate --update")
    assert missed(gate.measure(rounds=0), known, times=False) == []


def test_every_part_is_in_the_baseline(tmp_path: Path) -> None:
    assert set(gate.read().parts) == set(parts(tmp_path))


def test_steps_are_counted_not_timed() -> None:
    ten = gate.steps(times(TEN))
    assert ten == gate.steps(times(TEN))
    assert gate.steps(times(2 * TEN)) == pytest.approx(2 * ten, rel=0.01)
    assert ten * COUNT > 2 * TEN * len(gate.STRINGS) * 4  # four calls in C a string, and the code around them


def test_a_sixth_of_more_work_is_missed_by_steps_and_by_time() -> None:
    cheap, dear = times(12), times(14)
    known = baseline(road=Cost(time=gate.ratio(cheap), steps={MINOR: gate.steps(cheap)}))
    same = {"road": Cost(time=gate.ratio(cheap), steps={MINOR: gate.steps(cheap)})}
    more = {"road": Cost(time=gate.ratio(dear), steps={MINOR: gate.steps(dear)})}
    assert missed(same, known, times=True) == []
    by_steps, by_time = missed(more, known, times=True)
    assert by_steps.startswith("road: ")
    assert "1.17 times the" in by_steps
    assert by_time.endswith("times the baseline's time")


def test_what_cannot_be_compared_is_not_judged_and_what_is_new_is_named() -> None:
    known = baseline(road=Cost(time=1.0, steps={"2.7": 1.0}))
    assert missed({"road": Cost(time=9.0, steps={MINOR: 9.0})}, known, times=False) == []
    assert missed({"lane": Cost(time=1.0, steps={MINOR: 1.0})}, known, times=True) == [
        "lane: it is not in the baseline"
    ]


def test_an_update_keeps_the_steps_of_other_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "BASELINE", tmp_path / "baseline.json")
    gate.update({"road": Cost(time=2.0, steps={"2.7": 5.0}), "gone": Cost(time=1.0, steps={"2.7": 1.0})})
    gate.update({"road": Cost(time=1.0, steps={MINOR: 4.0})})
    assert gate.read().parts == {"road": Cost(time=1.0, steps={"2.7": 5.0, MINOR: 4.0})}


def test_the_command_tells_what_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "BASELINE", tmp_path / "baseline.json")
    monkeypatch.setattr(gate, "parts", lambda _: {"road": times(2)})
    assert gate.main(["--update", "--rounds", "2"]) == 0
    monkeypatch.setattr(gate, "parts", lambda _: {"road": times(4)})
    assert gate.main(["--rounds", "2"]) == 1
    assert "gate: missed: road: " in capsys.readouterr().err
