"""Stage 3: personal data ends here. What comes out is a token, a hash, a word or nothing; never the value."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.builders import KID, ROOT, TENANT, a_column, a_message, a_road, a_tokenizer, label, opened

from coatcheck.keys import TOKEN_PATTERN
from coatcheck.keys.forms import Form
from coatcheck.keys.ipcrypt import decrypt_function
from coatcheck.pipeline.columns import Column, Mask, Parse
from coatcheck.pipeline.mask import REDACTED, form_of, masker, vault_columns
from coatcheck.pipeline.message import Reason, Reject, Rejected, Row

LONE = "\ud800"
TOKENS = a_tokenizer()


def a_masked(mask: Mask, **options: Any) -> Column:
    keyed = (Mask.TOKEN, Mask.SEAL, Mask.SUBNET, Mask.IPCRYPT_PFX)
    return a_column("varchar(256)", mask=mask, **({"domain": "d" if mask in keyed else ""} | options))


def masked(columns: Sequence[Column], *record: object) -> Any:
    """Return the masked values, or the reject."""
    result = masker(columns, TOKENS)(list(record))
    return result if isinstance(result, Reject) else result[0]


def test_the_vaults_raw_values_go_along_in_the_columns_order() -> None:
    columns = [a_column(name="a"), a_masked(Mask.TOKEN, name="b", vault=True), a_masked(Mask.DROP, name="c"),
               a_masked(Mask.TOKEN, name="d"), a_masked(Mask.TOKEN, name="e", vault=True)]  # fmt: skip
    assert [column.name for column in vault_columns(columns, rotating=False)] == ["b", "e"]
    assert [column.name for column in vault_columns(columns, rotating=True)] == ["b", "d", "e"]
    mask = masker(columns, TOKENS, vault_columns(columns, rotating=False))
    values, originals = mask(["x", " Y ", "gone", "z", None])  # type: ignore[misc]  # no reject
    token = TOKENS.for_domain("d", Form("text"))
    assert values == ("x", token("Y"), token("z"), None)
    assert originals == (" Y ", None)


def test_seal_opens_to_the_canonical_text_and_joins() -> None:
    (sealed,) = masked([a_masked(Mask.SEAL)], " Ann ")
    assert sealed == masked([a_masked(Mask.SEAL)], "Ann")[0] != masked([a_masked(Mask.SEAL)], "ann")[0]
    assert TOKENS.open_for("d", Form("text"))(sealed) == "Ann"


def test_sealed_text_that_does_not_fit_its_column_is_a_reject() -> None:
    narrow = a_column("varchar(93)", mask=Mask.SEAL, domain="d")
    assert len(masked([narrow], "x" * 28)[0]) <= 93
    assert masked([narrow], "x" * 60) == Reject(Reason.TOO_LONG, "c")


def test_subnet_is_the_token_of_the_network() -> None:
    column = a_masked(Mask.SUBNET, parse=Parse.IP)
    one, other = masked([column], "192.0.2.1"), masked([column], "::ffff:192.0.2.254")
    assert one == other != masked([column], "192.0.3.1")
    assert one != masked([a_masked(Mask.TOKEN, parse=Parse.IP)], "192.0.2.0")


def test_ipcrypt_keeps_prefixes_and_decrypts() -> None:
    column = a_masked(Mask.IPCRYPT_PFX, parse=Parse.IP)
    (one,), (other,) = masked([column], "192.0.2.1"), masked([column], "192.0.2.2")
    assert one.rsplit(".", 1)[0] == other.rsplit(".", 1)[0]
    assert decrypt_function(ROOT, tenant=TENANT, kid=KID, domain="d")(one) == "192.0.2.1"


def test_a_token_is_the_tokenizers_for_domain_and_form() -> None:
    (token,) = masked([a_masked(Mask.TOKEN, domain="device")], "593-47-5928")
    assert token == TOKENS.token("device", "593-47-5928", Form("text"))
    match = TOKEN_PATTERN.fullmatch(token)
    assert match is not None
    assert match.groups()[:2] == ("device", KID)


def test_equal_values_have_equal_tokens_across_columns_of_a_domain_only() -> None:
    columns = [a_masked(Mask.TOKEN, name="a"), a_masked(Mask.TOKEN, name="b"), a_masked(Mask.TOKEN, domain="other")]
    one, two, other = masked(columns, "x", "x", "x")
    assert one == two
    assert other.rsplit("_", 1)[1] != one.rsplit("_", 1)[1]


@pytest.mark.parametrize(
    ("options", "same", "different"),
    [
        ({}, ["x-Y", " x-Y ", "x-Y\u2003"], ["x-y", "xY", "x -Y"]),
        ({"casefold": True}, ["x-Y", "X-y"], ["xy"]),
        ({"strip_chars": "-:"}, ["x-Y", "xY", "x:Y", "--xY"], ["xy"]),
        ({"casefold": True, "strip_chars": "-"}, ["x-Y", "XY", "xy"], ["x:y"]),
        ({"parse": Parse.TEXT}, ["7", 7], ["07", "7.0"]),
        ({"parse": Parse.IP}, ["10.0.0.1", "::ffff:10.0.0.1", " 10.0.0.1 ", "::FFFF:0a00:1"], ["10.0.0.2", "::1"]),
        ({}, ["\u00e9", "e\u0301"], ["e"]),
    ],
)
def test_equal_forms_have_equal_tokens(options: dict[str, Any], same: list[Any], different: list[Any]) -> None:
    columns = [a_masked(Mask.TOKEN, **options)]
    (token,) = {masked(columns, value) for value in same}
    assert not {masked(columns, value) for value in different} & {token}


def test_the_form_follows_the_column() -> None:
    assert form_of(a_column(parse=Parse.IP)) == Form("ip")
    assert form_of(a_column(parse=Parse.TEXT)) == form_of(a_column()) == Form("text")
    assert form_of(a_column(casefold=True, strip_chars=":-")) == Form("text", casefold=True, strip_chars="-:")


@pytest.mark.parametrize(
    ("options", "value", "reason"),
    [
        ({}, "", Reason.EMPTY_VALUE),
        ({}, " \t\u00a0", Reason.EMPTY_VALUE),
        ({"strip_chars": "-"}, "---", Reason.EMPTY_VALUE),
        ({}, "a\0", Reason.INVALID_TEXT),
        ({}, LONE, Reason.INVALID_TEXT),
        ({}, "e" + "\u0301" * 65, Reason.INVALID_TEXT),
        ({}, True, Reason.WRONG_TYPE),
        ({}, 1.5, Reason.WRONG_TYPE),
        ({}, ["x"], Reason.WRONG_TYPE),
        ({}, {"x": 1}, Reason.WRONG_TYPE),
        ({"parse": Parse.IP}, "", Reason.EMPTY_VALUE),
        ({"parse": Parse.IP}, "10.0.0.256", Reason.NOT_AN_IP),
        ({"parse": Parse.IP}, "localhost", Reason.NOT_AN_IP),
        ({"parse": Parse.IP}, "10.0.0.1\0", Reason.NOT_AN_IP),
        ({"parse": Parse.IP}, 167772161, Reason.WRONG_TYPE),
    ],
    ids=label,
)
def test_what_has_no_canonical_form_is_a_reject(options: dict[str, Any], value: Any, reason: Reason) -> None:
    columns = [
        a_column(name="first"),
        a_masked(Mask.TOKEN, name="second", **options),
        a_masked(Mask.TOKEN, name="third"),
    ]
    assert masked(columns, "x", value, "y") == Reject(reason, "second")


@pytest.mark.parametrize("value", ["", "x", "x" * 10_000, "\0", LONE, 5, True, ["x"], {"x": 1}], ids=label)
def test_redact_hides_anything(value: Any) -> None:
    assert masked([a_masked(Mask.REDACT)], value) == (REDACTED,)


def test_keep_keeps() -> None:
    values = ("x", 5, True, date(2024, 2, 29), None)
    assert masked([a_column(name=name) for name in "abcde"], *values) == values


def test_drop_removes_the_column() -> None:
    columns = [a_column(name="a", mask=Mask.DROP), a_column(name="b"), a_masked(Mask.TOKEN, name="c"),
               a_column(name="d", mask=Mask.DROP), a_column(name="e"), a_column(name="f", mask=Mask.DROP)]  # fmt: skip
    row = masked(columns, "no", "b", "c", "no", "e", None)
    assert row == ("b", TOKENS.token("d", "c", Form("text")), "e")
    assert [column.stored for column in columns] == [False, True, True, False, True, False]


@pytest.mark.parametrize("value", ["", "x", "199.172.111.135", " padded ", "ä"])
def test_sha256_insecure_is_exactly_the_unsalted_hash_of_the_text(value: str) -> None:
    assert masked([a_masked(Mask.SHA256_INSECURE)], value) == (hashlib.sha256(value.encode()).hexdigest(),)


@pytest.mark.parametrize(
    ("value", "reason"), [(LONE, Reason.INVALID_TEXT), (5, Reason.WRONG_TYPE), (["x"], Reason.WRONG_TYPE)], ids=label
)
def test_sha256_insecure_refuses_what_is_no_text(value: Any, reason: Reason) -> None:
    assert masked([a_masked(Mask.SHA256_INSECURE)], value) == Reject(reason, "c")


@pytest.mark.parametrize("mask", [mask for mask in Mask if mask is not Mask.DROP])
def test_null_stays_null(mask: Mask) -> None:
    assert masked([a_masked(mask)], None) == (None,)


def test_nulls_of_strangers_are_not_joined() -> None:
    """A token for "nothing" would join all who have nothing."""
    row = masked([a_masked(Mask.TOKEN, parse=Parse.IP, name="a"), a_masked(Mask.TOKEN, name="b")], None, "x")
    assert row[0] is None


# -- a masked value never comes out
#
# Sound, because next to nothing is left to chance: tokens, hashes, "[redacted]", reasons, column names and hexadecimal
# ciphertexts are ASCII in lower case, digits, "_", "[" and "]". Raw values made of FOREIGN have none of these, so not
# one character of them may come out. Of values made of hexadecimal digits, which do stand in tokens, no run of 12 may
# come out (chance: some 10^4 places, 16^-12 each).

FOREIGN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ!§%&/?+*#~äöüßжи中\U0001f600"
MASKING = [Mask.TOKEN, Mask.REDACT, Mask.SHA256_INSECURE, Mask.DROP]


def outputs(columns: Sequence[Column], body: str) -> str:
    """Everything that leaves the road beside the message itself: the values, or the reject, as text."""
    entry = a_road(tuple(columns)).travel(a_message(body))
    if isinstance(entry, Row):
        return "".join(str(value) for value in entry.values) + "".join(map(repr, entry.values))
    assert opened(entry) == body
    return f"{entry.reject.reason}{entry.reject.detail}{entry.sealed.ciphertext.hex()}"


@settings(deadline=None)
@given(st.lists(st.text(FOREIGN + " ", min_size=1, max_size=30), min_size=4, max_size=4), st.booleans())
def test_no_character_of_a_masked_value_comes_out(values: list[str], as_ip: bool) -> None:  # noqa: FBT001 - given by hypothesis
    parse = {Mask.TOKEN: Parse.IP} if as_ip else {}
    columns = [
        a_masked(mask, name=f"c{place}", path=f"f{place}", parse=parse.get(mask)) for place, mask in enumerate(MASKING)
    ]
    body = json.dumps({f"f{place}": value for place, value in enumerate(values)})
    assert not set(outputs(columns, body)) & set(FOREIGN)


hexadecimal = st.text("0123456789abcdef", min_size=12, max_size=60)


@settings(deadline=None)
@given(hexadecimal, st.sampled_from([Mask.TOKEN, Mask.REDACT, Mask.DROP]))
def test_no_run_of_digits_of_a_masked_value_comes_out(value: str, mask: Mask) -> None:
    out = outputs([a_masked(mask), a_column("integer", name="n", path="n")], json.dumps({"f": value}))
    assert not any(value[start : start + 12] in out for start in range(len(value) - 11))


@settings(deadline=None)
@given(st.ip_addresses().map(str))
def test_no_address_comes_out(address: str) -> None:
    entry = a_road((a_masked(Mask.TOKEN, parse=Parse.IP),)).travel(a_message(json.dumps({"f": address})))
    assert isinstance(entry, Row)
    (token,) = entry.values
    assert isinstance(token, str)
    assert TOKEN_PATTERN.fullmatch(token)  # forty digits of an HMAC: neither dots nor colons
    assert address not in token


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
HASH = re.compile(r"[0-9a-f]{64}")


@settings(deadline=None)
@given(anything, st.sampled_from(MASKING), st.sampled_from([None, Parse.IP, Parse.TEXT]))
def test_whatever_the_value_is_the_output_is_of_the_masks_alphabet(value: Any, mask: Mask, parse: Parse | None) -> None:
    entry = a_road((a_masked(mask, parse=parse),)).travel(a_message(json.dumps({"f": value})))
    if isinstance(entry, Rejected):
        assert entry.reject == Reject(entry.reject.reason, "c")
        return
    for out in entry.values:
        if value is None:
            assert out is None
        else:
            assert isinstance(out, str)
            assert out == REDACTED or TOKEN_PATTERN.fullmatch(out) or HASH.fullmatch(out)
