"""Plots as SVG, as plain text that is the same for the same figures: lines, and horizontal bars with their spread.

A plot has a background of its own, so it can be read on light and dark pages; it follows the reader's colour scheme.
Lines differ by dashes and markers too, not by colour alone, and title and description are there for screen readers.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from benchmarks.report import Spread
from benchmarks.scales import Axis, Scale, short

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

WIDTH = 760
LETTER = 7.0
"""Width of a character of the labels, at most."""
LIGHT = ("#0b63a5", "#b8440b", "#12783a", "#6d35c9", "#8a6100", "#a3216b", "#3d4a57")
DARK = ("#6cb6f5", "#fb9a55", "#57d68a", "#bfa3ff", "#f0c541", "#f58ac2", "#b6c2cf")
DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 4", "12 3", "1 4")
MARKS = ("circle", "square")


def lines(title: str, told: str, x: Axis, y: Axis, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return a plot of lines through points."""
    points = [point for of in series.values() for point in of]
    top, left = 48.0 + _legend_height(list(series)), 72.0
    bottom = top + 300.0
    across = Scale(x, left, WIDTH - 28.0, [point[0] for point in points])
    up = Scale(y, bottom, top, [point[1] for point in points])
    parts = [*_legend(series, MARKS)]
    for tick in up.ticks:
        at = up.at(tick)
        parts += [_line(left, at, WIDTH - 28.0, at, "grid"), _text(left - 8, at + 4, short(tick), "end")]
    for tick in across.ticks:
        at = across.at(tick)
        parts += [_line(at, bottom, at, bottom + 5, "axis"), _text(at, bottom + 20, short(tick), "middle")]
    parts.append(_line(left, bottom, WIDTH - 28.0, bottom, "axis"))
    for place, of in enumerate(series.values()):
        spots = [(across.at(one), up.at(other)) for one, other in of]
        path = " ".join(f"{one:.1f},{other:.1f}" for one, other in spots)
        parts.append(f'<polyline class="s{place % len(LIGHT)}" points="{path}"/>')
        parts += [_mark(place, *spot) for spot in spots]
    if y.limit is not None:
        at = up.at(y.limit)
        parts += [_line(left, at, WIDTH - 28.0, at, "limit"), _text(WIDTH - 32.0, at - 5, _limit(y), "end")]
    parts += [_text((left + WIDTH) / 2, bottom + 42, x.label, "middle"), _text(left - 56, top - 12, y.label)]
    return _document(title, told, bottom + 56, parts)


def bars(title: str, told: str, axis: Axis, names: Sequence[str], rows: Mapping[str, Sequence[Spread | None]]) -> str:
    """Return a plot of horizontal bars: one row a key, in it one bar a name, each with its least and greatest."""
    left = 24.0 + LETTER * max(map(len, rows), default=0)
    top = 48.0 + _legend_height(names if len(names) > 1 else ())
    row_height = 18.0 * len(names) + 12.0
    bottom, right = top + row_height * len(rows), WIDTH - 84.0
    found = [spread for row in rows.values() for spread in row if spread]
    across = Scale(axis, left, right, [value for spread in found for value in (spread.low, spread.median, spread.high)])
    parts = [*_legend(names, ("square",))] if len(names) > 1 else []
    for tick in across.ticks:
        at = across.at(tick)
        parts += [_line(at, top, at, bottom, "grid"), _text(at, bottom + 18, short(tick), "middle")]
    values: list[str] = []
    for number, (name, row) in enumerate(rows.items()):
        start = top + row_height * number + 6.0
        parts.append(_text(left - 8, start + 9.0 * len(names) + 4, name, "end"))
        for place, spread in enumerate(row):
            if spread:
                parts += _bar(across, spread, start + 18.0 * place, place)
                values += _value(across, spread, start + 18.0 * place)
    parts.append(_line(left, top, left, bottom, "axis"))
    if axis.limit is not None:
        at = across.at(axis.limit)
        parts += [_line(at, top - 4, at, bottom, "limit"), _text(at, top - 8, _limit(axis), "middle")]
    parts += values  # over the line of the limit
    parts.append(_text((left + right) / 2, bottom + 40, axis.label, "middle"))
    return _document(title, told, bottom + 54, parts)


def _bar(across: Scale, spread: Spread, top: float, place: int) -> list[str]:
    start, end = across.start, across.at(spread.median)
    low, high, middle = across.at(spread.low), across.at(spread.high), top + 7.0
    return [
        f'<rect class="f{place % len(LIGHT)}" x="{start:.1f}" y="{top:.1f}" width="{end - start:.1f}" height="14"/>',
        _line(low, middle, high, middle, "spread"),
        *(_line(at, middle - 4, at, middle + 4, "spread") for at in (low, high)),
    ]


def _value(across: Scale, spread: Spread, top: float) -> list[str]:
    """Return a bar's figure, on a ground that hides lines behind it."""
    at, text = across.at(max(spread.median, spread.high)) + 6, short(spread.median)
    ground = f'<rect class="back" x="{at - 2:.1f}" y="{top:.1f}" width="{len(text) * LETTER + 4:.1f}" height="14"/>'
    return [ground, _text(at, top + 11.5, text)]


def _limit(axis: Axis) -> str:
    return f"limit {short(axis.limit or 0.0)}"


def _rows(names: Iterable[str]) -> list[list[str]]:
    """Return the names in rows of the legend."""
    rows: list[list[str]] = [[]]
    for name in names:
        if rows[-1] and sum(len(one) * LETTER + 48 for one in [*rows[-1], name]) > WIDTH - 32:
            rows.append([])
        rows[-1].append(name)
    return rows


def _legend_height(names: Sequence[str]) -> float:
    return 20.0 * len(_rows(names)) + 24.0 if names else 14.0


def _legend(names: Iterable[str], marks: Sequence[str]) -> Iterable[str]:
    place = 0
    for number, row in enumerate(_rows(names)):
        at, y = 16.0, 52.0 + 20.0 * number
        for name in row:
            if len(marks) > 1:
                yield f'<polyline class="s{place % len(LIGHT)}" points="{at:.1f},{y:.1f} {at + 26:.1f},{y:.1f}"/>'
                yield _mark(place, at + 13, y)
            else:
                yield f'<rect class="f{place % len(LIGHT)}" x="{at + 8:.1f}" y="{y - 6:.1f}" width="14" height="12"/>'
            yield _text(at + 32, y + 4.5, name)
            at += len(name) * LETTER + 48
            place += 1


def _mark(place: int, x: float, y: float) -> str:
    colour = f"f{place % len(LIGHT)}"
    if MARKS[place % len(MARKS)] == "circle":
        return f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'
    return f'<rect class="{colour}" x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"/>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _document(title: str, told: str, height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" role="img"'
    return "\n".join(
        [
            f'{head} height="{height:.0f}" aria-labelledby="title told">',
            f'<title id="title">{escape(title)}</title>\n<desc id="told">{escape(told)}</desc>',
            f"<style>\n{_style()}\n</style>",
            f'<rect class="back" width="{WIDTH}" height="{height:.0f}" rx="6"/>',
            f'<text class="head" x="16" y="28">{escape(title)}</text>',
            *parts,
            "</svg>\n",
        ]
    )


def _style() -> str:
    shared = [
        "text { font: 12px system-ui, 'DejaVu Sans', sans-serif } .head { font-size: 15px; font-weight: 600 }",
        "polyline { fill: none; stroke-width: 2 } .grid, .axis, .spread { stroke-width: 1 }",
        ".limit { stroke-width: 1.5; stroke-dasharray: 6 4 }",
        *(f".s{place} {{ stroke-dasharray: {dash} }}" for place, dash in enumerate(DASHES)),
    ]
    dark = " ".join(_colours(DARK, back="#161b22", ink="#e6edf3", grid="#343c46", limit="#ff7b72"))
    return "\n".join(
        [
            *shared,
            *_colours(LIGHT, back="#ffffff", ink="#1f2328", grid="#dde2e7", limit="#c0202c"),
            f"@media (prefers-color-scheme: dark) {{ {dark} }}",
        ]
    )


def _colours(palette: Sequence[str], *, back: str, ink: str, grid: str, limit: str) -> list[str]:
    return [
        f".back {{ fill: {back} }} text {{ fill: {ink} }} .axis, .spread {{ stroke: {ink} }}",
        f".grid {{ stroke: {grid} }} .limit {{ stroke: {limit} }}",
        *(f".s{place} {{ stroke: {one} }} .f{place} {{ fill: {one} }}" for place, one in enumerate(palette)),
    ]
