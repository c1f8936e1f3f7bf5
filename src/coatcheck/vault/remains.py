"""What an erasure leaves, said plainly: nobody should believe that more is gone than is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from coatcheck.pipeline.columns import Column, Mask
from coatcheck.vault.erase import Epoch, Erased


@dataclass(frozen=True, slots=True)
class Remainder:
    """One thing that is left: what, what to do about it, and how many where that is known."""

    what: str
    todo: str
    count: int | None = None


_COPIES = (
    Remainder(
        "messages on the queue or among its dead letters, and those that come again, are loaded as before",
        "stop them at their producer; erase again when the queue has run empty",
    ),
    Remainder("copies and exports that analysts have made", "ask whoever may read the table; erase there, too"),
)
BACKUPS = Remainder(
    "backups and archived WAL, which have all of it until they expire; who holds the token root can compute the token "
    "of a value that he guesses, and find it there",
    "let them expire, and erase again after a restore",
)
_UNTOUCHED = {
    Mask.KEEP: ("keeps the field in clear", "update these rows by hand"),
    Mask.TOKEN: (
        "has tokens of the field in another domain",
        "erase the value there, too: --value - --domain {domain}",
    ),
    Mask.SEAL: ("has the field as sealed text", "erase it by its value: --value - --domain {domain}"),
    Mask.SUBNET: ("has the network of the address", "erase the network's own token, for all that are in it"),
    Mask.IPCRYPT_PFX: ("has the address under ipcrypt-pfx", "update these rows by hand"),
    Mask.SHA256_INSECURE: ("has the unkeyed hash of the value", "update these rows by hand"),
}
_NO_TOMBSTONE = (Mask.IPCRYPT_PFX, Mask.SHA256_INSECURE)


def after_any(held: int, *, rotating: bool) -> Iterator[Remainder]:
    """Yield what is left of every kind of erasure."""
    yield BACKUPS
    if held:
        yield Remainder(
            f"{held:,} quarantined messages, sealed and not searched",
            "retry or discard them: `coatcheck quarantine list`",
            held,
        )
    yield from _COPIES
    if rotating:
        yield Remainder(
            "a rotation of the token key is under way: what `coatcheck keys retokenize` may have in hand, and other "
            "spellings under the old key that the new one takes for the same value",
            "run this again when it has ended",
        )


def after_texts(tables: Mapping[str, Sequence[Column]], prefixes: Collection[str], done: Erased) -> Iterator[Remainder]:
    """Yield what is left of a value, and of the rows. `prefixes` begin the texts that were erased (pt1_ip_).

    `tables` are all stored columns by table: of each table those are told that are filled from a field of which
    another column held such a text.
    """
    for table, columns in tables.items():
        touched = [column for column in columns if f"{column.scheme}_{column.domain}_" in prefixes]
        paths = {column.path for column in touched}
        where = f" of {table}" if len(tables) > 1 else ""
        for column in columns:
            if column.path in paths and column not in touched and column.mask in _UNTOUCHED:
                text, todo = _UNTOUCHED[column.mask]
                yield Remainder(f"column {column.name}{where}, which {text}", todo.format(domain=column.domain))
    yield Remainder("the rows themselves, with all that stands in other columns", "delete them by hand if they must go")
    yield from _late(done)


def after_subject(
    columns: Sequence[Column], rows: int, filled: Mapping[str, int], done: Erased, others: Sequence[str] = ()
) -> Iterator[Remainder]:
    """Yield what is left of a subject: their rows, how many are filled in columns without tombstones, what they share.

    `others` are tables that may have rows of the same person and were not looked at.
    """
    weak = {column.name for column in columns if column.mask in _NO_TOMBSTONE}
    kept = ", ".join(f"{name} {count:,}" for name, count in filled.items() if count and name not in weak)
    if rows:
        yield Remainder(
            f"{rows:,} rows with what is not masked: {kept}", "delete or update them by hand if that must go", rows
        )
    for name, count in filled.items():
        if count and name in weak:
            yield Remainder(
                f"column {name}, whose mask has no tombstones, in {count:,} rows", "update these rows by hand", count
            )
    if done.shared:
        where = f" in {', '.join(done.shared_in)}" if others and done.shared_in else ""
        yield Remainder(
            f"{done.shared:,} tokens or networks that rows of others have as well{where}, there and in the vault",
            "erase the value itself, for all: --value",
            done.shared,
        )
    if others:
        yield Remainder(
            f"rows of the same person in {', '.join(others)}, which were not looked at",
            "erase there, too: --where with --pipeline",
        )
    yield Remainder(
        "originals of rows that were deleted earlier: nothing tells any more whose they were",
        "erase them by value, or with their epoch",
    )
    yield from _late(done)


def _late(done: Erased) -> Iterator[Remainder]:
    if done.late:
        yield Remainder(
            f"rows that were loaded meanwhile, {done.late:,} at the last look",
            "run this again when loaders have caught up",
            done.late,
        )


def after_epoch(ended: Epoch, todo: str) -> Iterator[Remainder]:
    """Yield what is left of an epoch; `todo` says how the keys that open its backups are destroyed."""
    yield Remainder("all rows with their tokens", "erase by value or by subject to take those away")
    yield Remainder(
        "the originals that were kept again in a later epoch, as they are in use", "erase later epochs, too"
    )
    if ended.keks:
        yield Remainder(
            f"backups, which open with {', '.join(ended.keks)} until that is destroyed: the data keys lie in them", todo
        )
    if ended.young:
        yield Remainder(
            f"{ended.young:,} data keys younger than two days, which a loader may still hold",
            "they go when an epoch is erased after that",
            ended.young,
        )
