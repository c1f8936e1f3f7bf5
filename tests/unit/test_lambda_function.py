"""What a Lambda environment keeps between invocations, and when it makes everything anew."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from hashlib import md5
from pathlib import Path

import pytest

from coatcheck import aws_lambda
from coatcheck.config import Config
from coatcheck.errors import CoatcheckError, ConfigError, UnreachableError
from coatcheck.keys.provider import OpenError
from coatcheck.pipeline.message import Message
from coatcheck.sources.lambda_event import Delivery
from coatcheck.sources.sqs_wire import SqsError

ARN = "arn:aws:sqs:eu-west-1:123456789012:{}"
BROUGHT = Delivery([Message("id", "{}", 0, "receipt")], [], (ARN.format("logins"),))
ORDERS = Delivery(BROUGHT.messages, [], (ARN.format("orders"),))
AWAY = UnreachableError("away")


class Made:
    """Stands for what is made; `ends` is how the next invocations end: a failure, and how many were committed."""

    def __init__(self, config: Config) -> None:
        self.pipeline = config.pipeline
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
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Made]:
    all_: list[Made] = []

    def make(config: Config) -> Made:
        all_.append(Made(config))
        return all_[-1]

    monkeypatch.chdir(tmp_path)
    for name in ("COATCHECK_PIPELINE", "COATCHECK_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(aws_lambda, "Function", make)
    monkeypatch.setattr(aws_lambda, "_functions", {})
    monkeypatch.setattr(aws_lambda, "_pipelines", {})
    return all_


def write(*queues: str) -> None:
    """Write a file with a pipeline for each queue."""
    texts = (f'[pipelines.p{place}.source]\nqueue = "{queue}"\n' for place, queue in enumerate(queues))
    Path("coatcheck.toml").write_text("".join(texts))


def test_what_works_is_kept(made: list[Made]) -> None:
    assert [aws_lambda._load(BROUGHT, 9.0) for _ in range(3)] == [1, 1, 1]
    assert len(made) == 1


def test_what_has_rested_for_long_is_made_anew(made: list[Made]) -> None:
    aws_lambda._load(BROUGHT, 9.0)
    made[0].rested = True
    aws_lambda._load(BROUGHT, 9.0)
    assert [one.discarded for one in made] == [True, False]


@pytest.mark.parametrize("committed", [0, 1])
def test_what_has_failed_is_made_anew(made: list[Made], committed: int) -> None:
    aws_lambda._load(BROUGHT, 9.0)
    made[0].ends = iter([(AWAY, committed)])
    if committed:
        assert aws_lambda._load(BROUGHT, 9.0) == committed
    else:
        with pytest.raises(UnreachableError):
            aws_lambda._load(BROUGHT, 9.0)
    aws_lambda._load(BROUGHT, 9.0)
    assert [one.discarded for one in made] == [True, False]


class Invocation:
    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 9_000


@pytest.mark.parametrize("failure", [AWAY, OpenError(), SqsError("ReceiveMessage", "denied", "AccessDenied")])
def test_whatever_stops_an_invocation_reaches_lambda(made: list[Made], failure: CoatcheckError) -> None:
    record = {
        "eventSource": "aws:sqs",
        "eventSourceARN": ARN.format("logins"),
        "messageId": "id",
        "receiptHandle": "r",
        "body": "{}",
        "md5OfBody": md5(b"{}", usedforsecurity=False).hexdigest(),
    }
    event = {"Records": [record]}
    aws_lambda.handler(event, Invocation())
    made[0].ends = iter([(failure, 0)])
    with pytest.raises(type(failure)) as caught:
        aws_lambda.handler(event, Invocation())
    assert caught.value.message == failure.message
    assert caught.value.__context__ is caught.value.__cause__ is None


def test_a_rest_is_told_by_the_walls_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen environment's own clock may stand still."""
    now = time.time()
    function = object.__new__(aws_lambda.Function)
    function._used_at = now
    for later, expected in ((200, False), (300, True)):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        assert function.unused() is expected


def test_one_pipeline_serves_every_queue_with_one_function(made: list[Made]) -> None:
    for brought in (BROUGHT, ORDERS, BROUGHT):
        aws_lambda._load(brought, 9.0)
    assert [one.pipeline for one in made] == ["default"]


@pytest.mark.parametrize(
    "queue",
    ["orders", "https://sqs.eu-west-1.amazonaws.com/123456789012/orders", "arn:aws:sqs:eu-west-1:123456789012:orders"],
)
def test_the_queue_of_the_event_picks_the_pipeline(made: list[Made], queue: str) -> None:
    write("logins", queue)
    for brought in (BROUGHT, ORDERS, BROUGHT, ORDERS):
        aws_lambda._load(brought, 9.0)
    assert [one.pipeline for one in made] == ["p0", "p1"]


def test_a_queue_of_another_account_is_another_queue(made: list[Made]) -> None:
    of = "https://sqs.eu-west-1.amazonaws.com/{}/orders"
    write(of.format("999999999999"), of.format("123456789012"))
    aws_lambda._load(ORDERS, 9.0)
    assert [one.pipeline for one in made] == ["p1"]


def test_a_pipeline_that_is_named_is_the_one(made: list[Made], monkeypatch: pytest.MonkeyPatch) -> None:
    write("logins", "orders")
    monkeypatch.setenv("COATCHECK_PIPELINE", "p1")
    aws_lambda._load(BROUGHT, 9.0)
    assert [one.pipeline for one in made] == ["p1"]


@pytest.mark.parametrize(
    ("queues", "brought", "said"),
    [
        (("logins", "returns"), ORDERS, "no pipeline .* reads the queue of the event; there are p0, p1"),
        (("logins", "orders"), Delivery(BROUGHT.messages, [], (*BROUGHT.queues, *ORDERS.queues)), "no pipeline"),
        (("logins", "orders"), Delivery([], []), "no pipeline"),
        (("logins", "orders"), Delivery([], [], ("no arn",)), "no pipeline"),
    ],
)  # fmt: skip
def test_no_pipeline_is_taken_by_chance(
    made: list[Made], queues: tuple[str, ...], brought: Delivery, said: str
) -> None:
    write(*queues)
    with pytest.raises(ConfigError, match=said) as caught:
        aws_lambda._load(brought, 9.0)
    assert "COATCHECK_PIPELINE" in caught.value.hint
    assert not made


def test_queues_of_one_name_do_not_tell_which_pipeline_is_meant(made: list[Made]) -> None:
    Path("coatcheck.toml").write_text(
        "[pipelines.p0.source]\nqueue = 'orders'\nprofile = 'a'\n"
        "[pipelines.p1.source]\nqueue = 'orders'\nprofile = 'b'\n"
    )
    with pytest.raises(ConfigError, match="more than one pipeline reads the queue of the event: p0, p1"):
        aws_lambda._load(ORDERS, 9.0)
    assert not made


def test_the_configuration_is_read_again_after_a_failure(made: list[Made]) -> None:
    write("logins", "orders")
    aws_lambda._load(ORDERS, 9.0)
    made[0].ends = iter([(AWAY, 0)])
    with pytest.raises(UnreachableError):
        aws_lambda._load(ORDERS, 9.0)
    write("orders", "logins")
    aws_lambda._load(ORDERS, 9.0)
    assert [one.pipeline for one in made] == ["p1", "p0"]
