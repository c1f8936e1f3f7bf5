"""Queues of the embedded SQS server in the foreign hand of boto3, a scripted server, and sources on both.

Queues are made fresh for each test by `queues.create()`. Nothing here sleeps to synchronise: `until` waits on a
condition with a deadline.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import pytest
from botocore.credentials import Credentials as BotoCredentials
from tests.support.scripted_sqs import ScriptedSqs

from coatcheck.demo.servers import SqsServer
from coatcheck.pipeline.message import Message
from coatcheck.sources import sqs as sqs_module
from coatcheck.sources.aws import AwsTarget, Credentials
from coatcheck.sources.sqs import SqsSource
from coatcheck.sources.sqs_client import SqsClient

if TYPE_CHECKING:
    from botocore.client import BaseClient

T = TypeVar("T")
LIMIT = 30.0
"""Seconds after which a test stops to wait for what should long have happened."""

_numbers = itertools.count(1)


def run(work: Coroutine[Any, Any, T], *, limit: float = LIMIT) -> T:
    """Run the body of a test, which has `limit` seconds."""

    async def limited() -> T:
        async with asyncio.timeout(limit):
            return await work

    return asyncio.run(limited())


async def until(condition: Callable[[], object], what: str, *, limit: float = LIMIT) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        await asyncio.sleep(0.005)


class Clock:
    """A clock that a test turns."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def quick_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing a source does not wait for its polls. For tests of something else: it saves a second each."""
    monkeypatch.setattr(sqs_module, "_HANG_UP_S", 0.01)


# -- clients and sources


def a_target(endpoint: str) -> AwsTarget:
    credentials = Credentials(lambda: BotoCredentials("AKIDTEST", "not-a-secret"))
    return AwsTarget(endpoint, "us-east-1", "logins", None, credentials)


@asynccontextmanager
async def client_of(endpoint: str) -> AsyncIterator[SqsClient]:
    """Open a client for an endpoint."""
    client = SqsClient(a_target(endpoint))
    try:
        yield client
    finally:
        await client.close()


def a_source(queue_url: str, *, client: SqsClient | None = None, **options: Any) -> SqsSource:
    """Return a source that polls for one second, so that tests end soon."""
    endpoint = "/".join(queue_url.split("/")[:3])
    options.setdefault("wait_s", 1)
    return SqsSource(client=client or SqsClient(a_target(endpoint)), queue=queue_url, **options)


@asynccontextmanager
async def scripted(
    *, visibility: int = 30, latency: float = 0.0, **options: Any
) -> AsyncIterator[tuple[ScriptedSqs, SqsSource]]:
    """Run a scripted server and give a source on it, to be started when the script is written.

    `options` are the source's.
    """
    async with ScriptedSqs(visibility=visibility, latency=latency) as server:
        source = a_source(server.queue_url, **options)
        try:
            yield server, source
        finally:
            await source.close()


async def take(
    source: SqsSource, count: int, *, ack: bool = False, limit: float = LIMIT, patience: float = 0.2
) -> list[Message]:
    """Receive until there are `count` messages at least; ack them on the way if told."""
    taken: list[Message] = []
    deadline = time.monotonic() + limit
    while len(taken) < count:
        assert time.monotonic() < deadline, f"{len(taken)} of {count} messages have come"
        messages = await source.receive(patience)
        taken += messages
        if ack and messages:
            assert await source.ack(messages) == 0
    return taken


def bodies(messages: Iterable[Message]) -> list[str]:
    return [message.body for message in messages]


def numbered(count: int, start: int = 0) -> list[str]:
    return [f'{{"number": {number}}}' for number in range(start, start + count)]


@asynccontextmanager
async def reading(queue: Queue, **options: Any) -> AsyncIterator[SqsSource]:
    """Give a started source on a queue of the embedded server."""
    source = a_source(queue.url, **options)
    try:
        await source.start()
        yield source
    finally:
        await source.close()


# -- where a value must not be


def words_of(error: BaseException | None) -> str:
    """Return everything an error and those behind it would show: str, repr, arguments, attributes, notes."""
    words: list[str] = []
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        words += [str(one), repr(one), repr(one.args), repr(vars(one))]
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
    return "\n".join(words)


def words_logged(caplog: pytest.LogCaptureFixture) -> str:
    """Return everything that was logged: texts, arguments, extra fields, exceptions."""
    words = [caplog.text]
    for record in caplog.records:
        words.append(repr(vars(record)))
        if record.exc_info:
            words.append(words_of(record.exc_info[1]))
    return "\n".join(words)


# -- the real server


class Queue:
    """One queue of the embedded server, in the hand of boto3."""

    def __init__(self, client: BaseClient, url: str) -> None:
        self._client: Any = client  # boto3 makes its methods at run time
        self.url = url

    @property
    def arn(self) -> str:
        attributes = self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
        return str(attributes["Attributes"]["QueueArn"])

    def send(self, texts: Sequence[str], *, group: str = "", **fields: Any) -> list[str]:
        """Send bodies one by one, in order; return their message ids."""
        ids = []
        for text in texts:
            extra = {"MessageGroupId": group, "MessageDeduplicationId": f"{next(_numbers)}"} if group else {}
            sent = self._client.send_message(QueueUrl=self.url, MessageBody=text, **extra, **fields)
            ids.append(str(sent["MessageId"]))
        return ids

    def send_many(self, texts: Sequence[str]) -> None:
        """Send bodies ten a request."""
        for start in range(0, len(texts), 10):
            entries = [{"Id": str(n), "MessageBody": text} for n, text in enumerate(texts[start : start + 10])]
            assert not self._client.send_message_batch(QueueUrl=self.url, Entries=entries).get("Failed")

    def receive(self, *, most: int = 10, visibility: int = 30) -> list[dict[str, Any]]:
        """Receive what there is to see, at once."""
        got: list[dict[str, Any]] = []
        while len(got) < most:
            answer = self._client.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=min(10, most - len(got)),
                VisibilityTimeout=visibility,
                MessageSystemAttributeNames=["All"],
                MessageAttributeNames=["All"],
            )
            if not answer.get("Messages"):
                break
            got += answer["Messages"]
        return got

    def show(self, messages: Iterable[dict[str, Any]]) -> None:
        """Give messages back."""
        for message in messages:
            handle = message["ReceiptHandle"]
            self._client.change_message_visibility(QueueUrl=self.url, ReceiptHandle=handle, VisibilityTimeout=0)

    def counts(self) -> tuple[int, int]:
        """Return how many messages are visible, and how many are in flight."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes = self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return int(attributes[names[0]]), int(attributes[names[1]])

    def set(self, **attributes: str) -> None:
        """Change attributes of the queue."""
        self._client.set_queue_attributes(QueueUrl=self.url, Attributes=attributes)

    def delete(self) -> None:
        """Delete the queue itself."""
        self._client.delete_queue(QueueUrl=self.url)


class Queues:
    """Makes queues on the embedded server."""

    def __init__(self, server: SqsServer, client: BaseClient) -> None:
        self.server = server
        self._client: Any = client

    def create(
        self, *, visibility: int = 30, fifo: bool = False, dead: Queue | None = None, max_receives: int = 2
    ) -> Queue:
        """Make a queue; with `dead`, that one takes its dead letters."""
        attributes = {"VisibilityTimeout": str(visibility)} | ({"FifoQueue": "true"} if fifo else {})
        if dead is not None:
            policy = {"deadLetterTargetArn": dead.arn, "maxReceiveCount": str(max_receives)}
            attributes["RedrivePolicy"] = json.dumps(policy)
        name = f"source-{next(_numbers)}" + (".fifo" if fifo else "")
        made = self._client.create_queue(QueueName=name, Attributes=attributes)
        return Queue(self._client, made["QueueUrl"])


@pytest.fixture(scope="session")
def queues(sqs: SqsServer) -> Iterator[Queues]:
    """Queues on the SQS server of this worker."""
    client = boto3.client(
        "sqs",
        endpoint_url=sqs.url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    try:
        yield Queues(sqs, client)
    finally:
        client.close()
