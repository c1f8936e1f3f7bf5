"""Stage 3: a record becomes the values of a row. Personal data ends here.

A masked column's value goes through its canonical form into a token; what has no canonical form is a reject, never a
raw value. Null stays null. The raw values of `vault_columns` go along beside the row, for the vault to seal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from coatcheck.keys.forms import Form, FormError
from coatcheck.keys.tokens import Tokenizer, sha256_insecure
from coatcheck.pipeline.columns import Column, Mask, Parse
from coatcheck.pipeline.message import Reason, Reject, Value
from coatcheck.pipeline.validate import Record

REDACTED = "[redacted]"
Masked = tuple[tuple[Value, ...], tuple[Value, ...]]
"""The stored columns' values, and the raw values of the vault's columns."""


def form_of(column: Column) -> Form:
    """Return the canonical form in which a masked column's values are compared."""
    if column.mask is Mask.SUBNET:
        return Form("subnet")
    if column.parse is Parse.IP:
        return Form("ip")
    return Form("text", casefold=column.casefold, strip_chars=column.strip_chars)


def vault_columns(columns: Sequence[Column], *, rotating: bool) -> tuple[Column, ...]:
    """Return the columns whose raw values the vault is given: those it keeps, and in a rotation all that have a key id.

    The latter for their aliases: the token under the key that retires has to be computed, too.
    """
    return tuple(column for column in columns if column.vault or (rotating and column.scheme))


def _redact(_: object) -> str:
    return REDACTED


def masking(column: Column, tokenizer: Tokenizer, form: Form | None = None) -> Callable[[object], Value]:
    """Return the function raw value -> masked value of a column that is neither kept nor dropped; raises FormError.

    `form` is the canonical form, if it is not the configured one (under a key that retires).
    """
    form = form or form_of(column)
    by_mode: dict[Mask, Callable[[], Callable[[object], Value]]] = {
        Mask.TOKEN: lambda: tokenizer.for_domain(column.domain, form),
        Mask.SUBNET: lambda: tokenizer.for_domain(column.domain, form),
        Mask.SEAL: lambda: _bounded(tokenizer.seal_for(column.domain, form), column.type.length),
        Mask.IPCRYPT_PFX: lambda: tokenizer.prefix_for(column.domain),
        Mask.SHA256_INSECURE: lambda: sha256_insecure,
        Mask.REDACT: lambda: _redact,
    }
    return by_mode[column.mask]()


def _bounded(seal: Callable[[object], str], limit: int | None) -> Callable[[object], Value]:
    if limit is None:
        return seal

    def sealed(value: object) -> str:
        text = seal(value)
        if len(text) > limit:
            raise FormError(Reason.TOO_LONG)
        return text

    return sealed


def masker(
    columns: Sequence[Column], tokenizer: Tokenizer, vaulted: Iterable[Column] = ()
) -> Callable[[Record], Masked | Reject]:
    """Build the mask stage: it takes a record of `columns` and returns what is left of it, or the reject.

    `vaulted` are those of `columns` whose raw values go along.
    """
    masked = tuple(
        (index, column.name, masking(column, tokenizer))
        for index, column in enumerate(columns)
        if column.mask not in (Mask.KEEP, Mask.DROP)
    )
    dropped = tuple(index for index, column in reversed(list(enumerate(columns))) if not column.stored)
    kept = set(vaulted)
    raw = tuple(index for index, column in enumerate(columns) if column in kept)

    def mask(record: Record) -> Masked | Reject:
        originals = tuple([record[index] for index in raw])
        name = ""
        try:
            for index, name, function in masked:  # noqa: B007 - named in the reject
                value = record[index]
                if value is not None:
                    record[index] = function(value)
        except FormError as error:
            return Reject(error.reason, name)
        for index in dropped:
            del record[index]
        return tuple(record), originals

    return mask
