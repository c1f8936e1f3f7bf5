"""The null SQS server with messages that arrive: held, at their own pace, large, and polls that wait for them."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from typing import Any

import pytest
from tests.integration.test_null_sqs import entries, queue, receive

WAIT_MS = 20_000


def drain(client: Any, url: str, count: int) -> list[dict[str, Any]]:
    """Receive and delete until so many have come."""
    seen: list[dict[str, Any]] = []
    deadline = time.monotonic() + 30
    while len(seen) < count:
        assert time.monotonic() < deadline
        if messages := receive(client, url, wait=20):
            client.delete_message_batch(QueueUrl=url, Entries=entries(messages))
            seen += messages
    return seen


def test_nothing_arrives_before_the_start_and_a_waiting_poll_is_woken() -> None:
    with queue(messages=10, stream=1, held=1, empty_wait_ms=WAIT_MS) as (server, client, url):
        assert receive(client, url) == []
        assert server.stats().waiting == 0
        found: list[list[dict[str, Any]]] = []
        poll = threading.Thread(target=lambda: found.append(receive(client, url, wait=20)))
        poll.start()
        server.wait(lambda stats: stats.requests["ReceiveMessage"] == 2, 10)
        began = time.monotonic()
        server.start()
        poll.join(10)
        assert len(found[0]) == 10
        assert time.monotonic() - began < WAIT_MS / 2000


def test_messages_arrive_at_their_own_pace_and_tell_when() -> None:
    with queue(messages=50, stream=1, rate=100, empty_wait_ms=WAIT_MS) as (server, client, url):
        seen = drain(client, url, 50)
        latencies = server.latencies_ms()
        stats = server.stats()
    assert len({message["MessageId"] for message in seen}) == 50
    sent = [int(message["Attributes"]["SentTimestamp"]) for message in seen]
    assert sent == sorted(sent)
    assert 250 < sent[-1] - sent[0] < 1000  # 49 gaps of 10 ms on average
    assert abs(time.time() * 1000 - sent[-1]) < 60_000
    assert len(latencies) == 50
    assert min(latencies) >= 0
    assert (stats.received, stats.deleted, stats.waiting, stats.in_flight, stats.errors) == (50, 50, 0, 0, 0)


def test_there_is_a_least_gap() -> None:
    with queue(messages=10, stream=1, rate=20, gap_s=0.04, empty_wait_ms=WAIT_MS) as (_, client, url):
        sent = [int(message["Attributes"]["SentTimestamp"]) for message in drain(client, url, 10)]
    assert min(later - earlier for earlier, later in itertools.pairwise(sent)) >= 39  # whole milliseconds


@pytest.mark.parametrize("size", [1000, 2**20])
def test_bodies_are_as_large_as_asked_for(size: int) -> None:
    with queue(messages=3, stream=1, body_bytes=size) as (_, client, url):
        for message in drain(client, url, 3):
            body = message["Body"]
            assert len(body) == size
            assert json.loads(body)["user_id"]
            assert message["MD5OfBody"] == hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


def test_a_streamed_message_given_back_comes_again() -> None:
    with queue(messages=10, stream=1) as (server, client, url):
        first = receive(client, url)
        back = [{**entry, "VisibilityTimeout": 0} for entry in entries(first[:2])]
        client.change_message_visibility_batch(QueueUrl=url, Entries=back)
        again = receive(client, url)
        assert [message["Body"] for message in again] == [message["Body"] for message in first[:2]]
        assert {message["Attributes"]["ApproximateReceiveCount"] for message in again} == {"2"}
        client.delete_message_batch(QueueUrl=url, Entries=entries(first))
        stats = server.stats()
    assert (stats.deleted, stats.waiting, stats.in_flight, stats.received) == (10, 0, 0, 12)


def test_the_timeline_adds_up() -> None:
    with queue(messages=25, stream=1, latency_ms=30) as (server, client, url):
        drain(client, url, 25)
        timeline, stats = server.timeline(), server.stats()
    assert sum(timeline.received) == 25
    assert sum(timeline.requests) == sum(stats.requests.values())
    assert max(timeline.polls) == 1
    assert len(timeline.polls) == len(timeline.received) == len(timeline.requests)


def test_options_that_do_nothing_are_refused() -> None:
    for options in ({"rate": 10.0}, {"held": 1}, {"body_bytes": 10}, {"stream": 1, "rate": 10.0, "gap_s": 0.1}):
        with pytest.raises(RuntimeError, match="did not start"), queue(messages=1, **options):
            pass
