"""What a Lambda environment keeps between invocations, and when it makes everything anew."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest

from coatcheck import aws_lambda
from coatcheck.errors import CoatcheckError, UnreachableError
from coatcheck.pipeline.message import Message

MESSAGES = [Message("id", "{}", 0, "receipt")]
AWAY = UnreachableError("away")


class Made:
    """Stands for what is made; `ends` is how the next invocations end: a failure, and how many were committed."""

    def __init__(self, _: object = None) -> None:
        self.rested = self.discarded = False
        self.ends: Iterator[tuple[CoatcheckError | None, int]] = iter([])
        self.committed = 0

    def unused(self) -> bool:
        return self.rested

    def handle(self, _: Sequence[Message], __: float) -> CoatcheckError | None:
        failure, self.committed = next(self.ends, (None, 1))
        return failure

    def discard(self) -> None:
        self.discarded = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Made]:
    all_: list[Made] = []

    def make(_: object) -> Made:
        all_.append(Made())
        return all_[-1]

    monkeypatch.setattr(aws_lambda, "Function", make)
    monkeypatch.setattr(aws_lambda, "load", lambda: None)
    monkeypatch.setattr(aws_lambda, "_function", None)
    return all_


def test_what_works_is_kept(made: list[Made]) -> None:
    assert [aws_lambda._load(MESSAGES, 9.0) for _ in range(3)] == [1, 1, 1]
    assert len(made) == 1


def test_what_has_rested_for_long_is_made_anew(made: list[Made]) -> None:
    aws_lambda._load(MESSAGES, 9.0)
    made[0].rested = True
    aws_lambda._load(MESSAGES, 9.0)
    assert [one.discarded for one in made] == [True, False]


@pytest.mark.parametrize("committed", [0, 1])
def test_what_has_failed_is_made_anew(made: list[Made], committed: int) -> None:
    aws_lambda._load(MESSAGES, 9.0)
    made[0].ends = iter([(AWAY, committed)])
    if committed:
        assert aws_lambda._load(MESSAGES, 9.0) == committed
    else:
        with pytest.raises(UnreachableError):
            aws_lambda._load(MESSAGES, 9.0)
    aws_lambda._load(MESSAGES, 9.0)
    assert [one.discarded for one in made] == [True, False]


def test_a_rest_is_told_by_the_walls_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen environment's own clock may stand still."""
    now = time.time()
    function = object.__new__(aws_lambda.Function)
    function._used_at = now
    for later, expected in ((200, False), (300, True)):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        assert function.unused() is expected
