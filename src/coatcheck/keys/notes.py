"""Signed notes: text that an Ed25519 key has signed, as C2SP defines them (c2sp.org/signed-note).

    the text, whose last line ends too

    — name of the key base64(key id || signature)

The text is what stands before the last empty line. Other keys may have signed, too; what they say is not looked at.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from coatcheck.errors import CoatcheckError, ConfigError
from coatcheck.keys.derive import KEY_BYTES

_ED25519 = b"\x01"  # signature type
_ID_BYTES = 4
_MOST_SIGNATURES = 100  # at least 16 must be accepted
_NAME = r"[^\s+]+"
_LINE = re.compile(rf"— ({_NAME}) ([A-Za-z0-9+/]+={{0,2}})")
_VERIFIER = re.compile(rf"({_NAME})\+([0-9a-f]{{8}})\+([A-Za-z0-9+/]+={{0,2}})")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NOTE = re.compile(r"(?:[^\n]*\n)+?\n(?:— [^\n]*\n)+")


class NoteError(CoatcheckError):
    """A note is damaged, or not signed by the key that should have signed it."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """The public half: a name without spaces and plus, and 32 bytes."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(name, newline, 0x01, public half)."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:_ID_BYTES]

    @property
    def label(self) -> str:
        """Name and id, as people tell keys apart."""
        return f"{self.name}+{self.key_id.hex()}"

    def to_text(self) -> str:
        """Return the key in one line: name+id+base64(0x01 || public half)."""
        return f"{self.label}+{base64.b64encode(_ED25519 + self.public).decode()}"

    def confirms(self, data: bytes, signature: bytes) -> bool:
        """Tell whether `signature` (64 bytes) is this key's of `data` (RFC 8032)."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def open(self, note: bytes, place: str) -> str:
        """Return the text of a note that this key has signed. Raises NoteError, which tells `place` and no text."""
        text, signatures = _split(note, place)
        mine = [signed for name, key_id, signed in signatures if (name, key_id) == (self.name, self.key_id)]
        if not mine:
            raise NoteError(f"{place} is not signed by the key {self.label}", hint="name the key that it is signed by")
        if not all(self.confirms(text.encode(), signed) for signed in mine):
            raise NoteError(
                f"the signature in {place} does not fit: the note was changed",
                hint="bring it back from where it was copied to",
            )
        return text


def read_verifier(text: str, name: str) -> VerifierKey:
    """Return the key in one line of text, which came from `name`. Raises ConfigError: damaged, or of another kind."""
    match = _VERIFIER.fullmatch(text.strip("\n"))
    data = _decoded(match[3]) if match else b""
    if match and match[1].isprintable() and data[:1] == _ED25519 and len(data) == 1 + KEY_BYTES:  # no lone surrogate
        key = VerifierKey(match[1], data[1:])
        if key.key_id.hex() == match[2]:
            return key
    raise ConfigError(
        f"{name} holds no public key of signed notes", hint="it is one line: name+id+key, as audit-public.txt has it"
    )


@dataclass(frozen=True, slots=True)
class SignerKey:
    """The private half, under the name that stands in its notes."""

    name: str
    private: Ed25519PrivateKey = field(repr=False)

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        return VerifierKey(self.name, self.private.public_key().public_bytes_raw())

    def signature(self, data: bytes) -> bytes:
        """Return this key's signature of `data` (64 bytes, RFC 8032)."""
        return self.private.sign(data)

    def sign(self, text: str) -> bytes:
        """Return the note of `text`, whose last line ends. Raises ValueError: no text that a note may have."""
        if not text.endswith("\n") or _CONTROL.search(text):
            raise ValueError("a note's text ends with a newline and has no other control characters")
        signed = base64.b64encode(self.verifier.key_id + self.signature(text.encode())).decode()
        return f"{text}\n— {self.name} {signed}\n".encode()


def split_notes(data: bytes, place: str) -> list[bytes]:
    """Return the notes that stand one behind the other in `data`, with empty lines between them or without.

    A line that begins as a signature, within a text behind an empty line, would end its note too early: texts of
    checkpoints have none. Raises NoteError: something is no note.
    """
    text = _text(data, place)
    found, end = [], 0
    while match := _NOTE.match(text, end):
        found.append(match[0].lstrip("\n").encode())
        end = match.end()
    if not found or text[end:].strip("\n"):
        raise _no_note(place)
    return found


def _split(note: bytes, place: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """Return text and signatures: name, key id, signature."""
    whole = _text(note, place)
    text, blank, tail = whole.rpartition("\n\n")
    lines = tail.removesuffix("\n").split("\n")
    if not blank or not tail.endswith("\n") or len(lines) > _MOST_SIGNATURES:
        raise _no_note(place)
    return f"{text}\n", [_signature(line, place) for line in lines]


def _signature(line: str, place: str) -> tuple[str, bytes, bytes]:
    match = _LINE.fullmatch(line)
    data = _decoded(match[2]) if match else b""
    if match and len(data) > _ID_BYTES:
        return match[1], data[:_ID_BYTES], data[_ID_BYTES:]
    raise _no_note(place)


def _decoded(text: str) -> bytes:
    """Return what base64 stands for; nothing if it is none, or written in another way than the usual."""
    with suppress(binascii.Error):
        data = base64.b64decode(text, validate=True)
        if base64.b64encode(data).decode() == text:
            return data
    return b""


def _text(note: bytes, place: str) -> str:
    with suppress(UnicodeDecodeError):  # raised below, outside: it holds the note
        text = note.decode()
        if not _CONTROL.search(text):
            return text
    raise _no_note(place)


def _no_note(place: str) -> NoteError:
    return NoteError(f"{place} is no signed note", hint="a note is text, an empty line and signature lines, in UTF-8")
