"""Stage 1: any bytes and any text become an object or a reject with the true reason; nothing raises."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck.pipeline.decode import decoder
from coatcheck.pipeline.message import Reason, Reject

DEEP = 100_000
decode = decoder(exact=False)
decode_exact = decoder(exact=True)
both = pytest.mark.parametrize("stage", [decode, decode_exact], ids=["float", "exact"])

REJECTED: dict[str, tuple[str | bytes, Reason]] = {
    "nan": ('{"a": NaN}', Reason.NOT_JSON),
    "infinity": ('{"a": Infinity}', Reason.NOT_JSON),
    "minus infinity": ('{"a": -Infinity}', Reason.NOT_JSON),
    "nan beside the word digits": ('{"digits": NaN}', Reason.NOT_JSON),
    "two byte order marks": ("\ufeff\ufeff{}", Reason.NOT_JSON),
    "a byte order mark alone": ("\ufeff", Reason.NOT_JSON),
    "a byte order mark after a blank": (" \ufeff{}", Reason.NOT_JSON),
    "utf-16 without a mark": ('{"a": 1}'.encode("utf-16-le"), Reason.NOT_JSON),
    "utf-32": ('{"a": 1}'.encode("utf-32"), Reason.NOT_JSON),
    "empty": ("", Reason.NOT_JSON),
    "empty bytes": (b"", Reason.NOT_JSON),
    "blank": (" \n\t", Reason.NOT_JSON),
    "truncated in a key": ('{"a', Reason.NOT_JSON),
    "truncated after a key": ('{"a"', Reason.NOT_JSON),
    "truncated in an escape": ('{"a": "\\u12', Reason.NOT_JSON),
    "truncated before the end": ('{"a": 1', Reason.NOT_JSON),
    "trailing garbage": ("{} x", Reason.NOT_JSON),
    "two objects": ("{}{}", Reason.NOT_JSON),
    "trailing nul": ("{}\0", Reason.NOT_JSON),
    "trailing comma": ('{"a": 1,}', Reason.NOT_JSON),
    "comment": ('{"a": 1} // no', Reason.NOT_JSON),
    "single quotes": ("{'a': 1}", Reason.NOT_JSON),
    "bare key": ("{a: 1}", Reason.NOT_JSON),
    "number with a leading zero": ('{"a": 01}', Reason.NOT_JSON),
    "hexadecimal": ('{"a": 0x1}', Reason.NOT_JSON),
    "plus": ('{"a": +1}', Reason.NOT_JSON),
    "raw nul in a text": ('{"a": "\0"}', Reason.NOT_JSON),
    "raw line feed in a text": ('{"a": "\n"}', Reason.NOT_JSON),
    "unknown escape": ('{"a": "\\x41"}', Reason.NOT_JSON),
    "form feed as white space": ("{}\f", Reason.NOT_JSON),
    "no-break space as white space": ("\xa0{}", Reason.NOT_JSON),
    "other digits": ('{"a": \u0661}', Reason.NOT_JSON),
    "invalid byte": (b'{"a": "\xff"}', Reason.NOT_JSON),
    "invalid byte outside a text": (b'{"a": 1}\xff', Reason.NOT_JSON),
    "overlong utf-8": (b'{"a": "\xc0\xaf"}', Reason.NOT_JSON),
    "surrogate in utf-8": (b'{"a": "\xed\xa0\x80"}', Reason.NOT_JSON),
    "truncated utf-8": (b'{"a": "\xe2\x82"}', Reason.NOT_JSON),
    "plain text": ("user logged in", Reason.NOT_JSON),
    "xml": ("<a/>", Reason.NOT_JSON),
    "array": ("[]", Reason.NOT_AN_OBJECT),
    "array of objects": ("[{}]", Reason.NOT_AN_OBJECT),
    "array with a lone surrogate": ('["\\ud800"]', Reason.NOT_AN_OBJECT),
    "text": ('"{}"', Reason.NOT_AN_OBJECT),
    "whole number": ("1", Reason.NOT_AN_OBJECT),
    "fraction": ("1.5", Reason.NOT_AN_OBJECT),
    "true": ("true", Reason.NOT_AN_OBJECT),
    "null": ("null", Reason.NOT_AN_OBJECT),
    "null bytes": (b"null", Reason.NOT_AN_OBJECT),
    "5000 digits": ('{"a": ' + "9" * 5000 + "}", Reason.OUT_OF_RANGE),
    "5000 digits, negative": ('{"a": -' + "9" * 5000 + "}", Reason.OUT_OF_RANGE),
    "5000 digits, bytes": (b'{"a": ' + b"9" * 5000 + b"}", Reason.OUT_OF_RANGE),
    "deep arrays": ("[" * DEEP, Reason.TOO_DEEP),
    "deep objects": ('{"a":' * DEEP + "1" + "}" * DEEP, Reason.TOO_DEEP),
    "deep objects, bytes": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, Reason.TOO_DEEP),
    "deep arrays in an object": ('{"a":' + "[" * DEEP + "]" * DEEP + "}", Reason.TOO_DEEP),
    "deep, and a lone surrogate": ('{"b":"\\ud800","a":' + "[" * DEEP + "]" * DEEP + "}", Reason.TOO_DEEP),
}

ACCEPTED: dict[str, tuple[str | bytes, dict[str, Any]]] = {
    "empty object": ("{}", {}),
    "white space around": (" \t\r\n{} \t\r\n", {}),
    "bytes": ('{"ä": "ö"}'.encode(), {"ä": "ö"}),
    "every type": ('{"a":[1,-2.5,"x",true,false,null,{}]}', {"a": [1, -2.5, "x", True, False, None, {}]}),
    "the last of equal keys": ('{"a": 1, "a": 2}', {"a": 2}),
    "empty key": ('{"": 1}', {"": 1}),
    "escaped nul": ('{"a": "\\u0000"}', {"a": "\0"}),
    "lone surrogate, escaped": ('{"a": "\\ud800"}', {"a": "\ud800"}),
    "lone low surrogate, escaped": ('{"a": "\\udc00x"}', {"a": "\udc00x"}),
    "lone surrogate, raw": ('{"a": "\ud800"}', {"a": "\ud800"}),
    "lone surrogate in a key": ('{"\\ud800": 1}', {"\ud800": 1}),
    "surrogate pair": ('{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
    "noncharacter": ('{"a": "\uffff"}', {"a": "\uffff"}),
    "64 bits": ('{"a": [9223372036854775807, -9223372036854775808]}', {"a": [2**63 - 1, -(2**63)]}),
    "65 bits": ('{"a": [18446744073709551616, -9223372036854775809]}', {"a": [2**64, -(2**63) - 1]}),
    "400 digits": ('{"a": ' + "9" * 400 + "}", {"a": 10**400 - 1}),
    "minus zero": ('{"a": -0}', {"a": 0}),
}


@both
@pytest.mark.parametrize(("body", "reason"), REJECTED.values(), ids=REJECTED)
def test_rejects_with_the_reason(stage: Any, body: str | bytes, reason: Reason) -> None:
    assert stage(body) == Reject(reason)


@both
@pytest.mark.parametrize(("body", "value"), ACCEPTED.values(), ids=ACCEPTED)
def test_accepts(stage: Any, body: str | bytes, value: dict[str, Any]) -> None:
    assert stage(body) == value


MARKED = [
    '{"a": 1}',
    ' {"a": "\u00fc"}',
    '{"a": "\\ud800"}',
    '{"a": 1e400}',
    '{"a": "\ufeff"}',
    "[1]",
    "null",
    '{"a":',
    "",
]


@both
@pytest.mark.parametrize("text", MARKED)
def test_a_byte_order_mark_before_the_text_changes_nothing(stage: Any, text: str) -> None:
    for body, plain in (("\ufeff" + text, text), (("\ufeff" + text).encode(), text.encode())):
        assert repr(stage(body)) == repr(stage(plain))


@both
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_named_in_the_reject(stage: Any, encoding: str) -> None:
    data = '\ufeff{"a": 1}'.encode(encoding)
    for body in (data, data.decode("latin-1"), "\ufffe\u7b00"):
        assert stage(body) == Reject(Reason.NOT_JSON, "UTF-16")
    assert stage("\ufffd\ufffd{") == Reject(Reason.NOT_JSON)


def test_a_number_beyond_floats_costs_the_message_nothing() -> None:
    """No column may read it; the validate stage refuses it where one does."""
    assert decode('{"a": 1e999, "b": "\\ud800"}') == {"a": float("inf"), "b": "\ud800"}


def test_exact_keeps_what_a_float_cannot_hold() -> None:
    value = decode_exact('{"a": 1e999, "b": 0.10, "c": 1.0, "d": 5}')
    assert value == {"a": Decimal("1e999"), "b": Decimal("0.10"), "c": Decimal("1.0"), "d": 5}
    assert [str(number) for number in value.values()] == ["1E+999", "0.10", "1.0", "5"]


def test_exact_rejects_an_exponent_beyond_decimal() -> None:
    assert decode_exact('{"a": 1e99999999999999999999}') == Reject(Reason.OUT_OF_RANGE)
    assert decode_exact('{"b": "\\ud800", "a": 1e99999999999999999999}') == Reject(Reason.OUT_OF_RANGE)


@both
@pytest.mark.parametrize("depth", [10, 400, 900, 960, 1000, 1100, 3000, 20_000])
def test_at_no_depth_anything_raises(stage: Any, depth: int) -> None:
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        result = stage('{"a":' + opening * depth + "1" + closing * depth + "}")
        assert type(result) is dict if depth <= 400 else result == Reject(Reason.TOO_DEEP) or type(result) is dict
    assert stage("{}") == {}


# -- properties

numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates too
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """JSON texts, most of an object, some of them damaged in one place."""
    value = draw(st.dictionaries(texts, values, max_size=4) | values)
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
    if draw(st.booleans()):
        place = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 2))
        text = text[:place] + draw(st.text('{}[]",:\\u0d8e+-.19NtI \0\ufeff', max_size=3)) + text[place + cut :]
    return text


def _refuse(name: str) -> float:
    raise ValueError(name)


def expected(text: str, number: type = float) -> dict[str, Any] | None:
    """What the standard library reads after one byte order mark, or None where it reads no object."""
    try:
        value = json.loads(text.removeprefix("\ufeff"), parse_constant=_refuse, parse_float=number)
    except (ValueError, RecursionError, ArithmeticError):
        return None
    return value if isinstance(value, dict) else None


@settings(deadline=None, max_examples=300)
@given(bodies() | st.text(st.characters(exclude_categories=())))
def test_agrees_with_the_standard_library(text: str) -> None:
    for stage, number in ((decode, float), (decode_exact, Decimal)):
        result, wanted = stage(text), expected(text, number)
        if wanted is None:
            assert type(result) is Reject
        else:
            assert repr(result) == repr(wanted)  # repr tells 1 from 1.0 and True, and 0.0 from -0.0


@settings(deadline=None)
@given(st.binary() | bodies().map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=2))
def test_any_bytes_are_an_object_or_a_reject(body: bytes, more: bytes) -> None:
    for stage in (decode, decode_exact):
        for data in (body, body + more, more + body):
            result = stage(data)
            assert type(result) in (dict, Reject)
            try:
                text = data.decode()
            except UnicodeDecodeError:
                assert result == Reject(Reason.NOT_JSON)
            else:
                assert repr(result) == repr(stage(text))


@settings(deadline=None)
@given(
    st.from_regex(re.compile(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,4})?", re.ASCII), fullmatch=True)
)
def test_exact_numbers_are_kept_to_the_last_digit(number: str) -> None:
    value = decode_exact(f'{{"a": {number}}}')
    assert isinstance(value, dict)
    kept = value["a"]
    assert type(kept) is (int if number.lstrip("-").isdigit() else Decimal)
    assert Decimal(kept).as_tuple() == Decimal(number).as_tuple() or (kept == 0 and type(kept) is int)
    floated = decode(f'{{"a": {number}}}')
    assert isinstance(floated, dict)
    assert floated["a"] == (int(number) if type(kept) is int else float(number))
