"""The local provider: a folder of key files, for those without a key service.

`token-root.json` and `seal-public.json` are what a loader needs; `seal-private.pem` opens, and belongs
elsewhere. Data keys are wrapped with HPKE (RFC 9180: X25519, HKDF-SHA256, AES-256-GCM): the loader holds
the public key only.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from coatcheck.errors import ConfigError
from coatcheck.keys.derive import KEY_BYTES, check_name, check_root, expand, lp
from coatcheck.keys.files import PUBLIC, SECRET, read_key_file, write_key_folder
from coatcheck.keys.pkcs8 import read_private, write_private
from coatcheck.keys.provider import OpenError
from coatcheck.pipeline.message import DataKey

DEFAULT_FOLDER = "coatcheck-keys"
"""Name of a keyring folder when the user gives none."""

PASSPHRASE_VARIABLE = "COATCHECK_KEYS__PASSPHRASE"  # noqa: S105 - the variable's name
"""Environment variable with the passphrase of `seal-private.pem`."""

TOKEN_ROOT, SEAL_PUBLIC, SEAL_PRIVATE = "token-root.json", "seal-public.json", "seal-private.pem"

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_SUITE_NAME = "X25519-HKDF-SHA256+AES-256-GCM"
_DEK_ID_BYTES = 16
_VERSION = 1
_FIRST_KID = "k1"
_RESTORE = "bring the file back from a backup"
_INIT = "make a keyring with `coatcheck keys init`, or name the folder it is in"
_BRING = f"bring {SEAL_PRIVATE} from where it is kept: opening needs it, loading does not"


class _Root(msgspec.Struct, frozen=True):
    """One token root as it is stored (in JSON its bytes are base64)."""

    kid: str
    root: bytes
    created: str

    def __repr__(self) -> str:
        return f"_Root({self.kid})"


class _TokenRoots(msgspec.Struct, frozen=True):
    """The content of token-root.json."""

    version: int
    tenant: str
    keys: list[_Root]
    active: str


class _SealPublic(msgspec.Struct, frozen=True):
    """The content of seal-public.json."""

    version: int
    tenant: str
    id: str
    suite: str
    public: bytes
    created: str


@dataclass(frozen=True, slots=True)
class CreatedKeys:
    """What `create` wrote, and what the user should be told about it."""

    files: tuple[Path, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key of a keyring, for lists.

    `kind` is "token", "seal" or "open", `created` UTC in ISO 8601; `fingerprint` tells keys apart, and
    nothing of them.
    """

    kid: str
    kind: str
    created: str
    fingerprint: str
    path: Path
    active: bool


def create(
    folder: Path,
    tenant: str = "default",
    *,
    passphrase: str | None = None,
    clock: Callable[[], float] = time.time,
) -> CreatedKeys:
    """Make a keyring in a new or empty folder: a token root k1 and a seal key pair.

    `clock` gives seconds since 1970. The private key is encrypted with `passphrase`, or that of
    COATCHECK_KEYS__PASSPHRASE, or else stored in clear, which is a warning. Raises ConfigError: a bad
    tenant, a folder with anything in it, a folder that cannot be written.
    """
    check_name("tenant", tenant)
    passphrase = _passphrase(passphrase)
    created = datetime.fromtimestamp(int(clock()), UTC).isoformat().replace("+00:00", "Z")
    root = _Root(_FIRST_KID, os.urandom(KEY_BYTES), created)
    private = X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    content = {
        TOKEN_ROOT: (SECRET, _json(_TokenRoots(_VERSION, tenant, [root], _FIRST_KID))),
        SEAL_PUBLIC: (
            PUBLIC,
            _json(_SealPublic(_VERSION, tenant, _key_id(public), _SUITE_NAME, public, created)),
        ),
        SEAL_PRIVATE: (SECRET, write_private(private, passphrase)),
    }
    files = write_key_folder(folder, content)
    return CreatedKeys(files, () if passphrase else (_clear_warning(folder),))


def _clear_warning(folder: Path) -> str:
    return (
        f"{folder / SEAL_PRIVATE} is stored in clear, as {PASSPHRASE_VARIABLE} is not set: "
        "whoever reads it can open every sealed value; keep it off the hosts that load"
    )


class LocalLoaderKeys:
    """The loader's half of a keyring folder. Implements provider.LoaderKeys; it cannot open what it seals."""

    __slots__ = ("_folder", "_public", "_roots", "_seal_id", "kid", "tenant")

    def __init__(self, folder: Path, roots: _TokenRoots, seal: _SealPublic) -> None:
        self.tenant = roots.tenant
        self.kid = roots.active
        self._roots = {entry.kid: entry.root for entry in roots.keys}
        self._seal_id = seal.id
        self._public = X25519PublicKey.from_public_bytes(seal.public)
        self._folder = folder

    @classmethod
    def load(cls, folder: Path) -> LocalLoaderKeys:
        """Read `token-root.json` and `seal-public.json`.

        Raises ConfigError: a file that is missing, damaged, no regular file, another user's or open to
        others; two files of different tenants.
        """
        roots, seal = _read_roots(folder / TOKEN_ROOT), _read_public(folder / SEAL_PUBLIC)
        if roots.tenant != seal.tenant:
            raise ConfigError(
                f"{TOKEN_ROOT} and {SEAL_PUBLIC} in {folder} belong to different tenants",
                hint="bring files of one keyring",
            )
        return cls(folder, roots, seal)

    def __repr__(self) -> str:
        """Show tenant and key id only."""
        return f"LocalLoaderKeys(tenant={self.tenant!r}, kid={self.kid!r})"

    def token_root(self, kid: str | None = None) -> bytes:
        """Return the 32-byte root of key `kid` (default: the active one). Raises ConfigError: no such key."""
        name = self.kid if kid is None else kid
        if name not in self._roots:
            raise ConfigError(
                f'the key "{name}" is not in the keyring {self._folder}',
                hint="see `coatcheck keys list` for those that are",
            )
        return self._roots[name]

    def new_data_key(self) -> tuple[bytes, bytes, DataKey]:
        """Draw a data key: its id (16 bytes), the key (32), and the half to store (80, wrapped by HPKE)."""
        dek_id, key = os.urandom(_DEK_ID_BYTES), os.urandom(KEY_BYTES)
        wrapped = _SUITE.encrypt(key, self._public, info=_dek_info(self.tenant, dek_id))
        return dek_id, key, DataKey(dek_id, _kek(self._seal_id), wrapped)

    def describe(self) -> dict[str, str]:
        """Return names for status pages: provider, folder, tenant, kid, kids, kek; never a key."""
        return {
            "provider": "local",
            "folder": str(self._folder),
            "tenant": self.tenant,
            "kid": self.kid,
            "kids": " ".join(self._roots),
            "kek": _kek(self._seal_id),
        }


class LocalOpenerKeys:
    """The opener's half of a keyring folder. Implements provider.OpenerKeys."""

    __slots__ = ("_private", "_seal_id", "tenant")

    def __init__(self, seal: _SealPublic, private: X25519PrivateKey) -> None:
        self.tenant = seal.tenant
        self._seal_id = seal.id
        self._private = private

    @classmethod
    def load(cls, folder: Path, passphrase: str | None = None) -> LocalOpenerKeys:
        """Read `seal-public.json` and `seal-private.pem`.

        Without `passphrase` that of COATCHECK_KEYS__PASSPHRASE is taken. Raises ConfigError: as
        LocalLoaderKeys.load; a wrong or missing passphrase; two files of different key pairs.
        """
        path = folder / SEAL_PRIVATE
        seal = _read_public(folder / SEAL_PUBLIC)
        private = read_private(read_key_file(path, SECRET, absent=_BRING), _passphrase(passphrase), name=str(path))
        if private.public_key().public_bytes_raw() != seal.public:
            raise ConfigError(
                f"{SEAL_PRIVATE} and {SEAL_PUBLIC} in {folder} are no pair", hint="bring files of one keyring"
            )
        return cls(seal, private)

    def __repr__(self) -> str:
        """Show tenant and key id only."""
        return f"LocalOpenerKeys(tenant={self.tenant!r}, kek={_kek(self._seal_id)!r})"

    def unwrap(self, data_key: DataKey) -> bytes:
        """Return the 32-byte key. Raises ConfigError: wrapped for another key; OpenError: it is damaged."""
        kek = _kek(self._seal_id)
        if data_key.kek != kek:
            raise ConfigError(
                f"a data key is wrapped for {data_key.kek}, this keyring has {kek}",
                hint="name the keyring with the private key it was wrapped for",
            )
        info = _dek_info(self.tenant, data_key.dek_id)
        with suppress(InvalidTag, ValueError):
            return _SUITE.decrypt(data_key.wrapped, self._private, info=info)
        raise OpenError("a data key")


def list_keys(folder: Path) -> list[KeyRow]:
    """Return the keys of a keyring: token roots, the seal key and, if it is here, the key that opens.

    That last one is not tried. A host that only opens may have no token root. Raises ConfigError as loading
    does.
    """
    public_path, private_path = folder / SEAL_PUBLIC, folder / SEAL_PRIVATE
    seal = _read_public(public_path)
    rows = list(_root_rows(folder / TOKEN_ROOT)) if os.path.lexists(folder / TOKEN_ROOT) else []
    rows.append(KeyRow(seal.id, "seal", seal.created, seal.id, public_path, active=True))
    if os.path.lexists(private_path):
        read_key_file(private_path, SECRET, absent=_BRING)  # for its checks only
        rows.append(KeyRow(seal.id, "open", seal.created, seal.id, private_path, active=True))
    return rows


def _root_rows(path: Path) -> Iterator[KeyRow]:
    roots = _read_roots(path)
    for entry in roots.keys:
        # derived like a key of its own: a plain hash of the root would do, but this is beyond doubt
        fingerprint = expand(entry.root, "coatcheck/fingerprint/v1")[:8].hex()
        yield KeyRow(entry.kid, "token", entry.created, fingerprint, path, active=entry.kid == roots.active)


def _read_roots(path: Path) -> _TokenRoots:
    roots = _decode(path, read_key_file(path, SECRET, absent=_INIT), _TokenRoots)
    kids = [entry.kid for entry in roots.keys]
    if roots.active not in kids or len(set(kids)) != len(kids):
        raise ConfigError(f"{path} has no active key, or two of one id", hint=_RESTORE)
    check_name("tenant", roots.tenant)
    for entry in roots.keys:
        check_name("key id", entry.kid)
        check_root(entry.root)
    return roots


def _read_public(path: Path) -> _SealPublic:
    seal = _decode(path, read_key_file(path, PUBLIC, absent=_INIT), _SealPublic)
    if seal.suite != _SUITE_NAME or len(seal.public) != KEY_BYTES or seal.id != _key_id(seal.public):
        raise ConfigError(f"{path} is damaged: suite, key and id do not fit together", hint=_RESTORE)
    check_name("tenant", seal.tenant)
    return seal


_File = TypeVar("_File", _TokenRoots, _SealPublic)


def _decode(path: Path, data: bytes, kind: type[_File]) -> _File:
    try:
        content = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        content = None  # raised below, outside: what was caught may quote the file
    if content is None:
        raise ConfigError(f"{path} is damaged", hint=_RESTORE)
    if content.version != _VERSION:
        raise ConfigError(
            f"{path} has version {content.version}, this coatcheck reads version {_VERSION}",
            hint="upgrade coatcheck",
        )
    return content


def _json(content: _TokenRoots | _SealPublic) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def _passphrase(given: str | None) -> str | None:
    return given or os.environ.get(PASSPHRASE_VARIABLE) or None


def _key_id(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()[:16]


def _kek(key_id: str) -> str:
    return f"local:{key_id}"


def _dek_info(tenant: str, dek_id: bytes) -> bytes:
    return lp("coatcheck/dek/v1", tenant, dek_id)
