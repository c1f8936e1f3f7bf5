"""Known answers of the primitives as they are used here: a wrong build shows before it writes tokens."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt


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
        (b"\x0c" * 20, b"Test With Truncation", "a3b6167473100ee06e0c796c2955552b"),
        (
            b"\xaa" * 131,
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
        ),
    ],
)
def test_rfc_4231(key: bytes, data: bytes, mac: str) -> None:
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


def test_rfc_7914_scrypt() -> None:
    assert Scrypt(b"NaCl", 64, n=1024, r=8, p=16).derive(b"password").hex() == (
        "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162"
        "2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640"
    )
