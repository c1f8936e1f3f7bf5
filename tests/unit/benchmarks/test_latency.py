"""Quantiles by the nearest rank, held against their definition."""

from __future__ import annotations

from benchmarks.latency import quantile
from hypothesis import given
from hypothesis import strategies as st


def test_quantiles_that_can_be_counted() -> None:
    ordered = [float(number) for number in range(1, 101)]
    assert [quantile(ordered, percent) for percent in (5.0, 50.0, 99.0)] == [5.0, 50.0, 99.0]
    assert quantile([7.0], 50.0) == 7.0
    assert quantile([1.0, 2.0, 3.0], 50.0) == 2.0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 100))
def test_a_quantile_is_the_least_value_that_enough_do_not_exceed(values: list[float], percent: int) -> None:
    ordered = sorted(values)
    found = quantile(ordered, percent)
    assert found in ordered
    assert sum(value <= found for value in ordered) * 100 >= percent * len(ordered)
    assert sum(value < found for value in ordered) * 100 < percent * len(ordered)
