"""Which column of a table takes every value of a configured type."""

from __future__ import annotations

from coatcheck.pipeline.columns import Column, ColumnType, Kind, Mask

_SPELLED = {"character varying": "varchar", "timestamp with time zone": "timestamptz"}
_WIDER = {
    Kind.VARCHAR: {"text", "varchar"},
    Kind.TEXT: {"varchar"},
    Kind.INTEGER: {"bigint", "numeric"},
    Kind.BIGINT: {"numeric"},
    Kind.NUMERIC: {"numeric"},
}
_DIGITS = {Kind.INTEGER: 10, Kind.BIGINT: 19}


def holds(actual: str, column: Column) -> bool:
    """Tell whether a column of type `actual` (as format_type writes it) takes every value of `column`, unchanged."""
    wanted = column.type
    if actual.endswith("[]"):
        return False
    base, _, rest = actual.partition("(")
    base = _SPELLED.get(base.strip(), base.strip())
    if base == "citext":  # compares without case: fine for text, not for tokens
        return wanted.textual and column.mask is Mask.KEEP
    if base != wanted.kind and base not in _WIDER.get(wanted.kind, ()):
        return False
    if base == "numeric":
        return not rest or _holds_digits(rest, wanted)
    length = int(rest.rstrip(")")) if rest and base == "varchar" else None
    return length is None or (wanted.length is not None and length >= wanted.length)


def _holds_digits(modifier: str, wanted: ColumnType) -> bool:
    """Tell whether numeric(`modifier` takes as many digits before and behind the point as `wanted` has."""
    precision, scale = map(int, modifier.rstrip(")").split(","))
    if wanted.kind in _DIGITS:
        return scale >= 0 and precision - scale >= _DIGITS[wanted.kind]
    if wanted.length is None:
        return False
    return scale >= wanted.scale and precision - scale >= wanted.length - wanted.scale
