"""Private keys (the seal key, the audit key) as PKCS#8 PEM files (RFC 5958), encrypted with a passphrase or in clear.

The encryption is PBES2 (RFC 8018) with scrypt (RFC 7914) and AES-256-CBC, built here: `cryptography` would
write PBKDF2 with 2,048 rounds, which a graphics card tries millions of times a second. Any OpenSSL >= 1.1
opens the file.
"""

from __future__ import annotations

import base64
import os
import re
import textwrap
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from coatcheck.errors import ConfigError

# 16 MiB and about 0.2 s: the most that OpenSSL's own limit of 32 MiB lets its command line tools open.
_N, _R, _P = 2**14, 8, 5
_SALT_BYTES = 16
_IV_BYTES = 16
_KEY_BYTES = 32
_CLEAR, _ENCRYPTED = "PRIVATE KEY", "ENCRYPTED PRIVATE KEY"
_INTEGER, _OCTETS, _OID, _SEQUENCE = 0x02, 0x04, 0x06, 0x30
_LONG = 0x80  # X.690 8.1.3: lengths from here on have a byte of their own
_PBES2 = bytes.fromhex("2a864886f70d01050d")  # 1.2.840.113549.1.5.13
_SCRYPT = bytes.fromhex("2b06010401da47040b")  # 1.3.6.1.4.1.11591.4.11
_HEAD = re.compile(rb"(?=-----BEGIN )")
_AES256_CBC = bytes.fromhex("60864801650304012a")  # 2.16.840.1.101.3.4.1.42

Private = TypeVar("Private", X25519PrivateKey, Ed25519PrivateKey)


def write_private(key: X25519PrivateKey | Ed25519PrivateKey, passphrase: str | None) -> bytes:
    """Return `key` as PEM, encrypted if there is a passphrase."""
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return _pem(_ENCRYPTED, _encrypt(der, passphrase)) if passphrase else _pem(_CLEAR, der)


def read_private(pem: bytes, passphrase: str | None, *, name: str) -> X25519PrivateKey:
    """Return the X25519 key in `pem`. Raises as read_private_of."""
    kind = X25519PrivateKey
    return read_private_of(kind, pem, passphrase, name=name)  # type: ignore[type-abstract]  # asked for isinstance, never made


def read_private_of(kind: type[Private], pem: bytes, passphrase: str | None, *, name: str) -> Private:
    """Return the key of `kind` in `pem` (one in clear needs no passphrase). Raises ConfigError, which tells `name`."""
    encrypted = f"BEGIN {_ENCRYPTED}-".encode() in pem
    if encrypted and not passphrase:
        raise ConfigError(f"{name} is encrypted and there is no passphrase", hint="set COATCHECK_KEYS__PASSPHRASE")
    password = _password(passphrase) if encrypted and passphrase else None
    try:
        key = load_pem_private_key(pem, password)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, kind):
        return key
    if encrypted:
        raise ConfigError(
            f"{name} does not open: the passphrase is another, or the file is damaged",
            hint="check COATCHECK_KEYS__PASSPHRASE, or bring it back from a backup",
        )
    curve = kind.__name__.removesuffix("PrivateKey")
    raise ConfigError(f"{name} is damaged or holds no {curve} key", hint="bring it back from a backup")


def split_pem(text: bytes) -> list[bytes]:
    """Return `text` in parts of one PEM block each, whole or not; all of it if there is none."""
    return _HEAD.split(text)[1:] or [text]


def _password(passphrase: str) -> bytes:
    try:
        return passphrase.encode(errors="surrogateescape")  # as os.environ decoded it
    except UnicodeEncodeError:
        pass  # its .object is the passphrase: nothing may be raised from within this block
    raise ConfigError("the passphrase is no text", hint="use one that can be written as UTF-8")


def _encrypt(der: bytes, passphrase: str) -> bytes:
    """Return EncryptedPrivateKeyInfo: PBES2 { scrypt { salt, N, r, p }, aes256-CBC { iv } }, ciphertext."""
    salt, iv = os.urandom(_SALT_BYTES), os.urandom(_IV_BYTES)
    key = Scrypt(salt, _KEY_BYTES, _N, _R, _P).derive(_password(passphrase))
    padder, encryptor = PKCS7(AES.block_size).padder(), Cipher(AES(key), CBC(iv)).encryptor()
    ciphertext = encryptor.update(padder.update(der) + padder.finalize()) + encryptor.finalize()
    costs = [_der(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in (_N, _R, _P)]
    kdf = _der(_SEQUENCE, _der(_OID, _SCRYPT), _der(_SEQUENCE, _der(_OCTETS, salt), *costs))
    cipher = _der(_SEQUENCE, _der(_OID, _AES256_CBC), _der(_OCTETS, iv))
    algorithm = _der(_SEQUENCE, _der(_OID, _PBES2), _der(_SEQUENCE, kdf, cipher))
    return _der(_SEQUENCE, algorithm, _der(_OCTETS, ciphertext))


def _der(tag: int, *parts: bytes) -> bytes:
    """Return one DER element (X.690); a key of 32 bytes never makes one of over 255."""
    body = b"".join(parts)
    length = bytes([len(body)]) if len(body) < _LONG else bytes([0x81, len(body)])
    return bytes([tag]) + length + body


def _pem(label: str, der: bytes) -> bytes:
    body = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n".encode()
