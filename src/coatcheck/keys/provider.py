"""What coatcheck asks of a place where keys are kept: one file here per place, `local` and one day a KMS.

Two halves on purpose: the loader's can make keys and tokens and cannot open, the opener's can only open.
"""

from __future__ import annotations

from typing import Protocol

from coatcheck.errors import CoatcheckError
from coatcheck.pipeline.message import DataKey


class OpenError(CoatcheckError):
    """A sealed value or a data key does not open (exit code 1). Never says why: that helps forgers only."""

    def __init__(self, what: str = "a sealed value") -> None:
        super().__init__(
            f"{what} does not open",
            hint="it was sealed under another key or for another place, or was changed since",
        )


class LoaderKeys(Protocol):
    """The loader's half: token roots, and data keys to seal under."""

    @property
    def tenant(self) -> str:
        """The tenant that the keys belong to."""

    @property
    def kid(self) -> str:
        """The id of the token key in use."""

    @property
    def kids(self) -> tuple[str, ...]:
        """All token keys that tokens are computed under: the one in use first, then one that retires."""

    def token_root(self, kid: str | None = None) -> bytes:
        """Return the 32-byte root of key `kid` (default: the one in use). Raises ConfigError: no such key."""

    def ledger_root(self) -> bytes:
        """Return the 32-byte root of the ledger's keyed hashes, which no rotation changes."""

    def new_data_key(self) -> tuple[bytes, bytes, DataKey]:
        """Draw a data key: its id (16 bytes), the key (32), the half to store. Raises UnreachableError."""

    def describe(self) -> dict[str, str]:
        """Return names for status pages: provider, tenant, key ids, places; never a key."""


class OpenerKeys(Protocol):
    """The opener's half: turns a stored data key back into the key."""

    @property
    def tenant(self) -> str:
        """The tenant that the keys belong to."""

    def unwrap(self, data_key: DataKey) -> bytes:
        """Return the 32-byte key. Raises OpenError: it is damaged; UnreachableError: provider away."""
