"""Checkpoints of the audit trail as signed notes, and what a place that keeps them has to do.

The text of a note has four lines: origin (`coatcheck/audit/v1 <tenant>`), number of the trail's last entry, its hash in
base64, its time in microseconds since 1970. One trail and one key make the same note each time.
"""

from __future__ import annotations

import base64
import binascii
import re
from contextlib import suppress
from typing import Protocol

from coatcheck.errors import CoatcheckError, RefusedError
from coatcheck.keys.audit_key import tenant_of
from coatcheck.keys.notes import VerifierKey
from coatcheck.vault.chain import HASH_BYTES, Checkpoint

NOTE_LIMIT = 64 * 1024
"""Bytes that a note has at most; ours has 300."""

_DIGITS = 19  # of the largest number, so that names sort as numbers do
_NAME = re.compile(rf"([0-9]{{{_DIGITS}}})\.note")
_TEXT = re.compile(r"([^\n]+)\n([1-9][0-9]{0,18})\n([A-Za-z0-9+/=]{44})\n(-?[0-9]{1,19})\n")


class Notes(Protocol):
    """A place where notes are kept."""

    def newest(self, head: int) -> tuple[str, bytes] | None:
        """Return where the newest note is, and what it says; `head` is about its number. None: there is none.

        Raises UnreachableError, ConfigError; NoteError: what is there is no note.
        """

    def add(self, seq: int, note: bytes) -> str:
        """Keep the note of entry `seq`; return where. Never overwrites: the same note again changes nothing.

        Raises UnreachableError, ConfigError; RefusedError: another note is there.
        """


def origin_of(key: VerifierKey) -> str:
    """Return the first line of notes about the trail that `key` signs. Raises ConfigError: it signs none."""
    return f"coatcheck/audit/v1 {tenant_of(key)}"


def to_text(checkpoint: Checkpoint) -> str:
    """Return the text that is signed."""
    encoded = base64.b64encode(checkpoint.hash).decode()
    return f"{checkpoint.origin}\n{checkpoint.seq}\n{encoded}\n{checkpoint.at_us}\n"


def read_checkpoint(note: bytes, key: VerifierKey, place: str) -> Checkpoint:
    """Return what a note says that `key` has signed.

    Raises NoteError: it has not, or that is no note; CoatcheckError: it is about something else than the key's trail.
    """
    match = _TEXT.fullmatch(key.open(note, place))
    with suppress(binascii.Error):
        if match and match[1] == origin_of(key):
            found = Checkpoint(match[1], int(match[2]), base64.b64decode(match[3], validate=True), int(match[4]))
            if len(found.hash) == HASH_BYTES and to_text(found) == match[0]:
                return found
    raise CoatcheckError(f"{place} is no checkpoint of the trail of {key.name}", hint="name its own key with --key")


def note_name(seq: int) -> str:
    """Return the file name of the note of an entry; names sort as numbers do."""
    return f"{seq:0{_DIGITS}d}.note"


def is_note_name(name: str) -> bool:
    """Tell whether a file of this name is a note."""
    return _NAME.fullmatch(name) is not None


def other_note(place: str) -> RefusedError:
    """Return the error for a note that is there already, and another."""
    return RefusedError(
        f"{place} exists and is another checkpoint",
        hint="two trails go to one place, or the trail was rewritten: see `coatcheck audit verify --checkpoint`",
    )
