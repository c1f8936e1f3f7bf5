"""The breaker: opens on a run of rejects and on their share in the window, and not before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import RefusedError
from coatcheck.pipeline.breaker import Breaker


def opens_at(breaker: Breaker, rejects: list[bool]) -> int | None:
    """The number of messages after which the breaker opened."""
    for number, rejected in enumerate(rejects, 1):
        try:
            breaker.observe(rejected=rejected)
        except RefusedError:
            return number
    return None


def test_it_opens_at_the_run_and_says_so() -> None:
    breaker = Breaker(ratio=1, window=1000, run=3)
    assert opens_at(breaker, [True, True, False, True, True]) is None
    with pytest.raises(RefusedError, match="3 messages in a row were rejected") as caught:
        breaker.observe(rejected=True)
    assert caught.value.exit_code == 4
    assert "quarantine list" in caught.value.hint


def test_a_window_opens_it_only_when_full() -> None:
    assert opens_at(Breaker(ratio=0.5, window=10, run=1000), [True] * 9) is None
    assert opens_at(Breaker(ratio=0.5, window=10, run=1000), [True] * 10) == 10
    breaker = Breaker(ratio=0.5, window=10, run=1000)
    assert opens_at(breaker, [True] * 4 + [False] * 6 + [True] * 4) is None  # the first four have left
    with pytest.raises(RefusedError, match="5 of the last 10 messages were rejected"):
        breaker.observe(rejected=True)


def test_one_in_100_never_opens_the_default() -> None:
    """The real logins: one bad message in a hundred."""
    assert opens_at(Breaker(ratio=0.8, window=500, run=200), ([False] * 99 + [True]) * 50) is None


@given(
    st.lists(st.booleans(), max_size=80), st.sampled_from([0.1, 0.5, 0.8, 1.0]), st.integers(1, 20), st.integers(1, 20)
)
def test_it_opens_exactly_where_the_rules_say(rejects: list[bool], ratio: float, window: int, run: int) -> None:
    expected = None
    for number in range(1, len(rejects) + 1):
        seen = rejects[:number]
        in_a_row = len(seen) - max((place for place, rejected in enumerate(seen, 1) if not rejected), default=0)
        share = sum(seen[-window:]) / window if number >= window else 0
        if seen[-1] and (in_a_row >= run or share >= ratio):
            expected = number
            break
    assert opens_at(Breaker(ratio=ratio, window=window, run=run), rejects) == expected


@given(st.lists(st.one_of(st.just([True]), st.integers(0, 12).map(lambda n: [False] * n)), max_size=40))
def test_messages_that_passed_together_count_as_one_by_one(parts: list[list[bool]]) -> None:
    apart, together = (Breaker(ratio=0.5, window=10, run=6) for _ in range(2))
    for part in parts:
        one = opens_at(apart, part)
        if part == [True]:
            assert opens_at(together, part) == one
        else:
            together.passed(len(part))
            assert one is None
        if one is not None:
            return
