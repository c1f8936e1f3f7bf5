"""The token keyring as a document: roots by key id, which one is active, and how it changes. Pure.

While a rotation lasts it holds two keys: the active one, and the one that retires; both are computed. The ledger's
root is apart and never rotates: a message must be known again after any number of rotations.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from coatcheck.errors import ConfigError, RefusedError
from coatcheck.keys.derive import check_name

VERSION = 1
FIRST_KID = "k1"
RESTORE = "bring it back from a backup"
_NUMBERED = re.compile(r"k([0-9]{1,6})")
_KID_MOST = 999_999

Document = TypeVar("Document", bound=msgspec.Struct)


class Root(msgspec.Struct, frozen=True):
    """One token root as it is stored: 32 bytes, or those bytes wrapped by a key service (in JSON as base64)."""

    kid: str
    root: bytes
    created: str

    def __repr__(self) -> str:
        """Show the key id only."""
        return f"Root({self.kid})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        """Show the key id only, to rich as well: msgspec's own would show the root."""
        return [("kid", self.kid)]


class Keyring(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of token-root.json. `wrapped_by` names the key service's key; empty: the roots are in clear."""

    version: int
    tenant: str
    keys: list[Root]
    active: str
    ledger: bytes
    wrapped_by: str = ""

    def __repr__(self) -> str:
        """Show tenant and key ids only."""
        return f"Keyring(tenant={self.tenant!r}, kids={self.kids})"

    def __rich_repr__(self) -> list[tuple[str, str | tuple[str, ...]]]:
        """Show tenant and key ids only."""
        return [("tenant", self.tenant), ("kids", self.kids)]

    @property
    def kids(self) -> tuple[str, ...]:
        """The key ids, the active one first."""
        return (self.active, *(entry.kid for entry in self.keys if entry.kid != self.active))

    def root(self, kid: str) -> bytes:
        """Return the stored root of `kid`. Raises ConfigError: no such key."""
        for entry in self.keys:
            if entry.kid == kid:
                return entry.root
        raise ConfigError(f'the key "{kid}" is not in the keyring', hint="see `coatcheck keys list` for those that are")

    def next_kid(self) -> str:
        """Return the key id that a rotation gives. Raises RefusedError: one is under way already."""
        if len(self.keys) > 1:
            raise RefusedError(
                f"the rotation to {self.active} is not over",
                hint=f"finish it with `coatcheck keys retokenize` and `coatcheck keys retire {self.kids[1]}`",
            )
        match = _NUMBERED.fullmatch(self.active)
        number = int(match[1]) + 1 if match else 2
        if number > _KID_MOST:
            raise RefusedError("the key ids are used up", hint="begin a keyring of another tenant")
        return f"k{number}"

    def rotated(self, root: Root) -> Keyring:
        """Return the keyring with `root` as its active key; the one that was active retires.

        Raises RefusedError: a rotation is under way already, or `root` has an id that is in the keyring.
        """
        self.next_kid()
        if root.kid in self.kids:
            raise RefusedError(
                f'the key "{root.kid}" is in the keyring already', hint="give the new key an id of its own"
            )
        return msgspec.structs.replace(self, keys=[*self.keys, root], active=root.kid)

    def retired(self, kid: str) -> Keyring:
        """Return the keyring without `kid`. Raises ConfigError: no such key; RefusedError: it is the active one."""
        self.root(kid)
        if kid == self.active:
            raise RefusedError(f"{kid} is the active key", hint="rotate first: `coatcheck keys rotate`")
        return msgspec.structs.replace(self, keys=[entry for entry in self.keys if entry.kid != kid])

    def to_json(self) -> bytes:
        """Return the document as it is written."""
        return to_json(self)


def read_keyring(data: bytes, name: str) -> Keyring:
    """Return the keyring in `data`, which came from `name`. Raises ConfigError: damaged, or of another version."""
    keyring = read_document(data, Keyring, name)
    kids = [entry.kid for entry in keyring.keys]
    if keyring.active not in kids or len(set(kids)) != len(kids):
        raise ConfigError(f"{name} has no active key, or two of one id", hint=RESTORE)
    check_name("tenant", keyring.tenant)
    for kid in kids:
        check_name("key id", kid)
    return keyring


def to_json(document: msgspec.Struct) -> bytes:
    """Return a document of a keyring as it is written: JSON for people to read."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def read_document(data: bytes, kind: type[Document], name: str) -> Document:
    """Return the document of `kind` in `data`, which came from `name`, and nothing of it in an error.

    Raises ConfigError: damaged, or of another version.
    """
    head = _decode(data, _Head)
    if head and head.version != VERSION:  # asked first: what else another version holds is not known here
        raise ConfigError(
            f"{name} has version {head.version}, this coatcheck reads version {VERSION}", hint="upgrade coatcheck"
        )
    content = _decode(data, kind)
    if content is None:
        raise ConfigError(f"{name} is damaged", hint=RESTORE)
    return content


class _Head(msgspec.Struct):
    """What documents of every version have."""

    version: int


def _decode(data: bytes, kind: type[Document]) -> Document | None:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # the caller raises, outside: what was caught may quote the file
