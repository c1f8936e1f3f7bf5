"""The local provider: a folder of key files, for those without a key service.

`token-root.json` and `seal-public.json` are what a loader needs; `seal-private.pem` opens, and belongs
elsewhere. Data keys are wrapped with HPKE (RFC 9180: X25519, HKDF-SHA256, AES-256-GCM): the loader holds
the public key only. How keys change is in `rotate`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from coatcheck.errors import ConfigError
from coatcheck.keys.derive import KEY_BYTES, check_name, fingerprint
from coatcheck.keys.files import PUBLIC, SECRET, read_key_file, write_key_folder
from coatcheck.keys.keyring import FIRST_KID, RESTORE, VERSION, Keyring, Root, read_keyring, to_json
from coatcheck.keys.pkcs8 import read_private, split_pem
from coatcheck.keys.seal_pair import (
    INIT,
    SEAL_PRIVATE,
    SEAL_PUBLIC,
    SealPublic,
    kek,
    kept_files,
    labelled,
    pair_id,
    read_kept,
    read_label,
    read_public,
    seal_public,
    unwrap,
    wrap,
)
from coatcheck.pipeline.message import DataKey

DEFAULT_FOLDER = "coatcheck-keys"
"""Name of a keyring folder when the user gives none."""

PASSPHRASE_VARIABLE = "COATCHECK_KEYS__PASSPHRASE"  # noqa: S105 - the variable's name
"""Environment variable with the passphrase of `seal-private.pem`."""

TOKEN_ROOT = "token-root.json"  # noqa: S105 - a file's name

_DEK_ID_BYTES = 16
_BRING = f"bring {SEAL_PRIVATE} from where it is kept: opening needs it, loading does not"
_ROOT_OPTION, _PRIVATE_OPTION = "keys.token_root", "keys.private_key"


@dataclass(frozen=True, slots=True)
class CreatedKeys:
    """What `create` wrote, and what the user should be told about it."""

    files: tuple[Path, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key of a keyring, for lists.

    `kind` is "token", "seal" or "open", `created` UTC in ISO 8601 (empty if nothing tells); `fingerprint`
    tells keys apart, and nothing of them. `active`: it is in use for what is new; the others are kept for
    what is old.
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
    """Make a keyring in a new or empty folder: a token root k1, the ledger's root and a seal key pair.

    `clock` gives seconds since 1970. The private key is encrypted with `passphrase`, or that of
    COATCHECK_KEYS__PASSPHRASE, or else stored in clear, which is a warning. Raises ConfigError: a bad
    tenant, a folder with anything in it, a folder that cannot be written.
    """
    check_name("tenant", tenant)
    passphrase = passphrase_or_variable(passphrase)
    created = utc(clock)
    keyring = Keyring(VERSION, tenant, [new_root(FIRST_KID, created)], FIRST_KID, os.urandom(KEY_BYTES))
    private = X25519PrivateKey.generate()
    content = {
        TOKEN_ROOT: (SECRET, keyring.to_json()),
        SEAL_PUBLIC: (PUBLIC, to_json(seal_public(private, tenant, created))),
        SEAL_PRIVATE: (SECRET, labelled(private, passphrase, created)),
    }
    files = write_key_folder(folder, content)
    return CreatedKeys(files, clear_warnings(folder, passphrase))


def new_root(kid: str, created: str) -> Root:
    """Draw a token root."""
    return Root(kid, os.urandom(KEY_BYTES), created)


def utc(clock: Callable[[], float]) -> str:
    """Return the time of `clock` (seconds since 1970) in ISO 8601, to the second."""
    return datetime.fromtimestamp(int(clock()), UTC).isoformat().replace("+00:00", "Z")


def passphrase_or_variable(given: str | None) -> str | None:
    """Return the passphrase that was given or is in the environment, if there is one."""
    return given or os.environ.get(PASSPHRASE_VARIABLE) or None


def clear_warnings(folder: Path, passphrase: str | None) -> tuple[str, ...]:
    """Return what to tell a user whose private key was written without a passphrase."""
    return clear_warning(folder / SEAL_PRIVATE, passphrase, "open every sealed value; keep it off the hosts that load")


def clear_warning(path: Path, passphrase: str | None, harm: str) -> tuple[str, ...]:
    """Return, if there is no passphrase, that the private key `path` is in clear, and what its reader can do."""
    if passphrase:
        return ()
    return (f"{path} is stored in clear, as {PASSPHRASE_VARIABLE} is not set: whoever reads it can {harm}",)


class LocalLoaderKeys:
    """The loader's half of a keyring folder. Implements provider.LoaderKeys; it cannot open what it seals.

    Reads once: a process that runs on after a rotation goes on with the keys of before.
    """

    __slots__ = ("_folder", "_keyring", "_seal", "kid", "kids", "tenant")

    def __init__(self, folder: Path, keyring: Keyring, seal: SealPublic) -> None:
        self.tenant = keyring.tenant
        self.kid = keyring.active
        self.kids = keyring.kids
        self._keyring = keyring
        self._seal = seal
        self._folder = folder

    @classmethod
    def load(cls, folder: Path, *, token_root: str | None = None) -> LocalLoaderKeys:
        """Read `token-root.json` and `seal-public.json`; `token_root` is the content of the former instead.

        Raises ConfigError: a file that is missing, damaged, no regular file, another user's or open to
        others; two files of different tenants.
        """
        keyring = read_roots(folder / TOKEN_ROOT) if token_root is None else _roots(_utf8(token_root), _ROOT_OPTION)
        seal = read_public(folder / SEAL_PUBLIC)
        if keyring.tenant != seal.tenant:
            source = f"{TOKEN_ROOT} and {SEAL_PUBLIC}" if token_root is None else f"{_ROOT_OPTION} and {SEAL_PUBLIC}"
            raise ConfigError(f"{source} in {folder} belong to different tenants", hint="bring files of one keyring")
        return cls(folder, keyring, seal)

    def __repr__(self) -> str:
        """Show tenant and key id only."""
        return f"LocalLoaderKeys(tenant={self.tenant!r}, kid={self.kid!r})"

    def token_root(self, kid: str | None = None) -> bytes:
        """Return the 32-byte root of key `kid` (default: the active one). Raises ConfigError: no such key."""
        return self._keyring.root(self.kid if kid is None else kid)

    def ledger_root(self) -> bytes:
        """Return the 32-byte root of the ledger's keyed hashes, which no rotation changes."""
        return self._keyring.ledger

    def new_data_key(self) -> tuple[bytes, bytes, DataKey]:
        """Draw a data key: its id (16 bytes), the key (32), and the half to store (80, wrapped by HPKE)."""
        dek_id, key = os.urandom(_DEK_ID_BYTES), os.urandom(KEY_BYTES)
        return dek_id, key, wrap(key, dek_id, self.tenant, self._seal)

    def describe(self) -> dict[str, str]:
        """Return names for status pages: provider, folder, tenant, kid, kids (active first), kek; never a key."""
        return {
            "provider": "local",
            "folder": str(self._folder),
            "tenant": self.tenant,
            "kid": self.kid,
            "kids": " ".join(self.kids),
            "kek": kek(self._seal.id),
        }


class LocalOpenerKeys:
    """The opener's half of a keyring folder: the pair in use, and older ones. Implements provider.OpenerKeys."""

    __slots__ = ("_privates", "_seal", "tenant")

    def __init__(self, seal: SealPublic, privates: Iterable[X25519PrivateKey]) -> None:
        self.tenant = seal.tenant
        self._seal = seal
        self._privates = {kek(pair_id(private)): private for private in privates}

    @classmethod
    def load(cls, folder: Path, passphrase: str | None = None, *, private_key: str | None = None) -> LocalOpenerKeys:
        """Read `seal-public.json`, `seal-private.pem` and the private halves that are kept of older pairs.

        Without `passphrase` that of COATCHECK_KEYS__PASSPHRASE is taken. `private_key` is the content of
        `seal-private.pem` instead of the file, and may hold older private halves behind it. Raises
        ConfigError: as LocalLoaderKeys.load; a wrong or missing passphrase; no private half of the pair in use.
        """
        seal, passphrase = read_public(folder / SEAL_PUBLIC), passphrase_or_variable(passphrase)
        privates = _main(folder, passphrase) if private_key is None else _given(private_key, passphrase)
        privates += read_older(folder, passphrase, {pair_id(private) for private in privates})
        # Any of them may be the one in use: after half a rotation it is a kept one.
        if seal.id not in map(pair_id, privates):
            source = SEAL_PRIVATE if private_key is None else _PRIVATE_OPTION
            raise ConfigError(f"{source} and {SEAL_PUBLIC} in {folder} are no pair", hint="bring files of one keyring")
        return cls(seal, privates)

    def __repr__(self) -> str:
        """Show tenant and key id only."""
        return f"LocalOpenerKeys(tenant={self.tenant!r}, kek={self.kek!r})"

    @property
    def kek(self) -> str:
        """The pair in use, as data keys name it; those that name another should be rewrapped."""
        return kek(self._seal.id)

    def unwrap(self, data_key: DataKey) -> bytes:
        """Return the 32-byte key. Raises ConfigError: wrapped for another key; OpenError: it is damaged."""
        private = self._privates.get(data_key.kek)
        if private is None:
            raise ConfigError(
                f"a data key is wrapped for {data_key.kek}, this keyring has {' '.join(self._privates)}",
                hint="name the keyring with the private key it was wrapped for",
            )
        return unwrap(data_key, self.tenant, private)

    def rewrap(self, data_key: DataKey) -> DataKey:
        """Return `data_key` wrapped for the pair in use: itself, untried, if it is already. Raises as `unwrap`."""
        if data_key.kek == self.kek:
            return data_key
        return wrap(self.unwrap(data_key), data_key.dek_id, self.tenant, self._seal)


def _main(folder: Path, passphrase: str | None) -> list[X25519PrivateKey]:
    path = folder / SEAL_PRIVATE
    return [read_private(read_key_file(path, SECRET, absent=_BRING), passphrase, name=str(path))]


def _given(text: str, passphrase: str | None) -> list[X25519PrivateKey]:
    return [read_private(pem, passphrase, name=_PRIVATE_OPTION) for pem in split_pem(_utf8(text))]


def read_older(folder: Path, passphrase: str | None, known: set[str]) -> list[X25519PrivateKey]:
    """Return the private halves that are kept in the folder, but for those whose ids are `known`.

    Raises ConfigError: one cannot be read, is open to others, is damaged or encrypted with another passphrase.
    """
    return [
        read_kept(read_key_file(path, SECRET, absent=RESTORE), passphrase, path, seal_id)
        for seal_id, path in kept_files(folder).items()
        if seal_id not in known
    ]


def _utf8(text: str) -> bytes:
    return text.encode(errors="replace")  # what is no text then is damaged, and not in an error


def list_keys(folder: Path) -> list[KeyRow]:
    """Return the keys of a keyring: token roots, the seal key and, as far as they are here, the keys that open.

    Those last are not tried. A host that only opens may have no token root. Raises ConfigError as loading
    does.
    """
    path = folder / SEAL_PUBLIC
    seal = read_public(path)
    rows = list(_root_rows(folder / TOKEN_ROOT)) if os.path.lexists(folder / TOKEN_ROOT) else []
    rows.append(KeyRow(seal.id, "seal", seal.created, seal.id, path, active=True))
    opening = {row.kid: row for row in _open_rows(folder, seal)}  # half a rotation may have one in two files
    return rows + list(opening.values())


def _root_rows(path: Path) -> Iterator[KeyRow]:
    keyring = read_roots(path)
    for entry in keyring.keys:
        yield root_row(entry, path, active=entry.kid == keyring.active)


def root_row(entry: Root, path: Path, *, active: bool) -> KeyRow:
    """Return the row of a token root."""
    return KeyRow(entry.kid, "token", entry.created, fingerprint(entry.root), path, active=active)


def _open_rows(folder: Path, seal: SealPublic) -> Iterator[KeyRow]:
    """Yield the kept keys, then the main one, as their first lines tell."""
    places = {path: (seal_id, "") for seal_id, path in kept_files(folder).items()}
    if os.path.lexists(folder / SEAL_PRIVATE):
        places[folder / SEAL_PRIVATE] = (seal.id, seal.created)  # of one without such a line
    for path, otherwise in places.items():
        kid, created = read_label(read_key_file(path, SECRET, absent=_BRING)) or otherwise
        yield KeyRow(kid, "open", created, kid, path, active=kid == seal.id)


def read_roots(path: Path) -> Keyring:
    """Read token-root.json. Raises ConfigError: as read_key_file and read_keyring; not of this provider."""
    return _roots(read_key_file(path, SECRET, absent=INIT), str(path))


def _roots(data: bytes, name: str) -> Keyring:
    keyring = read_keyring(data, name)
    if keyring.wrapped_by:
        raise ConfigError(f"the roots in {name} are wrapped by a key service", hint='set keys.provider = "aws-kms"')
    for root in (*(entry.root for entry in keyring.keys), keyring.ledger):
        if len(root) != KEY_BYTES:
            raise ConfigError(f"{name} is damaged: a root is {len(root)} bytes long, not {KEY_BYTES}", hint=RESTORE)
    return keyring
