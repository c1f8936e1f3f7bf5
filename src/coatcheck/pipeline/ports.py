"""What the runner asks of its two ends. `sources/` and `sinks/` hold the implementations, one file each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from coatcheck.pipeline.message import NO_TRACE, Batch, DataKey, Depth, Message, Outcome, Sealed, Trace

Tracer = Callable[[Message], Trace]
"""Begins the trace of a batch, whose first message it is given."""


def untraced(first: Message) -> Trace:  # noqa: ARG001 - it is a Tracer
    """Tell nobody anything of a batch."""
    return NO_TRACE


class Source(Protocol):
    """A queue. From `receive` until `ack` or `release` a message is in flight and the source keeps it invisible."""

    @property
    def visibility_s(self) -> float:
        """After how many seconds a message in flight becomes visible again; known once `start` has returned."""

    @property
    def found_empty(self) -> bool:
        """Whether a receive has come back empty that was begun after the last message came: counts alone may lag."""

    async def start(self) -> None:
        """Verify the queue and begin to receive. Raises UnreachableError."""

    async def receive(self, timeout: float) -> list[Message]:
        """Return the messages that have arrived; an empty list if none came within `timeout` seconds.

        Cancelling it loses no message.
        """

    async def ack(self, messages: Sequence[Message]) -> int:
        """Delete messages whose effect is committed; return how many could not be (they will come again)."""

    async def release(self, messages: Sequence[Message]) -> None:
        """Give messages back at once, unprocessed."""

    async def depth(self) -> Depth:
        """Ask how many messages the queue holds."""

    async def dead_letters(self) -> int | None:
        """Ask how many messages the queue has given up on; None: it keeps none, or may not be asked."""

    async def quiesce(self) -> None:
        """Stop receiving; messages already handed over by the queue still come out of `receive`."""

    async def close(self) -> None:
        """Release what was received but not taken, and close connections."""


class Sink(Protocol):
    """Where rows go. `write` is one transaction: the ledger decides what is new, everything else follows it."""

    async def open(self) -> None:
        """Connect and verify the schema. Raises UnreachableError, ConfigError."""

    async def write(self, batch: Batch) -> Outcome:
        """Write a batch and commit. Retries what may succeed later; raises what cannot (CoatcheckError)."""

    def abort(self) -> None:
        """Give up what is under way, at once: what was not committed has not happened."""

    async def close(self) -> None:
        """Close connections."""


class Vault(Protocol):
    """Keeps the originals of tokens, sealed. It rides on the batch: the sink's transaction stores what it adds."""

    @property
    def seals_each(self) -> int:
        """How many values it seals for one row at most."""

    def keep(self, batch: Batch) -> None:
        """Add to a batch the entries and aliases of its rows that this process has not stored yet."""

    def stored(self, batch: Batch, erasures: int = 0) -> None:
        """Take note that the batch with what `keep` added has been committed as a whole, after so many erasures."""

    def missed(self, batch: Batch, erasures: int) -> bool:
        """Tell whether erasures up to the commit may have taken what `keep` left out: then the rows are kept again."""


class BodySealer(Protocol):
    """Seals bodies on the road; it cannot open them."""

    async def ready(self, values: int) -> None:
        """Wait until the next `values` seals need no key service. Raises UnreachableError, ConfigError."""

    def seal(self, plaintext: bytes, *context: bytes) -> Sealed:
        """Seal `plaintext`, bound to `context` as associated data."""

    def seal_many(self, plaintexts: Sequence[bytes], contexts: Sequence[bytes]) -> list[Sealed]:
        """Seal many values, each bound to a context that is framed already (`keys.derive.lp`)."""

    def data_key(self, dek_id: bytes) -> DataKey:
        """Return the stored half of the data key `dek_id`."""
