"""Signs checkpoints of a trail, and only of one that is what it was at the last checkpoint."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import psycopg

from coatcheck.errors import RefusedError
from coatcheck.keys.notes import SignerKey, VerifierKey
from coatcheck.vault import reading
from coatcheck.vault.chain import BrokenTrailError, Checkpoint, verify
from coatcheck.vault.checkpoints import Notes, origin_of, read_checkpoint, to_text


class Checkpoints:
    """Signs checkpoints of one trail into one place.

    Each time the trail is verified from the last checkpoint there: one that was cut off or rewritten is not signed.
    """

    def __init__(self, signer: SignerKey, notes: Notes) -> None:
        self._signer, self._notes = signer, notes
        self._key: VerifierKey = signer.verifier
        self._origin = origin_of(self._key)
        self._looked = False
        self.last: Checkpoint | None = None
        """The last checkpoint in the place, as far as it is known."""

    def make(self, connection: psycopg.Connection[Any]) -> str | None:
        """Sign the trail as it is now; return where the note is, or None: there is nothing new.

        Raises RefusedError: the trail is broken; NoteError: the last note is not of this key; UnreachableError,
        ConfigError.
        """
        head = reading.head(connection)
        end = head[0] if head else 0
        self._look(end)
        first = max(self.last.seq - 1, 1) if self.last else 1
        try:
            with closing(reading.entries(connection, first if self.last else None)) as found:
                verified = verify(found, [self.last] if self.last else [], first=first, end=end)
        except BrokenTrailError as error:
            raise RefusedError(f"no checkpoint is signed: {error.message}", hint=error.hint) from None
        newest = verified.head
        if newest is None or (self.last and newest.seq == self.last.seq):
            return None
        checkpoint = Checkpoint(self._origin, newest.seq, newest.hash, newest.at_us)
        place = self._notes.add(checkpoint.seq, self._signer.sign(to_text(checkpoint)))
        self.last = checkpoint
        return place

    def _look(self, end: int) -> None:
        if not self._looked:
            found = self._notes.newest(end)
            self.last = read_checkpoint(found[1], self._key, found[0]) if found else None
            self._looked = True
