"""The scales of plots: round numbers along an axis, and where a value stands between the ends of the drawing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows. `limit` is drawn across the plot, with its name."""

    label: str
    log: bool = False
    limit: float | None = None
    zero: bool = True


@dataclass(slots=True)
class Scale:
    """Where a value stands between two ends of the drawing."""

    axis: Axis
    start: float
    end: float
    values: Iterable[float]
    ticks: list[float] = field(init=False)

    def __post_init__(self) -> None:
        found = [value for value in self.values if value > 0 or not self.axis.log]
        found += [] if self.axis.limit is None else [self.axis.limit]
        found = found or [1.0]
        if self.axis.log:
            self.ticks = log_ticks(min(found), max(found))
        else:
            self.ticks = nice_ticks(0.0 if self.axis.zero else min(found), max(found))

    def at(self, value: float) -> float:
        """Return the place of a value."""
        low, high = self.ticks[0], self.ticks[-1]
        if self.axis.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, low))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def nice_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Return round numbers, evenly apart, from at most `low` to at least `high`."""
    if high <= low:
        low, high = min(low, 0.0), max(high, 0.0)
    if high <= low:
        high = low + 1.0
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if _steps(low, high, step) < most)
    first = math.floor(low / step + 1e-9)
    return [round((first + count) * step, 9) for count in range(_steps(low, high, step) + 1)]


def _steps(low: float, high: float, step: float) -> int:
    return math.ceil(high / step - 1e-9) - math.floor(low / step + 1e-9)


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten around the values, with 2 and 5 times them if there are few."""
    powers = range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1)
    factors = (1, 2, 5) if len(powers) <= 3 else (1,)
    ticks = [round(10.0**power * factor, 9) for power in powers for factor in factors]
    below = [tick for tick in ticks if tick <= low * (1 + 1e-9)]
    above = [tick for tick in ticks if tick >= high * (1 - 1e-9)]
    ends = below[-1], above[0]
    found = [tick for tick in ticks if ends[0] <= tick <= ends[1]]
    return found if len(found) > 1 else [found[0], found[0] * 10]


def short(value: float) -> str:
    """Return a number in few characters: 25k, 1.5M, 0.25."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.4g}{unit}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
