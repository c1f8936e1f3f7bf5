"""Stage 3: a record becomes the values of a row. Personal data ends here.

A masked column's value goes through its canonical form into a token; what has no canonical form is a reject, never a
raw value. Null stays null.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coatcheck.keys.forms import Form, FormError
from coatcheck.keys.tokens import Tokenizer, sha256_insecure
from coatcheck.pipeline.columns import Column, Mask, Parse
from coatcheck.pipeline.message import Reject, Value
from coatcheck.pipeline.validate import Record

REDACTED = "[redacted]"


def form_of(column: Column) -> Form:
    """Return the canonical form in which a masked column's values are compared."""
    if column.parse is Parse.IP:
        return Form("ip")
    return Form("text", casefold=column.casefold, strip_chars=column.strip_chars)


def _redact(_: object) -> str:
    return REDACTED


def _masking(column: Column, tokenizer: Tokenizer) -> Callable[[object], Value]:
    if column.mask is Mask.TOKEN:
        return tokenizer.for_domain(column.domain, form_of(column))
    return sha256_insecure if column.mask is Mask.SHA256_INSECURE else _redact


def masker(columns: Sequence[Column], tokenizer: Tokenizer) -> Callable[[Record], tuple[Value, ...] | Reject]:
    """Build the mask stage: it takes a record of `columns` and returns the stored columns' values, or the reject."""
    masked = tuple(
        (index, column.name, _masking(column, tokenizer))
        for index, column in enumerate(columns)
        if column.mask not in (Mask.KEEP, Mask.DROP)
    )
    dropped = tuple(index for index, column in reversed(list(enumerate(columns))) if not column.stored)

    def mask(record: Record) -> tuple[Value, ...] | Reject:
        name = ""
        try:
            for index, name, masking in masked:  # noqa: B007 - named in the reject
                value = record[index]
                if value is not None:
                    record[index] = masking(value)
        except FormError as error:
            return Reject(error.reason, name)
        for index in dropped:
            del record[index]
        return tuple(record)

    return mask
