"""Tokens: same value, same domain, same token; only who holds the root can compute one or test a guess."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from coatcheck.keys.derive import check_name, check_root, expand
from coatcheck.keys.forms import Form, FormError, utf8
from coatcheck.keys.ipcrypt import encrypt_function
from coatcheck.keys.siv import open_function, seal_function
from coatcheck.pipeline.message import Reason

TOKEN_PATTERN = re.compile(r"pt1_([a-z0-9]{1,16})_(k[0-9a-z]{1,6})_([0-9a-f]{40})")
"""A token: scheme pt1, domain, key id, 160 bits in hex; 69 characters at most. No anchors: `fullmatch` it."""

_SHA256 = SHA256()
# RFC 2104 section 5: not under half of the hash. Any two of 10^11 values collide with probability 3e-27.
_TOKEN_BYTES = 20
_LEDGER_BYTES = 16


class Tokenizer:
    """Computes the tokens of one tenant under one key of the keyring.

    `root` is the 32-byte token root of key `kid`. A token is `pt1_<domain>_<kid>_<40 hex>`: HMAC-SHA256
    (RFC 2104) of the value's canonical form, cut to 160 bits; its key is derived from the root
    (HKDF-Expand, RFC 5869) for scheme, tenant, domain, kid and form id: where one differs, all tokens do.
    Raises ConfigError: a bad tenant, kid or root.
    """

    __slots__ = ("_functions", "_root", "kid", "tenant")

    def __init__(self, root: bytes, *, tenant: str, kid: str) -> None:
        self.tenant = check_name("tenant", tenant)
        self.kid = check_name("key id", kid)
        self._root = check_root(root)
        self._functions: dict[tuple[str, Form], Callable[[object], str]] = {}

    def __repr__(self) -> str:
        """Show tenant and key id, never the root."""
        return f"Tokenizer(tenant={self.tenant!r}, kid={self.kid!r})"

    def for_domain(self, domain: str, form: Form) -> Callable[[object], str]:
        """Return the function value -> token, which raises FormError. Raises ConfigError: a bad domain."""
        function = self._functions.get((domain, form))
        if function is None:
            function = self._functions[domain, form] = self._make(domain, form)
        return function

    def _make(self, domain: str, form: Form) -> Callable[[object], str]:
        check_name("domain", domain)
        key = expand(self._root, "coatcheck/token/v1", self.tenant, domain, self.kid, form.form_id)
        copy = HMAC(key, _SHA256).copy  # keyed once: a copy per value is the fastest HMAC from Python
        canonical = form.function()
        prefix = f"pt1_{domain}_{self.kid}_"

        def token(value: object) -> str:
            mac = copy()
            mac.update(canonical(value))
            return prefix + mac.finalize()[:_TOKEN_BYTES].hex()

        return token

    def token(self, domain: str, value: object, form: Form) -> str:
        """Return the token of one value. Raises FormError, ConfigError."""
        return self.for_domain(domain, form)(value)

    def token_many(self, domain: str, values: Iterable[object], form: Form) -> list[str]:
        """Return the tokens of `values`, in order. Raises FormError at the first without one, ConfigError."""
        return list(map(self.for_domain(domain, form), values))

    def seal_for(self, domain: str, form: Form) -> Callable[[object], str]:
        """Return the function value -> sealed text (mask mode `seal`), which raises FormError. Raises ConfigError."""
        return seal_function(self._root, tenant=self.tenant, kid=self.kid, domain=domain, form=form)

    def open_for(self, domain: str, form: Form) -> Callable[[str], str]:
        """Return the function sealed text -> canonical text, which raises OpenError. Raises ConfigError."""
        return open_function(self._root, tenant=self.tenant, kid=self.kid, domain=domain, form=form)

    def prefix_for(self, domain: str) -> Callable[[object], str]:
        """Return the function address -> address with the same common prefixes (ipcrypt-pfx); raises FormError."""
        return encrypt_function(self._root, tenant=self.tenant, kid=self.kid, domain=domain)


LedgerHash = Callable[[str], Callable[[bytes], bytes]]
"""Namespace (a use, a field) -> keyed hash, bytes -> 16 bytes, for message keys made of a message's content."""


def ledger_hash(root: bytes, tenant: str) -> LedgerHash:
    """Return the ledger's keyed hashes. Keyed, so that a copy of the ledger confirms no guess of a body.

    `root` is the keyring's ledger root (32 bytes), which no rotation changes. Raises ConfigError.
    """
    check_root(root)
    check_name("tenant", tenant)

    def in_namespace(namespace: str) -> Callable[[bytes], bytes]:
        key = expand(root, "coatcheck/ledger/v1", tenant, namespace)
        copy = HMAC(key, _SHA256).copy

        def keyed_hash(data: bytes) -> bytes:
            mac = copy()
            mac.update(data)
            return mac.finalize()[:_LEDGER_BYTES]

        return keyed_hash

    return in_namespace


def sha256_insecure(value: object) -> str:
    """Return the unsalted SHA-256 of a text in hex: no protection, one core finds any device id in 39 s.

    For those who must match old rows. Raises FormError: wrong_type (no text), invalid_text (a lone
    surrogate).
    """
    if not isinstance(value, str):
        raise FormError(Reason.WRONG_TYPE)
    return hashlib.sha256(utf8(value)).hexdigest()
