"""What a column is: where its value comes from, its type, and what happens to it on the way.

Pure values, shared by the configuration (which builds them), the stages (which obey them) and the sink (which writes
them). The grammar of types and paths lives here and nowhere else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_TYPE = re.compile(r"(?P<kind>[a-z]+)(?:\((?P<length>[1-9][0-9]{0,7})(?:, *(?P<scale>[0-9]{1,4}))?\))?")
_NUMERIC_MOST = 1000  # digits; PostgreSQL's own limit
_VARCHAR_MOST = 10_485_760  # PostgreSQL's own limit
TOKEN_LENGTH = 69
"""The longest token there is, in characters: `pt1_` + domain 16 + `_` + key id 7 + `_` + 40."""
SEALED_LENGTH = 93
"""The longest sealed text of up to 28 bytes, in characters; 32 bytes more make it 43 longer (see `keys.siv`)."""
ADDRESS_LENGTH = 39
"""The longest IPv6 address, in characters."""


class Kind(StrEnum):
    """The column types that coatcheck writes; the value is PostgreSQL's own name."""

    VARCHAR = "varchar"
    TEXT = "text"
    INTEGER = "integer"
    BIGINT = "bigint"
    NUMERIC = "numeric"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMPTZ = "timestamptz"
    JSONB = "jsonb"


class Parse(StrEnum):
    """How a field is read before it is stored or masked."""

    IP = "ip"
    TEXT = "text"
    VERSION = "version"
    TIMESTAMP = "timestamp"


class Mask(StrEnum):
    """What happens to a field's value at the door."""

    TOKEN = "token"  # noqa: S105 - the name of a mask mode
    SEAL = "seal"
    SUBNET = "subnet"
    IPCRYPT_PFX = "ipcrypt-pfx"
    REDACT = "redact"
    DROP = "drop"
    KEEP = "keep"
    SHA256_INSECURE = "sha256-insecure"


_SCHEMES = {Mask.TOKEN: "pt1", Mask.SUBNET: "pt1", Mask.SEAL: "ps1"}


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A PostgreSQL type: its kind, for varchar its length in characters, for numeric perhaps its digits and scale."""

    kind: Kind
    length: int | None = None
    scale: int = 0

    @classmethod
    def from_text(cls, text: str) -> ColumnType:
        """Read `varchar(128)`, `numeric(10, 2)`, `integer`, ...; raises ValueError for anything else."""
        match = _TYPE.fullmatch(text.strip().lower())
        if match is None or match["kind"] not in set(Kind):
            raise ValueError(f"unknown type: one of {', '.join(Kind)} (varchar takes a length)")
        kind, length, scale = Kind(match["kind"]), int(match["length"] or 0), int(match["scale"] or 0)
        if kind is Kind.VARCHAR and not (length and match["scale"] is None):
            raise ValueError("varchar takes a length, as in varchar(128)")
        if length and kind not in (Kind.VARCHAR, Kind.NUMERIC):
            raise ValueError("only varchar and numeric take a length")
        if length > (_VARCHAR_MOST if kind is Kind.VARCHAR else _NUMERIC_MOST) or scale > length:
            raise ValueError(f"varchar takes {_VARCHAR_MOST} characters at most, numeric {_NUMERIC_MOST} digits")
        return cls(kind, length or None, scale)

    @property
    def sql(self) -> str:
        """The type as PostgreSQL's DDL writes it."""
        if self.length and self.kind is Kind.NUMERIC:
            return f"numeric({self.length},{self.scale})"
        return f"{self.kind}({self.length})" if self.length else str(self.kind)

    @property
    def textual(self) -> bool:
        """Whether the column holds text, which every mask mode but `keep` and `drop` needs."""
        return self.kind in (Kind.VARCHAR, Kind.TEXT)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the target table and the field it is filled from.

    `path` is the field's name, split at the dots (`a.b.c` reads `{"a": {"b": {"c": ...}}}`). `default` fills an absent
    or null field; with `default_sent_at` that is the message's send time (UTC). With `vault` the originals of tokens
    are kept, sealed.
    """

    name: str
    path: tuple[str, ...]
    type: ColumnType
    required: bool = False
    default: str | int | float | bool | None = None
    default_sent_at: bool = False
    parse: Parse | None = None
    mask: Mask = Mask.KEEP
    domain: str = ""
    vault: bool = False
    casefold: bool = False
    strip_chars: str = ""

    @property
    def scheme(self) -> str:
        """The scheme of its texts ("pt1", "ps1") if they are made under a key id, else nothing."""
        return _SCHEMES.get(self.mask, "")

    @property
    def stored(self) -> bool:
        """Whether the target table has this column (a dropped one is checked, then forgotten)."""
        return self.mask is not Mask.DROP
