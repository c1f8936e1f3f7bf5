"""The null SQS server of the benchmarks, driven by boto3: it must be true in all that a consumer looks at."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from benchmarks.null_process import ROOT, NullSqsProcess, null_sqs
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from botocore.client import BaseClient


@contextmanager
def sqs_client(server: NullSqsProcess) -> Iterator[BaseClient]:
    client = boto3.client(
        "sqs",
        endpoint_url=server.url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    try:
        yield client
    finally:
        client.close()


@contextmanager
def queue(**options: float) -> Iterator[tuple[NullSqsProcess, BaseClient, str]]:
    with null_sqs(**options) as server, sqs_client(server) as client:
        yield server, client, client.get_queue_url(QueueName="login-queue")["QueueUrl"]


def receive(client: BaseClient, url: str, limit: int = 10, wait: int = 0) -> list[dict[str, Any]]:
    response = client.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=limit,
        WaitTimeSeconds=wait,
        MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
    )
    messages: list[dict[str, Any]] = response.get("Messages", [])
    return messages


def entries(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"Id": str(i), "ReceiptHandle": message["ReceiptHandle"]} for i, message in enumerate(messages)]


def depth(client: BaseClient, url: str) -> tuple[int, int, int]:
    attributes = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    names = ("", "NotVisible", "Delayed")
    waiting, in_flight, delayed = (int(attributes[f"ApproximateNumberOfMessages{name}"]) for name in names)
    return waiting, in_flight, delayed


def test_each_message_is_received_and_deleted_once() -> None:
    with queue(messages=25) as (server, client, url):
        seen: list[str] = []
        while messages := receive(client, url):
            seen += [message["MessageId"] for message in messages]
            answer = client.delete_message_batch(QueueUrl=url, Entries=entries(messages))
            assert [entry["Id"] for entry in answer["Successful"]] == [str(i) for i in range(len(messages))]
            assert not answer.get("Failed")
        stats = server.stats()
    assert len(seen) == len(set(seen)) == 25
    assert (stats.received, stats.deleted, stats.waiting, stats.in_flight, stats.errors) == (25, 25, 0, 0, 0)
    assert stats.requests["ReceiveMessage"] == 4
    assert stats.empty_receives == 1
    assert stats.requests["DeleteMessageBatch"] == 3
    assert stats.elapsed > 0


def test_a_message_is_a_login_event_with_its_checksum_and_attributes() -> None:
    with queue(messages=10, sent_ms=1_700_000_000_000) as (_, client, url):
        messages = receive(client, url)
    for message in messages:
        assert message["MD5OfBody"] == hashlib.md5(message["Body"].encode(), usedforsecurity=False).hexdigest()
        assert message["Attributes"] == {"SentTimestamp": "1700000000000", "ApproximateReceiveCount": "1"}
        assert len(message["ReceiptHandle"]) == 172
        fields = {"user_id", "app_version", "device_type", "ip", "locale", "device_id"}
        assert set(json.loads(message["Body"])) == fields


def test_sent_timestamp_is_now_by_default() -> None:
    with queue(messages=1) as (_, client, url):
        sent = int(receive(client, url)[0]["Attributes"]["SentTimestamp"])
    assert abs(time.time() * 1000 - sent) < 60_000


def test_the_depth_follows_receives_and_deletes() -> None:
    with queue(messages=25) as (_, client, url):
        assert depth(client, url) == (25, 0, 0)
        messages = receive(client, url)
        assert depth(client, url) == (15, 10, 0)
        client.delete_message_batch(QueueUrl=url, Entries=entries(messages[:4]))
        assert depth(client, url) == (15, 6, 0)
        client.delete_message_batch(QueueUrl=url, Entries=entries(messages[:4]))  # again: no change
        assert depth(client, url) == (15, 6, 0)


def test_the_attributes_that_a_consumer_reads() -> None:
    with queue(messages=0) as (_, client, url):
        attributes = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert attributes["VisibilityTimeout"] == "30"
    assert attributes["MaximumMessageSize"] == "1048576"
    assert attributes["ReceiveMessageWaitTimeSeconds"] == "20"
    assert attributes["QueueArn"] == "arn:aws:sqs:us-east-1:000000000000:login-queue"
    assert "RedrivePolicy" not in attributes


def test_small_receives_lose_nothing() -> None:
    with queue(messages=25) as (_, client, url):
        sizes = (1, 3, 10, 7, 10)
        received = [receive(client, url, limit) for limit in sizes]
    ids = [message["MessageId"] for messages in received for message in messages]
    assert [len(messages) for messages in received] == [1, 3, 6, 7, 3]  # what is left of a ten comes first
    assert len(set(ids)) == 20


def test_a_message_given_back_comes_again_with_a_higher_count() -> None:
    with queue(messages=10) as (server, client, url):
        messages = receive(client, url)
        back = [{**entry, "VisibilityTimeout": 0} for entry in entries(messages[:2])]
        longer = [{**entry, "VisibilityTimeout": 60} for entry in entries(messages[2:])]
        assert len(client.change_message_visibility_batch(QueueUrl=url, Entries=back)["Successful"]) == 2
        assert len(client.change_message_visibility_batch(QueueUrl=url, Entries=longer)["Successful"]) == 8
        assert depth(client, url) == (2, 8, 0)
        again = receive(client, url)
        assert [message["Body"] for message in again] == [message["Body"] for message in messages[:2]]
        assert {message["Attributes"]["ApproximateReceiveCount"] for message in again} == {"2"}
        client.delete_message_batch(QueueUrl=url, Entries=entries(messages))
        assert depth(client, url) == (0, 0, 0)
        assert server.stats().received == 12


def test_a_message_deleted_after_it_was_given_back_does_not_come_again() -> None:
    with queue(messages=1) as (_, client, url):
        messages = receive(client, url)
        back = [{**entry, "VisibilityTimeout": 0} for entry in entries(messages)]
        client.change_message_visibility_batch(QueueUrl=url, Entries=back)
        client.delete_message_batch(QueueUrl=url, Entries=entries(messages))
        assert receive(client, url) == []
        assert depth(client, url) == (0, 0, 0)


def test_a_foreign_receipt_handle_fails_alone() -> None:
    with queue(messages=10) as (server, client, url):
        handles = [receive(client, url)[0]["ReceiptHandle"], "of another queue", "AQEB000000000010"]
        batch = [{"Id": f"id-{i}", "ReceiptHandle": handle} for i, handle in enumerate(handles)]
        answer = client.delete_message_batch(QueueUrl=url, Entries=batch)
        assert [entry["Id"] for entry in answer["Successful"]] == ["id-0"]
        assert [entry["Code"] for entry in answer["Failed"]] == ["ReceiptHandleIsInvalid"] * 2
        assert server.stats().errors == 2


def test_sent_messages_are_counted() -> None:
    with queue(messages=0) as (server, client, url):
        batch = [{"Id": str(i), "MessageBody": f"body {i} é"} for i in range(10)]
        answer = client.send_message_batch(QueueUrl=url, Entries=batch)
        md5 = hashlib.md5("body 3 é".encode(), usedforsecurity=False).hexdigest()
        assert answer["Successful"][3]["MD5OfMessageBody"] == md5
        assert server.stats().sent == 10


@pytest.mark.parametrize(
    ("batch", "code"),
    [
        ([], "EmptyBatchRequest"),
        ([{"Id": str(i), "ReceiptHandle": "x"} for i in range(11)], "TooManyEntriesInBatchRequest"),
        ([{"Id": "same", "ReceiptHandle": "x"}] * 2, "BatchEntryIdsNotDistinct"),
    ],
)
def test_a_batch_that_sqs_refuses_is_refused(batch: list[dict[str, str]], code: str) -> None:
    with queue(messages=1) as (server, client, url):
        with pytest.raises(ClientError) as refused:
            client.delete_message_batch(QueueUrl=url, Entries=batch)
        assert refused.value.response["Error"]["Code"].endswith(code)
        assert server.stats().errors == 1


def test_an_operation_it_does_not_know_is_refused() -> None:
    with queue(messages=0) as (_, client, _url), pytest.raises(ClientError, match="UnsupportedOperation"):
        client.create_queue(QueueName="another")


def test_an_empty_queue_holds_a_long_poll_up_to_its_cap() -> None:
    with queue(messages=0, empty_wait_ms=150) as (_, client, url):
        receive(client, url)
        start = time.perf_counter()
        assert receive(client, url, wait=0) == []
        at_once = time.perf_counter() - start
        start = time.perf_counter()
        assert receive(client, url, wait=20) == []
        held = time.perf_counter() - start
    assert 0.14 < held < 5
    assert at_once < held


def test_the_latency_comes_before_each_answer() -> None:
    with queue(messages=30, latency_ms=100) as (_, client, url):
        start = time.perf_counter()
        for _ in range(3):
            assert len(receive(client, url)) == 10
        assert time.perf_counter() - start >= 0.29


def test_the_same_seed_gives_the_same_messages() -> None:
    with (
        queue(messages=10, seed=5, sent_ms=1) as (_, client, url),
        queue(messages=10, seed=5, sent_ms=1) as (_, other_client, other_url),
        queue(messages=10, seed=6, sent_ms=1) as (_, third_client, third_url),
    ):
        first = receive(client, url)
        assert first == receive(other_client, other_url)
        third = receive(third_client, third_url)
    assert not {message["MessageId"] for message in first} & {message["MessageId"] for message in third}


def test_requests_are_read_from_any_cut_of_the_stream() -> None:
    with null_sqs(messages=20) as server:
        body = b'{"QueueUrl":"x","MaxNumberOfMessages":10}'
        head = b"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: AmazonSQS.ReceiveMessage\r\n"
        request = head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            for position in range(len(request)):
                connection.sendall(request[position : position + 1])
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert answer.count(b'"MessageId"') == 20


@pytest.mark.parametrize("ended_by", ["the end of its standard input", "a signal"])
def test_it_ends(ended_by: str) -> None:
    command = [sys.executable, "-m", "benchmarks.null_sqs", "--messages", "0"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["port"] > 0
        if ended_by == "a signal":
            process.terminate()
            assert process.wait(10) == 0
        _, errors = process.communicate(timeout=10)  # closes its standard input
        assert (process.returncode, errors) == (0, b"")
