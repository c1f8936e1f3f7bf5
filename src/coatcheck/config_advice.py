"""What `check` says of a configuration that works, but may not do what its author means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coatcheck.config import Config
from coatcheck.errors import Finding
from coatcheck.pipeline.columns import Column, Kind, Mask
from coatcheck.pipeline.keying import ledger_field


def findings(config: Config) -> Iterator[Finding]:
    """Yield fields that are masked in one column and kept in another, and a ledger key that no column reads."""
    yield from _kept_and_masked(config.plan())
    yield from _unread_key(config)


def _kept_and_masked(columns: Sequence[Column]) -> Iterator[Finding]:
    """Advise on fields that one column masks and another one keeps in clear, by itself or inside a document."""
    kept = [column for column in columns if column.mask is Mask.KEEP]
    for masked in columns:
        field = ".".join(masked.path)
        for column in kept if masked.mask is not Mask.KEEP else ():
            if column.path == masked.path:
                where = "in clear"
            elif column.type.kind is Kind.JSONB and column.path == masked.path[: len(column.path)]:
                where = "in clear inside a document"
            elif masked.path == column.path[: len(masked.path)]:
                where = "in clear in part"
            else:
                continue
            what = f"column {column.name} keeps the field {field} {where}, and column {masked.name} masks it"
            yield Finding("config", "advice", what, "keep only fields that hold no personal data, or mask both columns")


def _unread_key(config: Config) -> Iterator[Finding]:
    name = ledger_field(config.ledger.key)
    if name and tuple(name.split(".")) not in {column.path for column in config.plan()}:
        what = f"[ledger] key names the field {name}, which no column reads"
        yield Finding("config", "note", what, "check its spelling: a message without this field is a reject")
