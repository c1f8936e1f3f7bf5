"""The configuration of a column, and what may go together in one."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from coatcheck.config_section import Section
from coatcheck.pipeline.columns import (
    ADDRESS_LENGTH,
    SEALED_LENGTH,
    TOKEN_LENGTH,
    Column,
    ColumnType,
    Kind,
    Mask,
    Parse,
)

_LENGTHS = {  # the least a varchar must hold, in characters
    Mask.TOKEN: TOKEN_LENGTH,
    Mask.SUBNET: TOKEN_LENGTH,
    Mask.SEAL: SEALED_LENGTH,
    Mask.IPCRYPT_PFX: ADDRESS_LENGTH,
    Mask.SHA256_INSECURE: 64,
    Mask.REDACT: 10,
}
_KEYED = (Mask.TOKEN, Mask.SEAL, Mask.SUBNET, Mask.IPCRYPT_PFX)
_PARSE_KINDS = {
    Parse.IP: {Kind.VARCHAR, Kind.TEXT},
    Parse.TEXT: {Kind.VARCHAR, Kind.TEXT},
    Parse.VERSION: {Kind.INTEGER, Kind.BIGINT},
    Parse.TIMESTAMP: {Kind.DATE, Kind.TIMESTAMPTZ},
}


class ColumnConfig(Section):
    """One column: where its value comes from and what happens to it on the way."""

    from_: str = Field(alias="from", min_length=1, description="field of the message; dots reach into nested objects")
    type: str = Field(
        description="varchar(n), text, integer, bigint, numeric[(p,s)], boolean, date, timestamptz or jsonb"
    )
    required: bool = Field(False, description="an absent or null field is a reject")
    default: str | int | float | bool | None = Field(
        None, description='value of an absent or null field; "sent_at" is the message\'s send time (date, timestamptz)'
    )
    parse: Parse | None = Field(None, description="how the field is read: ip, text, version or timestamp")
    mask: Mask | None = Field(
        None,
        description="token, seal, subnet, ipcrypt-pfx, redact, drop, keep or sha256-insecure; "
        "default: token if a domain is given, else keep",
    )
    domain: str | None = Field(
        None, pattern=r"^[a-z0-9]{1,16}$", description="fields that share a domain share tokens, and can be joined"
    )
    vault: bool | None = Field(
        None, description="keep the originals of tokens, sealed, for an approved reveal; default: true for tokens"
    )
    casefold: bool = Field(False, description="tokens ignore the case of the text")
    strip_chars: str = Field(
        "", max_length=32, pattern=r"^[ !-/:-@\[-`{-~]*$", description="tokens ignore these characters"
    )

    def column(self, name: str) -> Column:
        """Build the column; raises ValueError with what is wrong."""
        kind = ColumnType.from_text(self.type)
        mask = self.mask or (Mask.TOKEN if self.domain else Mask.KEEP)
        sent_at = self.default == "sent_at" and kind.kind in (Kind.DATE, Kind.TIMESTAMPTZ)
        column = Column(
            name=name,
            path=tuple(self.from_.split(".")),
            type=kind,
            required=self.required,
            default=None if sent_at else self.default,
            default_sent_at=sent_at,
            parse=self.parse,
            mask=mask,
            domain=self.domain or "",
            vault=mask is Mask.TOKEN if self.vault is None else self.vault,
            casefold=self.casefold,
            strip_chars=self.strip_chars,
        )
        _check(column)
        return column


def _check(column: Column) -> None:
    kind, mask = column.type, column.mask
    if mask in _KEYED and not column.domain:
        raise ValueError(f'mask = "{mask}" needs a domain (columns that share a domain can be joined)')
    if mask not in _KEYED and column.domain:
        raise ValueError(f"a domain goes with mask = {', '.join(_KEYED)} only")
    if column.vault and mask is not Mask.TOKEN:
        raise ValueError('vault = true goes with mask = "token" only')
    if mask in (Mask.SUBNET, Mask.IPCRYPT_PFX) and column.parse is not Parse.IP:
        raise ValueError(f'mask = "{mask}" goes with parse = "ip"')
    if (column.casefold or column.strip_chars) and (mask not in (Mask.TOKEN, Mask.SEAL) or column.parse is Parse.IP):
        raise ValueError('casefold and strip_chars go with mask = "token" or "seal" of a text only')
    if column.required and (column.default is not None or column.default_sent_at):
        raise ValueError("a required column cannot have a default")
    if mask in _LENGTHS:
        _check_masked(column)
    elif mask is Mask.KEEP and column.parse and kind.kind not in _PARSE_KINDS[column.parse]:
        allowed = " or ".join(sorted(_PARSE_KINDS[column.parse]))
        raise ValueError(f'parse = "{column.parse}" gives {allowed}')
    if column.default is not None and not _fits(column):
        raise ValueError("the default does not fit the type")


def _check_masked(column: Column) -> None:
    if not column.type.textual:
        raise ValueError("a masked column holds text: type varchar(n) or text")
    if column.type.length is not None and column.type.length < _LENGTHS[column.mask]:
        raise ValueError(f"the mask needs varchar({_LENGTHS[column.mask]}) or longer")
    if column.parse not in (None, Parse.IP, Parse.TEXT):
        raise ValueError('a masked column takes parse = "ip" or "text" only')
    if column.default is not None or column.default_sent_at:
        raise ValueError("a masked column cannot have a default")


def _fits(column: Column) -> bool:
    """Whether the default has the type of its column; dates, times and JSON are texts that the stages read."""
    kinds: dict[Kind, tuple[type, ...]] = {
        Kind.INTEGER: (int,), Kind.BIGINT: (int,), Kind.BOOLEAN: (bool,), Kind.NUMERIC: (int, float),
    }  # fmt: skip
    if type(column.default) not in kinds.get(column.type.kind, (str,)):
        return False
    bound = {Kind.INTEGER: 2**31, Kind.BIGINT: 2**63}.get(column.type.kind)
    if bound is not None and isinstance(column.default, int):
        return -bound <= column.default < bound
    return column.type.kind is not Kind.VARCHAR or len(str(column.default)) <= (column.type.length or 0)


def login_columns() -> dict[str, ColumnConfig]:
    """Return the columns of the built-in login pipeline."""
    ip = {"from": "ip", "type": "varchar(256)", "required": True, "parse": "ip", "mask": "token", "domain": "ip"}
    device = {
        "from": "device_id", "type": "varchar(256)", "required": True,
        "parse": "text", "mask": "token", "domain": "device",
    }  # fmt: skip
    columns: dict[str, dict[str, Any]] = {
        "user_id": {"from": "user_id", "type": "varchar(128)", "required": True},
        "device_type": {"from": "device_type", "type": "varchar(32)"},
        "masked_ip": ip,
        "masked_device_id": device,
        "locale": {"from": "locale", "type": "varchar(32)"},
        "app_version": {"from": "app_version", "type": "integer", "parse": "version"},
        "create_date": {"from": "create_date", "type": "date", "default": "sent_at"},
    }
    return {name: ColumnConfig.model_validate(column) for name, column in columns.items()}
