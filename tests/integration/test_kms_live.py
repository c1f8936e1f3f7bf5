"""KMS and Secrets Manager by the embedded server for what it gets right, KMS by LocalStack for the rest.

Not here, because neither has it right: ReEncrypt, a refused principal (tests/integration/test_aws_kms.py, on a fake).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from tests.support import localstack_server
from tests.support.localstack_server import LocalStackServer

from coatcheck.demo.servers import SqsServer
from coatcheck.errors import CoatcheckError, ConfigError
from coatcheck.keys import Opener, OpenError, Sealer
from coatcheck.keys.aws_kms import Kms, KmsLoaderKeys, KmsOpenerKeys, create_keyring, rotate_keyring, vault_kek
from coatcheck.keys.keyring import Keyring
from coatcheck.keys.local import TOKEN_ROOT
from coatcheck.keys.secrets import read_secret
from coatcheck.pipeline.message import DataKey

needs_localstack = pytest.mark.skipif(
    localstack_server.available() is not None, reason=str(localstack_server.available())
)
SECRET = "canary correct horse é"


@pytest.fixture(autouse=True)
def _aws(aws_by_environment: None) -> None:
    """By the environment only."""


def client(url: str, service: str) -> Any:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(service, endpoint_url=url, region_name="us-east-1", **keys)


class Account:
    """KMS of one server in the foreign hand of boto3, with two keys, and coatcheck's keys in a folder."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.kms = client(url, "kms")
        self.token, self.vault = self.key(), self.key()
        self.ours = Kms(endpoint_url=url)

    def key(self) -> str:
        return str(self.kms.create_key()["KeyMetadata"]["Arn"])

    def write(self, keyring: Keyring) -> None:
        (self.folder / TOKEN_ROOT).write_bytes(keyring.to_json())

    def loader(self) -> KmsLoaderKeys:
        return KmsLoaderKeys.load(self.folder, self.ours, vault_key=self.vault, token_key=self.token)

    def opener(self, tenant: str = "acme") -> KmsOpenerKeys:
        return KmsOpenerKeys(tenant, self.ours)

    def close(self) -> None:
        self.ours.close()
        self.kms.close()


@pytest.fixture
def account(sqs: SqsServer, tmp_path: Path) -> Iterator[Account]:
    made = Account(sqs.url, tmp_path)
    yield made
    made.close()


@pytest.fixture
def strict(localstack: LocalStackServer, tmp_path: Path) -> Iterator[Account]:
    made = Account(localstack.url, tmp_path)
    yield made
    made.close()


def refusal(work: Callable[[], object], kind: type[CoatcheckError] = ConfigError) -> CoatcheckError:
    with pytest.raises(kind) as caught:
        work()
    assert caught.value.__context__ is None
    assert caught.value.hint
    return caught.value


def goes_round(account: Account) -> None:
    """Create, load, seal, open, rotate, retire."""
    keyring = create_keyring(account.ours, account.token, tenant="acme")
    assert keyring.wrapped_by == account.token
    account.write(keyring)
    loader = account.loader()
    assert len(loader.token_root()) == len(loader.ledger_root()) == 32
    assert loader.token_root() != loader.ledger_root()
    assert loader.token_root() == account.loader().token_root()

    sealer = Sealer(loader)
    asyncio.run(sealer.ready(1))
    sealed = sealer.seal(b"203.0.113.77", b"ip")
    data_key = sealer.data_key(sealed.dek_id)
    assert data_key.kek == vault_kek(account.ours, account.vault) == f"aws-kms:{account.vault}"
    assert Opener(account.opener()).open(sealed, data_key, b"ip") == b"203.0.113.77"

    rotated = rotate_keyring(account.ours, keyring)
    account.write(rotated)
    both = account.loader()
    assert both.kids == ("k2", "k1")
    assert both.token_root("k1") == loader.token_root()
    assert both.token_root() != loader.token_root()
    assert both.ledger_root() == loader.ledger_root()
    account.write(rotated.retired("k1"))
    assert account.loader().kids == ("k2",)


def holds_to_the_context(account: Account) -> None:
    keyring = create_keyring(account.ours, account.token, tenant="acme")
    account.write(keyring)
    dek_id, key, data_key = account.loader().new_data_key()
    assert account.opener().unwrap(data_key) == key
    refusal(lambda: account.opener("other").unwrap(data_key), OpenError)
    refusal(lambda: account.opener().unwrap(DataKey(bytes(16), data_key.kek, data_key.wrapped)), OpenError)
    assert dek_id not in data_key.wrapped


def states_count(account: Account) -> None:
    account.write(create_keyring(account.ours, account.token, tenant="acme"))
    loader, opener = account.loader(), account.opener()
    _, key, data_key = loader.new_data_key()
    account.kms.disable_key(KeyId=account.vault)
    for work in (loader.new_data_key, lambda: opener.unwrap(data_key)):
        assert f"the KMS key {account.vault} is disabled" in str(refusal(work))
    account.kms.enable_key(KeyId=account.vault)
    assert opener.unwrap(data_key) == key
    account.kms.schedule_key_deletion(KeyId=account.vault, PendingWindowInDays=7)
    for work in (loader.new_data_key, lambda: opener.unwrap(data_key)):
        assert "is pending deletion" in str(refusal(work))
    account.kms.cancel_key_deletion(KeyId=account.vault)
    account.kms.enable_key(KeyId=account.vault)
    assert opener.unwrap(data_key) == key


def test_keys_go_round_on_the_embedded_server(account: Account) -> None:
    goes_round(account)


def test_the_embedded_server_holds_to_the_context(account: Account) -> None:
    holds_to_the_context(account)


def test_the_embedded_server_knows_states(account: Account) -> None:
    states_count(account)


def test_an_alias_is_stored_as_the_key_behind_it(account: Account) -> None:
    account.kms.create_alias(AliasName=f"alias/{account.folder.name}", TargetKeyId=account.vault)
    alias = f"alias/{account.folder.name}"
    account.write(create_keyring(account.ours, account.token))
    loader = KmsLoaderKeys.load(account.folder, account.ours, vault_key=alias)
    assert loader.new_data_key()[2].kek == vault_kek(account.ours, alias) == f"aws-kms:{account.vault}"


def test_a_key_that_is_not_there(account: Account) -> None:
    gone = account.vault.rpartition("/")[0] + "/00000000-0000-0000-0000-000000000000"
    error = refusal(lambda: create_keyring(account.ours, gone))
    assert str(error) == f"there is no KMS key {gone} (NotFoundException)"


def test_the_endpoint_may_come_from_the_environment(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", account.url)
    kms = Kms()
    assert create_keyring(kms, account.token).wrapped_by == account.token
    kms.close()


def test_secrets_of_secrets_manager(sqs: SqsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", sqs.url)
    manager = client(sqs.url, "secretsmanager")
    name = f"coatcheck/{tmp_path.name}"
    arn = manager.create_secret(Name=name, SecretString=SECRET)["ARN"]
    for place in (name, arn):
        assert read_secret(f"aws-secretsmanager:{place}", option="keys.passphrase") == SECRET
    manager.put_secret_value(SecretId=name, SecretString=json.dumps({"pass": SECRET, "n": 1}))
    assert read_secret(f"aws-secretsmanager:{arn}#pass", option="keys.passphrase") == SECRET
    error = refusal(lambda: read_secret(f"aws-secretsmanager:{name}#n", option="keys.passphrase"))
    assert "canary" not in str(error) + error.hint
    manager.put_secret_value(SecretId=name, SecretBinary=SECRET.encode())
    assert read_secret(f"aws-secretsmanager:{name}", option="keys.passphrase") == SECRET
    error = refusal(lambda: read_secret(f"aws-secretsmanager:{name}-none", option="keys.passphrase"))
    assert str(error) == (
        f"keys.passphrase: the secret {name}-none in AWS Secrets Manager is not given out (ResourceNotFoundException)"
    )
    manager.close()


def test_a_secret_does_not_get_into_botocores_log(
    sqs: SqsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", sqs.url)
    manager = client(sqs.url, "secretsmanager")
    name = f"coatcheck/{tmp_path.name}"
    manager.create_secret(Name=name, SecretString=SECRET)
    manager.close()
    with caplog.at_level(logging.DEBUG):
        assert read_secret(f"aws-secretsmanager:{name}", option="keys.passphrase") == SECRET
    logged = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "GetSecretValue" in logged
    assert "canary" not in logged


@pytest.mark.localstack
@pytest.mark.xdist_group("localstack")
@needs_localstack
def test_keys_go_round_on_localstack(strict: Account) -> None:
    goes_round(strict)
    holds_to_the_context(strict)
    states_count(strict)


@pytest.mark.localstack
@pytest.mark.xdist_group("localstack")
@needs_localstack
def test_localstack_authenticates_and_pins(strict: Account) -> None:
    strict.write(create_keyring(strict.ours, strict.token, tenant="acme"))
    _, _, data_key = strict.loader().new_data_key()
    damaged = data_key.wrapped[:-1] + bytes([data_key.wrapped[-1] ^ 1])
    for changed in (
        DataKey(data_key.dek_id, data_key.kek, damaged),
        DataKey(data_key.dek_id, f"aws-kms:{strict.token}", data_key.wrapped),
    ):
        refusal(lambda changed=changed: strict.opener().unwrap(changed), OpenError)  # type: ignore[misc]
