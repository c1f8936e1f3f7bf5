"""Sealed text: deterministic and reversible without a vault, for the mask mode `seal`.

AES-256-SIV (RFC 5297). Same value, same domain, same sealed text, so duplicates stay duplicates; and the
key that seals is the key that opens: who can load can read. Where that is too much, a token with a vault
keeps the two apart.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from coatcheck.keys.derive import check_name, check_root, expand
from coatcheck.keys.forms import Form
from coatcheck.keys.provider import OpenError
from coatcheck.keys.sealing import pad, unpad

SEALED_PATTERN = re.compile(r"ps1_([a-z0-9]{1,16})_(k[0-9a-z]{1,6})_([A-Za-z0-9_-]{64,})")
"""A sealed text: scheme ps1, domain, key id, base64url without padding. No anchors: `fullmatch` it."""

SCHEME = "coatcheck/seal/v1"
"""First part of the key's derivation and of the associated data."""

# RFC 5297 takes one key of double length, half for the tag and half for the encryption: 64 bytes is AES-256.
_KEY_BYTES = 64
_TAG_BYTES = 16
_LONGEST_PREFIX = len("ps1_") + 16 + len("_") + 7 + len("_")


def seal_function(root: bytes, *, tenant: str, kid: str, domain: str, form: Form) -> Callable[[object], str]:
    """Return the function value -> sealed text `ps1_<domain>_<kid>_<base64url>`, which raises FormError.

    `root` is the 32-byte token root of key `kid`. Sealed are the value's canonical bytes, padded to steps of
    32 bytes, so that the length tells little. Raises ConfigError: a bad root, tenant, kid or domain.
    """
    encrypt, associated = _cipher(root, tenant, kid, domain, form).encrypt, _associated(tenant, domain, kid)
    canonical = form.function()
    prefix = _prefix(domain, kid)

    def seal(value: object) -> str:
        return prefix + _encode(encrypt(pad(canonical(value)), associated))

    return seal


def open_function(root: bytes, *, tenant: str, kid: str, domain: str, form: Form) -> Callable[[str], str]:
    """Return the function sealed text -> the value's canonical spelling (`Form.text`).

    It raises OpenError for anything that `seal_function` of the same arguments has not made: another key,
    tenant, domain, kid or form, a changed character, another spelling of the same base64. Raises
    ConfigError: as `seal_function`.
    """
    decrypt, associated = _cipher(root, tenant, kid, domain, form).decrypt, _associated(tenant, domain, kid)
    prefix = _prefix(domain, kid)

    def unseal(sealed: str) -> str:
        text = None
        if sealed.startswith(prefix):
            # ValueError: no base64, or as FormError no canonical bytes, which only who holds the key can seal.
            with suppress(InvalidTag, ValueError):
                text = form.text(unpad(decrypt(_decode(sealed[len(prefix) :]), associated)))
        if text is None:  # outside of the block above: what it caught may hold the value
            raise OpenError
        return text

    return unseal


def longest_sealed(canonical_bytes: int) -> int:
    """Return the length, in characters, of the longest sealed text of a value of so many canonical bytes.

    With a domain and a key id of the longest kind: what a column must hold, whatever they are.
    """
    size = _TAG_BYTES + len(pad(bytes(canonical_bytes)))
    return _LONGEST_PREFIX + -(-size * 4 // 3)  # base64 without padding: 4 characters for 3 bytes, rounded up


def _cipher(root: bytes, tenant: str, kid: str, domain: str, form: Form) -> AESSIV:
    check_name("tenant", tenant)
    check_name("key id", kid)
    check_name("domain", domain)
    return AESSIV(expand(check_root(root), SCHEME, tenant, domain, kid, form.form_id, length=_KEY_BYTES))


def _associated(tenant: str, domain: str, kid: str) -> list[bytes]:
    """Return the components of the associated data; S2V takes a list and tells its items apart (RFC 5297, 2.4)."""
    return [part.encode() for part in (SCHEME, tenant, domain, kid)]


def _prefix(domain: str, kid: str) -> str:
    return f"ps1_{domain}_{kid}_"


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Undo `_encode`. Raises ValueError for every other spelling, which Python's decoder would take."""
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _encode(data) != text:
        raise ValueError
    return data
