"""Sealing and opening: AES-256-GCM (NIST SP 800-38D) under data keys that live an hour at most.

The Sealer forgets a data key when its life ends and keeps the wrapped half only; opening takes the
provider's other half. Not for several threads: one Sealer per event loop. A fork draws its own data key.
"""

from __future__ import annotations

import os
import struct
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coatcheck.keys.derive import lp
from coatcheck.keys.provider import LoaderKeys, OpenerKeys, OpenError
from coatcheck.pipeline.message import DataKey, Sealed

SCHEME = "coatcheck/sealed/v1"
"""First part of the associated data of everything sealed here."""

STEP = 32
"""Plaintexts are padded to multiples of it, in bytes, so that 1.1.1.1 is as long as 255.255.255.255."""

_NONCE_BYTES = 12
_NONCES = 1024  # one os.urandom for so many; one each costs as much as the encryption
_DATA_KEYS_KEPT = 4096  # nearly a day's worth at 50,000 seals a second; a batch asks within seconds
_KEYS_CACHED = 32
_LENGTH = struct.Struct(">I")
_FILL = tuple(bytes(size) for size in range(STEP))


def pad(plaintext: bytes) -> bytes:
    """Return `plaintext` behind its length (4 bytes, big-endian), then zeros up to a multiple of 32 bytes."""
    size = len(plaintext)
    return _LENGTH.pack(size) + plaintext + _FILL[-(size + _LENGTH.size) % STEP]


def unpad(padded: bytes) -> bytes:
    """Undo `pad`. Raises OpenError for what `pad` cannot have made."""
    plaintext = padded[_LENGTH.size :][: int.from_bytes(padded[: _LENGTH.size], "big")]
    if pad(plaintext) != padded:
        raise OpenError
    return plaintext


def _nonces() -> Iterator[bytes]:
    """Yield random nonces for ever. A generator entered twice at once raises: none comes out twice."""
    while True:
        pool = os.urandom(_NONCE_BYTES * _NONCES)
        for start in range(0, len(pool), _NONCE_BYTES):
            yield pool[start : start + _NONCE_BYTES]


class Sealer:
    """Seals values that this process cannot open once their data key is retired. Implements ports.BodySealer.

    A data key is retired after `max_age` seconds of `clock` or `max_values` seals, whichever is first; the
    bound of SP 800-38D for random nonces, 2^32 values, stays far away.
    """

    __slots__ = (
        "__weakref__", "_aad", "_clock", "_data_keys", "_dek_id", "_encrypt", "_keys", "_left", "_max_age",
        "_max_values", "_nonces", "_until",
    )  # fmt: skip

    def __init__(
        self,
        keys: LoaderKeys,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_age: float = 3600.0,
        max_values: int = 2**20,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._max_age = max_age
        self._max_values = max_values
        self._data_keys: OrderedDict[bytes, DataKey] = OrderedDict()
        self.retire()
        _SEALERS.add(self)

    def __repr__(self) -> str:
        """Show the tenant only."""
        return f"Sealer(tenant={self._keys.tenant!r})"

    def seal(self, plaintext: bytes, *context: bytes) -> Sealed:
        """Seal `plaintext`, bound to tenant, data key and `context`: it opens with the same context only.

        The ciphertext has 16 bytes more (the tag) than the padded plaintext. Raises what the provider
        raises when a new data key is due and cannot be had.
        """
        if self._left <= 0 or self._clock() >= self._until:
            self._draw()
        self._left -= 1
        nonce = next(self._nonces)
        ciphertext = self._encrypt(nonce, pad(plaintext), self._aad + lp(*context))
        return Sealed(self._dek_id, nonce, ciphertext)

    def data_key(self, dek_id: bytes) -> DataKey:
        """Return the stored half of a data key drawn here (the last 4,096 are known). Raises KeyError."""
        return self._data_keys[dek_id]

    def retire(self) -> None:
        """Forget the data key in use; the next seal draws another."""
        self._left = 0
        self._until = 0.0
        self._dek_id = self._aad = b""
        self._encrypt: Callable[[bytes, bytes, bytes | None], bytes] = _no_key
        self._nonces = _nonces()

    def _draw(self) -> None:
        self.retire()  # first: if the provider fails, the old key must not stay in use
        dek_id, key, data_key = self._keys.new_data_key()
        self._data_keys[dek_id] = data_key
        if len(self._data_keys) > _DATA_KEYS_KEPT:
            self._data_keys.popitem(last=False)
        self._dek_id = dek_id
        self._aad = _associated(self._keys.tenant, dek_id)
        self._encrypt = AESGCM(key).encrypt
        self._left = self._max_values
        self._until = self._clock() + self._max_age


class Opener:
    """Opens what a Sealer sealed, with the provider's other half. Keeps the last 32 data keys unwrapped."""

    __slots__ = ("_decrypts", "_keys")

    def __init__(self, keys: OpenerKeys) -> None:
        self._keys = keys
        self._decrypts: OrderedDict[DataKey, Callable[[bytes, bytes, bytes | None], bytes]] = OrderedDict()

    def __repr__(self) -> str:
        """Show the tenant only."""
        return f"Opener(tenant={self._keys.tenant!r})"

    def open(self, sealed: Sealed, data_key: DataKey, *context: bytes) -> bytes:
        """Return the plaintext. Raises OpenError: anything is not as it was sealed; and as `unwrap` does."""
        plaintext = None
        if data_key.dek_id == sealed.dek_id:
            decrypt = self._decrypt(data_key)
            aad = _associated(self._keys.tenant, sealed.dek_id) + lp(*context)
            with suppress(InvalidTag, ValueError):  # ValueError: a nonce of impossible length
                plaintext = decrypt(sealed.nonce, sealed.ciphertext, aad)
        if plaintext is None:
            raise OpenError
        return unpad(plaintext)

    def _decrypt(self, data_key: DataKey) -> Callable[[bytes, bytes, bytes | None], bytes]:
        # By the whole data key: a changed wrapping must not open because the good one did before.
        decrypt = self._decrypts.pop(data_key, None) or AESGCM(self._keys.unwrap(data_key)).decrypt
        self._decrypts[data_key] = decrypt
        if len(self._decrypts) > _KEYS_CACHED:
            self._decrypts.popitem(last=False)
        return decrypt


def _associated(tenant: str, dek_id: bytes) -> bytes:
    return lp(SCHEME, tenant, dek_id)


def _no_key(_nonce: bytes, _plaintext: bytes, _aad: bytes | None) -> bytes:
    """Stand where no data key is in use: a seal that came here would fail, and not go on under an old key."""
    raise OpenError


_SEALERS: weakref.WeakSet[Sealer] = weakref.WeakSet()


def _after_fork() -> None:
    """Retire the data keys a child inherits: its nonces would come from the same pool as its parent's."""
    for sealer in list(_SEALERS):
        sealer.retire()


os.register_at_fork(after_in_child=_after_fork)
