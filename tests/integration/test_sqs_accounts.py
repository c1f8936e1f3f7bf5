"""Queues of other accounts: a queue that merely has the name is never read, emptied, filled or counted.

The embedded server takes an access key of twelve digits for the account.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import boto3
import pytest
from botocore.credentials import Credentials as BotoCredentials
from tests.support.fix_sqs import a_source, run, take
from tests.support.scripted_sqs import ScriptedSqs, ok, refusal

from coatcheck import app
from coatcheck.config_load import load
from coatcheck.demo.servers import SqsServer
from coatcheck.errors import CoatcheckError, ConfigError
from coatcheck.sources import sqs_redrive
from coatcheck.sources.aws import AwsTarget, Credentials, resolve
from coatcheck.sources.sqs_client import SqsClient, SqsError
from coatcheck.sources.sqs_queue import create, dead_letter_queue, find_dead_letter_queue, inspect

pytestmark = pytest.mark.usefixtures("aws_by_environment", "quick_end", "short_polls")

THEIRS, OURS = "111111111111", "222222222222"
_numbers = itertools.count()


@pytest.fixture
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqs_redrive, "_EMPTY_POLL_S", 0)


class Account:
    """Queues of one account, in the hand of boto3."""

    def __init__(self, endpoint: str, number: str) -> None:
        self.number = number
        self.sqs: Any = boto3.client(
            "sqs",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id=number,
            aws_secret_access_key="test",
        )

    def create(self, name: str, *, dead: str = "") -> str:
        """Make a queue; `dead` is the ARN that its dead letters go to."""
        policy = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": dead, "maxReceiveCount": 5})}
        attributes = policy if dead else {}
        return str(self.sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])

    def send(self, url: str, body: str) -> None:
        self.sqs.send_message(QueueUrl=url, MessageBody=body)

    def bodies(self, url: str) -> list[str]:
        """Return what the queue holds, and leave it there."""
        found = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
        return sorted(message["Body"] for message in found.get("Messages", []))

    def arn(self, name: str) -> str:
        return f"arn:aws:sqs:us-east-1:{self.number}:{name}"


class Neighbours:
    """Two accounts with queues of the same names: `logins`, whose dead letters go to `dead`."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        mark = next(_numbers)
        self.name, self.dead_name = f"logins-{mark}", f"dead-{mark}"
        self.theirs, self.ours = Account(endpoint, THEIRS), Account(endpoint, OURS)
        self.their_dead = self.theirs.create(self.dead_name)
        self.our_dead = self.ours.create(self.dead_name)
        self.their_queue = self.theirs.create(self.name, dead=self.theirs.arn(self.dead_name))
        self.our_queue = self.ours.create(self.name, dead=self.ours.arn(self.dead_name))
        self.theirs.send(self.their_dead, "their dead letter")
        self.ours.send(self.our_dead, "our dead letter")

    @asynccontextmanager
    async def client(self) -> AsyncIterator[SqsClient]:
        """Open a client with the credentials of our account."""
        async with a_client(self.endpoint) as client:
            yield client


@asynccontextmanager
async def a_client(endpoint: str) -> AsyncIterator[SqsClient]:
    credentials = Credentials(lambda: BotoCredentials(OURS, "test"))
    client = SqsClient(AwsTarget(endpoint, "us-east-1", "logins", None, credentials))
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def neighbours(sqs: SqsServer, monkeypatch: pytest.MonkeyPatch) -> Neighbours:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", OURS)
    monkeypatch.setenv("AWS_ENDPOINT_URL", sqs.url)
    return Neighbours(sqs.url)


def configured(monkeypatch: pytest.MonkeyPatch, queue: str) -> Any:
    monkeypatch.setenv("COATCHECK_SOURCE__QUEUE", queue)
    return load(None)


async def redriven(config: Any, origin: str | None = None) -> int:
    return sum([moved async for moved in app.redrive(config, origin, None)])


@pytest.mark.parametrize("named", ["URL", "ARN"])
def test_a_redrive_moves_their_dead_letters_and_leaves_ours(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    queue = neighbours.their_queue if named == "URL" else neighbours.theirs.arn(neighbours.name)
    assert run(redriven(configured(monkeypatch, queue))) == 1
    assert neighbours.theirs.bodies(neighbours.their_queue) == ["their dead letter"]
    assert neighbours.theirs.bodies(neighbours.their_dead) == []
    assert neighbours.ours.bodies(neighbours.our_dead) == ["our dead letter"]
    assert neighbours.ours.bodies(neighbours.our_queue) == []


@pytest.mark.parametrize("named", ["name", "URL", "ARN"])
def test_from_names_a_queue_in_the_account_of_the_source(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    origin = {
        "name": neighbours.dead_name,
        "URL": neighbours.their_dead,
        "ARN": neighbours.theirs.arn(neighbours.dead_name),
    }[named]
    assert run(redriven(configured(monkeypatch, neighbours.their_queue), origin)) == 1
    assert neighbours.theirs.bodies(neighbours.their_queue) == ["their dead letter"]
    assert neighbours.ours.bodies(neighbours.our_dead) == ["our dead letter"]


def test_a_plain_name_is_ours(neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(redriven(configured(monkeypatch, neighbours.name))) == 1
    assert neighbours.ours.bodies(neighbours.our_queue) == ["our dead letter"]
    assert neighbours.theirs.bodies(neighbours.their_dead) == ["their dead letter"]


def test_an_arn_is_read_in_its_account(neighbours: Neighbours) -> None:
    neighbours.theirs.send(neighbours.their_queue, "theirs")
    neighbours.ours.send(neighbours.our_queue, "ours")

    async def work() -> None:
        async with neighbours.client() as client:
            url = await client.queue_url(neighbours.theirs.arn(neighbours.name))
            assert url == neighbours.their_queue
            source = a_source(url, client=client)
            try:
                await source.start()
                messages = await take(source, 1, ack=True)
                assert [message.body for message in messages] == ["theirs"]
                assert await source.dead_letters() == 1
            finally:
                await source.close()

    run(work())
    assert neighbours.ours.bodies(neighbours.our_queue) == ["ours"]
    assert neighbours.theirs.bodies(neighbours.their_queue) == []


def test_the_dead_letters_that_are_counted_are_theirs(neighbours: Neighbours) -> None:
    neighbours.theirs.send(neighbours.their_dead, "another")

    async def work() -> None:
        async with neighbours.client() as client:
            assert await find_dead_letter_queue(client, neighbours.their_queue) == neighbours.their_dead
            state = await inspect(client, neighbours.theirs.arn(neighbours.name), batch_s=0.5)
            assert state.url == neighbours.their_queue

    run(work())


def test_what_cannot_be_looked_up_is_refused_and_ours_is_left_alone(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    neighbours.theirs.sqs.delete_queue(QueueUrl=neighbours.their_dead)
    with pytest.raises(ConfigError) as caught:
        run(redriven(configured(monkeypatch, neighbours.their_queue)))
    assert f"the dead-letter queue {neighbours.dead_name} of account {THEIRS}" in caught.value.message
    assert "sqs:GetQueueUrl" in caught.value.hint
    assert neighbours.ours.bodies(neighbours.our_dead) == ["our dead letter"]

    async def work() -> None:
        async with neighbours.client() as client:
            assert await find_dead_letter_queue(client, neighbours.their_queue) == ""

    run(work())


def test_a_server_that_knows_no_accounts_is_not_believed() -> None:
    """Old servers ignore QueueOwnerAWSAccountId, and answer with the queue of whoever asks."""

    async def work() -> None:
        async with ScriptedSqs() as server, a_client(server.url) as client:
            server.put("of somebody else")
            server.attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": f"arn:aws:sqs:x:{THEIRS}:logins"})
            named = f"arn:aws:sqs:x:{THEIRS}:logins"
            for asking in (dead_letter_queue(client, server.queue_url), client.queue_url(named)):
                with pytest.raises(ConfigError) as caught:
                    await asking
                assert THEIRS in caught.value.message
                assert "URL" in caught.value.hint
            assert await find_dead_letter_queue(client, server.queue_url) == ""
            assert {request.body["QueueOwnerAWSAccountId"] for request in server.of("GetQueueUrl")} == {THEIRS}
            assert not server.of("ReceiveMessage")

    run(work())


def test_a_server_without_accounts_in_its_urls_is_believed() -> None:
    async def work() -> None:
        async with ScriptedSqs() as server, a_client(server.url) as client:
            server.always("GetQueueUrl", ok({"QueueUrl": f"{server.url}/queue/dead"}))
            dead = "arn:aws:sqs:elasticmq:000000000000:dead"
            server.attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": dead})
            assert await dead_letter_queue(client, f"{server.url}/queue/logins") == f"{server.url}/queue/dead"

    run(work())


@pytest.mark.parametrize(
    ("code", "status"), [("AccessDeniedException", 403), ("QueueDoesNotExist", 400), ("InvalidAddress", 400)]
)
def test_a_refused_look_up_names_the_queue_and_what_to_do(code: str, status: int) -> None:
    async def work() -> None:
        async with ScriptedSqs() as server, a_client(server.url) as client:
            server.attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": f"arn:aws:sqs:x:{THEIRS}:dead"})
            server.always("GetQueueUrl", refusal(code, status, message="CANARY"))
            with pytest.raises(ConfigError, match=f"dead of account {THEIRS}.*{code}") as caught:
                await dead_letter_queue(client, server.queue_url)
            assert "--from" in caught.value.hint
            assert "CANARY" not in repr(caught.value)

    run(work())


@pytest.mark.parametrize(
    "policy", ["", "no JSON", "[]", "{}", '{"deadLetterTargetArn": 7}', '{"deadLetterTargetArn": ""}']
)
def test_an_odd_redrive_policy_is_none(policy: str) -> None:
    async def work() -> None:
        async with ScriptedSqs() as server, a_client(server.url) as client:
            server.attributes["RedrivePolicy"] = policy
            with pytest.raises(ConfigError, match="no dead-letter queue"):
                await dead_letter_queue(client, server.queue_url)

    run(work())


# -- regions


def test_queues_of_another_region_are_refused_before_anything_is_asked() -> None:
    async def work() -> None:
        client = SqsClient(resolve("arn:aws:sqs:eu-west-1:111111111111:logins"))
        try:
            for other in (
                "https://sqs.us-east-1.amazonaws.com/111111111111/dead",
                "arn:aws:sqs:us-east-1:111111111111:dead",
            ):
                with pytest.raises(ConfigError, match="is in us-east-1, and requests go to eu-west-1"):
                    await client.queue_url(other)
        finally:
            await client.close()

    run(work())


# -- making a queue


@pytest.mark.parametrize("named", ["URL", "ARN"])
def test_a_queue_that_is_there_is_not_made_again(neighbours: Neighbours, named: str) -> None:
    """`send --create-queue` with a queue of theirs made one in our account."""
    name = f"only-theirs-{next(_numbers)}"
    url = neighbours.theirs.create(name)

    async def work() -> None:
        async with neighbours.client() as client:
            await create(client, url if named == "URL" else neighbours.theirs.arn(name))

    run(work())
    with pytest.raises(neighbours.ours.sqs.exceptions.QueueDoesNotExist):
        neighbours.ours.sqs.get_queue_url(QueueName=name)


def test_a_queue_of_ours_is_made_by_name_url_or_arn(neighbours: Neighbours) -> None:
    async def work() -> None:
        async with neighbours.client() as client:
            for form in ("{name}", "{endpoint}/{account}/{name}", "arn:aws:sqs:us-east-1:{account}:{name}"):
                name = f"made-{next(_numbers)}"
                queue = form.format(name=name, account=OURS, endpoint=neighbours.endpoint)
                await create(client, queue)
                assert (await client.queue_url(name)).endswith(f"/{OURS}/{name}")

    run(work())


def test_a_queue_made_in_the_wrong_account_is_told(neighbours: Neighbours) -> None:
    async def work() -> None:
        async with neighbours.client() as client:
            with pytest.raises(ConfigError, match=f"made in account {OURS}"):
                await create(client, neighbours.theirs.arn(f"made-{next(_numbers)}"))

    run(work())


def test_on_aws_no_queue_is_made_for_another_account() -> None:
    async def work() -> None:
        async with ScriptedSqs() as server:
            target = resolve("logins", region="us-east-1")
            client = SqsClient(target)
            asked: list[str] = []

            async def control(operation: str, *_: object) -> object:
                asked.append(operation)
                raise SqsError(operation, "missing_queue", "QueueDoesNotExist")

            client._control = control  # type: ignore[method-assign, assignment]
            try:
                with pytest.raises(CoatcheckError, match=f"no queue logins in account {THEIRS}"):
                    await create(client, f"arn:aws:sqs:us-east-1:{THEIRS}:logins")
            finally:
                await client.close()
            assert asked == ["GetQueueUrl"]
            assert not server.requests

    run(work())
