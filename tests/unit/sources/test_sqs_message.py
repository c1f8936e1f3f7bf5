"""Which message is this: on a FIFO queue the send time is no part of the answer, for it changes with the death."""

from __future__ import annotations

import pytest
from tests.support.builders import a_ledger_hash, a_message
from tests.support.scripted_sqs import SENT_MS, wire_message

from coatcheck.pipeline.keying import FOREVER, ORIGIN_ATTRIBUTE, keyer, origin_for_body, origin_of
from coatcheck.pipeline.message import UNKNOWN_MS, Message, size_of, size_of_all
from coatcheck.sources.sqs_message import is_fifo, message_of, tell_undated
from coatcheck.sources.sqs_wire import WireAttribute, WireMessage

DAY_MS = 86_400_000
ID = wire_message(1)["MessageId"]
by_message_id = keyer("message_id", a_ledger_hash())


def handed_out(
    *,
    sent_ms: int | str | None = SENT_MS,
    message_id: str = ID,
    origin: str | None = None,
    fifo: bool,
    now_ms: int = SENT_MS + 5,
) -> Message:
    """Return a message as SQS hands it out; `sent_ms` None: it does not tell a SentTimestamp."""
    attributes = {"ApproximateReceiveCount": "2"} | ({} if sent_ms is None else {"SentTimestamp": str(sent_ms)})
    custom = {} if origin is None else {ORIGIN_ATTRIBUTE: WireAttribute(origin)}
    wire = WireMessage(message_id, "receipt", "body", "", attributes, custom)
    return message_of(wire, now_ms, fifo=fifo)


def key(message: Message) -> tuple[bytes, int]:
    return by_message_id(message, None)


@pytest.mark.parametrize(
    ("queue", "fifo"),
    [("logins", False), ("logins.fifo", True), ("https://sqs/1/logins.fifo", True), ("https://sqs/1/fifo", False)],
)
def test_a_fifo_queue_is_known_by_its_name(queue: str, fifo: bool) -> None:  # noqa: FBT001 - a column of the table
    assert is_fifo(queue) is fifo


def test_a_standard_message_is_what_it_is() -> None:
    message = handed_out(fifo=False)
    assert message == Message(ID, "body", SENT_MS, "receipt", 2, SENT_MS + 5, None)


def test_a_fifo_message_keeps_its_key_whenever_it_was_sent() -> None:
    keys = {key(handed_out(sent_ms=SENT_MS - days * DAY_MS, fifo=True)) for days in range(30)}
    assert len(keys) == 1
    assert keys.pop()[1] == -1


def test_a_redriven_fifo_message_is_the_same_and_keeps_its_time() -> None:
    """`redrive` writes the id and the time it finds in the dead-letter queue, which is the time of death."""
    first = handed_out(sent_ms=SENT_MS - 20 * DAY_MS, fifo=True)
    death_ms = SENT_MS - 10 * DAY_MS
    again = handed_out(message_id="another", origin=f"id:{ID}:{death_ms}", fifo=True)
    assert key(again) == key(first)
    assert again.sent_ms == death_ms


def test_fifo_messages_differ_by_id_and_sender_keys_stay() -> None:
    sender = origin_for_body("body", 0)
    assert handed_out(origin=sender, fifo=True).origin == handed_out(origin=sender, fifo=False).origin == sender
    messages = [
        handed_out(fifo=True),
        handed_out(message_id="other", fifo=True),
        handed_out(origin=sender, fifo=True),
        handed_out(message_id="\ud800", fifo=True),
        handed_out(origin="id:a:b:5", fifo=True),
        handed_out(origin="id:a:5", fifo=True),
    ]
    assert len({key(message) for message in messages}) == len(messages)


@pytest.mark.parametrize("origin", ["somebody else's", "", f"id:{ID}2:{SENT_MS + 1}"])
def test_what_is_no_identity_is_none_on_a_fifo_queue_either(origin: str) -> None:
    assert handed_out(origin=origin, fifo=True) == handed_out(fifo=True)


@pytest.mark.parametrize(("body", "size"), [("", 0), ("a" * 7, 7), ("ä€𝄞", 9), ("\ud800", 3)])
def test_a_body_is_as_large_as_its_utf8(body: str, size: int) -> None:
    assert size_of(body) == size
    assert size_of_all([a_message(body), a_message("x"), a_message(body)]) == 2 * size + 1
    assert size_of_all([]) == 0


NO_TIME = [None, "", "0", "-1", "1.5", "soon", "9" * 16]


@pytest.mark.parametrize("told", NO_TIME)
@pytest.mark.parametrize("fifo", [False, True])
@pytest.mark.parametrize("origin", [None, f"id:{ID}:0", f"id:{ID}:{SENT_MS - DAY_MS}", origin_for_body("body", 0)])
def test_without_a_send_time_two_deliveries_have_one_key(told: str | None, origin: str | None, *, fifo: bool) -> None:
    """The slot of a key must not come from the clock of whoever receives: a redelivery would be a new message."""
    deliveries = [
        handed_out(sent_ms=told, origin=origin, fifo=fifo, now_ms=SENT_MS + minutes * 60_000)
        for minutes in (0, 1, 61, 60 * 24, 60 * 24 * 40)
    ]
    assert {message.sent_ms for message in deliveries} == {UNKNOWN_MS}
    (known,) = {key(message) for message in deliveries}
    assert known[1] == FOREVER


def test_without_a_send_time_messages_differ_by_their_id() -> None:
    others = [handed_out(sent_ms=None, message_id=f"id-{number}", fifo=False) for number in range(100)]
    assert len({key(message) for message in others}) == 100


def test_without_a_send_time_a_redriven_copy_is_its_original() -> None:
    first = handed_out(sent_ms=None, fifo=False)
    copy = handed_out(sent_ms=None, message_id="another", origin=origin_of(first), fifo=False)
    moved = handed_out(sent_ms=None, message_id="another", origin=f"id:{ID}:0", fifo=False)
    assert key(copy) == key(moved) == key(first)


def test_a_missing_send_time_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    tell_undated.cache_clear()
    for number in range(3):
        handed_out(sent_ms=None, message_id=f"CANARY-{number}", fifo=False)
    (line,) = [record for record in caplog.records if "SentTimestamp" in record.getMessage()]
    assert "CANARY" not in repr(vars(line))
