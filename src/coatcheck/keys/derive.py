"""What every key of coatcheck is derived with: unambiguous framing, HKDF-Expand, and the names that go in."""

from __future__ import annotations

import re
import struct

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from coatcheck.errors import ConfigError

KEY_BYTES = 32
"""Length of roots, data keys and, where no other is asked for, derived keys."""

_NAMES = {
    "domain": (re.compile(r"[a-z0-9]{1,16}"), "1 to 16 of a-z 0-9"),
    "key id": (re.compile(r"k[0-9a-z]{1,6}"), "k and 1 to 6 of 0-9 a-z, such as k1"),
    "tenant": (re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"), "1 to 63 of A-Z a-z 0-9 . _ -, no sign first"),
}
_LENGTH = struct.Struct(">I").pack
_SHA256 = SHA256()


def lp(*parts: str | bytes) -> bytes:
    """Join parts, each as UTF-8 behind its length in 4 bytes, big-endian.

    No two lists of parts join to the same bytes, and joined lists are the join of the longer list.
    """
    out = b""
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        out += _LENGTH(len(data)) + data
    return out


def expand(root: bytes, *info: str | bytes, length: int = KEY_BYTES) -> bytes:
    """Return a key of `length` bytes from `root` for the purpose `info`: HKDF-Expand, SHA-256 (RFC 5869, 2.3).

    The extract step is left out, as its section 3.3 allows: a root is 32 bytes from the system's random
    source. A shorter key is the beginning of a longer one: each purpose has one length.
    """
    return HKDFExpand(_SHA256, length, lp(*info)).derive(root)


def fingerprint(root: bytes) -> str:
    """Return 16 hex digits that tell token roots apart, and nothing of them: derived like a key of its own."""
    return expand(root, "coatcheck/fingerprint/v1")[:8].hex()


def check_name(kind: str, name: str) -> str:
    """Return `name` if it is a proper "domain", "key id" or "tenant". Raises ConfigError."""
    pattern, rule = _NAMES[kind]
    if pattern.fullmatch(name) is None:
        raise ConfigError(f'"{name}" is no {kind}', hint=f"a {kind} is {rule}")
    return name


def check_root(root: bytes) -> bytes:
    """Return `root` if it has the length of a token root, 32 bytes. Raises ConfigError."""
    if len(root) != KEY_BYTES:
        raise ConfigError(
            f"a token root is {len(root)} bytes long, not {KEY_BYTES}",
            hint="make a keyring with `coatcheck keys init`",
        )
    return root
