"""The installed command with its keys in AWS KMS: the whole life of a keyring, each role with its own policy.

KMS is the one of `tests/support/fake_kms.py`, which knows key states, ReEncrypt, IAM policies and outages.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.support.fake_kms import FakeKey, FakeKms, policy
from tests.support.fix_servers import BAD, LoginDatabase, Queue, logins
from tests.support.process import Command, wait_until

SENT = 200
PRINCIPALS = {"loader": "AKIDLOADER", "revealer": "AKIDREVEALER", "rotator": "AKIDROTATOR"}


@dataclass
class World:
    """The command, a KMS with a token key and two vault keys, and the policies of deploy/iam."""

    command: Command
    kms: FakeKms
    token: FakeKey
    vault: FakeKey
    next_vault: FakeKey

    def __call__(self, role: str, *arguments: str, code: int = 0, **variables: str) -> str:
        """Run the command as a role; return all it printed."""
        done = self.command(*arguments, code=code, AWS_ACCESS_KEY_ID=PRINCIPALS[role], **variables)
        return done.out + done.err


@pytest.fixture
def world(command: Command, bare_database: LoginDatabase) -> Iterator[World]:
    with FakeKms("us-east-1") as kms:
        world = World(command, kms, kms.create_key(), kms.create_key("alias/vault"), kms.create_key())
        places = {
            "TokenKeyArn": world.token.arn, "VaultKeyArn": world.vault.arn, "NewVaultKeyArn": world.next_vault.arn,
            "QueueArn": "arn:aws:sqs:us-east-1:1:q", "DeadLetterQueueArn": "arn:aws:sqs:us-east-1:1:d",
        }  # fmt: skip
        for role, principal in PRINCIPALS.items():
            kms.grant(principal, policy(role, **places))
        command.set(
            KEYS__PROVIDER="aws-kms", KEYS__PATH="kms-keys", KEYS__TOKEN_KEY=world.token.arn,
            KEYS__VAULT_KEY=world.vault.arn, TARGET__DSN="env:WHERE_ROWS_GO",
        )  # fmt: skip
        command.environment |= {"AWS_ENDPOINT_URL_KMS": kms.url, "WHERE_ROWS_GO": bare_database.dsn}
        del command.environment["DATABASE_URL"]
        yield world


def test_the_life_of_a_keyring(world: World, queue: Queue, bare_database: LoginDatabase) -> None:
    assert "wrote kms-keys/token-root.json" in world("rotator", "keys", "init")
    world("loader", "migrate")
    assert "error" not in world("loader", "check")
    queue.send([*logins(SENT), BAD % 1])
    world("loader", "run", "--drain")
    assert bare_database.rows() == SENT
    assert "k2 is the active token key" in world("rotator", "keys", "rotate")
    queue.send(logins(SENT, first=SENT))
    world("loader", "run", "--drain")
    assert "under the active key now" in world("rotator", "keys", "retokenize")
    assert "k1 is retired" in world("rotator", "keys", "retire", "k1")
    left = "SELECT count(*) FROM user_logins WHERE masked_ip LIKE 'pt1\\_ip\\_k1\\_%'"
    assert bare_database.value(left) == 0
    assert bare_database.value("SELECT count(*) FROM coatcheck.vault WHERE token LIKE 'pt1\\_%\\_k1\\_%'") == 0
    world.command.set(KEYS__VAULT_KEY=world.next_vault.arn)
    assert "data keys anew" in world("rotator", "keys", "rewrap")
    kek = f"aws-kms:{world.next_vault.arn}"
    assert bare_database.value("SELECT count(*) FROM coatcheck.data_key WHERE kek <> %s", kek) == 0
    assert world.kms.count("ReEncrypt") > 0
    assert "Decrypt" not in {
        operation for who, operation, request in world.kms.calls
        if who == PRINCIPALS["loader"] and request.get("KeyId") in (world.vault.arn, world.next_vault.arn)
    }, "no loader ever opens"  # fmt: skip


def test_an_original_comes_back_by_who_may_decrypt(world: World, queue: Queue, bare_database: LoginDatabase) -> None:
    world("rotator", "keys", "init")
    world("loader", "migrate")
    queue.send(logins(3))
    world("loader", "run", "--drain")
    world("revealer", "reveal", "policy", "one_person=true")
    why = ("--reason", "FRAUD", "--ticket", "INC-1")
    token = world("revealer", "find", "10.0.0.1", "--domain", "ip", *why).strip()
    assert "request 1" in world("revealer", "reveal", "request", token, *why)
    refused = world("loader", "reveal", "open", "1", "--output", "address", code=2)
    assert "kms:Decrypt" in refused
    assert not (world.command.folder / "address").exists()
    assert world("revealer", "reveal", "open", "1", "--output", "address") == "wrote address\n"
    assert (world.command.folder / "address").read_text() == f"{token}\t10.0.0.1\n"
    found = bare_database.execute("SELECT event FROM coatcheck.audit ORDER BY seq")
    assert [event for (event,) in found][-3:] == ["reveal opened", "reveal opened", "reveal shown"]


def test_a_retry_opens_bodies_and_seals_originals(world: World, queue: Queue, bare_database: LoginDatabase) -> None:
    world("rotator", "keys", "init")
    world("loader", "migrate")
    bare_database.execute("ALTER TABLE user_logins ADD CONSTRAINT no CHECK (user_id = '') NOT VALID")
    queue.send(logins(2))
    world("loader", "run", "--drain")
    bare_database.execute("ALTER TABLE user_logins DROP CONSTRAINT no")
    assert "kms:Decrypt" in world("loader", "quarantine", "retry", "--all", code=2)
    assert "2 loaded" in world("revealer", "quarantine", "retry", "--all")
    assert (bare_database.rows(), bare_database.count("coatcheck.vault")) == (2, 4)


def test_a_permission_that_is_missing_is_named(world: World) -> None:
    world("rotator", "keys", "init")
    world("loader", "migrate")
    world.kms.deny(PRINCIPALS["loader"], "kms:GenerateDataKey")
    told = world("loader", "check", code=1)
    assert "allow kms:GenerateDataKey on keys.vault_key; see deploy/iam/loader.json" in told
    world.kms.deny(PRINCIPALS["loader"], "kms:Decrypt")
    told = world("loader", "run", "--drain", code=2)
    assert "allow kms:Decrypt on keys.token_key; see deploy/iam/loader.json" in told


def test_a_loader_stops_when_it_may_not_seal(world: World, queue: Queue, bare_database: LoginDatabase) -> None:
    world("rotator", "keys", "init")
    world("loader", "migrate")
    world.kms.deny(PRINCIPALS["loader"], "kms:GenerateDataKey")
    queue.send(logins(SENT))
    told = world("loader", "run", "--drain", code=2)
    assert "allow kms:GenerateDataKey on keys.vault_key" in told
    assert bare_database.rows() == 0
    visible, in_flight, _ = queue.depth()
    assert (visible, in_flight) == (SENT, 0), "nothing is lost"


def test_a_disabled_key_is_named(world: World) -> None:
    world("rotator", "keys", "init")
    world("loader", "migrate")
    world.kms.keys[world.token.arn].state = "Disabled"
    told = world("loader", "run", "--drain", code=2)
    assert f"the KMS key {world.token.arn} is disabled" in told


def test_kms_away_for_a_while_loses_nothing(world: World, queue: Queue, bare_database: LoginDatabase) -> None:
    """The token root is here already, but no data key: nothing is written or acked until KMS is back."""
    world("rotator", "keys", "init")
    world("loader", "migrate")
    world.kms.hold("GenerateDataKey")
    running = world.command.start("run", AWS_ACCESS_KEY_ID=PRINCIPALS["loader"])
    queue.send(logins(SENT))
    wait_until(lambda: "no new data key for now; nothing is sealed until there is one" in running.err, "it is told")
    assert bare_database.rows() == 0
    world.kms.let_go()
    wait_until(lambda: bare_database.rows() == SENT, "all rows")
    running.signal(signal.SIGTERM)
    assert running.wait().code == 0
    assert queue.depth() == (0, 0, 0)
