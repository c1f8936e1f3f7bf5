"""How long SQS has been away: one clock for each kind of request."""

from __future__ import annotations

import pytest
from tests.support.fix_sqs import Clock

from coatcheck.errors import UnreachableError
from coatcheck.sources.sqs_client import SqsError
from coatcheck.sources.sqs_outage import Outage
from coatcheck.sources.sqs_wire import entry_failure

AWAY = SqsError("DeleteMessageBatch", "unavailable", "InternalError")


def test_patience_ends_after_its_time_without_an_answer() -> None:
    clock = Clock()
    outage = Outage(60.0, clock)
    outage.note(AWAY)
    clock.now += 60.0
    outage.note(AWAY)
    clock.now += 1.0
    with pytest.raises(UnreachableError) as caught:
        outage.note(AWAY)
    assert caught.value.message == "SQS has not answered for 60 s (last: DeleteMessageBatch, InternalError)"


def test_an_answer_starts_it_anew() -> None:
    clock = Clock()
    outage = Outage(60.0, clock)
    outage.note(AWAY)
    clock.now += 50.0
    outage.over()
    outage.note(AWAY)
    clock.now += 50.0
    outage.note(AWAY)


def test_it_tells_how_long_it_was() -> None:
    clock = Clock()
    outage = Outage(0.0, clock)
    assert (outage.away, outage.over()) == (False, 0.0)
    outage.note(AWAY)
    clock.now += 5.0
    outage.note(AWAY)
    clock.now += 2.5
    assert (outage.away, outage.over()) == (True, 7.5)
    assert (outage.away, outage.over()) == (False, 0.0)


def test_zero_is_for_ever() -> None:
    clock = Clock()
    outage = Outage(0.0, clock)
    for _ in range(3):
        outage.note(AWAY)
        clock.now += 1e9


@pytest.mark.parametrize(
    ("code", "kind", "told"),
    [
        ("InternalError", "unavailable", "InternalError"),
        ("KmsThrottled", "throttled", "KmsThrottled"),
        ("KMS.AccessDeniedException", "denied", "KMS.AccessDeniedException"),
        ("AWS.SimpleQueueService.NonExistentQueue", "missing_queue", "NonExistentQueue"),
        ("Unheard.Of", "unavailable", "Unheard.Of"),
        ("no code: 192.0.2.1", "unavailable", "Unknown"),
        ("", "unavailable", "Unknown"),
    ],
)
def test_an_entry_that_failed_is_a_failure_with_a_code(code: str, kind: str, told: str) -> None:
    error = entry_failure("DeleteMessageBatch", code)
    assert (error.operation, error.kind, error.code) == ("DeleteMessageBatch", kind, told)
