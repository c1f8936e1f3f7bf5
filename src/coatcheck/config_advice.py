"""What `check` says of a configuration that works, but may not do what its author means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from coatcheck.config import Config
from coatcheck.errors import Finding
from coatcheck.pipeline.columns import Column, Kind, Mask, Parse
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


def weak_columns(config: Config) -> Iterator[Finding]:
    """Yield columns whose values anyone can reverse, or that keep addresses in clear."""
    for column in config.plan():
        if column.mask is Mask.SHA256_INSECURE:
            what = f"column {column.name} holds unkeyed hashes: anyone can reverse them by enumeration"
            yield Finding("config", "advice", what, 'use mask = "token"')
        elif column.mask is Mask.KEEP and column.parse is Parse.IP:
            what = f"column {column.name} keeps IP addresses in clear"
            yield Finding("config", "advice", what, "give it a domain to mask it")


_REVERSED = {
    Mask.TOKEN: "tokens; nobody gets an original back, but who holds the token root finds short values by enumeration",
    Mask.SEAL: "sealed text; who holds the token root, every loader among them, opens it",
    Mask.SUBNET: "tokens of networks; who holds the token root finds the network, never the address",
    Mask.IPCRYPT_PFX: "addresses that keep their neighbourhood; who holds the token root decrypts them, and a few "
    "known addresses unmask the networks they are in",
    Mask.REDACT: "one word for every value; nobody gets an original back",
    Mask.SHA256_INSECURE: "unkeyed hashes; anyone finds the original by enumeration",
}


def who_can_reverse(config: Config) -> Iterator[Finding]:
    """Yield of each masked column what it holds, and who gets from that to a value."""
    for column in config.plan():
        text = _REVERSED.get(column.mask)
        if column.vault:
            text = (
                "tokens; the vault's private key opens the original, and who holds the token root finds short values "
                "by enumeration"
            )
        if text:
            yield Finding("config", "note", f"column {column.name} holds {text}")
