"""Plots: ticks are round and around all values, drawings are valid and complete, labels do not overlap."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest
from benchmarks.plot import WIDTH, bars, lines
from benchmarks.report import Spread
from benchmarks.scales import Axis, Scale, log_ticks, nice_ticks, short

SVG = "{http://www.w3.org/2000/svg}"
SERIES = {"a & b": [(0.0, 1.0), (10.0, 4.0)], "other": [(0.0, 2.0), (10.0, 90.0)]}


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 31_000, [0, 10_000, 20_000, 30_000, 40_000]),
        (0, 1.34, [0, 0.5, 1, 1.5]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 7, [-4, -2, 0, 2, 4, 6, 8]),
    ],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    found = nice_ticks(low, high)
    assert found == pytest.approx(ticks)
    steps = [after - before for before, after in pairwise(found)]
    assert found[0] <= low
    assert found[-1] >= high
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert re.fullmatch(r"[125]0*", f"{steps[0] * 1e9:.0f}")


@pytest.mark.parametrize(("low", "high"), [(27.0, 285.0), (1.0, 1.0), (900.0, 26_500.0), (0.003, 4e6), (10.0, 1000.0)])
def test_ticks_of_a_log_scale_are_around_the_values(low: float, high: float) -> None:
    found = log_ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert found == sorted(set(found))
    assert all(re.fullmatch(r"[125]\.0+e[+-]\d+", f"{tick:e}") for tick in found)


def test_a_scale_puts_the_ends_at_the_ends() -> None:
    scale = Scale(Axis("x", log=True), 100.0, 500.0, [1.0, 10_000.0])
    assert (scale.at(1.0), scale.at(100.0), scale.at(10_000.0)) == (100.0, 300.0, 500.0)
    assert scale.at(0.0) == 100.0  # nothing is less than the least on a log scale
    assert Scale(Axis("x", limit=90.0), 0.0, 1.0, [1.0]).ticks[-1] >= 90.0


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.25, "0.25"), (900, "900"), (4100, "4,100"), (26_500, "26.5k"), (1.5e6, "1.5M"), (2e9, "2G")],
)
def test_figures_are_short(value: float, shown: str) -> None:
    assert short(value) == shown


def test_a_plot_of_lines_has_all_points_and_is_told_in_words() -> None:
    svg = lines("A < B", "told", Axis("x"), Axis("y", limit=50.0), SERIES)
    root = ET.fromstring(svg)  # noqa: S314 - our own text
    assert [one.text for one in root[:2]] == ["A < B", "told"]
    assert root.get("role") == "img"
    plotted = [len((line.get("points") or "").split()) for line in root.iter(f"{SVG}polyline")]
    assert plotted == [2, 2, 2, 2]  # the legend's and the data's
    assert {"x", "y", "a & b", "other", "limit 50"} <= {text.text for text in root.iter(f"{SVG}text")}
    assert "prefers-color-scheme: dark" in svg
    assert svg == lines("A < B", "told", Axis("x"), Axis("y", limit=50.0), SERIES)


def test_bars_are_as_long_as_their_medians() -> None:
    rows: dict[str, list[Spread | None]] = {
        "one": [Spread(10.0, 8.0, 11.0), None],
        "another, with a long name": [Spread(20.0, 20.0, 20.0)] * 2,
    }
    root = ET.fromstring(bars("t", "d", Axis("x"), ["p", "q"], rows))  # noqa: S314 - our own text
    widths = [float(one.get("width") or 0) for one in root.iter(f"{SVG}rect") if one.get("height") == "14"]
    drawn = [width for width in widths if width > 60]
    assert drawn == pytest.approx([drawn[0], 2 * drawn[0], 2 * drawn[0]], abs=0.2)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts.count("20") == 3  # a tick and two bars
    assert {"p", "q", "one", "another, with a long name"} <= set(texts)


def test_no_labels_overlap_and_all_are_inside() -> None:
    names = [f"a longer name of a series {number}" for number in range(7)]
    series = {name: [(0.0, 5.0), (50e6, 140.0)] for name in names}
    rows = {f"setting number {at}, 20% new values": [Spread(at + 1, at + 1, at + 2)] * 2 for at in range(9)}
    for svg in (
        lines("t", "d", Axis("messages"), Axis("y", limit=150.0), series),
        lines("t", "d", Axis("x"), Axis("y", log=True), series),
        bars("t", "d", Axis("x", limit=3.0), names[:2], rows),
        bars("t", "d", Axis("x", log=True), names[:1], rows),
    ):
        boxes = [_box(text) for text in ET.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - our own text
        assert all(left >= 0 and right <= WIDTH for left, right, _, _, _ in boxes)
        for number, one in enumerate(boxes):
            assert not [other for other in boxes[number + 1 :] if _overlap(one, other)], one


def _box(text: ET.Element) -> tuple[float, float, float, float, str]:
    x, y, said = float(text.get("x") or 0), float(text.get("y") or 0), text.text or ""
    width = 6.2 * len(said)
    left = x - width * {"middle": 0.5, "end": 1.0}.get(text.get("text-anchor") or "", 0.0)
    return left, left + width, y - 9.0, y + 2.0, said


def _overlap(one: tuple[float, float, float, float, str], other: tuple[float, float, float, float, str]) -> bool:
    across = min(one[1], other[1]) - max(one[0], other[0])
    return across > 0 and min(one[3], other[3]) - max(one[2], other[2]) > 0
