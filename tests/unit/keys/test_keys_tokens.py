from __future__ import annotations

import hashlib
import hmac
import json
import unicodedata
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import ConfigError
from coatcheck.keys import TOKEN_PATTERN, Form, FormError, Tokenizer, sha256_insecure
from coatcheck.keys.derive import expand, lp
from coatcheck.keys.tokens import ledger_hash
from coatcheck.pipeline.message import Reason

if TYPE_CHECKING:
    import ipaddress

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "golden_tokens.json").read_text())
ROOT = bytes(range(32))
IP, TEXT = Form("ip"), Form()


def a_tokenizer(root: bytes = ROOT, tenant: str = "default", kid: str = "k1") -> Tokenizer:
    return Tokenizer(root, tenant=tenant, kid=kid)


def by_hand(root: bytes, info: list[bytes], data: bytes) -> bytes:
    """Compute HMAC under an HKDF-Expand key with the standard library alone, from the text of the RFCs."""
    framed = b"".join(len(part).to_bytes(4, "big") + part for part in info)
    key = hmac.new(root, framed + b"\x01", hashlib.sha256).digest()
    return hmac.new(key, data, hashlib.sha256).digest()


@pytest.mark.parametrize("case", GOLDEN["tokens"], ids=lambda case: case["note"])
def test_golden_tokens_never_change(case: dict[str, str]) -> None:
    """Changing tests/data/golden_tokens.json is a breaking change: users' tables hold tokens like these."""
    form = Form(case["form"], bool(case.get("casefold")), case.get("strip_chars", ""))
    tokenizer = a_tokenizer(bytes.fromhex(GOLDEN["root"]), case["tenant"], case["kid"])
    assert tokenizer.token(case["domain"], case["value"], form) == case["token"]


@pytest.mark.parametrize("case", GOLDEN["tokens"], ids=lambda case: case["note"])
def test_golden_tokens_follow_from_the_rfcs(case: dict[str, str]) -> None:
    form = Form(case["form"], bool(case.get("casefold")), case.get("strip_chars", ""))
    info = ["coatcheck/token/v1", case["tenant"], case["domain"], case["kid"], case["form_id"]]
    mac = by_hand(bytes.fromhex(GOLDEN["root"]), [part.encode() for part in info], bytes.fromhex(case["canonical"]))
    assert case["token"] == f"pt1_{case['domain']}_{case['kid']}_{mac.hex()[:40]}"
    assert form.canonical(case["value"]).hex() == case["canonical"]
    assert form.form_id == case["form_id"]


@pytest.mark.parametrize("case", GOLDEN["ledger"], ids=lambda case: case["namespace"])
def test_golden_ledger_keys_never_change(case: dict[str, str]) -> None:
    """A changed ledger key would load every message of the retention a second time."""
    root = bytes.fromhex(GOLDEN["root"])
    key = ledger_hash(root, case["tenant"])(case["namespace"])(case["data"].encode())
    info = ["coatcheck/ledger/v1", case["tenant"], case["namespace"]]
    assert key.hex() == case["key"]
    assert key == by_hand(root, [part.encode() for part in info], case["data"].encode())[:16]


def test_mapped_padded_and_unnormalized_values_are_one_token() -> None:
    tokenizer = a_tokenizer()
    assert len(set(tokenizer.token_many("ip", ["1.2.3.4", " 1.2.3.4\n", "::ffff:1.2.3.4", "::FFFF:102:304"], IP))) == 1
    assert len(set(tokenizer.token_many("name", ["é", "e\u0301", " é\u3000"], TEXT))) == 1
    assert len(set(tokenizer.token_many("id", [17, "17", " 17 "], TEXT))) == 1


@given(st.ip_addresses(v=4))
def test_mapped_equals_plain(address: ipaddress.IPv4Address) -> None:
    token = a_tokenizer().for_domain("ip", IP)
    assert token(str(address)) == token(f"::ffff:{address}")


@given(st.text())
def test_one_normal_form_one_token(text: str) -> None:
    token = a_tokenizer().for_domain("name", TEXT)
    try:
        expected = token(text)
    except FormError:
        return
    assert token(unicodedata.normalize("NFD", text)) == expected
    assert TOKEN_PATTERN.fullmatch(expected)


NAMES = st.from_regex(r"[a-z0-9]{1,16}", fullmatch=True)
KIDS = st.from_regex(r"k[0-9a-z]{1,6}", fullmatch=True)
TENANTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
FORMS = st.builds(Form, casefold=st.booleans(), strip_chars=st.sampled_from(["", "-", "-:"]))
SCOPES = st.tuples(st.binary(min_size=32, max_size=32), TENANTS, NAMES, KIDS, FORMS)


@given(SCOPES, SCOPES, st.integers(0, 31))
def test_where_anything_differs_the_token_does(one: tuple[object, ...], other: tuple[object, ...], mix: int) -> None:
    """`mix` takes each part from one or the other, so that single differences are common."""
    mixed = tuple(a if mix >> index & 1 else b for index, (a, b) in enumerate(zip(one, other, strict=True)))
    digests = []
    for root, tenant, domain, kid, form in (one, mixed):
        tokenizer = Tokenizer(root, tenant=tenant, kid=kid)  # type: ignore[arg-type]
        digests.append(tokenizer.token(domain, "593475928", form)[-40:])  # type: ignore[arg-type]
    assert (digests[0] == digests[1]) is (one == mixed)


@given(st.text(), st.text())
def test_different_values_have_different_tokens(one: str, other: str) -> None:
    token = a_tokenizer().for_domain("name", TEXT)
    with suppress(FormError):
        assert (token(one) == token(other)) is (TEXT.canonical(one) == TEXT.canonical(other))


def test_a_token_matches_the_pattern_and_names_domain_and_key() -> None:
    token = a_tokenizer(kid="k9zzzzz").token("device0123456789", "593-47-5928", TEXT)
    found = TOKEN_PATTERN.fullmatch(token)
    assert found
    assert found.groups() == ("device0123456789", "k9zzzzz", token[-40:])
    assert len(token) == 69


@pytest.mark.parametrize("text", ["pt1_ip_k1_" + "0" * 39, "pt1_IP_k1_" + "0" * 40, "1.2.3.4", "pt1_ip_k1_" + "A" * 40])
def test_what_is_no_token_does_not_match(text: str) -> None:
    assert not TOKEN_PATTERN.fullmatch(text)
    assert not TOKEN_PATTERN.fullmatch(f"pt1_ip_k1_{'0' * 40}\n")


def test_every_way_to_a_token_is_the_same() -> None:
    tokenizer = a_tokenizer()
    function = tokenizer.for_domain("ip", IP)
    assert tokenizer.for_domain("ip", Form("ip")) is function
    assert tokenizer.token_many("ip", iter(["1.2.3.4", "::1"]), IP) == [function("1.2.3.4"), function("::1")]
    assert tokenizer.token("ip", "::1", IP) == function("::1")
    assert a_tokenizer().token("ip", "::1", IP) == function("::1")


def test_a_value_without_canonical_form_has_no_token() -> None:
    with pytest.raises(FormError) as caught:
        a_tokenizer().token_many("ip", ["1.2.3.4", "nowhere"], IP)
    assert caught.value.reason is Reason.NOT_AN_IP


@pytest.mark.parametrize("domain", ["", "IP", "login_ip", "a" * 17, "ip\n", "é", "ip "])
def test_a_bad_domain_is_a_configuration_error(domain: str) -> None:
    with pytest.raises(ConfigError) as caught:
        a_tokenizer().for_domain(domain, IP)
    assert "domain" in caught.value.hint


@pytest.mark.parametrize("kid", ["", "k", "1", "K1", "k12345678", "k1\n", "k_1"])
def test_a_bad_key_id_is_a_configuration_error(kid: str) -> None:
    with pytest.raises(ConfigError):
        a_tokenizer(kid=kid)


@pytest.mark.parametrize("tenant", ["", "-a", "a b", "a" * 64, "a\n", "ä"])
def test_a_bad_tenant_is_a_configuration_error(tenant: str) -> None:
    with pytest.raises(ConfigError):
        a_tokenizer(tenant=tenant)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_root_has_32_bytes(size: int) -> None:
    with pytest.raises(ConfigError, match=f"{size} bytes"):
        a_tokenizer(bytes(size))


def test_repr_shows_names_only() -> None:
    assert repr(a_tokenizer()) == str(a_tokenizer()) == "Tokenizer(tenant='default', kid='k1')"


@given(st.binary(), st.binary())
def test_ledger_keys_tell_contents_apart(one: bytes, other: bytes) -> None:
    key = ledger_hash(bytes(range(32)), "default")("content")
    assert (key(one) == key(other)) is (one == other)
    assert len(key(one)) == 16


def test_ledger_keys_depend_on_namespace_tenant_and_root() -> None:
    keys = [
        ledger_hash(bytes(range(32)), "default")("content"),
        ledger_hash(bytes(range(32)), "default")("field:id"),
        ledger_hash(bytes(range(32)), "other")("content"),
        ledger_hash(bytes(32), "default")("content"),
    ]
    assert len({key(b"body") for key in keys}) == 4


@pytest.mark.parametrize("size", [0, 31, 33])
def test_the_ledgers_root_has_32_bytes(size: int) -> None:
    with pytest.raises(ConfigError, match=f"{size} bytes"):
        ledger_hash(bytes(size), "default")


@given(st.text())
def test_the_insecure_hash_is_exactly_the_exercises(text: str) -> None:
    assert sha256_insecure(text) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("\ud800canary", Reason.INVALID_TEXT),
        (5, Reason.WRONG_TYPE),
        (None, Reason.WRONG_TYPE),
        (b"x", Reason.WRONG_TYPE),
    ],
)
def test_the_insecure_hash_takes_text_only(value: object, reason: Reason) -> None:
    with pytest.raises(FormError) as caught:
        sha256_insecure(value)
    assert (caught.value.reason, caught.value.__context__) == (reason, None)


@given(st.lists(st.binary()), st.lists(st.binary()))
def test_framing_is_unambiguous(one: list[bytes], other: list[bytes]) -> None:
    assert (lp(*one) == lp(*other)) is (one == other)
    assert lp(*one) + lp(*other) == lp(*one, *other)


def test_framing_by_example() -> None:
    assert lp("é", b"", b"abc").hex() == "00000002c3a9" + "00000000" + "00000003616263"
    assert expand(ROOT, "a", "b") != expand(ROOT, "ab")


def test_what_the_key_protects_and_what_it_does_not() -> None:
    """Without the root no guess can be tested; with it, a /16 is enumerated at once. This is THE secret."""
    stolen = set(a_tokenizer().token_many("ip", [f"203.0.{n}.77" for n in range(256)], IP))
    guesses = [f"203.0.{n >> 8}.{n & 255}" for n in range(65536)]
    attacker, insider = a_tokenizer(bytes(32)), a_tokenizer()
    assert not stolen.intersection(attacker.token_many("ip", guesses, IP))
    assert stolen <= set(insider.token_many("ip", guesses, IP))


def test_the_ledgers_tenant_has_a_proper_name() -> None:
    with pytest.raises(ConfigError, match='"no tenant!" is no tenant'):
        ledger_hash(bytes(32), "no tenant!")


@pytest.mark.parametrize("of", ["seal_for", "open_for"])
def test_a_bad_domain_is_refused_for_sealed_texts_too(of: str) -> None:
    with pytest.raises(ConfigError, match='"No" is no domain'):
        getattr(a_tokenizer(), of)("No", TEXT)
    with pytest.raises(ConfigError, match='"No" is no domain'):
        a_tokenizer().prefix_for("No")
