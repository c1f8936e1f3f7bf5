from __future__ import annotations

import ipaddress
import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import example, given
from hypothesis import strategies as st

from coatcheck.errors import ConfigError
from coatcheck.keys import FormError, ipcrypt
from coatcheck.keys.derive import expand
from coatcheck.keys.forms import MAPPED, ip_text, ip_v1
from coatcheck.keys.ipcrypt import PrefixCipher, decrypt_function, encrypt_function
from coatcheck.pipeline.message import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(__file__).parents[2] / "data"
VECTORS = json.loads((DATA / "ipcrypt_pfx.json").read_text())["cases"]
GOLDEN = json.loads((DATA / "golden_sealed.json").read_text())
ROOT = bytes(range(32))
KEY = bytes.fromhex(VECTORS[0]["key"])

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def unmapped(address: Address) -> Address:
    return getattr(address, "ipv4_mapped", None) or address


def encrypting(
    root: bytes = ROOT, *, tenant: str = "default", kid: str = "k1", domain: str = "ip"
) -> Callable[[object], str]:
    return encrypt_function(root, tenant=tenant, kid=kid, domain=domain)


def decrypting(
    root: bytes = ROOT, *, tenant: str = "default", kid: str = "k1", domain: str = "ip"
) -> Callable[[object], str]:
    return decrypt_function(root, tenant=tenant, kid=kid, domain=domain)


def by_the_draft(key: bytes, address: Address) -> Address:
    """Encrypt bit by bit, from the prose of draft-denis-ipcrypt-13, section 6.2.1, and one AES call a bit and key."""
    address = unmapped(address)
    bits = f"{int(address):0{address.max_prefixlen}b}"
    before = "0" * 80 + "1" * 16 if address.version == 4 else ""  # an IPv4 address is the end of ::ffff:a.b.c.d
    encrypted = ""
    for index, bit in enumerate(bits):
        block = int("1" + before + bits[:index], 2).to_bytes(16, "big")
        one, other = (Cipher(AES(half), ECB()).encryptor().update(block) for half in (key[:16], key[16:]))  # noqa: S305
        encrypted += str(int(bit) ^ (one[15] ^ other[15]) & 1)
    return type(address)(int(encrypted, 2))


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["ip"])
def test_the_drafts_vectors(case: dict[str, str]) -> None:
    cipher = PrefixCipher(bytes.fromhex(case["key"]))
    assert ip_text(cipher.encrypt(ip_v1(case["ip"]))) == case["encrypted"]
    assert ip_text(cipher.decrypt(ip_v1(case["encrypted"]))) == case["ip"]
    assert str(by_the_draft(bytes.fromhex(case["key"]), ipaddress.ip_address(case["ip"]))) == case["encrypted"]


@pytest.mark.parametrize("case", [case for case in VECTORS if "." in case["ip"]], ids=lambda case: case["ip"])
def test_the_drafts_vectors_hold_for_the_mapped_spelling(case: dict[str, str]) -> None:
    """Section 3.1.2: all variants give both spellings the same output. The PyPI package ipcrypt 0.1.0 does not."""
    cipher = PrefixCipher(bytes.fromhex(case["key"]))
    assert ip_text(cipher.encrypt(ip_v1(f"::ffff:{case['ip']}"))) == case["encrypted"]


@given(st.ip_addresses(), st.binary(min_size=32, max_size=32).filter(lambda key: key[:16] != key[16:]))
@example(ipaddress.ip_address("0.0.0.0"), KEY)  # noqa: S104 - an address to encrypt, nothing listens
@example(ipaddress.ip_address("255.255.255.255"), KEY)
@example(ipaddress.ip_address("::"), KEY)
@example(ipaddress.ip_address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), KEY)
@example(ipaddress.ip_address("::ffff:1.2.3.4"), KEY)
@example(ipaddress.ip_address("::fffe:1.2.3.4"), KEY)
@example(ipaddress.ip_address("8000::"), KEY)
def test_all_at_once_is_bit_by_bit(address: Address, key: bytes) -> None:
    cipher = PrefixCipher(key)
    packed = ip_v1(str(address))
    encrypted = cipher.encrypt(packed)
    assert ip_text(encrypted) == str(by_the_draft(key, address))
    assert cipher.decrypt(encrypted) == packed


@given(st.ip_addresses())
def test_an_address_stays_one_of_its_family_and_comes_back(address: Address) -> None:
    encrypted = encrypting()(str(address))
    assert ipaddress.ip_address(encrypted).version == unmapped(address).version
    assert str(ipaddress.ip_address(encrypted)) == encrypted
    assert decrypting()(encrypted) == str(unmapped(address))


@given(st.ip_addresses(v=4))
def test_mapped_equals_plain(address: ipaddress.IPv4Address) -> None:
    spellings = [str(address), f"::ffff:{address}", f"::FFFF:{address.packed[:2].hex()}:{address.packed[2:].hex()}"]
    assert len({encrypting()(text) for text in [*spellings, f" {address}\n"]}) == 1
    assert len({decrypting()(text) for text in spellings}) == 1


NOT_MAPPED = st.integers(0, 2**128 - 1).filter(lambda number: number >> 32 != 0xFFFF).map(ipaddress.IPv6Address)


def common_bits(one: str, other: str) -> int:
    a, b = ipaddress.ip_address(one), ipaddress.ip_address(other)
    return a.max_prefixlen - (int(a) ^ int(b)).bit_length()


@given(st.ip_addresses(v=4), st.integers(0, 31), st.integers(0, 2**32 - 1))
def test_ipv4_addresses_share_what_they_shared(address: ipaddress.IPv4Address, shared: int, rest: int) -> None:
    """The other one differs at bit `shared`, and behind it anyhow."""
    keep = 31 - shared
    other = ipaddress.IPv4Address((int(address) >> keep ^ 1) << keep | rest % (1 << keep))
    assert common_bits(str(address), str(other)) == shared
    assert common_bits(encrypting()(str(address)), encrypting()(str(other))) == shared


@given(NOT_MAPPED, st.integers(0, 127), st.integers(0, 2**128 - 1))
def test_ipv6_addresses_share_what_they_shared(address: ipaddress.IPv6Address, shared: int, rest: int) -> None:
    keep = 127 - shared
    other = ipaddress.IPv6Address((int(address) >> keep ^ 1) << keep | rest % (1 << keep))
    if other.ipv4_mapped is None:
        assert common_bits(encrypting()(str(address)), encrypting()(str(other))) == shared


def test_a_whole_network_is_a_whole_network() -> None:
    encrypted = [ipaddress.ip_address(encrypting()(f"192.0.2.{host}")) for host in range(256)]
    assert len(set(encrypted)) == 256
    assert len({ipaddress.ip_network(f"{address}/24", strict=False) for address in encrypted}) == 1


def test_the_families_have_nothing_in_common() -> None:
    """An IPv4 address is not encrypted as the first 32 bits of an IPv6 address are (the draft's 9.6.1)."""
    cipher = PrefixCipher(KEY)
    same = 0
    for host in range(64):
        octets = bytes([203, 0, 113, host])
        same += cipher.encrypt(MAPPED + octets)[12:] == cipher.encrypt(octets + bytes(12))[:4]
    assert same == 0


@pytest.mark.parametrize("case", GOLDEN["ipcrypt_pfx"], ids=lambda case: case["note"])
def test_golden_addresses_never_change(case: dict[str, str]) -> None:
    """Changing tests/data/golden_sealed.json is a breaking change: users' tables hold values like these."""
    scope = {name: case[name] for name in ("tenant", "kid", "domain")}
    root = bytes.fromhex(GOLDEN["root"])
    key = expand(root, "coatcheck/ipcrypt-pfx/v1", scope["tenant"], scope["domain"], scope["kid"])
    assert encrypting(root, **scope)(case["value"]) == case["encrypted"]
    assert str(by_the_draft(key, ipaddress.ip_address(case["value"]))) == case["encrypted"]


def test_where_anything_differs_the_address_does() -> None:
    functions = [
        encrypting(),
        encrypting(bytes(32)),
        encrypting(tenant="acme"),
        encrypting(kid="k2"),
        encrypting(domain="loginip"),
    ]
    outputs = [tuple(map(function, ("1.2.3.4", "5.6.7.8", "2001:db8::1"))) for function in functions]
    for column in zip(*outputs, strict=True):
        assert len(set(column)) == len(functions)
    assert decrypting(bytes(32))(outputs[0][0]) != "1.2.3.4"


@given(st.ip_addresses())
def test_no_output_shows_its_input(address: Address) -> None:
    assert str(unmapped(address)) not in encrypting()(str(address))


@pytest.mark.parametrize("make", [encrypting, decrypting])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("canary", Reason.NOT_AN_IP),
        ("1.2.3.4/24", Reason.NOT_AN_IP),
        ("fe80::canary%1", Reason.NOT_AN_IP),
        (" ", Reason.EMPTY_VALUE),
        (5, Reason.WRONG_TYPE),
        (None, Reason.WRONG_TYPE),
    ],
)
def test_what_is_no_address_is_refused(
    make: Callable[[], Callable[[object], str]], value: object, reason: Reason
) -> None:
    with pytest.raises(FormError) as caught:
        make()(value)
    assert (caught.value.reason, caught.value.__context__) == (reason, None)
    assert "canary" not in repr(caught.value)


@pytest.mark.parametrize("make", [encrypting, decrypting])
@pytest.mark.parametrize("wrong", [{"root": bytes(33)}, {"tenant": ""}, {"kid": "K1"}, {"domain": "login_ip"}])
def test_bad_names_and_roots_are_configuration_errors(
    make: Callable[..., Callable[[object], str]], wrong: dict[str, object]
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**wrong)
    assert caught.value.hint


@pytest.mark.parametrize("key", [bytes(range(16)) * 2, bytes(range(31)), bytes(range(33)), b"", bytes(range(16))])
def test_a_key_is_two_different_halves(key: bytes) -> None:
    """With equal halves the two AES outputs cancel and every address is its own encryption (section 6.2.2)."""
    with pytest.raises(ConfigError):
        PrefixCipher(key)


def test_a_derived_key_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipcrypt, "expand", lambda *_: bytes(32))
    with pytest.raises(ConfigError):
        encrypting()


def test_neighbours_in_order_share_ever_less() -> None:
    """The golden pair of neighbours differs in the last bit, as does what became of it."""
    by_note = {case["note"]: case["encrypted"] for case in GOLDEN["ipcrypt_pfx"]}
    assert common_bits(by_note["ipv4"], by_note["its neighbour"]) == 31
    assert by_note["ipv4"] == by_note["ipv4 mapped"]
    chain = [encrypting()(f"10.0.0.{host}") for host in (0, 1, 3, 7, 15, 31, 63, 127, 255)]
    assert [common_bits(a, b) for a, b in pairwise(chain)] == [31, 30, 29, 28, 27, 26, 25, 24]
