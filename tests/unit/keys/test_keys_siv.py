from __future__ import annotations

import hashlib
import hmac
import json
import re
import string
import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import ConfigError
from coatcheck.keys import TOKEN_PATTERN, Form, FormError, OpenError, Tokenizer
from coatcheck.keys.derive import expand, lp
from coatcheck.keys.sealing import pad
from coatcheck.keys.siv import SEALED_PATTERN, longest_sealed, open_function, seal_function
from coatcheck.pipeline.message import Reason

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Callable

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "golden_sealed.json").read_text())
ROOT = bytes(range(32))
IP, SUBNET, TEXT = Form("ip"), Form("subnet"), Form()
BASE64 = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"

Scope = tuple[bytes, str, str, str, Form]
HERE: Scope = (ROOT, "default", "ip", "k1", IP)


def sealer(scope: Scope = HERE) -> Callable[[object], str]:
    root, tenant, domain, kid, form = scope
    return seal_function(root, tenant=tenant, kid=kid, domain=domain, form=form)


def opener(scope: Scope = HERE) -> Callable[[str], str]:
    root, tenant, domain, kid, form = scope
    return open_function(root, tenant=tenant, kid=kid, domain=domain, form=form)


def scope_of(case: dict[str, str]) -> Scope:
    form = Form(case["form"], bool(case.get("casefold")), case.get("strip_chars", ""))
    return bytes.fromhex(GOLDEN["root"]), case["tenant"], case["domain"], case["kid"], form


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def siv_by_hand(key: bytes, plaintext: bytes, associated: list[bytes]) -> bytes:
    """Encrypt a plaintext of 16 bytes or more with CMAC and CTR alone, from the text of RFC 5297, 2.4 to 2.6."""

    def mac(data: bytes) -> bytes:
        cmac = CMAC(AES(key[: len(key) // 2]))
        cmac.update(data)
        return cmac.finalize()

    def double(block: bytes) -> bytes:
        number = int.from_bytes(block, "big") << 1
        return ((number ^ (number >> 128) * 0x87) % 2**128).to_bytes(16, "big")

    state = mac(bytes(16))
    for component in associated:
        state = xor(double(state), mac(component))
    tag = mac(plaintext[:-16] + xor(plaintext[-16:], state))
    counter = int.from_bytes(tag, "big") & ~(1 << 63 | 1 << 31)
    return tag + Cipher(AES(key[len(key) // 2 :]), CTR(counter.to_bytes(16, "big"))).encryptor().update(plaintext)


@pytest.mark.parametrize("case", GOLDEN["sealed"], ids=lambda case: case["note"])
def test_golden_sealed_texts_never_change(case: dict[str, str]) -> None:
    """Changing tests/data/golden_sealed.json is a breaking change: users' tables hold values like these."""
    scope = scope_of(case)
    assert sealer(scope)(case["value"]) == case["sealed"]
    assert opener(scope)(case["sealed"]) == case["opened"]


@pytest.mark.parametrize("case", GOLDEN["sealed"], ids=lambda case: case["note"])
def test_golden_sealed_texts_follow_from_the_rfcs(case: dict[str, str]) -> None:
    parts = ["coatcheck/seal/v1", case["tenant"], case["domain"], case["kid"]]
    info = lp(*parts, case["form_id"])
    half = hmac.digest(bytes.fromhex(GOLDEN["root"]), info + b"\x01", "sha256")
    key = half + hmac.digest(bytes.fromhex(GOLDEN["root"]), half + info + b"\x02", "sha256")
    canonical = bytes.fromhex(case["canonical"])
    padded = len(canonical).to_bytes(4, "big") + canonical
    padded += bytes(-len(padded) % 32)
    sealed = siv_by_hand(key, padded, [part.encode() for part in parts])
    digits = "".join(f"{byte:08b}" for byte in sealed)
    text = "".join(BASE64[int(digits[at : at + 6].ljust(6, "0"), 2)] for at in range(0, len(digits), 6))
    assert case["sealed"] == f"ps1_{case['domain']}_{case['kid']}_{text}"


def test_siv_by_hand_is_the_library() -> None:
    key, data, associated = bytes(range(64)), bytes(48), [b"", b"a", bytes(40)]
    assert siv_by_hand(key, data, associated) == AESSIV(key).encrypt(data, associated)


@given(st.ip_addresses())
def test_an_address_opens_in_its_one_spelling(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    mapped = getattr(address, "ipv4_mapped", None)
    sealed = sealer()(str(address))
    assert opener()(sealed) == str(mapped or address)
    assert sealer()(opener()(sealed)) == sealed


@given(st.text(), st.booleans(), st.sampled_from(["", "-:", " "]))
def test_a_text_opens_in_its_canonical_form(text: str, casefold: bool, strip_chars: str) -> None:  # noqa: FBT001
    form = Form("text", casefold, strip_chars)
    scope = (ROOT, "default", "name", "k1", form)
    try:
        canonical = form.canonical(text)
    except FormError:
        return
    sealed = sealer(scope)(text)
    assert opener(scope)(sealed) == canonical.decode()
    assert SEALED_PATTERN.fullmatch(sealed)
    assert len(sealed) <= longest_sealed(len(canonical))


@given(st.ip_addresses())
def test_a_network_opens_as_one(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    scope = (ROOT, "default", "ipnet", "k1", SUBNET)
    assert opener(scope)(sealer(scope)(str(address))) == SUBNET.text(SUBNET.canonical(str(address)))


@given(st.text(min_size=1))
def test_one_normal_form_one_sealed_text(text: str) -> None:
    seal = sealer((ROOT, "default", "name", "k1", TEXT))
    try:
        expected = seal(text)
    except FormError:
        return
    assert {seal(unicodedata.normalize(name, text)) for name in ("NFC", "NFD")} == {expected}


def test_mapped_and_padded_addresses_and_numbers_are_one_sealed_text() -> None:
    assert len({sealer()(text) for text in ("1.2.3.4", " 1.2.3.4\n", "::ffff:1.2.3.4", "::FFFF:102:304")}) == 1
    seal = sealer((ROOT, "default", "id", "k1", TEXT))
    assert seal(17) == seal(" 17 ")


SCOPES = st.tuples(
    st.binary(min_size=32, max_size=32),
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    st.from_regex(r"[a-z0-9]{1,16}", fullmatch=True),
    st.from_regex(r"k[0-9a-z]{1,6}", fullmatch=True),
    st.builds(Form, casefold=st.booleans(), strip_chars=st.sampled_from(["", "-", "-:"])),
)


@given(SCOPES, SCOPES, st.integers(0, 31))
def test_where_anything_differs_nothing_opens(one: Scope, other: Scope, mix: int) -> None:
    """`mix` takes each part from one or the other, so that single differences are common."""
    mixed: Scope = tuple(  # type: ignore[assignment]
        a if mix >> index & 1 else b for index, (a, b) in enumerate(zip(one, other, strict=True))
    )
    here, there = sealer(one)("593475928"), sealer(mixed)("593475928")
    assert (here.rpartition("_k")[2] == there.rpartition("_k")[2]) is (one == mixed)
    assert SEALED_PATTERN.fullmatch(there)
    if one == mixed:
        assert opener(one)(there) == "593475928"
        return
    with pytest.raises(OpenError):
        opener(one)(there)
    body = there.removeprefix(f"ps1_{mixed[2]}_{mixed[3]}_")
    with pytest.raises(OpenError):  # nor does it when it is dressed up as one of here
        opener(one)(f"ps1_{one[2]}_{one[3]}_{body}")


def test_each_component_of_the_associated_data_is_authenticated_and_in_order() -> None:
    """The key differs per scope already; what SIV is told once more must be told as written, in four parts."""
    key = expand(ROOT, "coatcheck/seal/v1", "default", "ip", "k1", "ip/v1", length=64)
    sealed = AESSIV(key).encrypt(pad(IP.canonical("1.2.3.4")), [b"coatcheck/seal/v1", b"default", b"ip", b"k1"])
    digits = sealer()("1.2.3.4").removeprefix("ps1_ip_k1_")
    assert digits == "".join(
        BASE64[int.from_bytes(sealed, "big") >> shift & 63] for shift in range(len(sealed) * 8 - 6, -1, -6)
    )


@given(st.integers(0, 73), st.sampled_from(BASE64 + "=+/ \n.é"))
def test_a_changed_character_does_not_open(at: int, character: str) -> None:
    sealed = sealer()("199.172.111.135")
    changed = sealed[:at] + character + sealed[at + 1 :]
    if changed == sealed:
        return
    with pytest.raises(OpenError):
        opener()(changed)


@given(st.text(), st.text(BASE64))
def test_what_was_never_sealed_does_not_open(text: str, body: str) -> None:
    for sealed in (text, body, f"ps1_ip_k1_{text}", f"ps1_ip_k1_{body}"):
        with pytest.raises(OpenError):
            opener()(sealed)


@pytest.mark.parametrize("length", [28, 29, 60])
def test_only_one_spelling_of_the_base64_opens(length: int) -> None:
    """80 and 112 bytes leave unused bits in the last character, and decoders take padding and foreign signs."""
    scope = (ROOT, "default", "name", "k1", TEXT)
    sealed = sealer(scope)("x" * length)
    assert opener(scope)(sealed) == "x" * length
    last = BASE64.index(sealed[-1])
    spare = {28: 0, 29: 2, 60: 4}[length]
    others = {sealed[:-1] + BASE64[last ^ bits] for bits in range(1, 1 << spare)}
    others |= {sealed + "=", sealed + "==", sealed + "\n", " " + sealed, sealed + "A", sealed[:-1]}
    others |= {sealed[:50] + "\n" + sealed[50:], sealed.replace("-", "+") + "=", sealed.swapcase(), ""}
    for other in others - {sealed}:
        with pytest.raises(OpenError):
            opener(scope)(other)


def forged(plaintext: bytes, form: Form) -> str:
    """Seal what no value has as its canonical bytes: only who holds the key can."""
    key = expand(ROOT, "coatcheck/seal/v1", "default", "ip", "k1", form.form_id, length=64)
    sealed = AESSIV(key).encrypt(plaintext, [b"coatcheck/seal/v1", b"default", b"ip", b"k1"])
    assert len(sealed) % 3 == 0
    number = int.from_bytes(sealed, "big")
    return "ps1_ip_k1_" + "".join(BASE64[number >> shift & 63] for shift in range(len(sealed) * 8 - 6, -1, -6))


@pytest.mark.parametrize(
    ("plaintext", "form"),
    [
        (pad(b"\xff canary"), TEXT),
        (pad(b"canary"), IP),
        (pad(bytes(15) + b"\x01"), SUBNET),
        (b"canary".ljust(32), TEXT),
        (pad(b"canary")[:-1] + b"x", TEXT),
    ],
)
def test_what_only_the_key_holder_can_forge_is_refused_too(plaintext: bytes, form: Form) -> None:
    assert opener((ROOT, "default", "ip", "k1", TEXT))(forged(pad(b"fine"), TEXT)) == "fine"
    with pytest.raises(OpenError) as caught:
        opener((ROOT, "default", "ip", "k1", form))(forged(plaintext, form))
    assert (caught.value.__context__, caught.value.__cause__) == (None, None)
    assert "canary" not in repr(caught.value)


def test_the_errors_hold_nothing() -> None:
    for sealed in ("canary", "ps1_ip_k1_canary", "ps1_ip_k1_" + "canary" * 12, "ps1_ip_k1_canaryé"):
        with pytest.raises(OpenError) as opening:
            opener()(sealed)
        assert (opening.value.__context__, opening.value.__cause__) == (None, None)
        assert "canary" not in repr(opening.value)
    with pytest.raises(FormError) as sealing:
        sealer()("canary")
    assert (sealing.value.reason, sealing.value.__context__) == (Reason.NOT_AN_IP, None)


@given(st.text(min_size=8))
def test_no_output_shows_its_input(text: str) -> None:
    try:
        canonical = TEXT.canonical(text).decode()
    except FormError:
        return
    body = sealer((ROOT, "default", "name", "k1", TEXT))(text).removeprefix("ps1_name_k1_")
    token = Tokenizer(ROOT, tenant="default", kid="k1").token("name", text, TEXT).removeprefix("pt1_name_k1_")
    for shown in (text, canonical):
        if len(shown) >= 8:
            assert shown not in body
            assert shown not in token


@given(st.ip_addresses(v=4))
def test_no_output_shows_an_address(address: ipaddress.IPv4Address) -> None:
    sealed = sealer()(str(address))
    assert str(address) not in sealed
    assert address.packed.hex() not in sealed


def test_the_length_tells_the_step_only() -> None:
    seal = sealer((ROOT, "default", "name", "k1", TEXT))
    lengths = [len(seal("x" * size)) for size in range(1, 100)]
    assert sorted(set(lengths)) == [12 + body for body in (64, 107, 150, 192)]
    assert [size for size, (one, next_one) in enumerate(pairwise(lengths), start=1) if one != next_one] == [28, 60, 92]


@pytest.mark.parametrize("size", [1, 4, 16, 28, 29, 60, 61, 92, 255, 256, 1000])
def test_the_longest_sealed_text_is_exactly_that(size: int) -> None:
    scope = (ROOT, "default", "d" * 16, "k123456", TEXT)
    assert len(sealer(scope)("x" * size)) == longest_sealed(size)


def test_the_pattern() -> None:
    sealed = sealer((ROOT, "default", "device0123456789", "k9zzzzz", TEXT))("593-47-5928")
    found = SEALED_PATTERN.fullmatch(sealed)
    assert found
    assert found.groups() == ("device0123456789", "k9zzzzz", sealed[-64:])
    assert not TOKEN_PATTERN.fullmatch(sealed)
    assert not SEALED_PATTERN.fullmatch(Tokenizer(ROOT, tenant="default", kid="k1").token("ip", "::1", IP))
    for other in ("1.2.3.4", sealed + "\n", sealed + "=", sealed.upper(), "ps1_ip_k1_" + "A" * 63, "ps1_ip_k1_"):
        assert not SEALED_PATTERN.fullmatch(other)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", sealed)  # nothing that SQL, CSV, a shell or a URL would have to quote


@pytest.mark.parametrize("make", [seal_function, open_function])
@pytest.mark.parametrize(
    "wrong",
    [{"root": bytes(31)}, {"tenant": "-"}, {"kid": "1"}, {"domain": "IP"}, {"domain": "a" * 17}, {"root": b""}],
)
def test_bad_names_and_roots_are_configuration_errors(
    make: Callable[..., Callable[..., str]], wrong: dict[str, object]
) -> None:
    arguments = {"root": ROOT, "tenant": "default", "kid": "k1", "domain": "ip", "form": IP} | wrong
    with pytest.raises(ConfigError) as caught:
        make(arguments.pop("root"), **arguments)
    assert caught.value.hint


def test_a_key_of_another_length_is_no_other_key() -> None:
    """HKDF's nature, which `expand` says: never one purpose with two lengths."""
    assert expand(ROOT, "a", length=64)[:32] == expand(ROOT, "a") == expand(ROOT, "a", length=32)
    assert len(expand(ROOT, "a", length=64)) == 64
    assert expand(ROOT, "a", length=64)[32:] == hmac.digest(ROOT, expand(ROOT, "a") + lp("a") + b"\x02", hashlib.sha256)
