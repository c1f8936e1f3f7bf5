"""Words that stand nowhere else, put into messages to be looked for everywhere afterwards."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator

KINDS = ("canary", "2001:db8:")
"""How canaries begin."""


def canary() -> str:
    """Return a new word."""
    return f"canary{secrets.token_hex(8)}"


def forms(word: str) -> Iterator[str]:
    """Yield the ways in which a word may be spelled out: as it is, in hexadecimal, in base64 at any place of it."""
    raw = word.encode()
    yield word
    yield raw.hex()
    for shift in range(3):
        whole = (
            (len(raw) + shift) // 3 * 4
        )  # the last letters of a base64 depend on what follows, the first on what was
        yield base64.b64encode(b"x" * shift + raw).decode()[4 * (shift > 0) : whole]


def nowhere(words: set[str], places: dict[str, str]) -> None:
    """Hold that none of the words is in a place, in any of its forms."""
    for name, text in places.items():
        suspicious = [kind for kind in KINDS if any(form in text for form in forms(kind))]
        for word in words:
            if word.startswith(tuple(suspicious)):
                for form in forms(word):
                    found = text.find(form)
                    assert found < 0, f"{name} holds {form}: ...{text[max(0, found - 200) : found + 100]!r}"
