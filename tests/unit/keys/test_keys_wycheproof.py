"""Project Wycheproof: the corner cases and the forgeries that implementations got wrong before."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

DATA = json.loads((Path(__file__).parents[2] / "data" / "wycheproof.json").read_text())


class Case:
    """One row of the file: `id` and `accept`, and its columns, all but `size` from hex."""

    def __init__(self, columns: list[str], row: list[str | int | bool]) -> None:
        values = dict(zip(columns, row, strict=True))
        self.id = values.pop("id")
        self.accept = values.pop("accept")
        self.size = int(values.pop("size", 0))
        self._bytes = {name: bytes.fromhex(str(value)) for name, value in values.items()}

    def __getattr__(self, name: str) -> bytes:
        return self._bytes[name]


def cases(name: str, count: int, accepted: int) -> list[Case]:
    columns, *rows = DATA[name]
    found = [Case(columns, row) for row in rows]
    assert (len(found), sum(case.accept is True for case in found)) == (count, accepted)
    return found


def test_hmac_sha256() -> None:
    for case in cases("hmac_sha256", 174, 66):
        mac = HMAC(case.key, SHA256()).copy()
        mac.update(case.message)
        full = mac.copy().finalize()
        assert (full[: len(case.tag)] == case.tag) is case.accept, case.id
        if len(case.tag) == len(full) and not case.accept:
            with suppress(InvalidSignature):
                mac.verify(case.tag)
                raise AssertionError(case.id)


def test_hkdf_sha256() -> None:
    for case in cases("hkdf_sha256", 86, 83):
        okm = None
        with suppress(ValueError):  # more than 255 blocks are asked for
            okm = HKDFExpand(SHA256(), case.size, case.info).derive(HKDF.extract(SHA256(), case.salt, case.ikm))
        assert (okm == case.okm) is case.accept, case.id


def test_aes_256_siv() -> None:
    for case in cases("aes_siv_cmac", 147, 39):
        siv, opened = AESSIV(case.key), None
        with suppress(InvalidTag, ValueError):
            opened = siv.decrypt(case.ciphertext, [case.associated])
        assert (opened == case.plaintext) is case.accept, case.id
        assert opened is None or case.accept, case.id
        if case.plaintext:  # the library encrypts no empty text; everything sealed here is padded to 32 bytes
            assert (siv.encrypt(case.plaintext, [case.associated]) == case.ciphertext) is case.accept, case.id


def test_aes_256_gcm() -> None:
    for case in cases("aes_gcm", 66, 39):
        gcm, sealed, opened = AESGCM(case.key), case.ciphertext + case.tag, None
        with suppress(InvalidTag):
            opened = gcm.decrypt(case.nonce, sealed, case.associated)
        assert (opened == case.plaintext) is case.accept, case.id
        assert (gcm.encrypt(case.nonce, case.plaintext, case.associated) == sealed) is case.accept, case.id


def test_x25519() -> None:
    for case in cases("x25519", 124, 98):
        private, public = X25519PrivateKey.from_private_bytes(case.private), case.public
        shared = None
        with suppress(ValueError):  # a point of low order: the shared secret would be zero whatever the key
            shared = private.exchange(X25519PublicKey.from_public_bytes(public))
        assert (shared == case.shared) is case.accept, case.id
