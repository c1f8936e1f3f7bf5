"""Who keeps the keys: the configured provider, as loaders, openers and rotators need it. Part of the composition root.

Secrets that the configuration gives by reference are read here, and only when they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from coatcheck.config import Config
from coatcheck.errors import CoatcheckError, ConfigError, Finding, RefusedError
from coatcheck.keys import (
    Form,
    LoaderKeys,
    Opener,
    OpenerKeys,
    Tokenizer,
    audit_key,
    aws_kms,
    databases,
    local,
    local_check,
    rotate,
)
from coatcheck.keys.derive import fingerprint
from coatcheck.keys.files import PUBLIC, change, replace_key_file, write_key_folder
from coatcheck.keys.notes import SignerKey, VerifierKey
from coatcheck.keys.passwords import IamPassword, PasswordCommand
from coatcheck.keys.seal_pair import SEAL_PUBLIC, kek, read_public
from coatcheck.keys.secrets import read_secret
from coatcheck.keys.tokens import LedgerHash, ledger_hash
from coatcheck.pipeline.columns import Column
from coatcheck.pipeline.mask import form_of
from coatcheck.pipeline.message import DataKey
from coatcheck.sql.connection import Dsn, place_of
from coatcheck.vault.register import KeyringId

_ENCRYPTED = ("require", "verify-ca", "verify-full")
Role = Literal["loader", "revealer", "rotator"]
"""As whom KMS is asked: the policy in deploy/iam that hints point to."""


def _secret(config: Config, option: Literal["passphrase", "token_root", "private_key", "audit_key"]) -> str | None:
    keys = config.keys
    secret = getattr(keys, option)
    if secret is None:
        return None
    return read_secret(secret.get_secret_value(), option=f"keys.{option}", region=keys.region, profile=keys.profile)


def dsn(config: Config) -> str:
    """Return the PostgreSQL connection string (empty: libpq's own variables decide). Raises ConfigError.

    If the password is made for each connection, it is one that makes it.
    """
    keys, target = config.keys, config.target
    text = read_secret(config.conninfo(), option="target.dsn", region=keys.region, profile=keys.profile)
    if target.password_command:
        return Dsn(text, PasswordCommand(target.password_command))
    return Dsn(text, _iam(config, text)) if target.iam else text


def _iam(config: Config, text: str) -> IamPassword:
    place, keys = place_of(text), config.keys
    if place.sslmode not in _ENCRYPTED:
        raise ConfigError(
            "target.iam needs TLS: a token in clear is a password for everybody on the way",
            hint="sslmode=verify-full in [target] dsn, with Amazon's certificate bundle as sslrootcert",
        )
    return IamPassword(place.host, place.port, place.user, region=keys.region, profile=keys.profile)


def _passphrase(config: Config) -> str | None:
    return _secret(config, "passphrase")


def _token_root(config: Config) -> str | None:
    return _secret(config, "token_root")


def _kms(config: Config, role: Role) -> aws_kms.Kms:
    return aws_kms.Kms(role, region=config.keys.region, profile=config.keys.profile)


def _with_kms(config: Config) -> bool:
    return config.keys.provider == "aws-kms"


def loader_keys(config: Config, *, role: Role = "loader") -> LoaderKeys:
    """Load what the road needs of the keyring. Raises ConfigError: no key, no start; UnreachableError: KMS is away."""
    keys = config.keys
    if _with_kms(config):
        return aws_kms.KmsLoaderKeys.load(
            keys.path,
            _kms(config, role),
            vault_key=keys.vault_key,
            token_key=keys.token_key,
            token_root=_token_root(config),
        )
    return local.LocalLoaderKeys.load(keys.path, token_root=_token_root(config))


def opener_keys(config: Config, *, role: Role = "revealer") -> OpenerKeys:
    """Load what unwraps data keys. Raises ConfigError."""
    if _with_kms(config):
        keyring, _ = aws_kms.read_wrapped(config.keys.path, token_root=_token_root(config))
        return aws_kms.KmsOpenerKeys(keyring.tenant, _kms(config, role))
    return _local_opener(config)


def _local_opener(config: Config) -> local.LocalOpenerKeys:
    private = _secret(config, "private_key")
    return local.LocalOpenerKeys.load(config.keys.path, _passphrase(config), private_key=private)


def opener(config: Config) -> Opener:
    """Load what opens sealed values. Raises ConfigError."""
    return Opener(opener_keys(config))


def tokenizer(keys: LoaderKeys, kid: str | None = None) -> Tokenizer:
    """Return the tokenizer of a token key (default: the active one)."""
    kid = kid or keys.kid
    return Tokenizer(keys.token_root(kid), tenant=keys.tenant, kid=kid)


def fingerprints(keys: LoaderKeys) -> dict[str, str]:
    """Return the fingerprints of the token keys by key id, the active one first."""
    return {kid: fingerprint(keys.token_root(kid)) for kid in keys.kids}


def keyring_id(keys: LoaderKeys) -> KeyringId:
    """Return what tells the keyring, for the database to hold it against what it knows."""
    return KeyringId(fingerprints(keys), keys.describe().get("kek"))


def seal_kek(config: Config) -> str | None:
    """Return the name of the seal key of the keyring's folder; None with AWS KMS. Raises ConfigError."""
    return None if _with_kms(config) else kek(read_public(config.keys.path / SEAL_PUBLIC).id)


def ledger_hashes(keys: LoaderKeys) -> LedgerHash:
    """Return the ledger's keyed hashes."""
    return ledger_hash(keys.ledger_root(), keys.tenant)


def forms(columns: tuple[Column, ...]) -> Mapping[str, Form]:
    """Return the canonical form of each domain."""
    return {column.domain: form_of(column) for column in columns if column.domain}


def form_ids(config: Config) -> dict[str, str]:
    """Return the id of the canonical form of each domain, as the database's register keeps it."""
    return {domain: form.form_id for domain, form in forms(config.plan()).items()}


def inspect(config: Config) -> list[Finding]:
    """Look at the keys that are here, and return everything that is wrong or unwise."""
    if _with_kms(config):
        try:
            loader_keys(config).new_data_key()  # asks KMS for what a loader needs
        except CoatcheckError as error:
            return [Finding("keys", "error", error.message, error.hint)]
        return []
    return local_check.inspect(config.keys.path, token_root=_token_root(config))


def audit_signer(config: Config) -> SignerKey:
    """Load what signs checkpoints of the audit trail. Raises ConfigError."""
    return audit_key.read_signer(config.keys.path, _passphrase(config), audit_key=_secret(config, "audit_key"))


def audit_verifier(config: Config) -> VerifierKey:
    """Load what verifies them. Raises ConfigError."""
    return audit_key.read_public(config.keys.path / audit_key.AUDIT_PUBLIC)


# -- which databases use the keyring


def other_databases(config: Config, database_id: str, key_id: str) -> list[str]:
    """Return the places of the databases, beside this one, that have not let a key go. Raises ConfigError."""
    others = databases.read(config.keys.path).others(database_id, key_id)
    return [f"{one.place or 'an unknown place'} ({one.id})" for one in others]


def note_database(config: Config, database_id: str, place: str) -> None:
    """Note in the keyring's folder that a database uses it, if there is a keyring. Raises ConfigError, RefusedError."""
    folder = config.keys.path
    if (folder / SEAL_PUBLIC).exists() or (folder / local.TOKEN_ROOT).exists():
        databases.note(folder, database_id, place)


def note_retired(config: Config, database_id: str, key_id: str) -> None:
    """Note that a database has let a key go. Raises ConfigError, RefusedError."""
    databases.retired(config.keys.path, database_id, key_id)


def forget_database(config: Config, database_id: str) -> bool:
    """Forget a database that is gone; tell whether it was noted. Raises ConfigError, RefusedError."""
    return databases.forget(config.keys.path, database_id)


# -- how keys change


def create(config: Config, tenant: str) -> local.CreatedKeys:
    """Make a keyring where the configuration expects it. Raises ConfigError: there is one already."""
    keys = config.keys
    if not _with_kms(config):
        return local.create(keys.path, tenant, passphrase=_passphrase(config))
    keyring = aws_kms.create_keyring(_kms(config, "rotator"), keys.token_key, tenant=tenant)
    files = write_key_folder(keys.path, {local.TOKEN_ROOT: (PUBLIC, keyring.to_json())})
    return local.CreatedKeys(files, ())


def create_audit_key(config: Config, tenant: str | None) -> local.CreatedKeys:
    """Make the pair that signs checkpoints, for `tenant` or that of the keyring here. Raises ConfigError: it exists."""
    path = config.keys.path
    if tenant is None and (path / SEAL_PUBLIC).exists():
        tenant = read_public(path / SEAL_PUBLIC).tenant
    elif tenant is None and _with_kms(config) and (path / local.TOKEN_ROOT).exists():
        tenant = aws_kms.read_wrapped(path)[0].tenant
    return audit_key.create(path, tenant or "default", passphrase=_passphrase(config))


def list_keys(config: Config) -> list[local.KeyRow]:
    """List the keys; never a key byte."""
    path = config.keys.path
    if not _with_kms(config):
        return local.list_keys(path)
    keyring, _ = aws_kms.read_wrapped(path, token_root=_token_root(config))
    return [
        local.KeyRow(entry.kid, "token", entry.created, "", path / local.TOKEN_ROOT, active=entry.kid == keyring.active)
        for entry in keyring.keys
    ]


def rotate_token_key(config: Config) -> tuple[str, str]:
    """Add a token key as the active one; return (old, new) key id. Raises RefusedError: a rotation is under way."""
    refuse_foreign_root(config)
    path = config.keys.path
    if not _with_kms(config):
        old = local.read_roots(path / local.TOKEN_ROOT).active
        return old, rotate.rotate(path).kid
    with change(path):
        keyring, _ = aws_kms.read_wrapped(path)
        rotated = aws_kms.rotate_keyring(_kms(config, "rotator"), keyring)
        replace_key_file(path / local.TOKEN_ROOT, PUBLIC, rotated.to_json())
    return keyring.active, rotated.active


def retire_token_key(config: Config, kid: str) -> None:
    """Remove a token key from the keyring. The database has retired it before."""
    refuse_foreign_root(config)
    path = config.keys.path
    if not _with_kms(config):
        rotate.retire(path, kid)
        return
    with change(path):
        keyring, _ = aws_kms.read_wrapped(path)
        replace_key_file(path / local.TOKEN_ROOT, PUBLIC, keyring.retired(kid).to_json())


def refuse_foreign_root(config: Config) -> None:
    """Raise RefusedError if the keyring is given as a secret: it cannot be changed here, so nothing else should be."""
    if config.keys.token_root is not None:
        raise RefusedError(
            "the keyring comes from keys.token_root, which cannot be written here",
            hint="change the keyring where its file is, then bring its content to where the secret is kept",
        )


def rotate_seal(config: Config) -> rotate.RotatedSeal:
    """Put a new seal pair in place of the one in use (local). Raises RefusedError: KMS has keys of its own."""
    _refuse_kms(config)
    return rotate.rotate_seal(config.keys.path, passphrase=_passphrase(config))


def check_retire_seal(config: Config, key_id: str) -> None:
    """Raise what `retire_seal` would raise."""
    _refuse_kms(config)
    rotate.check_retire_seal(config.keys.path, key_id)


def retire_seal(config: Config, key_id: str) -> None:
    """Delete the private half of an older seal pair (local)."""
    _refuse_kms(config)
    rotate.retire_seal(config.keys.path, key_id)


def _refuse_kms(config: Config) -> None:
    if _with_kms(config):
        raise RefusedError(
            "the key that wraps data keys is in AWS KMS",
            hint="name another in keys.vault_key and run `coatcheck keys rewrap`, or let KMS rotate it by itself",
        )


def rewrapping(config: Config) -> tuple[str, Callable[[DataKey], DataKey]]:
    """Return the present key that wraps data keys, by name, and the function that wraps one anew under it."""
    if not _with_kms(config):
        keys = _local_opener(config)
        return keys.kek, keys.rewrap
    kms, vault_key = _kms(config, "rotator"), config.keys.vault_key
    keyring, _ = aws_kms.read_wrapped(config.keys.path, token_root=_token_root(config))
    return (
        aws_kms.vault_kek(kms, vault_key),
        lambda data_key: aws_kms.rewrap(kms, data_key, vault_key, tenant=keyring.tenant),
    )
