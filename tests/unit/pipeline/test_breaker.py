"""The breaker: opens on a run of rejects and on their share in the window, and not before."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import RefusedError
from coatcheck.pipeline.breaker import Breaker, BreakerOpenError
from coatcheck.pipeline.message import Reason, Reject

BAD = Reject(Reason.WRONG_TYPE, "app_version")


def opens_at(breaker: Breaker, rejects: list[bool]) -> int | None:
    """The number of messages after which the breaker opened."""
    for number, rejected in enumerate(rejects, 1):
        try:
            breaker.observe(BAD if rejected else None)
        except RefusedError:
            return number
    return None


def test_it_opens_at_the_run_and_says_so() -> None:
    breaker = Breaker(ratio=1, window=1000, run=3)
    assert opens_at(breaker, [True, True, False, True, True]) is None
    with pytest.raises(RefusedError, match="3 messages in a row were rejected") as caught:
        breaker.observe(BAD)
    assert caught.value.exit_code == 4
    assert "quarantine list" not in caught.value.hint, "the batch went back: the list may be empty"
    assert "back on the queue" in caught.value.hint


def test_a_window_opens_it_only_when_full() -> None:
    assert opens_at(Breaker(ratio=0.5, window=10, run=1000), [True] * 9) is None
    assert opens_at(Breaker(ratio=0.5, window=10, run=1000), [True] * 10) == 10
    breaker = Breaker(ratio=0.5, window=10, run=1000)
    assert opens_at(breaker, [True] * 4 + [False] * 6 + [True] * 4) is None  # the first four have left
    with pytest.raises(RefusedError, match="5 of the last 10 messages were rejected"):
        breaker.observe(BAD)


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


# -- what it says


def opened(breaker: Breaker, rejects: Sequence[Reject | None]) -> BreakerOpenError:
    try:
        for reject in rejects:
            breaker.observe(reject)
    except BreakerOpenError as error:
        return error
    raise AssertionError("it has not opened")


def test_it_says_what_one_change_of_a_type_has_done() -> None:
    """Found: its hint named a list that was empty, and nothing else told the reason."""
    error = opened(Breaker(ratio=0.8, window=500, run=200), [BAD] * 200)
    assert error.message == (
        "the breaker is open: 200 messages in a row were rejected, most often for wrong_type 200 (app_version 200)"
    )
    assert error.reasons == {"wrong_type": {"app_version": 200}}


def test_it_says_the_three_most_frequent_reasons_with_their_columns() -> None:
    rejects = [
        *[Reject(Reason.NOT_JSON)] * 7,
        *[Reject(Reason.WRONG_TYPE, name) for name in "aabbbcddddd"],
        *[Reject(Reason.TOO_LONG, "locale")] * 2,
        *[Reject(Reason.NOT_AN_IP, "masked_ip")] * 4,
        Reject(Reason.NO_LEDGER_KEY, "event_id"),
    ]
    error = opened(Breaker(ratio=1, window=100, run=len(rejects)), rejects)
    assert error.message.endswith(
        "most often for wrong_type 11 (d 5, b 3, a 2), not_json 7, not_an_ip 4 (masked_ip 4)"
    ), error.message
    assert error.reasons == {
        "wrong_type": {"d": 5, "b": 3, "a": 2, "c": 1}, "not_json": {"": 7}, "not_an_ip": {"masked_ip": 4}
    }  # fmt: skip


def test_it_speaks_of_the_latest_messages_only() -> None:
    old, new = Reject(Reason.NOT_JSON), BAD
    error = opened(Breaker(ratio=0.8, window=10, run=100), [*[old] * 7, *[None] * 10, *[new] * 8])
    assert error.reasons == {"wrong_type": {"app_version": 8}}


def test_it_says_what_the_database_refused() -> None:
    breaker = Breaker(ratio=1, window=100, run=6)
    check, bounds = (Reject(Reason.REFUSED_BY_DATABASE, code) for code in ("23514", "22003"))
    breaker.written(loaded=0, refused=[check, check])
    with pytest.raises(BreakerOpenError, match=r"refused_by_database 6 \(23514 4, 22003 2\)"):
        breaker.written(loaded=0, refused=[bounds, check, bounds, check])


def test_one_of_its_kind_can_be_made_of_its_words() -> None:
    """As Lambda's handler does with any error."""
    error = opened(Breaker(ratio=1, window=10, run=1), [BAD])
    again = type(error)(error.message, hint=error.hint)
    assert (again.message, again.hint, again.exit_code) == (error.message, error.hint, 4)
