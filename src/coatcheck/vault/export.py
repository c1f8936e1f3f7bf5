"""The export of the audit trail: one JSON object a line, which `audit verify` and anybody's own program can read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec

from coatcheck.errors import CoatcheckError
from coatcheck.vault.chain import HASH_BYTES, Entry

_Int8 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_encode = json.JSONEncoder(separators=(",", ":")).encode  # ASCII only: the same bytes whatever the locale


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line: `hash` in hex, all else as it is stored."""

    seq: _Int8
    at_us: _Int8
    actor: str
    event: str
    detail: str
    hash: Annotated[str, msgspec.Meta(pattern=rf"\A[0-9a-f]{{{2 * HASH_BYTES}}}\Z")]


_decode = msgspec.json.Decoder(_Line).decode


def to_line(entry: Entry) -> str:
    """Return an entry as a line of the export, without its end."""
    return _encode(entry._asdict() | {"hash": entry.hash.hex()})


def read(lines: Iterable[bytes], name: str) -> Iterator[Entry]:
    """Yield the entries of an export, whose name is `name`. Raises CoatcheckError: a line is no entry."""
    number = 0
    for number, line in enumerate(lines, 1):  # noqa: B007 - told below
        try:
            found = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            break  # raised below, outside: what was caught may quote the line
        yield Entry(found.seq, found.at_us, found.actor, found.event, found.detail, bytes.fromhex(found.hash))
    else:
        return
    raise CoatcheckError(
        f"line {number:,} of {name} is no entry of an audit trail",
        hint="export it with `coatcheck audit list --json`; a line that was cut off ends an export too early",
    )
