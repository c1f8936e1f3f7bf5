"""Sealing and opening: AES-256-GCM (NIST SP 800-38D) under data keys that live an hour at most.

The Sealer forgets a data key when its life ends and keeps the wrapped half only; opening takes the
provider's other half. Not for several threads: one Sealer per event loop. A fork draws its own data key.

A provider whose `remote` is true takes a request for each data key. `ready` has it drawn in a thread, ahead of need,
so that the event loop does not wait, and while the provider is away the data key in use goes on to its limit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import struct
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from coatcheck.errors import CoatcheckError, UnreachableError
from coatcheck.keys.derive import lp
from coatcheck.keys.provider import LoaderKeys, OpenerKeys, OpenError
from coatcheck.loop import in_thread
from coatcheck.pipeline.message import DataKey, Sealed

SCHEME = "coatcheck/sealed/v1"
"""First part of the associated data of everything sealed here."""

STEP = 32
"""Plaintexts are padded to multiples of it, in bytes, so that 1.1.1.1 is as long as 255.255.255.255."""

_NONCE_BYTES = 12
_NONCES = 1024  # one os.urandom for so many; one each costs as much as the encryption
_DATA_KEYS_KEPT = 4096  # nearly a day's worth at 50,000 seals a second; a batch asks within seconds
_KEYS_CACHED = 32
_AHEAD = 5  # the next data key is drawn when less than a fifth of a life is left
_RESERVE_S = 5.0  # what must be left of a life when `ready` returns, or a hundredth of it: sealing takes time, too
_PAUSE_S, _PAUSE_MOST_S = 0.5, 30.0  # between draws that fail; the second also after one that is refused
_WARN_EVERY_S = 60.0
_LENGTH = struct.Struct(">I")

_GOES_ON = "no new data key for now; the one in use goes on to its limit"
_WAITS = "no new data key for now; nothing is sealed until there is one"

_log = logging.getLogger(__name__)
_NOTICE = 25  # as in `ops.logs`, which this package does not know
_SHORT = 256


def _around(size: int) -> tuple[bytes, bytes]:
    """Return what stands before and behind a plaintext of so many bytes."""
    return _LENGTH.pack(size), bytes(-(size + _LENGTH.size) % STEP)


# Joined with the plaintext as the separator: one copy, where adding three parts up makes two.
_AROUND = tuple(map(_around, range(_SHORT)))


def pad(plaintext: bytes) -> bytes:
    """Return `plaintext` behind its length (4 bytes, big-endian), then zeros up to a multiple of 32 bytes."""
    size = len(plaintext)
    return plaintext.join(_AROUND[size] if size < _SHORT else _around(size))


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


class _Ready(NamedTuple):
    """A data key ready to seal: its id, how to encrypt under it, and when its life ends."""

    dek_id: bytes
    encrypt: Callable[[bytes, bytes, bytes | None], bytes]
    until: float


class Sealer:
    """Seals values that this process cannot open once their data key is retired. Implements ports.BodySealer.

    A data key is retired `max_age` seconds of `clock` after it was drawn, or after `max_values` seals, whichever is
    first; the bound of SP 800-38D for random nonces, 2^32 values, stays far away. `give_up_s` is how long `ready` waits
    for a provider that is away, in seconds (0: for ever).
    """

    __slots__ = (
        "__weakref__", "_aad", "_clock", "_data_keys", "_dek_id", "_drawing", "_encrypt", "_give_up_s", "_keys",
        "_left", "_max_age", "_max_values", "_next", "_nonces", "_not_before", "_remote", "_since", "_trouble",
        "_until", "_warned", "drawn", "failures",
    )  # fmt: skip

    def __init__(
        self,
        keys: LoaderKeys,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_age: float = 3600.0,
        max_values: int = 2**20,
        give_up_s: float = 0.0,
    ) -> None:
        self._keys = keys
        self._remote = bool(getattr(keys, "remote", False))
        self._clock = clock
        self._max_age = max_age
        self._max_values = max_values
        self._give_up_s = give_up_s
        self._data_keys: OrderedDict[bytes, DataKey] = OrderedDict()
        self._not_before = self._warned = float("-inf")
        self._trouble, self._since = "", 0.0
        self.failures = {"away": 0, "refused": 0}
        self.drawn = 0
        self.forked()
        _SEALERS.add(self)

    @property
    def in_trouble(self) -> bool:
        """Whether the key service gave no data key when it was last asked."""
        return bool(self._trouble)

    def __repr__(self) -> str:
        """Show the tenant only."""
        return f"Sealer(tenant={self._keys.tenant!r})"

    def seal(self, plaintext: bytes, *context: bytes) -> Sealed:
        """Seal `plaintext`, bound to tenant, data key and `context`: it opens with the same context only.

        The ciphertext has 16 bytes more (the tag) than the padded plaintext. Raises what the provider
        raises when a new data key is due and cannot be had; with a remote one, which it would wait for, `ready` comes
        first.
        """
        if self._left <= 0 or self._clock() >= self._until:
            self._draw()
        self._left -= 1
        nonce = next(self._nonces)
        ciphertext = self._encrypt(nonce, pad(plaintext), self._aad + lp(*context))
        return Sealed(self._dek_id, nonce, ciphertext)

    def seal_many(self, plaintexts: Sequence[bytes], contexts: Sequence[bytes]) -> list[Sealed]:
        """Seal values, each bound to its context, which is framed already: `lp` of the parts that `seal` would take.

        The same as so many calls of `seal`, in two thirds of the time. Raises as `seal`.
        """
        sealed: list[Sealed] = []
        while (start := len(sealed)) < len(plaintexts):
            if self._left <= 0 or self._clock() >= self._until:
                self._draw()
            end = start + min(self._left, len(plaintexts) - start)
            self._left -= end - start
            dek_id, encrypt, aad = self._dek_id, self._encrypt, self._aad
            pool = os.urandom(_NONCE_BYTES * (end - start))
            nonces = [pool[at : at + _NONCE_BYTES] for at in range(0, len(pool), _NONCE_BYTES)]
            sealed += [
                Sealed(dek_id, nonce, encrypt(nonce, pad(plaintext), aad + context))
                for nonce, plaintext, context in zip(nonces, plaintexts[start:end], contexts[start:end], strict=True)
            ]
        return sealed

    def data_key(self, dek_id: bytes) -> DataKey:
        """Return the stored half of a data key drawn here (the last 4,096 are known). Raises KeyError."""
        return self._data_keys[dek_id]

    async def ready(self, values: int) -> None:
        """Make sure that the data key in use takes `values` more seals (as many as it takes at all, if that is less).

        The seals must follow before the caller awaits anything else. When the life of the data key is nearly over, a
        remote provider is asked for the next one in the background; when it is over, this waits for it, and while the
        provider is away tries again and again. Raises UnreachableError: it was away for `give_up_s`; ConfigError: the
        provider refuses (keys denied or disabled).
        """
        values = min(values, self._max_values)
        while values > 0 and not self._takes(values):
            if self._remote and not self._has_next():
                await self._drawn()
            else:
                self._draw()
        if self._remote and values > 0 and self._ends_soon() and self._clock() >= self._not_before:
            self._draw_ahead()

    def retire(self) -> None:
        """Forget the data key in use and the next one; the next seal draws another."""
        self._next: _Ready | None = None
        self._forget()

    def forked(self) -> None:
        """Retire what a child process inherits: its nonces would come from the same pool as its parent's.

        Also how a Sealer begins: with nothing.
        """
        self._drawing: asyncio.Task[CoatcheckError | None] | None = None  # the thread at it is the parent's
        self.retire()

    def _forget(self) -> None:
        self._left = 0
        self._until = 0.0
        self._dek_id = self._aad = b""
        self._encrypt: Callable[[bytes, bytes, bytes | None], bytes] = _no_key
        self._nonces = _nonces()

    def _draw(self) -> None:
        self._forget()  # first: if the provider fails, the old key must not stay in use
        ready, self._next = self._next, None
        if ready is None or self._clock() >= ready.until:
            now = self._clock()
            ready = self._keep(self._keys.new_data_key(), now)
        self._dek_id, self._encrypt, self._until = ready
        self._aad = _associated(self._keys.tenant, ready.dek_id)
        self._left = self._max_values

    def _keep(self, drawn: tuple[bytes, bytes, DataKey], now: float) -> _Ready:
        """Note the stored half of a data key; its life begins before it is there, at `now`."""
        dek_id, key, data_key = drawn
        self.drawn += 1
        self._data_keys[dek_id] = data_key
        if len(self._data_keys) > _DATA_KEYS_KEPT:
            self._data_keys.popitem(last=False)
        return _Ready(dek_id, AESGCM(key).encrypt, now + self._max_age)

    def _takes(self, values: int) -> bool:
        return self._left >= values and self._clock() < self._until - self._reserve

    def _has_next(self) -> bool:
        return self._next is not None and self._clock() < self._next.until - self._reserve

    def _ends_soon(self) -> bool:
        if self._has_next():
            return False
        return self._left * _AHEAD < self._max_values or self._until - self._clock() < self._max_age / _AHEAD

    @property
    def _reserve(self) -> float:
        return min(_RESERVE_S, self._max_age / 100)

    def _draw_ahead(self) -> asyncio.Task[CoatcheckError | None]:
        """Have the next data key drawn in the background, unless that is under way; return the task at it."""
        if self._drawing is None or self._drawing.done():
            if self._drawing is not None and not self._drawing.cancelled():
                self._drawing.result()  # raises what is no CoatcheckError, which nobody may have waited for
            self._drawing = asyncio.create_task(self._keep_drawing())
        return self._drawing

    async def _keep_drawing(self) -> CoatcheckError | None:
        """Draw the next data key in a thread, however often that takes; return what no repetition mends."""
        pause = _PAUSE_S
        while True:
            now = self._clock()
            try:
                drawn = await in_thread(self._keys.new_data_key)
            except UnreachableError as error:
                self._warn(error)
            except CoatcheckError as error:
                self._warn(error)
                self._not_before = self._clock() + _PAUSE_MOST_S
                return error
            else:
                self._next = self._keep(drawn, now)
                self._say_back()
                return None
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, no secret
            pause = min(pause * 2, _PAUSE_MOST_S)

    async def _drawn(self) -> None:
        """Wait until the next data key is there. Raises UnreachableError, ConfigError."""
        drawing = self._draw_ahead()
        done, _ = await asyncio.wait({drawing}, timeout=self._give_up_s or None)
        if not done:
            raise UnreachableError(
                f"no new data key for {self._give_up_s:g} s ({self._trouble or 'no answer yet'})",
                hint="nothing is lost: messages stay in the queue until they can be sealed; is the key service up?",
            )
        if (error := drawing.result()) is not None:
            raise error

    def _say_back(self) -> None:
        """Log once that there are data keys again after an outage."""
        if self._trouble:
            seconds = round(self._clock() - self._since, 1)
            _log.log(_NOTICE, "the key service gives data keys again", extra={"seconds": seconds})
        self._trouble, self._warned = "", float("-inf")

    def _warn(self, error: CoatcheckError) -> None:
        """Tell that there is no new data key, and why, once a minute; errors hold no values."""
        self._since = self._since if self._trouble else self._clock()
        self._trouble = error.message
        self.failures["away" if isinstance(error, UnreachableError) else "refused"] += 1
        if self._clock() - self._warned < _WARN_EVERY_S:
            return
        self._warned = self._clock()
        _log.warning(_GOES_ON if self._takes(1) else _WAITS, extra={"error": error.message})


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

    def try_key(self, data_key: DataKey) -> None:
        """Unwrap a data key and keep it for `open`. Raises OpenError: it is damaged; and as `unwrap` does."""
        self._decrypt(data_key)

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
    for sealer in list(_SEALERS):
        sealer.forked()


os.register_at_fork(after_in_child=_after_fork)
