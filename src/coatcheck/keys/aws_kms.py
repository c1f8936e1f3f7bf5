"""The AWS KMS provider: roots wrapped by one key, data keys drawn from another, so that who loads cannot open.

The token keyring is a document that KMS alone can open; the loader has it opened once, at the start. Data keys come
from the vault key by GenerateDataKey, which does not give the right to Decrypt what it wrapped. Every request carries
an encryption context (AWS KMS developer guide, "Encryption context"): KMS authenticates it, IAM policies may ask for
it, and it stands in CloudTrail in clear, so it holds names only. What each role may do is in deploy/iam.

All calls block, for `secrets.WORST_S` seconds at most: call them from a worker thread, as
`Sealer.ready` does.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

from coatcheck.errors import CoatcheckError, ConfigError
from coatcheck.keys.derive import KEY_BYTES, check_name
from coatcheck.keys.files import PUBLIC, read_key_file
from coatcheck.keys.keyring import FIRST_KID, RESTORE, VERSION, Keyring, Root, read_keyring
from coatcheck.keys.local import TOKEN_ROOT, utc
from coatcheck.keys.provider import OpenError
from coatcheck.keys.secrets import AwsClient, Fault
from coatcheck.pipeline.message import DataKey

TOKEN_KEY, VAULT_KEY = "keys.token_key", "keys.vault_key"
"""The options that name the two keys, for hints."""

KEK_PREFIX = "aws-kms:"
"""What stands before the ARN of the wrapping key in `DataKey.kek`."""

_APP = "coatcheck"
_ROOT_OPTION = "keys.token_root"
_INIT = "make the keyring with `coatcheck keys init`, or name the folder it is in"
_DEK_ID_BYTES = 16
_ARN = re.compile(r"arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):[0-9]{12}:(?:key|alias)/[A-Za-z0-9/_-]{1,256}")
_KEY_ARN = re.compile(r"arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]{1,64}")
_NOT_OPENED = frozenset({"IncorrectKeyException", "InvalidCiphertextException"})
_DENIED = frozenset({"AccessDenied", "AccessDeniedException"})


class Kms:
    """KMS as one role asks it; `role` names the policy in deploy/iam that hints point to.

    Without `region` the one in a key's ARN holds, then that of AwsClient. `endpoint_url` is for emulators.
    """

    def __init__(
        self,
        role: Literal["loader", "revealer", "rotator"] = "loader",
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
    ) -> None:
        self._role, self._region, self._endpoint_url, self._profile = role, region, endpoint_url, profile
        self._clients: dict[str | None, AwsClient] = {}

    def __repr__(self) -> str:
        """Show the role only."""
        return f"Kms({self._role!r})"

    def ask(self, operation: str, key: str, option: str, **request: Any) -> dict[str, Any]:
        """Send one request about `key`, which the user names by `option`; return the answer.

        Raises UnreachableError: KMS is away, for now; OpenError: a ciphertext does not open; ConfigError: all else.
        """
        region = self._region or _region_of(key)
        client = self._clients.get(region)
        if client is None:
            made = AwsClient("kms", region=region, endpoint_url=self._endpoint_url, profile=self._profile)
            client = self._clients.setdefault(region, made)
        answer = client.call(operation, **request)
        if isinstance(answer, Fault):
            raise self._error(answer, operation, key, option)
        return answer

    def close(self) -> None:
        """Close connections; a later call opens them again."""
        for client in list(self._clients.values()):
            client.close()

    def _error(self, fault: Fault, operation: str, key: str, option: str) -> CoatcheckError:
        if fault.kind != "refused":
            return fault.error("KMS")
        if fault.code in _NOT_OPENED:
            return OpenError("a data key")
        what, hint = _WORDS.get(fault.code, ("KMS refuses {action} under {key}", _OTHER))
        if fault.code in _DENIED:
            hint = "allow {action} on {option}; see deploy/iam/{role}.json"
            if operation == "ReEncrypt":
                hint = (
                    "allow kms:ReEncryptFrom on the old key and kms:ReEncryptTo on {option}; see deploy/iam/{role}.json"
                )
        fields = {"action": f"kms:{operation}", "key": key, "option": option, "role": self._role}
        return ConfigError(f"{what.format(**fields)} ({fault.code})", hint=hint.format(**fields))


_OTHER = "look the code up in the AWS KMS API reference, and check {option}"
_NO_KEY = "check {option}, the region and the account: an ARN says all three"
_WORDS = {
    "DisabledException": (
        "the KMS key {key} is disabled",
        "enable it (aws kms enable-key), or name another key in {option}",
    ),
    "KMSInvalidStateException": (
        "the KMS key {key} is pending deletion, or in another state in which it does nothing",
        "see aws kms describe-key; while the deletion is pending: aws kms cancel-key-deletion, then enable-key",
    ),
    "NotFoundException": ("there is no KMS key {key}", _NO_KEY),
    "InvalidArnException": ("{option} is no KMS key", _NO_KEY),
    "ValidationException": ("KMS does not understand {action} under {key}", _NO_KEY),
    "InvalidKeyUsageException": (
        "the KMS key {key} is of another kind",
        "name a symmetric encryption key (SYMMETRIC_DEFAULT) in {option}",
    ),
    "UnsupportedOperationException": (
        "the KMS key {key} is of another kind",
        "name a symmetric encryption key (SYMMETRIC_DEFAULT) in {option}",
    ),
}


def read_wrapped(folder: Path, *, token_root: str | None = None) -> tuple[Keyring, str]:
    """Return the keyring `token-root.json` in `folder`, or in the text `token_root`, and the name of where it was.

    It is no secret, but what others can write they could swap. Raises ConfigError: see KmsLoaderKeys.load.
    """
    name = str(folder / TOKEN_ROOT) if token_root is None else _ROOT_OPTION
    if token_root is None:
        data = read_key_file(folder / TOKEN_ROOT, PUBLIC, absent=_INIT)
    else:
        data = token_root.encode("utf-8", "surrogatepass")
    keyring = read_keyring(data, name)
    if not _KEY_ARN.fullmatch(keyring.wrapped_by):
        raise ConfigError(f"the roots in {name} are not wrapped by a KMS key", hint=_INIT)
    return keyring, name


class KmsLoaderKeys:
    """The loader's half. Implements provider.LoaderKeys; `remote`: a data key takes a request (see Sealer.ready)."""

    __slots__ = ("_keyring", "_kms", "_ledger", "_name", "_roots", "_vault_key", "kid", "kids", "tenant")
    remote: ClassVar[bool] = True

    def __init__(self, keyring: Keyring, kms: Kms, *, vault_key: str, name: str = "the keyring") -> None:
        """Have every root of `keyring` opened by KMS; `name` is where it came from. Raises as `load`."""
        self.tenant, self.kid, self.kids = keyring.tenant, keyring.kids[0], keyring.kids
        self._keyring, self._kms, self._vault_key, self._name = keyring, kms, vault_key, name
        self._roots = {kid: _open_root(kms, keyring, kid, name) for kid in keyring.kids}
        self._ledger = _open_root(kms, keyring, None, name)

    @classmethod
    def load(
        cls, folder: Path, kms: Kms, *, vault_key: str, token_key: str = "", token_root: str | None = None
    ) -> KmsLoaderKeys:
        """Read the keyring `token-root.json` in `folder`, whose roots the KMS key `token_key` wraps, and open them.

        `token_root` is the content of that file instead. `token_key` and `vault_key` are ids, aliases or ARNs; a
        `token_key` that is a key's ARN must be the one in the keyring. Raises ConfigError: a keyring that is missing,
        damaged, of the local provider, or writable by others; a key that KMS refuses, or under which a root does not
        open. Raises UnreachableError: KMS is away.
        """
        keyring, name = read_wrapped(folder, token_root=token_root)
        if _KEY_ARN.fullmatch(token_key) and token_key != keyring.wrapped_by:
            raise ConfigError(
                f"{name} is wrapped by {keyring.wrapped_by}, not by {TOKEN_KEY}", hint=f"mend {TOKEN_KEY}, or {RESTORE}"
            )
        return cls(keyring, kms, vault_key=vault_key, name=name)

    def __repr__(self) -> str:
        """Show tenant and key id only."""
        return f"KmsLoaderKeys(tenant={self.tenant!r}, kid={self.kid!r})"

    def token_root(self, kid: str | None = None) -> bytes:
        """Return the 32-byte root of key `kid` (default: the active one). Raises ConfigError: no such key."""
        name = self.kid if kid is None else kid
        self._keyring.root(name)  # raises
        return self._roots[name]

    def ledger_root(self) -> bytes:
        """Return the 32-byte root of the ledger's keyed hashes."""
        return self._ledger

    def new_data_key(self) -> tuple[bytes, bytes, DataKey]:
        """Have KMS draw a data key: its id (16 bytes), the key (32), the half to store. Raises as Kms.ask."""
        dek_id = os.urandom(_DEK_ID_BYTES)
        context = _dek_context(self.tenant, dek_id)
        answer = self._kms.ask(
            "GenerateDataKey",
            self._vault_key,
            VAULT_KEY,
            KeyId=self._vault_key,
            KeySpec="AES_256",
            EncryptionContext=context,
        )
        return dek_id, _key(answer), DataKey(dek_id, KEK_PREFIX + answer["KeyId"], answer["CiphertextBlob"])

    def describe(self) -> dict[str, str]:
        """Return names for status pages: provider, keyring, tenant, kid, kids, token_key, vault_key; never a key."""
        return {
            "provider": "aws-kms",
            "keyring": self._name,
            "tenant": self.tenant,
            "kid": self.kid,
            "kids": " ".join(self.kids),
            "token_key": self._keyring.wrapped_by,
            "vault_key": self._vault_key,
        }


class KmsOpenerKeys:
    """The opener's half. Implements provider.OpenerKeys.

    A data key is decrypted by the KMS key that its `kek` names and no other. With `vault_keys` (ARNs) that one must be
    among them; without, IAM alone decides. `tenant` is part of the context: data keys of another tenant do not open.
    """

    __slots__ = ("_kms", "_vault_keys", "tenant")

    def __init__(self, tenant: str, kms: Kms, *, vault_keys: Sequence[str] = ()) -> None:
        self.tenant = check_name("tenant", tenant)
        self._kms = kms
        self._vault_keys = frozenset(vault_keys)

    def __repr__(self) -> str:
        """Show the tenant only."""
        return f"KmsOpenerKeys(tenant={self.tenant!r})"

    def unwrap(self, data_key: DataKey) -> bytes:
        """Return the 32-byte key. Raises ConfigError: not wrapped by our KMS key; and as Kms.ask."""
        arn = _kek_arn(data_key)
        if self._vault_keys and arn not in self._vault_keys:
            raise ConfigError(
                f"a data key is wrapped by {arn}, which {VAULT_KEY} does not name", hint=f"mend {VAULT_KEY}"
            )
        return _decrypt(self._kms, arn, VAULT_KEY, data_key.wrapped, _dek_context(self.tenant, data_key.dek_id))


def create_keyring(
    kms: Kms, token_key: str, *, tenant: str = "default", clock: Callable[[], float] = time.time
) -> Keyring:
    """Return a new keyring: root k1 and the ledger's root, drawn inside KMS and wrapped by `token_key`.

    Nobody sees them, not even this process. `clock` gives seconds since 1970. Raises ConfigError: a bad tenant; and as
    Kms.ask.
    """
    check_name("tenant", tenant)
    root, arn = _draw_root(kms, token_key, _root_context(tenant, FIRST_KID))
    ledger, _ = _draw_root(kms, arn, _root_context(tenant, None))  # by ARN: an alias may move in between
    return Keyring(VERSION, tenant, [Root(FIRST_KID, root, utc(clock))], FIRST_KID, ledger, wrapped_by=arn)


def rotate_keyring(kms: Kms, keyring: Keyring, *, clock: Callable[[], float] = time.time) -> Keyring:
    """Return `keyring` with a new active root, drawn as in create_keyring, by the same KMS key.

    Raises RefusedError: a rotation is under way; and as Kms.ask. `Keyring.retired` ends a rotation.
    """
    kid = keyring.next_kid()
    root, _ = _draw_root(kms, keyring.wrapped_by, _root_context(keyring.tenant, kid))
    return keyring.rotated(Root(kid, root, utc(clock)))


def vault_kek(kms: Kms, vault_key: str) -> str:
    """Return the `kek` of data keys drawn under `vault_key` (id, alias or ARN) now. Raises as Kms.ask."""
    if _KEY_ARN.fullmatch(vault_key):
        return KEK_PREFIX + vault_key
    answer = kms.ask("DescribeKey", vault_key, VAULT_KEY, KeyId=vault_key)
    return KEK_PREFIX + str(answer["KeyMetadata"]["Arn"])


def rewrap(kms: Kms, data_key: DataKey, new_key: str, *, tenant: str) -> DataKey:
    """Return `data_key` wrapped by the KMS key `new_key` (id, alias or ARN); the key itself does not leave KMS.

    Raises OpenError: it is damaged, or another tenant's; ConfigError: not wrapped by KMS; and as Kms.ask.
    """
    context = _dek_context(tenant, data_key.dek_id)
    answer = kms.ask(
        "ReEncrypt",
        new_key,
        VAULT_KEY,
        CiphertextBlob=data_key.wrapped,
        SourceKeyId=_kek_arn(data_key),
        SourceEncryptionContext=context,
        DestinationKeyId=new_key,
        DestinationEncryptionContext=context,
    )
    return DataKey(data_key.dek_id, KEK_PREFIX + answer["KeyId"], answer["CiphertextBlob"])


def _open_root(kms: Kms, keyring: Keyring, kid: str | None, name: str) -> bytes:
    """Have the root `kid` opened, or the ledger's without `kid`."""
    blob = keyring.ledger if kid is None else keyring.root(kid)
    with suppress(OpenError):
        return _decrypt(kms, keyring.wrapped_by, TOKEN_KEY, blob, _root_context(keyring.tenant, kid))
    what = "the ledger's root" if kid is None else f"the root {kid}"
    raise ConfigError(f"{what} in {name} does not open under {keyring.wrapped_by}", hint=RESTORE)


def _decrypt(kms: Kms, arn: str, option: str, blob: bytes, context: dict[str, str]) -> bytes:
    answer = kms.ask("Decrypt", arn, option, KeyId=arn, CiphertextBlob=blob, EncryptionContext=context)
    if answer["KeyId"] != arn:  # AWS holds to KeyId; not every server in its place does
        raise OpenError("a data key")
    return _key(answer)


def _draw_root(kms: Kms, key: str, context: dict[str, str]) -> tuple[bytes, str]:
    """Return a new root, wrapped, and the ARN of the key that wraps it."""
    answer = kms.ask(
        "GenerateDataKeyWithoutPlaintext",
        key,
        TOKEN_KEY,
        KeyId=key,
        NumberOfBytes=KEY_BYTES,
        EncryptionContext=context,
    )
    return answer["CiphertextBlob"], answer["KeyId"]


def _key(answer: dict[str, Any]) -> bytes:
    key: bytes = answer["Plaintext"]
    if len(key) != KEY_BYTES:
        raise OpenError("a data key")
    return key


def _kek_arn(data_key: DataKey) -> str:
    arn = data_key.kek.removeprefix(KEK_PREFIX)
    if arn == data_key.kek or not _KEY_ARN.fullmatch(arn):
        raise ConfigError("a data key is not wrapped by a KMS key", hint="use the key provider it was sealed with")
    return arn


def _region_of(key: str) -> str | None:
    match = _ARN.fullmatch(key)
    return match["region"] if match else None


def _root_context(tenant: str, kid: str | None) -> dict[str, str]:
    if kid is None:
        return {"app": _APP, "tenant": tenant, "purpose": "ledger-root"}
    return {"app": _APP, "tenant": tenant, "purpose": "token-root", "kid": kid}


def _dek_context(tenant: str, dek_id: bytes) -> dict[str, str]:
    return {"app": _APP, "tenant": tenant, "purpose": "data-key", "dek": dek_id.hex()}
