"""The seal key pairs of a keyring folder: files, names, and wrapping data keys with HPKE (RFC 9180).

`seal-public.json` holds the public half in use. Its private half is in `seal-private.pem`; those of pairs that
were in use before stay beside it as `seal-private.<id>.pem` until no data key is wrapped for them.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from coatcheck.errors import ConfigError
from coatcheck.keys.derive import KEY_BYTES, check_name, lp
from coatcheck.keys.files import PUBLIC, list_key_files, read_key_file
from coatcheck.keys.keyring import RESTORE, VERSION, read_document
from coatcheck.keys.pkcs8 import read_private, write_private
from coatcheck.keys.provider import OpenError
from coatcheck.pipeline.message import DataKey

SEAL_PUBLIC, SEAL_PRIVATE = "seal-public.json", "seal-private.pem"
SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
SUITE_NAME = "X25519-HKDF-SHA256+AES-256-GCM"
INIT = "make a keyring with `coatcheck keys init`, or name the folder it is in"

_KEPT = re.compile(r"seal-private\.([0-9a-f]{16})\.pem")
_LABEL = re.compile(rb"coatcheck seal key ([0-9a-f]{16}) made ([0-9TZ:-]{1,30})\n")


class SealPublic(msgspec.Struct, frozen=True):
    """The content of seal-public.json: the public half of an X25519 pair, 32 bytes (in JSON as base64)."""

    version: int
    tenant: str
    id: str
    suite: str
    public: bytes
    created: str


def seal_public(private: X25519PrivateKey, tenant: str, created: str) -> SealPublic:
    """Return the public half of `private` as it is stored."""
    public = private.public_key().public_bytes_raw()
    return SealPublic(VERSION, tenant, pair_id(private), SUITE_NAME, public, created)


def read_public(path: Path) -> SealPublic:
    """Read seal-public.json. Raises ConfigError: as read_key_file; damaged, or of another version."""
    seal = read_document(read_key_file(path, PUBLIC, absent=INIT), SealPublic, str(path))
    if seal.suite != SUITE_NAME or len(seal.public) != KEY_BYTES or seal.id != _id_of(seal.public):
        raise ConfigError(f"{path} is damaged: suite, key and id do not fit together", hint=RESTORE)
    check_name("tenant", seal.tenant)
    return seal


def labelled(private: X25519PrivateKey, passphrase: str | None, created: str) -> bytes:
    """Return a private half as its file holds it: PEM behind a line that names the key (RFC 7468, 2, lets it)."""
    return f"coatcheck seal key {pair_id(private)} made {created}\n".encode() + write_private(private, passphrase)


def read_label(pem: bytes) -> tuple[str, str] | None:
    """Return id and time of making as the file's first line tells them: for lists, as nothing proves them."""
    match = _LABEL.match(pem)
    return (match[1].decode(), match[2].decode()) if match else None


def kept_name(seal_id: str) -> str:
    """Return the file name of a private half that is no longer in use."""
    return f"seal-private.{seal_id}.pem"


def kept_files(folder: Path) -> dict[str, Path]:
    """Return the files of private halves that are no longer in use, by key id. Raises ConfigError."""
    matches = filter(None, map(_KEPT.fullmatch, list_key_files(folder)))
    return {match[1]: folder / match[0] for match in matches}


def read_kept(pem: bytes, passphrase: str | None, path: Path, seal_id: str) -> X25519PrivateKey:
    """Return the private half in a file that names `seal_id`. Raises ConfigError: damaged, or another's."""
    private = read_private(pem, passphrase, name=str(path))
    if pair_id(private) != seal_id:
        raise ConfigError(f"{path} holds another key than its name says", hint=RESTORE)
    return private


def pair_id(private: X25519PrivateKey) -> str:
    """Return the id of a pair: 16 hex digits of the SHA-256 of its public half."""
    return _id_of(private.public_key().public_bytes_raw())


def _id_of(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()[:16]


def kek(seal_id: str) -> str:
    """Return how data keys name the pair that they are wrapped for."""
    return f"local:{seal_id}"


def wrap(key: bytes, dek_id: bytes, tenant: str, seal: SealPublic) -> DataKey:
    """Return the data key `key` (32 bytes) wrapped for the public half `seal`: 80 bytes, bound to id and tenant."""
    public = X25519PublicKey.from_public_bytes(seal.public)
    return DataKey(dek_id, kek(seal.id), SUITE.encrypt(key, public, info=_info(tenant, dek_id)))


def unwrap(data_key: DataKey, tenant: str, private: X25519PrivateKey) -> bytes:
    """Return the 32-byte key. Raises OpenError: it is damaged, or of another tenant, id or pair."""
    with suppress(InvalidTag, ValueError):
        return SUITE.decrypt(data_key.wrapped, private, info=_info(tenant, data_key.dek_id))
    raise OpenError("a data key")


def _info(tenant: str, dek_id: bytes) -> bytes:
    return lp("coatcheck/dek/v1", tenant, dek_id)
