"""Events of an SQS event source mapping, read as messages; the form is that of the AWS Lambda developer guide."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.canaries import canary

from coatcheck.errors import ConfigError
from coatcheck.pipeline.message import UNKNOWN_MS
from coatcheck.sources.lambda_event import delivery

STANDARD, FIFO = "arn:aws:sqs:eu-west-1:123456789012:logins", "arn:aws:sqs:eu-west-1:123456789012:logins.fifo"


def record(
    number: int, body: str = "{}", *, arn: str = STANDARD, md5: str | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "messageId": f"id-{number}",
        "receiptHandle": "receipt",
        "body": body,
        "attributes": {"ApproximateReceiveCount": "2", "SentTimestamp": "1523232000000", "SenderId": "x"},
        "messageAttributes": {},
        "md5OfBody": md5 if md5 is not None else hashlib.md5(body.encode("utf-8", "replace")).hexdigest(),  # noqa: S324 - SQS's sum
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": "eu-west-1",
    } | more


def ids(messages: Any) -> list[str]:
    return [message.message_id for message in messages]


def test_a_record_is_a_message() -> None:
    (message,) = delivery({"Records": [record(1, '{"a": 1}')]}).messages
    assert (message.message_id, message.body, message.sent_ms, message.receive_count) == (
        "id-1", '{"a": 1}', 1523232000000, 2,
    )  # fmt: skip
    assert message.origin is None


def test_an_origin_outlives_a_redrive() -> None:
    origin = {"coatcheck-origin": {"stringValue": "id:first:1523000000000", "dataType": "String"}}
    (message,) = delivery({"Records": [record(1, messageAttributes=origin)]}).messages
    assert (message.origin, message.sent_ms) == ("id:first:1523000000000", 1523000000000)


@pytest.mark.parametrize("told", [{}, {"SentTimestamp": "soon"}])
def test_without_a_send_time_two_invocations_bring_one_identity(told: dict[str, str]) -> None:
    events = [{"Records": [record(1, attributes=told)]} for _ in range(2)]
    first, again = (delivery(event).messages[0] for event in events)
    assert first.sent_ms == again.sent_ms == UNKNOWN_MS
    assert first.origin is not None
    assert first.origin == again.origin
    assert first.origin.startswith("key:")


def test_a_binary_attribute_is_none() -> None:
    origin = {"coatcheck-origin": {"binaryValue": "aWQ=", "dataType": "Binary"}}
    (message,) = delivery({"Records": [record(1, messageAttributes=origin)]}).messages
    assert message.origin is None


def test_a_damaged_body_comes_again_and_the_others_are_loaded() -> None:
    brought = delivery({"Records": [record(1), record(2, md5="0" * 32), record(3)]})
    assert (ids(brought.messages), brought.again) == (["id-1", "id-3"], ["id-2"])


def test_on_a_fifo_queue_none_overtakes_a_damaged_one() -> None:
    brought = delivery({"Records": [record(1, arn=FIFO), record(2, arn=FIFO, md5="0" * 32), record(3, arn=FIFO)]})
    assert (ids(brought.messages), brought.again) == (["id-1"], ["id-2", "id-3"])


def test_a_body_with_a_lone_surrogate_is_a_message_for_validation_to_reject() -> None:
    assert ids(delivery({"Records": [record(1, '"\ud800"')]}).messages) == ["id-1"]


@pytest.mark.parametrize(
    "event",
    [
        None,
        [],
        "text",
        {},
        {"Records": None},
        {"Records": [{}]},
        {"Records": [record(1) | {"eventSource": "aws:kinesis"}]},
        {"Records": [record(1) | {"body": 5}]},
        {"detail-type": "Scheduled Event"},
    ],
)
def test_other_events_are_refused(event: object) -> None:
    with pytest.raises(ConfigError, match="the event does not come from an SQS queue"):
        delivery(event)


@given(st.recursive(st.none() | st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner)))
def test_no_event_is_anything_but_messages_or_refused(event: object) -> None:
    with pytest.raises(ConfigError):
        delivery(event)


def test_nothing_shows_a_body(caplog: pytest.LogCaptureFixture) -> None:
    word = canary()
    brought = delivery({"Records": [record(1, word, md5="0" * 32), record(2, word)]})
    with pytest.raises(ConfigError) as refused:
        delivery({"Records": [record(1, word) | {"attributes": word}]})
    assert word not in repr(brought) + caplog.text + repr(refused.value) + repr(refused.value.__context__)
