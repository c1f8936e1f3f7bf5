from __future__ import annotations

import ipaddress
import socket
import sys
import unicodedata
from enum import IntEnum

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coatcheck.errors import ConfigError
from coatcheck.keys import forms
from coatcheck.keys.forms import Form, FormError, form_id, ip_text, ip_v1, parse_form, subnet_v1, text_v1
from coatcheck.pipeline.message import Reason

MAPPED = bytes(10) + b"\xff\xff"


def reference(text: str) -> bytes | None:
    """Parse the slow and plain way."""
    try:
        address = ipaddress.ip_address(text.strip(" \t\n\r\f\v"))
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return MAPPED + address.packed
    return None if address.scope_id is not None else address.packed


def ours(text: str) -> bytes | None:
    try:
        return ip_v1(text)
    except FormError:
        return None


def reason_of(value: object, form: Form) -> Reason:
    with pytest.raises(FormError) as caught:
        form.canonical(value)
    return caught.value.reason


def outcome(value: object, form: Form) -> bytes | Reason:
    try:
        return form.canonical(value)
    except FormError as error:
        return error.reason


def spellings(address: ipaddress.IPv6Address) -> list[str]:
    return [
        str(address),
        address.exploded,
        str(address).upper(),
        f"{address.exploded[:30]}{ipaddress.IPv4Address(address.packed[12:])}",
        f"  {address}\n",
    ]


@given(st.ip_addresses(v=4))
def test_ipv4_is_sixteen_bytes_and_equals_its_mapped_form(address: ipaddress.IPv4Address) -> None:
    expected = MAPPED + address.packed
    assert ip_v1(str(address)) == expected
    assert ip_v1(f"::ffff:{address}") == expected
    assert ip_v1(f"::FFFF:{address.packed[:2].hex()}:{address.packed[2:].hex()}") == expected
    assert ip_v1(f"0:0:0:0:0:ffff:{address}") == expected
    assert ip_v1(f"\t {address} \n") == expected


@given(st.ip_addresses(v=6))
def test_every_spelling_of_an_ipv6_address_is_its_sixteen_bytes(address: ipaddress.IPv6Address) -> None:
    assert {ip_v1(text) for text in spellings(address)} == {address.packed}


@given(st.ip_addresses())
def test_the_canonical_ip_is_a_fixed_point(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    packed = ip_v1(str(address))
    assert ip_v1(str(ipaddress.IPv6Address(packed))) == packed


LIKE_AN_ADDRESS = st.one_of(
    st.text("0123456789abcfF:.%/ x", max_size=24),
    st.lists(st.sampled_from(["0", "00", "1", "01", "255", "256", "abcd", "00001", "", "1.2.3.4"]), max_size=10).map(
        ":".join
    ),
    st.lists(st.sampled_from(["0", "00", "1", "01", "9", "255", "256", "1000", "", " 1", "٣"]), max_size=6).map(
        ".".join
    ),
    st.text(),
)


@given(LIKE_AN_ADDRESS)
@example("::")
@example("1:2:3:4:5:6:7::")
@example("::2:3:4:5:6:7:8")
@example("1:2:3:4:5:6:7::8")
@example("1::2::3")
@example(":1:2:3:4:5:6:7")
@example("1:2:3:4:5:6:7:8:9")
@example("::1.2.3.256")
@example("1.2.3.4:5::")
def test_the_fast_parser_agrees_with_ipaddress(text: str) -> None:
    assert ours(text) == reference(text)


@pytest.mark.parametrize(
    "text",
    [
        "fe80::1%eth0", "fe80::1%1", "1.2.3.4%1", "1.2.3.4:80", "[::1]", "[::1]:80", "10.0.0.0/8", "::/0", "01.2.3.4",
        "1.2.3.04", "1.2.3.00", "::ffff:01.2.3.4", "::ffff:1.2.3.4%1", "1.2.3", "1", "0x1.2.3.4", "1.2.3.4.",
        "::00001", "12345::", "1.2.3.-4", "1.2.3.4\0", "::1\0", "\0", "٣.1.1.1", "::٣", "\ud800", "::\ud800",
        "1 .2.3.4", "\xa01.2.3.4", "localhost", ":", ":::", "1.2.3.4 1.2.3.4", "+1.2.3.4", "1..2.3", "1.2.3.4,5.6.7.8",
    ],
)  # fmt: skip
def test_what_is_not_exactly_an_address_is_refused(text: str) -> None:
    assert reason_of(text, Form("ip")) is Reason.NOT_AN_IP


@pytest.mark.parametrize("text", ["", "   ", "\t\n"])
def test_no_text_is_no_address(text: str) -> None:
    assert reason_of(text, Form("ip")) is Reason.EMPTY_VALUE


@pytest.mark.parametrize("value", [None, 1, 16909060, 1.5, True, b"1.2.3.4", ["1.2.3.4"], {":": 1}])
def test_an_address_is_text(value: object) -> None:
    assert reason_of(value, Form("ip")) is Reason.WRONG_TYPE


def test_a_lenient_c_library_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def lenient(family: int, text: str) -> bytes:
        if family == socket.AF_INET:  # as macOS: leading zeros are fine
            return bytes(int(part) for part in text.split("."))
        return socket.inet_pton(family, text.partition("%")[0])

    monkeypatch.setattr(forms, "_to_bytes", lenient)
    assert ip_v1("1.2.3.4") == MAPPED + bytes([1, 2, 3, 4])
    for text in ("1.2.3.04", "01.2.3.4", "::ffff:01.2.3.4", "fe80::1%eth0", "::00001"):
        assert ours(text) is None


@given(st.ip_addresses(v=4))
def test_the_network_of_an_ipv4_address_is_its_24(address: ipaddress.IPv4Address) -> None:
    network = ipaddress.ip_network(f"{address}/24", strict=False)
    assert subnet_v1(str(address)) == MAPPED + network.network_address.packed
    assert subnet_v1(f"::ffff:{address}") == subnet_v1(f" {address}\n") == subnet_v1(str(address))
    assert Form("subnet").text(subnet_v1(str(address))) == str(network)


# By number: hypothesis's own strategy of addresses is typed for both families, and filter() minds.
NOT_MAPPED = st.integers(0, 2**128 - 1).filter(lambda number: number >> 32 != 0xFFFF).map(ipaddress.IPv6Address)


@given(NOT_MAPPED)
@example(ipaddress.IPv6Address("::1.2.3.4"))
@example(ipaddress.IPv6Address("::fffe:1.2.3.4"))
@example(ipaddress.IPv6Address("::"))
def test_the_network_of_an_ipv6_address_is_its_48(address: ipaddress.IPv6Address) -> None:
    network = ipaddress.ip_network(f"{address}/48", strict=False)
    for text in spellings(address):
        assert subnet_v1(text) == network.network_address.packed
    assert Form("subnet").text(subnet_v1(str(address))) == str(network)


NEAR = st.one_of(
    st.ip_addresses(),
    st.integers(0, 2**32 - 1).map(lambda low: ipaddress.IPv6Address(0xFFFF << 32 | low)),
    st.integers(0, 2**49 - 1).map(ipaddress.IPv6Address),
    st.integers(0, 2**20 - 1).map(lambda high: ipaddress.IPv6Address(high << 76)),
)


@given(NEAR, NEAR)
def test_equal_networks_are_the_same_network(
    one: ipaddress.IPv4Address | ipaddress.IPv6Address, other: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> None:
    """No IPv6 network, least of all ::/48 that ::ffff:0:0/96 lies in, is mistaken for one of IPv4."""
    plain = [getattr(address, "ipv4_mapped", None) or address for address in (one, other)]
    networks = [ipaddress.ip_network(f"{each}/{24 if each.version == 4 else 48}", strict=False) for each in plain]
    assert (subnet_v1(str(one)) == subnet_v1(str(other))) is (networks[0] == networks[1])


@given(st.ip_addresses())
def test_the_network_is_a_fixed_point(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    packed = subnet_v1(str(address))
    assert subnet_v1(ip_text(packed)) == packed


def test_networks_by_example() -> None:
    form = Form("subnet")
    assert form.text(form.canonical("192.0.2.77")) == "192.0.2.0/24"
    assert form.text(form.canonical("2001:db8:1:2::3")) == "2001:db8:1::/48"
    assert form.text(form.canonical("::ffff:192.0.2.77")) == "192.0.2.0/24"
    assert form.text(form.canonical("::1")) == "::/48"


@pytest.mark.parametrize("value", ["192.0.2.0/24", "192.0.2", "2001:db8::/48", "", " ", None, 5, "01.2.3.4", "::1%1"])
def test_a_network_takes_and_refuses_what_an_address_does(value: object) -> None:
    assert outcome(value, Form("subnet")) == outcome(value, Form("ip"))
    assert isinstance(outcome(value, Form("subnet")), Reason)


@given(LIKE_AN_ADDRESS)
def test_canonical_addresses_have_one_spelling(text: str) -> None:
    expected = reference(text)
    if expected is not None:
        address = ipaddress.IPv6Address(expected)
        assert Form("ip").text(ip_v1(text)) == str(address.ipv4_mapped or address)


def test_ipv6_is_spelled_as_rfc_5952_says() -> None:
    """And not as inet_ntop does where the C library takes the end for an IPv4 address."""
    for text, spelled in {
        "2001:DB8:0:0:1:0:0:1": "2001:db8::1:0:0:1",
        "2001:db8:0:1:1:1:1:1": "2001:db8:0:1:1:1:1:1",
        "2001:0db8::0001": "2001:db8::1",
        "::1.2.3.4": "::102:304",
        "0:0:0:0:0:0:0:1": "::1",
        "::FFFF:1.2.3.4": "1.2.3.4",
    }.items():
        assert ip_text(ip_v1(text)) == spelled


@pytest.mark.parametrize(
    ("canonical", "form", "reason"),
    [
        (b"canary", Form("ip"), Reason.NOT_AN_IP),
        (b"", Form("ip"), Reason.NOT_AN_IP),
        (bytes(17), Form("ip"), Reason.NOT_AN_IP),
        (b"canary", Form("subnet"), Reason.NOT_AN_IP),
        (bytes(15) + b"\1", Form("subnet"), Reason.NOT_AN_IP),
        (MAPPED + b"\1\2\3\4", Form("subnet"), Reason.NOT_AN_IP),
        (b"canary\xff", Form(), Reason.INVALID_TEXT),
        (b"\xed\xa0\x80 canary", Form(), Reason.INVALID_TEXT),
    ],
)
def test_what_is_not_canonical_has_no_text(canonical: bytes, form: Form, reason: Reason) -> None:
    with pytest.raises(FormError) as caught:
        form.text(canonical)
    assert (caught.value.reason, caught.value.__context__, caught.value.__cause__) == (reason, None, None)
    assert "canary" not in repr(caught.value)


OPTIONS = st.fixed_dictionaries({"casefold": st.booleans(), "strip_chars": st.sampled_from(["", "-:", " ", "-. _/"])})
TEXTS = st.one_of(
    st.text(),
    st.text(
        "aAeEß\u017fİ\u0131ΣςάΆΐᾴ\u0345\u0301\u0316\u0308-: ńǰ\u212bK\u2126;\u037e\u0958각"
        "\u1100\u1161\u11a8\u2000\u3000"
    ),
)


@given(TEXTS, OPTIONS)
def test_the_canonical_text_is_a_fixed_point(text: str, options: dict[str, object]) -> None:
    form = Form("text", **options)  # type: ignore[arg-type]
    try:
        canonical = form.canonical(text)
    except FormError:
        return
    assert form.canonical(canonical.decode()) == canonical
    assert form.text(canonical) == canonical.decode()


@given(TEXTS, OPTIONS)
def test_texts_of_one_normal_form_are_one(text: str, options: dict[str, object]) -> None:
    form = Form("text", **options)  # type: ignore[arg-type]
    spelled = [unicodedata.normalize(name, text) for name in ("NFC", "NFD")]
    assert len({outcome(each, form) for each in (text, *spelled)}) == 1


@given(TEXTS.filter(str.strip), st.text(" \t\n\r\f\v\x85\xa0\u1680\u2003\u2028\u3000", max_size=4))
def test_white_space_around_is_nothing(text: str, space: str) -> None:
    try:
        canonical = text_v1(text)
    except FormError:
        return
    assert text_v1(f"{space}{canonical.decode()}{space}") == canonical


def test_white_space_is_what_unicode_says() -> None:
    assert {chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()} - set(forms._SPACE) == set(
        "\x1c\x1d\x1e\x1f"
    )


@given(st.integers())
def test_a_number_is_its_decimal_text(number: int) -> None:
    assert text_v1(number) == text_v1(str(number)) == str(number).encode()


@given(st.text())
def test_text_keeps_its_letters(text: str) -> None:
    """No NFKC: the ligature and the full width digit are other identifiers."""
    try:
        canonical = text_v1(text).decode()
    except FormError:
        return
    assert canonical == unicodedata.normalize("NFC", text).strip(forms._SPACE)


def test_the_options() -> None:
    assert text_v1(" 59-3:47 ", strip_chars="-:") == b"59347"
    assert text_v1("- a -", strip_chars="-") == b"a"
    assert text_v1("Straße", casefold=True) == text_v1("STRASSE", casefold=True) == b"strasse"
    assert text_v1("00-B0-D0", casefold=True, strip_chars="-:") == text_v1("00:b0:d0", casefold=True, strip_chars="-:")
    assert text_v1("e-\u0301", strip_chars="-") == "é".encode()
    assert text_v1("ﬁ") != text_v1("fi")
    assert text_v1("A") != text_v1("a")


@pytest.mark.parametrize("value", [True, False, 1.0, float("nan"), None, b"x", [], ["x"], {}, {"a": 1}, ("x",)])
def test_what_is_neither_text_nor_a_whole_number_is_refused(value: object) -> None:
    assert reason_of(value, Form()) is Reason.WRONG_TYPE


def test_an_enum_is_no_number() -> None:
    assert reason_of(IntEnum("Colour", "RED").RED, Form()) is Reason.WRONG_TYPE  # type: ignore[attr-defined]


def test_numbers_end_at_4300_digits() -> None:
    assert len(text_v1(10**4300 - 1)) == 4300
    assert len(text_v1(1 - 10**4300)) == 4301
    assert reason_of(10**4300, Form()) is Reason.WRONG_TYPE
    assert reason_of(-(10**4300), Form()) is Reason.WRONG_TYPE
    assert reason_of(1 << 10_000_000, Form()) is Reason.WRONG_TYPE


def test_a_process_with_a_lower_limit_refuses_earlier() -> None:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        assert reason_of(10**1000, Form()) is Reason.WRONG_TYPE
    finally:
        sys.set_int_max_str_digits(limit)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "a\0b", "\0", "é\0", "\udc80é"])
def test_text_that_no_database_takes_is_refused(text: str) -> None:
    assert reason_of(text, Form()) is Reason.INVALID_TEXT


@pytest.mark.parametrize("text", ["", " ", "\u3000\u2028", "\n"])
def test_nothing_is_refused(text: str) -> None:
    assert reason_of(text, Form()) is Reason.EMPTY_VALUE
    assert reason_of(f"-{text}-", Form(strip_chars="-")) is Reason.EMPTY_VALUE


def test_a_pile_of_marks_is_refused_before_it_costs_seconds() -> None:
    assert text_v1("a" + "\u0316" * 64)
    assert reason_of("a" + "\u0316" * 65, Form()) is Reason.INVALID_TEXT
    assert reason_of("a" + "\u0301\u0316" * 200_000, Form()) is Reason.INVALID_TEXT
    # and the pile that only appears when the characters between are taken out
    assert reason_of("a" + "\u0301-\u0316-" * 100_000, Form(strip_chars="-")) is Reason.INVALID_TEXT
    assert text_v1("ä" * 100_000) == ("ä" * 100_000).encode()


def test_form_ids_are_frozen() -> None:
    assert form_id("ip") == Form("ip").form_id == "ip/v1"
    assert form_id("subnet") == Form("subnet").form_id == "subnet/v1"
    assert form_id("text") == Form().form_id == "text/v1"
    assert Form(casefold=True).form_id == "text/v1+casefold"
    assert Form(casefold=True, strip_chars=":-:").form_id == "text/v1+casefold+strip=-:"
    assert form_id("text", strip_chars=":-:") == Form(strip_chars="-:").form_id == "text/v1+strip=-:"


def test_equal_forms_are_one_form() -> None:
    assert Form(strip_chars=":-") == Form(strip_chars="--:")
    assert len({Form(strip_chars=":-"), Form(strip_chars="--:"), Form(), Form("ip"), Form("subnet")}) == 4


@pytest.mark.parametrize(
    ("kind", "casefold", "strip_chars"),
    [("email", False, ""), ("ip", True, ""), ("ip", False, "-"), ("subnet", True, ""), ("subnet", False, "-"),
     ("text", False, "a"), ("text", False, "0"),
     ("text", False, "\n"), ("text", False, "\0"), ("text", False, "\u2013")],
)  # fmt: skip
def test_impossible_forms_are_refused(kind: str, casefold: bool, strip_chars: str) -> None:  # noqa: FBT001 - a case
    with pytest.raises(ConfigError) as caught:
        Form(kind, casefold, strip_chars)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("\ud800canary", Form()),
        ("canary\0", Form()),
        ("::canary", Form("ip")),
        ("\ud800", Form("ip")),
        ("1.2\0", Form("ip")),
        ("1.2.3.canary", Form("subnet")),
        ("::canary", Form("subnet")),
        (["canary"], Form()),
        ("canary" + "\u0316" * 65, Form()),
    ],
)
def test_an_error_holds_nothing_of_the_value(value: object, form: Form) -> None:
    with pytest.raises(FormError) as caught:
        form.canonical(value)
    error = caught.value
    assert (error.__context__, error.__cause__) == (None, None)
    assert error.args == (error.reason.value,)
    assert "canary" not in repr(error)


# -- forms by their ids


FORMS = [
    Form("ip"),
    Form("subnet"),
    Form(),
    Form(casefold=True),
    Form(strip_chars="-:"),
    Form(casefold=True, strip_chars="+="),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.form_id)
def test_a_form_is_known_by_its_id(form: Form) -> None:
    assert parse_form(form.form_id) == form


@pytest.mark.parametrize(
    "text",
    ["", "ip", "ip/v2", "mac/v1", "ip/v1x", "/v1", "text/v1+fold", "text/v1+strip=", "text/v1+strip=:-", "subnetX/v1",
     "ipX/v1", "textX/v1"],
)  # fmt: skip
def test_another_id_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no canonical form of this version") as caught:
        parse_form(text)
    assert caught.value.hint == "upgrade coatcheck"


@pytest.mark.parametrize("text", ["192.0.2.1", "2001:db8::1"])
def test_an_address_is_written_as_itself(text: str) -> None:
    assert Form("ip").text(ip_v1(text)) == text


@pytest.mark.parametrize("letter", ["X", "x"])
def test_letters_are_neither_space_nor_punctuation(letter: str) -> None:
    assert text_v1(f"{letter}a{letter}") == f"{letter}a{letter}".encode()
    assert text_v1(f"{letter}é{letter}") == f"{letter}é{letter}".encode()
    with pytest.raises(ConfigError):
        Form(strip_chars=letter)
    with pytest.raises(FormError):
        ip_v1(f"192.0.2.1{letter}")


def test_the_error_says_its_reason() -> None:
    assert str(FormError(Reason.NOT_AN_IP)) == "not_an_ip"


def test_the_error_is_made_of_its_reasons_text() -> None:
    assert repr(FormError(Reason.NOT_AN_IP)) == "FormError('not_an_ip')"


def test_the_limit_of_a_number_is_that_of_the_form_not_of_the_process() -> None:
    """Or two processes, started with different limits, would take and refuse different values."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        for most in (10**4300 - 1, 1 - 10**4300):
            assert text_v1(most) == str(most).encode()
        for beyond in (10**4300, -(10**4300)):
            with pytest.raises(FormError, match="wrong_type"):
                text_v1(beyond)
    finally:
        sys.set_int_max_str_digits(limit)
