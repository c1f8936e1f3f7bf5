"""Known answers of the primitives as they are used here: a wrong build shows before it writes tokens."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from coatcheck.keys.derive import fingerprint

HPKE = json.loads((Path(__file__).parents[2] / "data" / "hpke.json").read_text())


def unhex(text: str) -> bytes:
    return bytes.fromhex(text)


@pytest.mark.parametrize(
    ("key", "data", "mac"),
    [
        (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        ),
        (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
        (
            bytes(range(1, 26)),
            b"\xcd" * 50,
            "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
        ),
        (b"\x0c" * 20, b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
        (
            b"\xaa" * 131,
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
        (
            b"\xaa" * 131,
            (
                b"This is a test using a larger than block-size key and a larger than block-size data. "
                b"The key needs to be hashed before being used by the HMAC algorithm."
            ),
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
        ),
    ],
)
def test_rfc_4231_all_seven(key: bytes, data: bytes, mac: str) -> None:
    keyed = HMAC(key, SHA256())
    for _ in range(2):  # a copy leaves the keyed state alone
        copy = keyed.copy()
        copy.update(data)
        assert copy.finalize()[: len(mac) // 2].hex() == mac


def test_rfc_5869_case_1() -> None:
    info, okm = (
        unhex("f0f1f2f3f4f5f6f7f8f9"),
        ("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"),
    )
    prk = unhex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
    assert HKDF.extract(SHA256(), unhex("000102030405060708090a0b0c"), b"\x0b" * 22) == prk
    assert HKDFExpand(SHA256(), 42, info).derive(prk).hex() == okm


def test_rfc_5869_case_2() -> None:
    """Longer inputs, and an output of three blocks as the 64 bytes of a SIV key are of two."""
    ikm, salt, info = bytes(range(80)), bytes(range(0x60, 0xB0)), bytes(range(0xB0, 0x100))
    prk = unhex("06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244")
    assert HKDF.extract(SHA256(), salt, ikm) == prk
    assert HKDFExpand(SHA256(), 82, info).derive(prk).hex() == (
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
    )


def test_rfc_5869_case_3() -> None:
    prk = unhex("19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04")
    assert HKDFExpand(SHA256(), 42, b"").derive(prk).hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


def test_aes_256_gcm_test_case_14() -> None:
    assert AESGCM(bytes(32)).encrypt(bytes(12), bytes(16), b"").hex() == (
        "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919"
    )


def test_aes_256_gcm_test_case_16() -> None:
    """With associated data; from the specification of GCM (McGrew and Viega) that SP 800-38D refers to."""
    key = unhex("feffe9928665731c6d6a8f9467308308") * 2
    plaintext = unhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    ciphertext = AESGCM(key).encrypt(
        unhex("cafebabefacedbaddecaf888"), plaintext, unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    )
    assert ciphertext.hex() == (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662" + "76fc6ece0f4e1768cddf8853bb2d551b"
    )


@pytest.mark.parametrize(
    ("key", "associated", "plaintext", "sealed"),
    [
        pytest.param(
            "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
            ["101112131415161718191a1b1c1d1e1f2021222324252627"],
            "112233445566778899aabbccddee",
            "85632d07c6e8f37f950acd320a2ecc93" + "40c02b9690c4dc04daef7f6afe5c",
            id="A.1",
        ),
        pytest.param(
            "7f7e7d7c7b7a79787776757473727170404142434445464748494a4b4c4d4e4f",
            [
                "00112233445566778899aabbccddeeffdeaddadadeaddadaffeeddccbbaa99887766554433221100",
                "102030405060708090a0",
                "09f911029d74e35bd84156c5635688c0",
            ],
            b"this is some plaintext to encrypt using SIV-AES".hex(),
            "7bdb6e3b432667eb06f4d14bff2fbd0f"
            "cb900f2fddbe404326601965c889bf17dba77ceb094fa663b7a3f748ba8af829ea64ad544a272e9c485b62a3fd5c0d",
            id="A.2, the nonce as the last component",
        ),
        pytest.param(  # of OpenSSL's own tests, as the RFC has none with a key of 64 bytes
            "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfefff0f1f2f3f4f5f6f7f8f9fafbfcfdfefffffefdfcfbfaf9f8f7f6f5f4f3f2f1f0",
            ["101112131415161718191a1b1c1d1e1f2021222324252627"],
            "112233445566778899aabbccddee",
            "724dfb2eaf94dbb19b0ba3a299a0801e" + "f3b05a55498ec2552690b89810e4",
            id="AES-256",
        ),
    ],
)
def test_rfc_5297(key: str, associated: list[str], plaintext: str, sealed: str) -> None:
    siv, components = AESSIV(unhex(key)), [unhex(part) for part in associated]
    assert siv.encrypt(unhex(plaintext), components).hex() == sealed
    assert siv.decrypt(unhex(sealed), components).hex() == plaintext
    for other in ([b"".join(components), b""], [*components[::-1], b""], components[:-1]):
        with pytest.raises(InvalidTag):
            siv.decrypt(unhex(sealed), other)


def test_hpke_reaches_the_published_key_and_nonce() -> None:
    """RFC 9180 in the suite of the local provider, opened with the published private key.

    The published ciphertexts have associated data, which `Suite` takes none of; so the message is made
    from the published key and nonce without any, and opens only if both follow from the private key.
    """
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    private = X25519PrivateKey.from_private_bytes(unhex(HPKE["skRm"]))
    assert private.public_key().public_bytes_raw().hex() == HPKE["pkRm"]
    key, nonce, info = (unhex(HPKE[name]) for name in ("key", "base_nonce", "info"))
    message = unhex(HPKE["enc"]) + AESGCM(key).encrypt(nonce, b"a data key", b"")
    assert suite.decrypt(message, private, info=info) == b"a data key"
    for changed, told in (
        (message[:-1] + b"\0", info),
        (message, info + b"x"),
        (bytes([message[0] ^ 1]) + message[1:], info),
    ):
        with pytest.raises(InvalidTag):
            suite.decrypt(changed, private, info=told)


@pytest.mark.parametrize("case", HPKE["encryptions"], ids=lambda case: bytes.fromhex(case["aad"]).decode())
def test_hpke_messages_under_that_key(case: dict[str, str]) -> None:
    gcm = AESGCM(unhex(HPKE["key"]))
    assert gcm.decrypt(unhex(case["nonce"]), unhex(case["ct"]), unhex(case["aad"])).hex() == case["pt"]


def test_hpke_seals_for_the_published_public_key() -> None:
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    private = X25519PrivateKey.from_private_bytes(unhex(HPKE["skRm"]))
    public = X25519PublicKey.from_public_bytes(unhex(HPKE["pkRm"]))
    sealed = [suite.encrypt(bytes(32), public, info=b"purpose") for _ in range(2)]
    assert [suite.decrypt(each, private, info=b"purpose") for each in sealed] == [bytes(32)] * 2
    assert sealed[0] != sealed[1]
    assert len(sealed[0]) == 80


def test_rfc_7914_scrypt() -> None:
    assert Scrypt(b"NaCl", 64, n=1024, r=8, p=16).derive(b"password").hex() == (
        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
        "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
    )


def test_a_fingerprint_never_changes() -> None:
    """The database keeps it: with another one every keyring would be refused."""
    assert fingerprint(bytes(range(32))) == by_hand_fingerprint(bytes(range(32)))
    assert fingerprint(bytes(range(32))) != fingerprint(bytes(32))


def by_hand_fingerprint(root: bytes) -> str:
    """HKDF-Expand with the standard library alone (RFC 5869, 2.3), its first 8 bytes in hex."""
    info = b"\x00\x00\x00\x18coatcheck/fingerprint/v1"
    return hmac.new(root, info + b"\x01", hashlib.sha256).digest()[:8].hex()
