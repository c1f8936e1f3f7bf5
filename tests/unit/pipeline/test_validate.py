"""Stage 2: what each column takes, what it stores, and for which reason it refuses; always with the column's name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.builders import LOGIN_COLUMNS, SENT_MS, a_column, label

from coatcheck.pipeline.columns import Column, ColumnType, Kind, Mask, Parse
from coatcheck.pipeline.decode import decoder
from coatcheck.pipeline.message import UNKNOWN_MS, Reason, Reject
from coatcheck.pipeline.validate import foreign, storable, validator, version_code

DAY_MS = 86_400_000
LONE = "\ud800"
UTC_PLUS_14 = timezone(timedelta(hours=14))


def stored(column: Column, value: Any, sent_ms: int = SENT_MS) -> Any:
    """What the column stores of the field `f`, or the reason of the reject, which must name the column."""
    result = validator([column])({"f": value}, sent_ms)
    if isinstance(result, Reject):
        assert result.detail == column.name
        return result.reason
    (kept,) = result
    return kept


def check(column: Column, value: Any, expected: object) -> None:
    found = stored(column, value)
    assert (type(found), found) == (type(expected), expected)


# -- text

TEXTS: list[tuple[str, Any, object]] = [
    ("text", "", ""),
    ("text", " padded ", " padded "),
    ("text", "a" * 100_000, "a" * 100_000),
    ("text", "None", "None"),
    ("text", "\x01\x7f\uffff\U0010ffff", "\x01\x7f\uffff\U0010ffff"),
    ("text", "a\0b", Reason.INVALID_TEXT),
    ("text", LONE, Reason.INVALID_TEXT),
    ("text", "ä\udfff", Reason.INVALID_TEXT),
    ("text", 1, Reason.WRONG_TYPE),
    ("text", 1.5, Reason.WRONG_TYPE),
    ("text", True, Reason.WRONG_TYPE),
    ("text", ["a"], Reason.WRONG_TYPE),
    ("text", {"a": 1}, Reason.WRONG_TYPE),
    ("varchar(3)", "abc", "abc"),
    ("varchar(3)", "abcd", Reason.TOO_LONG),
    ("varchar(3)", "abc ", Reason.TOO_LONG),
    ("varchar(3)", "äöü", "äöü"),
    ("varchar(3)", "\U0001f600" * 3, "\U0001f600" * 3),
    ("varchar(3)", "\U0001f600" * 4, Reason.TOO_LONG),
    ("varchar(3)", "e\u0301e\u0301", Reason.TOO_LONG),
    ("varchar(3)", "\0", Reason.INVALID_TEXT),
]


@pytest.mark.parametrize(("type_", "value", "expected"), TEXTS, ids=label)
def test_text(type_: str, value: Any, expected: object) -> None:
    check(a_column(type_), value, expected)


READ_AS_TEXT: list[tuple[str, Any, object]] = [
    ("text", "x", "x"),
    ("text", 7, "7"),
    ("text", -(2**70), str(-(2**70))),
    ("text", 10**1000 - 1, "9" * 1000),
    ("text", 10**1000, Reason.OUT_OF_RANGE),
    ("text", -(10**5000), Reason.OUT_OF_RANGE),
    ("varchar(3)", 999, "999"),
    ("varchar(3)", 1000, Reason.TOO_LONG),
    ("text", True, Reason.WRONG_TYPE),
    ("text", 1.5, Reason.WRONG_TYPE),
    ("text", Decimal("1.5"), Reason.WRONG_TYPE),
    ("text", [], Reason.WRONG_TYPE),
    ("text", "\0", Reason.INVALID_TEXT),
]


@pytest.mark.parametrize(("type_", "value", "expected"), READ_AS_TEXT, ids=label)
def test_parse_text_takes_whole_numbers_too(type_: str, value: Any, expected: object) -> None:
    check(a_column(type_, parse=Parse.TEXT), value, expected)


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_storable_is_what_utf8_without_nul_holds(text: str) -> None:
    encoded = text.encode("utf-8", "surrogatepass")
    assert storable(text) is (b"\0" not in encoded and encoded.decode("utf-8", "ignore") == text)


# -- numbers

NUMBERS: list[tuple[str, Any, object]] = [
    ("integer", 0, 0),
    ("integer", 2**31 - 1, 2**31 - 1),
    ("integer", 2**31, Reason.OUT_OF_RANGE),
    ("integer", -(2**31), -(2**31)),
    ("integer", -(2**31) - 1, Reason.OUT_OF_RANGE),
    ("integer", True, Reason.WRONG_TYPE),
    ("integer", False, Reason.WRONG_TYPE),
    ("integer", 1.0, Reason.WRONG_TYPE),
    ("integer", Decimal(1), Reason.WRONG_TYPE),
    ("integer", "1", Reason.WRONG_TYPE),
    ("integer", [1], Reason.WRONG_TYPE),
    ("bigint", 2**63 - 1, 2**63 - 1),
    ("bigint", 2**63, Reason.OUT_OF_RANGE),
    ("bigint", -(2**63), -(2**63)),
    ("bigint", -(2**63) - 1, Reason.OUT_OF_RANGE),
    ("bigint", True, Reason.WRONG_TYPE),
    ("numeric", 5, "5"),
    ("numeric", 10**1000 - 1, "9" * 1000),
    ("numeric", 10**1000, Reason.OUT_OF_RANGE),
    ("numeric", 0.1, "0.1"),
    ("numeric", 1e300, "1E+300"),
    ("numeric", float("inf"), Reason.OUT_OF_RANGE),
    ("numeric", float("nan"), Reason.OUT_OF_RANGE),
    ("numeric", Decimal("0.10"), "0.10"),
    ("numeric", Decimal("-0.0"), "-0.0"),
    ("numeric", Decimal("1e1000"), "1E+1000"),
    ("numeric", Decimal("1e1001"), Reason.OUT_OF_RANGE),
    ("numeric", Decimal("1e-1000"), "1E-1000"),
    ("numeric", Decimal("1e-1001"), Reason.OUT_OF_RANGE),
    ("numeric", Decimal("0." + "1" * 1000), "0." + "1" * 1000),
    ("numeric", Decimal("0." + "1" * 1001), Reason.OUT_OF_RANGE),
    ("numeric", Decimal("NaN"), Reason.OUT_OF_RANGE),
    ("numeric", Decimal("-Infinity"), Reason.OUT_OF_RANGE),
    ("numeric", True, Reason.WRONG_TYPE),
    ("numeric", "1", Reason.WRONG_TYPE),
    ("boolean", True, True),
    ("boolean", False, False),
    ("boolean", 1, Reason.WRONG_TYPE),
    ("boolean", 0, Reason.WRONG_TYPE),
    ("boolean", "true", Reason.WRONG_TYPE),
]


@pytest.mark.parametrize(("type_", "value", "expected"), NUMBERS, ids=label)
def test_numbers_and_booleans(type_: str, value: Any, expected: object) -> None:
    check(a_column(type_), value, expected)


# -- dates and times

MOMENTS: list[tuple[Any, object]] = [
    ("2024-02-29T12:30:45Z", datetime(2024, 2, 29, 12, 30, 45, tzinfo=UTC)),
    ("2024-02-29T23:30:00-05:00", datetime(2024, 3, 1, 4, 30, tzinfo=UTC)),
    ("2024-02-29 12:30:45.123456+00:00", datetime(2024, 2, 29, 12, 30, 45, 123456, tzinfo=UTC)),
    ("2024-02-29T12:30:45.123Z", datetime(2024, 2, 29, 12, 30, 45, 123000, tzinfo=UTC)),
    ("2024-02-29T12:30:45", Reason.NOT_A_TIMESTAMP),
    ("2024-02-29", Reason.NOT_A_TIMESTAMP),
    ("2023-02-29T12:30:45Z", Reason.NOT_A_TIMESTAMP),
    ("2024-02-29T12:30:60Z", Reason.NOT_A_TIMESTAMP),
    ("2024-02-29T12:30:45+99:00", Reason.NOT_A_TIMESTAMP),
    ("0001-01-01T00:00:00+01:00", Reason.NOT_A_TIMESTAMP),
    ("9999-12-31T23:59:59-01:00", Reason.NOT_A_TIMESTAMP),
    ("", Reason.NOT_A_TIMESTAMP),
    ("now", Reason.NOT_A_TIMESTAMP),
    ("\u0662\u0660\u0662\u0664-02-29T12:30:45Z", Reason.NOT_A_TIMESTAMP),
    (f"2024-02-29T12:30:45Z{LONE}", Reason.NOT_A_TIMESTAMP),
    (f"2024-02-29{LONE}12:30:45", Reason.NOT_A_TIMESTAMP),
    ("2024-02-29\0T12:30:45Z", Reason.NOT_A_TIMESTAMP),
]
SECOND = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
EPOCHS: list[tuple[Any, object]] = [
    (0, datetime(1970, 1, 1, tzinfo=UTC)),
    (1_700_000_000, SECOND),
    (1_700_000_000.25, SECOND.replace(microsecond=250_000)),
    (Decimal("1700000000.25"), SECOND.replace(microsecond=250_000)),
    (1_700_000_000_000, SECOND),
    (1_700_000_000_123, SECOND.replace(microsecond=123_000)),
    (Decimal(1_700_000_000_123), SECOND.replace(microsecond=123_000)),
    (253_402_300_799, LAST),
    (253_402_300_800, datetime(1978, 1, 11, 21, 31, 40, 800_000, tzinfo=UTC)),
    (253_402_300_799_000, LAST),
    (253_402_300_800_000, Reason.NOT_A_TIMESTAMP),
    (Decimal("253402300799.9999999999"), Reason.NOT_A_TIMESTAMP),
    (Decimal("253402300799999.9999999999"), Reason.NOT_A_TIMESTAMP),
    (2**70, Reason.NOT_A_TIMESTAMP),
    (10**4000, Reason.NOT_A_TIMESTAMP),
    (Decimal("1e999"), Reason.NOT_A_TIMESTAMP),
    (-1, Reason.NOT_A_TIMESTAMP),
    (Decimal("-0.1"), Reason.NOT_A_TIMESTAMP),
    (float("inf"), Reason.NOT_A_TIMESTAMP),
    (float("nan"), Reason.NOT_A_TIMESTAMP),
]
NO_TIMES: list[tuple[Any, object]] = [(True, Reason.WRONG_TYPE), ([], Reason.WRONG_TYPE), ({}, Reason.WRONG_TYPE)]


@pytest.mark.parametrize(("value", "expected"), MOMENTS + NO_TIMES + [(1_700_000_000, Reason.WRONG_TYPE)], ids=label)
def test_timestamptz(value: Any, expected: object) -> None:
    check(a_column("timestamptz"), value, expected)


@pytest.mark.parametrize(("value", "expected"), MOMENTS + EPOCHS + NO_TIMES, ids=label)
def test_parse_timestamp_takes_epochs_too(value: Any, expected: object) -> None:
    check(a_column("timestamptz", parse=Parse.TIMESTAMP), value, expected)


@pytest.mark.parametrize(("value", "expected"), MOMENTS + EPOCHS + NO_TIMES, ids=label)
def test_parse_timestamp_into_a_date_is_the_utc_day(value: Any, expected: object) -> None:
    day = expected.date() if isinstance(expected, datetime) else expected
    check(a_column("date", parse=Parse.TIMESTAMP), value, day)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-02-29", date(2024, 2, 29)),
        ("0001-01-01", date(1, 1, 1)),
        ("9999-12-31", date(9999, 12, 31)),
        ("2023-02-29", Reason.NOT_A_TIMESTAMP),
        ("2024-02-29T00:00:00Z", Reason.NOT_A_TIMESTAMP),
        ("29.02.2024", Reason.NOT_A_TIMESTAMP),
        ("infinity", Reason.NOT_A_TIMESTAMP),
        ("", Reason.NOT_A_TIMESTAMP),
        (LONE * 10, Reason.NOT_A_TIMESTAMP),
        (1_700_000_000, Reason.WRONG_TYPE),
        (True, Reason.WRONG_TYPE),
    ],
    ids=label,
)
def test_date(value: Any, expected: object) -> None:
    check(a_column("date"), value, expected)


@settings(deadline=None)
@given(st.decimals(allow_nan=False) | st.floats() | st.integers() | st.text(st.characters(exclude_categories=())))
def test_no_time_is_too_odd(value: Any) -> None:
    for type_ in ("date", "timestamptz"):
        found = stored(a_column(type_, parse=Parse.TIMESTAMP), value)
        assert type(found) in (Reason, date if type_ == "date" else datetime)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_moment_comes_through_as_it_was_written(moment: datetime) -> None:
    column = a_column("timestamptz")
    assert stored(column, moment.isoformat()) == moment
    if datetime(2, 1, 1, tzinfo=UTC) < moment < datetime(9998, 1, 1, tzinfo=UTC):
        elsewhere = stored(column, moment.astimezone(UTC_PLUS_14).isoformat())
        assert elsewhere == moment
        assert elsewhere.tzinfo is UTC


# -- addresses

ADDRESSES: list[tuple[Any, object]] = [
    ("199.172.111.135", "199.172.111.135"),
    (" 10.0.0.1\n", "10.0.0.1"),
    ("224.0.0.1", "224.0.0.1"),
    ("255.255.255.255", "255.255.255.255"),
    ("0.0.0.0", "0.0.0.0"),  # noqa: S104 - an address to store, nothing is bound
    ("::ffff:10.0.0.1", "10.0.0.1"),
    ("2001:DB8:0:0::1", "2001:db8::1"),
    ("::", "::"),
    ("10.0.0.256", Reason.NOT_AN_IP),
    ("10.0.0.01", Reason.NOT_AN_IP),
    ("10.0.0.1:80", Reason.NOT_AN_IP),
    ("10.0.0.0/8", Reason.NOT_AN_IP),
    ("fe80::1%eth0", Reason.NOT_AN_IP),
    ("localhost", Reason.NOT_AN_IP),
    (LONE, Reason.NOT_AN_IP),
    ("10.0.0.1\0", Reason.NOT_AN_IP),
    ("", Reason.EMPTY_VALUE),
    ("  ", Reason.EMPTY_VALUE),
    (167772161, Reason.WRONG_TYPE),
    (True, Reason.WRONG_TYPE),
    (["10.0.0.1"], Reason.WRONG_TYPE),
]


@pytest.mark.parametrize(("value", "expected"), ADDRESSES, ids=label)
def test_parse_ip_stores_the_canonical_spelling(value: Any, expected: object) -> None:
    check(a_column("text", parse=Parse.IP), value, expected)
    check(a_column("varchar(15)", parse=Parse.IP), value, expected)


def test_parse_ip_keeps_to_the_length_of_its_column() -> None:
    check(a_column("varchar(8)", parse=Parse.IP), "10.0.0.1", "10.0.0.1")
    check(a_column("varchar(8)", parse=Parse.IP), "10.0.0.12", Reason.TOO_LONG)
    check(a_column("varchar(8)", parse=Parse.IP), "0:0:0:0:0:0:0:1", "::1")


# -- versions

VERSIONS: list[tuple[Any, object]] = [
    ("2.3.0", 2_003_000),
    ("0.0.1", 1),
    ("0.0", 0),
    ("10.20.30", 10_020_030),
    ("0.999.999", 999_999),
    ("999.999.999", 999_999_999),
    ("2147.483.647", 2**31 - 1),
    ("2147.483.648", Reason.NOT_A_VERSION),
    ("9999.0.0", Reason.NOT_A_VERSION),
    ("1.1000.0", Reason.NOT_A_VERSION),
    ("1.0.1000", Reason.NOT_A_VERSION),
    ("1.0.0999", Reason.NOT_A_VERSION),
    ("10000.0.0", Reason.NOT_A_VERSION),
    ("1", Reason.NOT_A_VERSION),
    ("1.2.3.4", Reason.NOT_A_VERSION),
    ("1.2.3.", Reason.NOT_A_VERSION),
    ("1..3", Reason.NOT_A_VERSION),
    (".1.2", Reason.NOT_A_VERSION),
    ("1.2-beta", Reason.NOT_A_VERSION),
    ("1.2.3+5", Reason.NOT_A_VERSION),
    ("1.2.3rc1", Reason.NOT_A_VERSION),
    ("v1.2.3", Reason.NOT_A_VERSION),
    ("-1.2", Reason.NOT_A_VERSION),
    ("+1.2", Reason.NOT_A_VERSION),
    (" 1.2", Reason.NOT_A_VERSION),
    ("1.2\n", Reason.NOT_A_VERSION),
    ("1,2", Reason.NOT_A_VERSION),
    ("1_0.2", Reason.NOT_A_VERSION),
    ("\u0661.\u0662", Reason.NOT_A_VERSION),
    ("\u00b2.3", Reason.NOT_A_VERSION),
    ("", Reason.NOT_A_VERSION),
    (LONE, Reason.NOT_A_VERSION),
    ("9" * 100_000, Reason.NOT_A_VERSION),
    (2.3, Reason.WRONG_TYPE),
    (Decimal("2.3"), Reason.WRONG_TYPE),
    (2, Reason.WRONG_TYPE),
    (True, Reason.WRONG_TYPE),
    ([2, 3], Reason.WRONG_TYPE),
]


@pytest.mark.parametrize(("value", "expected"), VERSIONS, ids=label)
@pytest.mark.parametrize("type_", ["integer", "bigint"])
def test_parse_version(type_: str, value: Any, expected: object) -> None:
    check(a_column(type_, parse=Parse.VERSION), value, expected)


def test_one_version_has_one_code_however_it_is_spelled() -> None:
    """The code is of the version (design 5: major, minor, patch as numbers), not of its spelling.

    A missing patch part is 0 and leading zeros of a number mean nothing, so 2.3, 2.3.0 and 2.03 are one version; that
    is how 96 version texts of the real logins make 94 codes. What differs as numbers never shares a code.
    """
    assert {version_code(text) for text in ("2.3", "2.3.0", "2.03", "2.03.0", "02.3", "2.003.000")} == {2_003_000}
    assert len({version_code(text) for text in ("2.3", "2.30", "23.0", "0.23", "2.0.3", "0.2.3")}) == 6


parts = st.tuples(st.integers(0, 2146), st.integers(0, 999), st.integers(0, 999))


@given(parts, parts)
def test_codes_stand_in_the_order_of_the_versions_and_never_collide(one: Any, other: Any) -> None:
    first, second = (version_code(".".join(map(str, version))) for version in (one, other))
    assert (first < second) is (one < other)
    assert (first == second) is (one == other)
    assert 0 <= first < 2**31


@given(parts, st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)))
def test_a_code_tells_the_version_back(version: tuple[int, int, int], zeros: tuple[int, int, int]) -> None:
    widths = (4, 3, 3)
    spelled = ".".join(
        f"{part:0{min(width, len(str(part)) + more)}}" for part, width, more in zip(version, widths, zeros, strict=True)
    )
    code = version_code(spelled)
    assert (code // 10**6, code // 10**3 % 10**3, code % 10**3) == version


@given(st.text("0123456789.v-", max_size=12) | st.text(max_size=12))
def test_any_text_is_a_version_of_int4_or_refused(text: str) -> None:
    found = stored(a_column("integer", parse=Parse.VERSION), text)
    assert found is Reason.NOT_A_VERSION or (type(found) is int and 0 <= found < 2**31)


# -- jsonb


def nested(depth: int, leaf: Any, kind: type) -> Any:
    for _ in range(depth):
        leaf = [leaf] if kind is list else {"k": leaf}
    return leaf


HUGE = [
    Decimal("1E+131071"), Decimal("-1E+1001"), Decimal("1E-1001"), Decimal("1E-131071"), Decimal("9E+99999999"),
    Decimal("1" + "0" * 1000), Decimal("0." + "3" * 1001), 10**1000, -(10**1000), 10**1400, int("9" * 4300), 10**5000,
]  # fmt: skip
LARGE = [Decimal("1E+1000"), Decimal("-1E-1000"), Decimal("0." + "3" * 1000), 10**1000 - 1, 1 - 10**1000, 10**400]
WRAPS: list[Callable[[Any], Any]] = [
    lambda number: number,
    lambda number: [number],
    lambda number: {"k": {"k": [1, "x", number, True]}},
    lambda number: {"before": "x" * 333, "n": number, "after": "x" * 777},
]

DOCUMENTS: list[tuple[Any, object]] = [
    ({"a": [1, True, None, "ä", {}]}, '{"a":[1,true,null,"ä",{}]}'),
    ("text", '"text"'),
    (5, "5"),
    (False, "false"),
    ([], "[]"),
    (Decimal("0.10"), "0.10"),
    ({"n": Decimal("1e500")}, '{"n":1E+500}'),
    *((wrap(number), Reason.OUT_OF_RANGE) for number in HUGE for wrap in WRAPS),
    *((wrap(number), None) for number in LARGE for wrap in WRAPS),
    ({"n": "1E+131071", "E+9999": "9" * 5000}, None),
    ([Decimal("1E+999")] * 30_000, None),
    ([Decimal("1E+999")] * 34_000, Reason.OUT_OF_RANGE),
    ([Decimal("1E-999")] * 34_000, Reason.OUT_OF_RANGE),
    ([Decimal("1E+99")] * 300_000, None),
    ([Decimal("1E+99")] * 400_000, Reason.OUT_OF_RANGE),
    ("x" * (32 * 2**20), Reason.TOO_LONG),
    ("x" * (31 * 2**20), None),
    (nested(500, "x", list), None),
    (nested(501, "x", list), Reason.TOO_DEEP),
    (nested(500, "x", dict), None),
    (nested(501, "x", dict), Reason.TOO_DEEP),
    (nested(500, [], list), Reason.TOO_DEEP),
    ([{}] * 2000, None),
    ("[" * 2000, None),
    (2**70, str(2**70)),
    ("back\\u0000slash", '"back\\\\u0000slash"'),
    ({"a": "\\u0000"}, '{"a":"\\\\u0000"}'),
    ("\0", Reason.INVALID_TEXT),
    ({"a": [{"b": "x\0"}]}, Reason.INVALID_TEXT),
    ({"a\0": 1}, Reason.INVALID_TEXT),
    ({"a": "\\u0000", "b": "\0"}, Reason.INVALID_TEXT),
    (LONE, Reason.INVALID_TEXT),
    ({"a": [LONE]}, Reason.INVALID_TEXT),
    ({LONE: 1}, Reason.INVALID_TEXT),
]


@pytest.mark.parametrize(("value", "expected"), DOCUMENTS, ids=[f"document-{place}" for place in range(len(DOCUMENTS))])
def test_jsonb(value: Any, expected: object) -> None:
    """`None` stands for the document as it is."""
    found = stored(a_column("jsonb"), value)
    if isinstance(expected, Reason):
        assert found is expected
    elif expected is None:
        assert type(found) is str
        assert decoder(exact=True)(f'{{"f":{found}}}') == {"f": value}
    else:
        assert found == expected


@pytest.mark.parametrize("place", range(0, 1200, 40))
@pytest.mark.parametrize("digits", [1000, 1001])
def test_a_long_number_is_found_wherever_it_stands(place: int, digits: int) -> None:
    """The text is looked at in steps only: no number may lie between two of them."""
    for number in (int("1" * digits), Decimal("1" * (digits - 1) + ".1"), Decimal("0." + "1" * digits)):
        found = stored(a_column("jsonb"), ["x" * place, number])
        assert (found is Reason.OUT_OF_RANGE) is (digits > 1000)


@settings(deadline=None)
@given(st.integers(1, 1500), st.integers(-1500, 1500), st.integers(0, 1))
def test_jsonb_takes_the_numbers_that_numeric_takes(digits: int, exponent: int, sign: int) -> None:
    number = Decimal((sign, (7,) * digits, exponent))
    alone, inside = stored(a_column("numeric"), number), stored(a_column("jsonb"), {"a": [number]})
    assert (alone is Reason.OUT_OF_RANGE) is (inside is Reason.OUT_OF_RANGE)


@pytest.mark.parametrize("kind", [dict, list])
@pytest.mark.parametrize("depth", [100, 300, 450, 600, 900])
def test_jsonb_of_any_depth_with_a_nul_is_a_reject(depth: int, kind: type) -> None:
    validate = validator([a_column("jsonb")])
    result = validate({"f": nested(depth, "\0", kind)}, SENT_MS)
    assert isinstance(result, Reject)
    assert result.reason in (Reason.INVALID_TEXT, Reason.TOO_DEEP)
    assert result.reason is Reason.INVALID_TEXT or depth > 300


@pytest.mark.parametrize("kind", [dict, list])
def test_jsonb_of_any_depth_is_stored_or_refused(kind: type) -> None:
    validate = validator([a_column("jsonb")])
    for depth in (100, 900, 980, 1100, 50_000):
        result = validate({"f": nested(depth, "\\u0000", kind)}, SENT_MS)
        assert type(result) is list or result == Reject(Reason.TOO_DEEP, "c")


documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=()), max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


def holds_odd_text(value: Any) -> bool:
    if isinstance(value, dict):
        return any(holds_odd_text(part) for item in value.items() for part in item)
    if isinstance(value, list):
        return any(map(holds_odd_text, value))
    return isinstance(value, str) and not storable(value)


@settings(deadline=None)
@given(documents)
def test_jsonb_stores_the_same_document_or_refuses_its_texts(value: Any) -> None:
    found = stored(a_column("jsonb", default="no"), value) if value is not None else "null"
    if holds_odd_text(value):
        assert found is Reason.INVALID_TEXT
    else:
        again = decoder(exact=True)(f'{{"f":{found}}}')
        assert isinstance(again, dict)
        assert again["f"] == value


# -- presence, defaults, paths


def test_an_absent_and_a_null_field_are_null() -> None:
    for type_ in ("text", "varchar(3)", "integer", "bigint", "numeric", "boolean", "date", "timestamptz", "jsonb"):
        validate = validator([a_column(type_), a_column(name="other", path="o")])
        assert validate({"o": "x"}, SENT_MS) == [None, "x"]
        assert validate({"o": "x", "f": None}, SENT_MS) == [None, "x"]


@pytest.mark.parametrize("mask", list(Mask))
def test_a_required_field_must_be_there(mask: Mask) -> None:
    validate = validator([a_column("text", required=True, mask=mask)])
    for value in ({}, {"f": None}, {"F": "x"}, {"c": "x"}):
        assert validate(value, SENT_MS) == Reject(Reason.MISSING_FIELD, "c")
    assert validate({"f": "x"}, SENT_MS) == ["x"]


def test_a_required_nested_field_must_be_there() -> None:
    validate = validator([a_column("text", path="a.b", required=True)])
    absent: list[dict[str, Any]] = [
        {},
        {"a": {}},
        {"a": {"b": None}},
        {"a": "b"},
        {"a": ["b"]},
        {"b": "x"},
        {"a.b": "x"},
    ]
    for value in absent:
        assert validate(value, SENT_MS) == Reject(Reason.MISSING_FIELD, "c")
    assert validate({"a": {"b": "x"}}, SENT_MS) == ["x"]


@pytest.mark.parametrize(("type_", "default"), [("text", "none"), ("integer", 0), ("boolean", False)])
def test_a_default_fills_absent_and_null(type_: str, default: Any) -> None:
    validate = validator([a_column(type_, default=default), a_column(name="other", path="o")])
    for value in ({"o": "x"}, {"o": "x", "f": None}):
        assert validate(value, SENT_MS) == [default, "x"]
    assert validator([a_column("text", default="d")])({"f": ""}, SENT_MS) == [""]


@pytest.mark.parametrize(
    ("sent_ms", "day"),
    [
        (0, date(1970, 1, 1)),
        (DAY_MS - 1, date(1970, 1, 1)),
        (DAY_MS, date(1970, 1, 2)),
        (SENT_MS, date(2023, 11, 14)),
        (19_782 * DAY_MS - 1, date(2024, 2, 28)),
        (19_782 * DAY_MS, date(2024, 2, 29)),
        (19_783 * DAY_MS - 1, date(2024, 2, 29)),
        (19_783 * DAY_MS, date(2024, 3, 1)),
    ],
)
def test_sent_at_is_the_utc_day_at_its_borders_too(sent_ms: int, day: date) -> None:
    column = a_column("date", default_sent_at=True)
    assert stored(column, None, sent_ms) == day
    moment = stored(a_column("timestamptz", default_sent_at=True), None, sent_ms)
    assert moment == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=sent_ms)
    assert moment.date() == day
    assert stored(column, "2001-02-03", sent_ms) == date(2001, 2, 3)


@pytest.mark.parametrize("kind", ["date", "timestamptz"])
def test_no_day_is_invented_where_the_send_time_is_unknown(kind: str) -> None:
    column = a_column(kind, default_sent_at=True)
    assert stored(column, None, UNKNOWN_MS) is Reason.MISSING_FIELD
    assert stored(column, "2001-02-03", UNKNOWN_MS) == stored(column, "2001-02-03", SENT_MS)


@given(st.integers(0, 4_102_444_800_000))  # to 2100; further on a float of seconds has no room for microseconds
def test_sent_at_keeps_the_milliseconds(sent_ms: int) -> None:
    moment = stored(a_column("timestamptz", default_sent_at=True), None, sent_ms)
    assert (moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1) == sent_ms


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": {"b": {"c": "x"}}}, ["x", None]),
        ({"a": {"b": {"c": None}}}, [None, None]),
        ({"a": {"b": {}}}, [None, None]),
        ({"a": {"b": None}}, [None, None]),
        ({"a": {"b": "x"}}, [None, None]),
        ({"a": [{"b": {"c": "x"}}]}, [None, None]),
        ({"a": "b"}, [None, None]),
        ({"a.b.c": "x"}, [None, None]),
        ({}, [None, None]),
        ({"a": {"b": {"c": {"d": 1}}}}, Reject(Reason.WRONG_TYPE, "c")),
    ],
)
def test_a_dotted_path_reaches_into_objects(value: dict[str, Any], expected: object) -> None:
    columns = [a_column(path="a.b.c"), a_column(name="other", path="o")]
    assert validator(columns)(value | {"o": None}, SENT_MS) == expected


# -- messages of another type

FOREIGN: list[dict[str, Any]] = [
    {},
    {"hello": "world"},
    {"F": "x", "f ": "x", "f.x": "x"},
    {"Type": "Notification", "Message": '{"f": "x"}', "MessageId": "1"},
    {"Records": [{"f": "x"}]},
    {"c": "x"},
]


@pytest.mark.parametrize("value", FOREIGN, ids=label)
@pytest.mark.parametrize(
    "columns",
    [
        [a_column()],
        [a_column(default="d")],
        [a_column("date", default_sent_at=True), a_column(name="b", path="b.f")],
        [a_column(mask=Mask.TOKEN, domain="d"), a_column("jsonb", name="b", path="b")],
        [a_column(mask=Mask.REDACT)],
        [a_column(name="hidden", path="hello", mask=Mask.DROP), a_column()],
        [a_column(name="hidden", path="hello", mask=Mask.DROP, required=True), a_column()],
    ],
    ids=lambda columns: "-".join(f"{column.type.kind}_{column.mask}" for column in columns),
)
def test_a_message_without_a_field_of_any_column_is_a_reject(columns: list[Column], value: dict[str, Any]) -> None:
    """Found: it became a row of NULLs and defaults, was acked, and stood nowhere else."""
    expected = Reject(Reason.NO_FIELD_FOUND)
    if columns[0].required and "hello" not in value:
        expected = Reject(Reason.MISSING_FIELD, "hidden")
    assert validator(columns)(value, SENT_MS) == expected


@pytest.mark.parametrize(
    ("paths", "value", "found"),
    [
        (["f"], {"f": None}, True),
        (["f", "g"], {"g": None}, True),
        (["a.f"], {"a": {"f": None}}, True),
        (["a.f"], {"a": {"f": None, "g": 1}}, True),
        (["a.f"], {"a": {}}, False),
        (["a.f"], {"a": None}, False),
        (["a.f"], {"a": {"g": 1}}, False),
        (["a.f"], {"a": ["f"]}, False),
        (["a.f"], {"a": "f"}, False),
        (["a.f"], {"a.f": "x", "f": "x"}, False),
        (["a.f", "f"], {"a": {}, "f": None}, True),
        (["a.b.f", "a.f"], {"a": {"b": {"f": None}}}, True),
        (["a.b.f"], {"a": {"b": None}}, False),
        (["a.b.f"], {"a": None}, False),
    ],
)
def test_a_null_field_is_found_and_an_absent_one_is_not(
    paths: list[str], value: dict[str, Any], *, found: bool
) -> None:
    """A login of which every field is null is a login still: its producer knows the fields."""
    columns = [a_column(name=f"c{place}", path=path) for place, path in enumerate(paths)]
    nothing = [None] * len(paths)
    assert validator(columns)(value, SENT_MS) == (nothing if found else Reject(Reason.NO_FIELD_FOUND))


def test_a_required_column_makes_the_search_needless() -> None:
    assert foreign(LOGIN_COLUMNS) is None
    assert foreign([a_column(), a_column(name="b", path="b", required=True)]) is None
    assert foreign([a_column(), a_column(name="b", path="b", required=True, mask=Mask.DROP)]) is not None
    assert foreign([a_column()]) is not None
    assert foreign([]) is None


def test_values_stand_in_the_order_of_the_columns_and_unknown_fields_never_come_along() -> None:
    columns = [
        a_column(name="z", path="one"),
        a_column("integer", name="a", path="two"),
        a_column(name="m", path="one"),
    ]
    value = {"extra": "secret", "two": 2, "one": "1", "c": "c", "z": "z", "deep": {"one": "no"}}
    assert validator(columns)(value, SENT_MS) == ["1", 2, "1"]
    assert validator([])(value, SENT_MS) == []


def test_the_first_bad_column_is_named() -> None:
    columns = [a_column(name="good"), a_column("integer", name="bad"), a_column("date", name="worse")]
    assert validator(columns)({"f": "x"}, SENT_MS) == Reject(Reason.WRONG_TYPE, "bad")


def test_a_message_is_not_changed() -> None:
    value = {"f": {"k": [1]}}
    validator([a_column("jsonb")])(value, SENT_MS)
    assert value == {"f": {"k": [1]}}


@pytest.mark.parametrize("mask", [mask for mask in Mask if mask is not Mask.KEEP])
@pytest.mark.parametrize("value", ["", "\0", LONE, 5, True, ["x"], {"a": 1}, "x" * 1000], ids=label)
def test_a_masked_or_dropped_value_has_only_its_presence_checked(mask: Mask, value: Any) -> None:
    """Its canonical form decides in the mask stage: two rules for one value would be one too many."""
    assert stored(a_column("varchar(69)", mask=mask, domain="d"), value) == value


every_type = st.sampled_from(
    [a_column("varchar(4)"), a_column("text", parse=Parse.TEXT), a_column("varchar(40)", parse=Parse.IP)]
    + [a_column("integer", parse=Parse.VERSION), a_column("date", parse=Parse.TIMESTAMP)]
    + [a_column("timestamptz", parse=Parse.TIMESTAMP)]
    + [Column("c", ("f",), ColumnType(kind)) for kind in Kind if kind is not Kind.VARCHAR]
)


@settings(deadline=None, max_examples=400)
@given(every_type, documents | st.floats())
def test_any_value_is_stored_as_its_type_or_refused(column: Column, value: Any) -> None:
    found = stored(column, value)
    types = {Kind.INTEGER: int, Kind.BIGINT: int, Kind.BOOLEAN: bool, Kind.DATE: date, Kind.TIMESTAMPTZ: datetime}
    assert found is None or type(found) in (Reason, types.get(column.type.kind, str))
    if type(found) is str:
        assert storable(found)
        assert column.type.length is None or len(found) <= column.type.length
