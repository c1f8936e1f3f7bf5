"""Dead letters that AWS itself moves back (StartMessageMoveTask), on LocalStack: AWS gives them new ids."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
from tests.support import localstack_server
from tests.support.fix_servers import LoginDatabase, Queue, commanding, logins
from tests.support.localstack_server import LocalStackServer
from tests.support.process import wait_until

pytestmark = [
    pytest.mark.localstack,
    pytest.mark.xdist_group("localstack"),
    pytest.mark.skipif(localstack_server.available() is not None, reason=str(localstack_server.available())),
]


@pytest.mark.parametrize("key", ["message_id", "content"])
def test_dead_letters_that_were_loaded_and_some_that_were_not(
    localstack: LocalStackServer, login_database: LoginDatabase, keyring: Path, tmp_path: Path, key: str
) -> None:
    """What was never loaded is loaded once. What was, is known by its content; by its id it may be another message."""
    word = secrets.token_hex(4)
    dead, queue = Queue(localstack.url, f"dead-{word}"), Queue(localstack.url, f"queue-{word}")
    dead.create()
    queue.create(RedrivePolicy=f'{{"deadLetterTargetArn": "{dead.arn}", "maxReceiveCount": "1"}}', VisibilityTimeout=30)
    loaded, fresh = logins(12), logins(8, first=12)
    with commanding(tmp_path, queue, login_database, keyring) as command:
        command.set(SOURCE__WAIT_SECONDS=1, LEDGER__KEY=key)
        queue.send(loaded)
        assert command.drain()["loaded"] == 12
        dead.send([*loaded, *fresh])  # as if the acks of the first had failed until they were dead
        queue.call("StartMessageMoveTask", SourceArn=dead.arn, DestinationArn=queue.arn)
        wait_until(lambda: dead.depth() == (0, 0, 0), "AWS has moved them", 30.0)
        counts = command.drain()
    assert (counts["received"], counts["acked"], counts["rejected"]) == (20, 20, 0)
    rows = login_database.rows()
    if key == "content":
        assert (counts["loaded"], counts["duplicates"], rows) == (8, 12, 20)
        assert login_database.repeated() == 0
    else:
        assert (counts["loaded"], rows) == (20, 32)
    assert queue.depth() == (0, 0, 0)
