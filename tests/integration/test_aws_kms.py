from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rich.pretty import pretty_repr
from tests.support.fake_kms import CANARY, FakeKms, leaks, policy

from coatcheck.errors import CoatcheckError, ConfigError, RefusedError, UnreachableError
from coatcheck.keys import LoaderKeys, Opener, OpenerKeys, OpenError, Sealer, aws_kms, secrets
from coatcheck.keys.aws_kms import (
    KEK_PREFIX,
    Kms,
    KmsLoaderKeys,
    KmsOpenerKeys,
    create_keyring,
    read_wrapped,
    rewrap,
    rotate_keyring,
    vault_kek,
)
from coatcheck.keys.keyring import Keyring
from coatcheck.keys.local import TOKEN_ROOT, LocalLoaderKeys, create
from coatcheck.pipeline.message import DataKey

ROLES = ("loader", "revealer", "rotator")


class World:
    """A fake KMS with a token key and two vault keys, the roles of deploy/iam, and a keyring on the disk."""

    def __init__(self, kms: FakeKms, folder: Path) -> None:
        self.kms, self.folder = kms, folder
        self.token, self.vault, self.next_vault = kms.create_key(), kms.create_key("alias/vault"), kms.create_key()
        self.made: dict[str, Kms] = {}
        places = {"TokenKeyArn": self.token.arn, "VaultKeyArn": self.vault.arn, "NewVaultKeyArn": self.next_vault.arn}
        places |= {"QueueArn": "arn:aws:sqs:eu-west-1:1:q", "DeadLetterQueueArn": "arn:aws:sqs:eu-west-1:1:d"}
        for role in ROLES:
            kms.grant(role, policy(role, **places))

    def role(self, name: Any) -> Kms:
        if name not in self.made:  # a client of botocore takes 0.1 s to make
            self.made[name] = Kms(name, profile=name, endpoint_url=self.kms.url)
        return self.made[name]

    def write(self, keyring: Keyring) -> None:
        (self.folder / TOKEN_ROOT).write_bytes(keyring.to_json())

    def create(self, tenant: str = "acme") -> Keyring:
        keyring = create_keyring(self.role("rotator"), self.token.arn, tenant=tenant, clock=lambda: 1_767_225_600.9)
        self.write(keyring)
        return keyring

    def loader(self, vault_key: str = "", **options: Any) -> KmsLoaderKeys:
        return KmsLoaderKeys.load(
            self.folder, self.role("loader"), vault_key=vault_key or self.vault.arn, token_key=self.token.arn, **options
        )

    def opener(self, tenant: str = "acme") -> KmsOpenerKeys:
        return KmsOpenerKeys(tenant, self.role("revealer"))


@pytest.fixture(autouse=True)
def _aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No account but that of the tests: profiles whose access key is the role's name."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    profiles = [f"[{role}]\naws_access_key_id = {role}\naws_secret_access_key = not-a-secret\n" for role in ROLES]
    (tmp_path / "credentials").write_text("\n".join(profiles))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(secrets, "ATTEMPTS", 1)  # botocore's own pauses between tries are not what is tested


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    folder = tmp_path / "keys"
    folder.mkdir()
    with FakeKms() as kms:
        world = World(kms, folder)
        yield world
        for made in world.made.values():
            made.close()


def refusal(work: Callable[[], object], kind: type[CoatcheckError] = ConfigError) -> CoatcheckError:
    """Return the error that `work` ends with; it has a hint, and nothing stands behind it."""
    with pytest.raises(kind) as caught:
        work()
    error = caught.value
    assert error.hint
    assert error.__context__ is None
    assert CANARY not in "".join(traceback.format_exception(error)) + error.hint
    return error


# -- the road of a key


def test_a_keyring_is_drawn_inside_kms(world: World) -> None:
    keyring = world.create()
    assert (keyring.tenant, keyring.kids, keyring.wrapped_by) == ("acme", ("k1",), world.token.arn)
    assert keyring.keys[0].created == "2026-01-01T00:00:00Z"
    assert [call[:2] for call in world.kms.calls] == [("rotator", "GenerateDataKeyWithoutPlaintext")] * 2
    assert [call[2]["EncryptionContext"] for call in world.kms.calls] == [
        {"app": "coatcheck", "tenant": "acme", "purpose": "token-root", "kid": "k1"},
        {"app": "coatcheck", "tenant": "acme", "purpose": "ledger-root"},
    ]
    assert not leaks(keyring.to_json().decode(), world.kms.plaintexts)


def test_an_alias_ends_as_the_arn_of_one_key(world: World) -> None:
    world.kms.aliases["alias/token"] = world.token.arn
    world.kms.deny("rotator", "kms:Decrypt")  # not needed to create
    keyring = create_keyring(
        Kms("rotator", profile="rotator", region="eu-west-1", endpoint_url=world.kms.url), "alias/token"
    )
    assert keyring.wrapped_by == world.token.arn
    assert world.kms.calls[-1][2]["KeyId"] == world.token.arn


def test_the_loader_opens_the_roots_once(world: World) -> None:
    world.create()
    loader = world.loader()
    root, ledger = world.kms.plaintexts
    assert (loader.tenant, loader.kid, loader.kids) == ("acme", "k1", ("k1",))
    assert loader.token_root() == loader.token_root("k1") == root
    assert loader.ledger_root() == ledger
    assert root != ledger
    assert world.kms.count("Decrypt") == 2
    assert all(call[2]["KeyId"] == world.token.arn for call in world.kms.calls if call[1] == "Decrypt")
    assert loader.remote
    error = refusal(lambda: loader.token_root("k9"))
    assert str(error) == 'the key "k9" is not in the keyring'


def test_it_fits_the_ports(world: World) -> None:
    world.create()
    loader: LoaderKeys = world.loader()
    opener: OpenerKeys = world.opener()
    assert loader.describe() == {
        "provider": "aws-kms",
        "keyring": str(world.folder / TOKEN_ROOT),
        "tenant": "acme",
        "kid": "k1",
        "kids": "k1",
        "token_key": world.token.arn,
        "vault_key": world.vault.arn,
    }
    assert opener.tenant == "acme"


def test_a_data_key_goes_round_and_the_loader_cannot_open_it(world: World) -> None:
    world.create()
    loader = world.loader()
    dek_id, key, data_key = loader.new_data_key()
    assert (len(dek_id), len(key), data_key.dek_id) == (16, 32, dek_id)
    assert data_key.kek == KEK_PREFIX + world.vault.arn
    assert key not in data_key.wrapped
    asked = world.kms.calls[-1][2]
    assert asked["KeySpec"] == "AES_256"
    assert asked["EncryptionContext"] == {
        "app": "coatcheck",
        "tenant": "acme",
        "purpose": "data-key",
        "dek": dek_id.hex(),
    }
    assert world.opener().unwrap(data_key) == key
    assert world.kms.calls[-1][2]["KeyId"] == world.vault.arn
    error = refusal(lambda: KmsOpenerKeys("acme", world.role("loader")).unwrap(data_key))
    assert str(error) == f"KMS refuses kms:Decrypt under {world.vault.arn} (AccessDeniedException)"


def test_sealed_by_the_one_half_opened_by_the_other(world: World) -> None:
    world.create()
    sealer = Sealer(world.loader())
    asyncio.run(sealer.ready(1))
    sealed = sealer.seal(b"203.0.113.77", b"ip")
    assert Opener(world.opener()).open(sealed, sealer.data_key(sealed.dek_id), b"ip") == b"203.0.113.77"


def test_an_alias_for_the_vault_key_is_stored_as_its_arn(world: World) -> None:
    world.create()
    rotator = Kms("rotator", profile="rotator", region="eu-west-1", endpoint_url=world.kms.url)
    world.made["rotator by region"] = rotator
    loader = KmsLoaderKeys.load(
        world.folder, Kms(profile="loader", region="eu-west-1", endpoint_url=world.kms.url), vault_key="alias/vault"
    )
    _, _, data_key = loader.new_data_key()
    assert data_key.kek == KEK_PREFIX + world.vault.arn
    world.kms.grant("rotator", {"Version": "2012-10-17", "Statement": []})
    assert vault_kek(rotator, world.vault.arn) == vault_kek(rotator, "alias/vault") == data_key.kek


def test_a_loader_may_be_given_the_keyring_as_text(world: World) -> None:
    text = world.create().to_json().decode()
    (world.folder / TOKEN_ROOT).unlink()
    loader = world.loader(token_root=text)
    assert loader.token_root() == world.kms.plaintexts[0]
    assert loader.describe()["keyring"] == "keys.token_root"


def test_a_data_key_opens_for_its_tenant_id_and_wrapping_only(world: World) -> None:
    world.create()
    dek_id, _, data_key = world.loader().new_data_key()
    damaged = bytearray(data_key.wrapped)
    damaged[-1] ^= 1
    for tenant, changed in {
        "other": data_key,
        "acme": DataKey(bytes(16), data_key.kek, data_key.wrapped),
        "Acme": data_key,
    }.items():
        error = refusal(lambda t=tenant, c=changed: world.opener(t).unwrap(c), OpenError)  # type: ignore[misc]
        assert str(error) == "a data key does not open"
    for kek, wrapped in [
        (data_key.kek, bytes(damaged)),
        (data_key.kek, b"garbage"),
        (KEK_PREFIX + world.token.arn, data_key.wrapped),
    ]:
        changed = DataKey(dek_id, kek, wrapped)
        with pytest.raises(CoatcheckError):
            world.opener().unwrap(changed)


@pytest.mark.parametrize("kek", ["local:0011", "aws-kms:", "aws-kms:alias/x", "aws-kms:arn:aws:kms:eu-west-1:1:key/x"])
def test_what_no_kms_key_wraps_is_not_sent_to_kms(world: World, kek: str) -> None:
    data_key = DataKey(bytes(16), kek, b"x")
    for work in (
        lambda: world.opener().unwrap(data_key),
        lambda: rewrap(world.role("rotator"), data_key, world.vault.arn, tenant="acme"),
    ):
        assert str(refusal(work)) == "a data key is not wrapped by a KMS key"
    assert not world.kms.calls


def test_an_opener_may_be_held_to_the_keys_it_is_given(world: World) -> None:
    world.create()
    _, key, data_key = world.loader().new_data_key()
    assert KmsOpenerKeys("acme", world.role("revealer"), vault_keys=[world.vault.arn]).unwrap(data_key) == key
    stranger = KmsOpenerKeys("acme", world.role("revealer"), vault_keys=[world.next_vault.arn])
    assert str(refusal(lambda: stranger.unwrap(data_key))) == (
        f"a data key is wrapped by {world.vault.arn}, which keys.vault_key does not name"
    )


def test_a_server_that_opens_under_another_key_is_not_believed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded server takes any KeyId; so does whoever answers in the place of KMS."""
    world.create()
    _, key, data_key = world.loader().new_data_key()
    answers = [
        {"KeyId": world.token.arn, "Plaintext": key},
        {"KeyId": world.vault.arn, "Plaintext": key[:31]},
    ]
    for answer in answers:
        monkeypatch.setattr(Kms, "ask", lambda *_, answer=answer, **__: answer)
        refusal(lambda: world.opener().unwrap(data_key), OpenError)


# -- rotation


def test_a_rotation_adds_a_root_and_retiring_takes_one_away(world: World) -> None:
    keyring = world.create()
    rotator = world.role("rotator")
    rotated = rotate_keyring(rotator, keyring, clock=lambda: 1_798_761_600)
    assert rotated.kids == ("k2", "k1")
    assert (rotated.wrapped_by, rotated.ledger) == (keyring.wrapped_by, keyring.ledger)
    assert rotated.keys[1].created == "2027-01-01T00:00:00Z"
    world.write(rotated)
    first, ledger, second = world.kms.plaintexts
    loader = world.loader()
    assert (loader.kid, loader.kids) == ("k2", ("k2", "k1"))
    assert (loader.token_root(), loader.token_root("k1"), loader.ledger_root()) == (second, first, ledger)
    with pytest.raises(RefusedError):
        rotate_keyring(rotator, rotated)
    world.write(rotated.retired("k1"))
    assert world.loader().kids == ("k2",)


def test_a_data_key_is_rewrapped_without_leaving_kms(world: World) -> None:
    world.create()
    dek_id, key, data_key = world.loader().new_data_key()
    world.kms.plaintexts.clear()
    moved = rewrap(world.role("rotator"), data_key, world.next_vault.arn, tenant="acme")
    assert (moved.dek_id, moved.kek) == (dek_id, KEK_PREFIX + world.next_vault.arn)
    assert moved.wrapped != data_key.wrapped
    assert [call[1] for call in world.kms.calls[-1:]] == ["ReEncrypt"]
    rotator = KmsOpenerKeys("acme", world.role("rotator"))
    assert rotator.unwrap(moved) == key
    world.vault.state = "PendingDeletion"
    assert rotator.unwrap(moved) == key
    refusal(lambda: rotator.unwrap(data_key))
    refusal(lambda: rewrap(world.role("rotator"), moved, world.next_vault.arn, tenant="other"), OpenError)


def test_who_may_not_rewrap_is_told_both_permissions(world: World) -> None:
    world.create()
    _, _, data_key = world.loader().new_data_key()
    error = refusal(lambda: rewrap(world.role("loader"), data_key, world.next_vault.arn, tenant="acme"))
    assert error.hint == (
        "allow kms:ReEncryptFrom on the old key and kms:ReEncryptTo on keys.vault_key; see deploy/iam/loader.json"
    )


# -- the document


def test_a_keyring_may_be_read_by_all_and_written_by_the_owner_only(world: World) -> None:
    world.create()
    path = world.folder / TOKEN_ROOT
    path.chmod(0o644)
    world.loader()
    path.chmod(0o664)
    assert str(refusal(world.loader)) == f"the key file {path} can be written by others"


def test_a_keyring_that_is_none_of_kms_is_refused(world: World, tmp_path: Path) -> None:
    error = refusal(world.loader)
    assert "is missing" in str(error)
    assert "coatcheck keys init" in error.hint
    create(tmp_path / "local")
    local = (tmp_path / "local" / TOKEN_ROOT).read_bytes()
    (world.folder / TOKEN_ROOT).write_bytes(local)
    error = refusal(world.loader)
    assert str(error) == f"the roots in {world.folder / TOKEN_ROOT} are not wrapped by a KMS key"
    assert not leaks(str(error), [LocalLoaderKeys.load(tmp_path / "local").token_root()])
    (world.folder / TOKEN_ROOT).write_text("{")
    assert "is damaged" in str(refusal(world.loader))
    assert not world.kms.calls


def test_a_keyring_of_another_token_key_is_refused(world: World) -> None:
    world.create()
    other = world.kms.create_key()
    work = lambda: KmsLoaderKeys.load(  # noqa: E731
        world.folder, world.role("loader"), vault_key=world.vault.arn, token_key=other.arn
    )
    assert "not by keys.token_key" in str(refusal(work))


@pytest.mark.parametrize("what", ["root", "ledger", "tenant", "kid", "swapped"])
def test_a_changed_keyring_does_not_open(world: World, what: str) -> None:
    keyring = world.create()
    content = json.loads(keyring.to_json())
    key = content["keys"][0]
    if what == "root":
        key["root"] = key["root"][:-8] + "AAAAAAA="
    elif what == "ledger":
        content["ledger"] = key["root"]
    elif what == "tenant":
        content["tenant"] = "other"
    elif what == "kid":
        key["kid"] = content["active"] = "k2"
    else:
        key["root"] = content["ledger"]
    (world.folder / TOKEN_ROOT).write_text(json.dumps(content))
    error = refusal(world.loader)
    name = "the ledger's root" if what == "ledger" else f"the root {key['kid']}"
    assert str(error) == f"{name} in {world.folder / TOKEN_ROOT} does not open under {world.token.arn}"


def test_read_wrapped_names_where_a_text_came_from(world: World) -> None:
    assert "keys.token_root is damaged" in str(refusal(lambda: read_wrapped(world.folder, token_root="\ud800")))


# -- refusals


@pytest.mark.parametrize(
    ("denied", "hint"),
    [
        ("kms:Decrypt", "allow kms:Decrypt on keys.token_key; see deploy/iam/loader.json"),
        ("kms:GenerateDataKey", "allow kms:GenerateDataKey on keys.vault_key; see deploy/iam/loader.json"),
    ],
)
def test_a_missing_permission_is_named_with_its_key(world: World, denied: str, hint: str) -> None:
    world.create()
    world.kms.deny("loader", denied)
    assert refusal(lambda: world.loader().new_data_key()).hint == hint


def test_the_other_roles_are_told_their_own_policy(world: World) -> None:
    world.create()
    _, _, data_key = world.loader().new_data_key()
    world.kms.deny("revealer", "kms:Decrypt")
    error = refusal(lambda: world.opener().unwrap(data_key))
    assert error.hint == "allow kms:Decrypt on keys.vault_key; see deploy/iam/revealer.json"
    error = refusal(lambda: create_keyring(world.role("revealer"), world.token.arn))
    assert error.hint == ("allow kms:GenerateDataKeyWithoutPlaintext on keys.token_key; see deploy/iam/revealer.json")


@pytest.mark.parametrize(
    ("state", "message", "word"),
    [
        ("Disabled", "is disabled (DisabledException)", "enable-key"),
        ("PendingDeletion", "is pending deletion, or in another state", "cancel-key-deletion"),
    ],
)
def test_a_key_in_another_state_seals_and_opens_nothing(world: World, state: str, message: str, word: str) -> None:
    world.create()
    loader, opener = world.loader(), world.opener()
    _, _, data_key = loader.new_data_key()
    world.vault.state = state
    for work in (loader.new_data_key, lambda: opener.unwrap(data_key)):
        error = refusal(work)
        assert message in str(error)
        assert world.vault.arn in str(error)
        assert word in error.hint
    world.vault.state = "Enabled"
    world.token.state = state
    assert message in str(refusal(world.loader))


def test_a_key_that_is_not_there(world: World) -> None:
    world.create()
    gone = world.vault.arn[:-1] + ("0" if world.vault.arn[-1] != "0" else "1")
    everything = {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}
    world.kms.grant("loader", {"Version": "2012-10-17", "Statement": [everything]})
    error = refusal(lambda: world.loader(gone).new_data_key())
    assert str(error) == f"there is no KMS key {gone} (NotFoundException)"
    assert error.hint == "check keys.vault_key, the region and the account: an ARN says all three"


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("ThrottlingException", 400, UnreachableError),
        ("KMSInternalException", 500, UnreachableError),
        ("DependencyTimeoutException", 503, UnreachableError),
        ("KeyUnavailableException", 500, UnreachableError),
        ("LimitExceededException", 400, UnreachableError),
        ("ServiceUnavailableException", 503, UnreachableError),
        ("SomethingNewException", 502, UnreachableError),
        ("SomethingNewException", 429, UnreachableError),
        ("ExpiredTokenException", 400, UnreachableError),
        ("UnrecognizedClientException", 400, ConfigError),
        ("InvalidSignatureException", 400, ConfigError),
        ("InvalidKeyUsageException", 400, ConfigError),
        ("ValidationException", 400, ConfigError),
        ("SomethingNewException", 400, ConfigError),
        ("AccessDeniedException", 400, ConfigError),
    ],
)
def test_every_code_is_sorted(world: World, code: str, status: int, kind: type[CoatcheckError]) -> None:
    world.create()
    loader = world.loader()
    world.kms.script((code, status))
    error = refusal(loader.new_data_key, kind)
    assert type(error) is kind
    assert f"({code})" in str(error)
    assert len(loader.new_data_key()[1]) == 32


def test_a_code_that_is_no_word_is_not_shown(world: World) -> None:
    world.create()
    loader = world.loader()
    world.kms.script((f"<{CANARY} 203.0.113.77>", 400))
    assert str(refusal(loader.new_data_key)).endswith("(Unknown)")


def test_botocore_tries_again_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "ATTEMPTS", 2)
    world.create()
    loader = world.loader()
    world.kms.script(("ThrottlingException", 400))
    loader.new_data_key()
    assert world.kms.count("GenerateDataKey") == 2


# -- no answer


def test_a_service_that_is_away_is_told_as_unreachable(world: World) -> None:
    world.create()
    loader = world.loader()
    world.kms.away = True
    error = refusal(loader.new_data_key, UnreachableError)
    assert str(error).startswith("KMS does not answer (ConnectionClosedError: connection was closed")
    world.kms.away = False
    loader.new_data_key()


def test_nobody_listens(world: World) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        kms = Kms("rotator", profile="rotator", endpoint_url=url)
        error = refusal(lambda: create_keyring(kms, world.token.arn), UnreachableError)
    assert str(error).startswith("KMS does not answer (EndpointConnectionError: could not connect")


def test_a_service_that_hangs_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "READ_S", 0.1)
    world.create()
    loader = world.loader()
    world.kms.gate.clear()
    error = refusal(loader.new_data_key, UnreachableError)
    assert str(error).startswith("KMS does not answer (ReadTimeoutError: read timeout")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"profile": "nobody"}, "ProfileNotFound"),
        ({"endpoint_url": "no url"}, "ValueError"),
        ({"region": "not a region"}, "InvalidRegionError"),
    ],
)
def test_a_setup_that_cannot_be_is_told(world: World, options: dict[str, str], code: str) -> None:
    kms = Kms("rotator", **({"profile": "rotator", "endpoint_url": world.kms.url} | options))
    error = refusal(lambda: create_keyring(kms, world.token.arn))
    assert str(error).startswith(f"KMS cannot be asked ({code}")


def test_without_credentials_or_region(world: World) -> None:
    kms = Kms(endpoint_url=world.kms.url)
    assert str(refusal(lambda: create_keyring(kms, world.token.arn))) == (
        "KMS has no valid AWS credentials (NoCredentialsError: unable to locate credentials)"
    )
    kms = Kms(profile="rotator", endpoint_url=world.kms.url)
    assert str(refusal(lambda: create_keyring(kms, "alias/token"))) == (
        "KMS cannot be asked (NoRegionError: you must specify a region)"
    )


def test_the_region_is_that_of_the_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    made = secrets.AwsClient

    def noting(service: str, *, region: str | None, **options: Any) -> secrets.AwsClient:
        seen.append(region)
        return made(service, region=region, **options)

    monkeypatch.setattr(aws_kms, "AwsClient", noting)
    world.create()
    world.loader().new_data_key()
    assert seen == ["eu-west-1", "eu-west-1"]  # one for each role


def test_refused_credentials_are_looked_for_anew(world: World, tmp_path: Path) -> None:
    world.create()
    loader = world.loader()
    world.kms.script(("ExpiredTokenException", 400))
    (tmp_path / "credentials").write_text("[loader]\naws_access_key_id=renewed\naws_secret_access_key=x\n")
    assert "have expired" in str(refusal(loader.new_data_key, UnreachableError))
    loader.new_data_key()
    assert world.kms.calls[-1][0] == "renewed"


# -- threads and forks


def test_many_threads_may_draw_at_once(world: World) -> None:
    world.create()
    loader = world.loader()
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda _: loader.new_data_key(), range(40)))
    assert len({dek_id for dek_id, _, _ in drawn}) == len({key for _, key, _ in drawn}) == 40


def test_a_client_is_not_shared_with_a_child(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.create()
    loader = world.loader()
    client = next(iter(loader._kms._clients.values()))
    before = client._client()
    assert client._client() is before
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    assert client._client() is not before
    client.close()
    monkeypatch.undo()
    before.close()


# -- nothing leaks


def test_no_key_is_ever_shown(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Every kind of failure, with every logger at its most talkative; keys, roots and the server's texts in nothing."""
    caplog.set_level(logging.DEBUG)
    for name in ("botocore", "botocore.parsers", "urllib3"):
        caplog.set_level(logging.DEBUG, name)
    world.create()
    loader, opener = world.loader(), world.opener()
    _, _, data_key = loader.new_data_key()
    opener.unwrap(data_key)
    rewrap(world.role("rotator"), data_key, world.next_vault.arn, tenant="acme")
    shown = [repr(x) + str(x) + pretty_repr(x) for x in (loader, opener, loader._kms, *loader._kms._clients.values())]
    shown.append(json.dumps(loader.describe()))

    def damage() -> None:
        opener.unwrap(DataKey(data_key.dek_id, data_key.kek, data_key.wrapped + b"x"))

    def scripted(code: str, status: int) -> Callable[[], None]:
        def work() -> None:
            world.kms.script((code, status))
            loader.new_data_key()

        return work

    def away() -> None:
        world.kms.away = True
        opener.unwrap(data_key)

    codes = ("AccessDeniedException", "DisabledException", "NotFoundException", "ThrottlingException", "Odd")
    for work in [damage, *(scripted(code, 400) for code in codes), scripted("KMSInternalException", 500), away]:
        with pytest.raises(CoatcheckError) as caught:
            work()
        error = caught.value
        shown += [*traceback.format_exception(error), repr(error), repr(vars(error)), error.hint]
    ours = "\n".join(shown) + "".join(record.getMessage() for record in caplog.records if "coatcheck" in record.name)
    assert leaks(ours, world.kms.plaintexts) == []
    logged = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert "GenerateDataKey" in logged
    assert leaks(logged, world.kms.plaintexts) == []


def test_answers_to_others_are_logged_as_ever(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Only our own calls are muted: botocore is the user's as well."""
    caplog.set_level(logging.DEBUG, "botocore.parsers")
    world.create()
    world.loader()
    assert not caplog.records
    done = threading.Event()

    def other() -> None:
        logging.getLogger("botocore.parsers").debug("an answer to somebody else")
        done.set()

    with secrets._mute():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        logging.getLogger("botocore.parsers").debug("an answer to us")
    assert done.is_set()
    assert [record.getMessage() for record in caplog.records] == ["an answer to somebody else"]
