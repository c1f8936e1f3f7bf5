"""Addresses to addresses, networks to networks: ipcrypt-pfx of draft-denis-ipcrypt (revision 13, section 6).

Two addresses that share their first n bits are encrypted to two that share exactly their first n bits. That
is the purpose and the price: it shows who is whose neighbour, and a few known addresses unmask the networks
they are in. The token of a network (the form "subnet") shows less. Reversible by who holds the key; nothing
is authenticated, so another key decrypts to another address and no error.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from coatcheck.errors import ConfigError
from coatcheck.keys.derive import KEY_BYTES, check_name, check_root, expand
from coatcheck.keys.forms import MAPPED, ip_text, ip_v1

SCHEME = "coatcheck/ipcrypt-pfx/v1"
"""First part of the key's derivation."""

_HALF = KEY_BYTES // 2
_BLOCK = 128  # bits of an AES block
# Of a block counts the last bit only, so of 16 bytes the last: to "0" or "1", and all of them to one number.
_LAST_BIT = bytes(b"01"[byte & 1] for byte in range(256))


def _fields(width: int, values: list[int]) -> int:
    """Return `values` one behind the other as one number, each in `width` bits, the first highest."""
    total = 0
    for value in values:
        total = total << width | value
    return total


# Big-number arithmetic builds all blocks of an address at once, where a loop would take ten times as long.
# Block i is the 1 that delimits it, then the i bits read so far. An IPv4 address starts as if ::ffff:0:0/96
# had been read. Multiplying by the sum of 2^i, one for each field, puts `address << i` into each; what then
# stands above its lowest 32 bits are those i bits.
_V4 = range(32)
_V4_SPREAD = _fields(_BLOCK, [1 << i for i in _V4])
_V4_READ = _fields(_BLOCK, [(1 << i) - 1 for i in _V4])
_V4_START = _fields(_BLOCK, [(1 << 96 | 0xFFFF) << i for i in _V4])
# `address << i` of IPv6 needs two blocks of room: the even i are built in one number, the odd in another.
_V6 = range(128)
_V6_SPREAD = _fields(2 * _BLOCK, [1 << i for i in _V6[::2]])
_V6_READ = _fields(2 * _BLOCK, [(1 << i) - 1 for i in _V6[::2]]), _fields(2 * _BLOCK, [(1 << i) - 1 for i in _V6[1::2]])
_V6_START = _fields(_BLOCK, [1 << i for i in _V6])

# Reading back, bit n is known only when the bits before it are. Four at a time: the 15 blocks that those four
# may lead to, in the order of a binary heap (1; 2, 3; 4 to 7; 8 to 15), then a walk down.
_STEP = 4
_HEAP = range(1, 1 << _STEP)
_HEAP_SPREAD = _fields(_BLOCK, [1 << node.bit_length() - 1 for node in _HEAP])
_HEAP_PATHS = _fields(_BLOCK, [node - (1 << node.bit_length() - 1) for node in _HEAP])


class PrefixCipher:
    """ipcrypt-pfx under a 32-byte key, on addresses as 16 bytes (IPv4 mapped). Not for several threads at once.

    Raises ConfigError: a key of another length, or one of two equal halves, with which nothing would change.
    """

    __slots__ = ("_one", "_other")

    def __init__(self, key: bytes) -> None:
        one, other = key[:_HALF], key[_HALF:]
        if len(key) != KEY_BYTES or one == other:
            raise ConfigError("an ipcrypt-pfx key is two different keys of 16 bytes", hint="use another key id")
        # ECB of single blocks is what the draft's random function is made of; nothing is encrypted with it.
        # An encryptor of whole blocks carries no state from one call to the next.
        self._one = Cipher(AES(one), ECB()).encryptor().update  # noqa: S305 - see above
        self._other = Cipher(AES(other), ECB()).encryptor().update  # noqa: S305 - see above

    def encrypt(self, packed: bytes) -> bytes:
        """Return the encrypted address, 16 bytes; an IPv4 address stays one.

        An IPv6 address is encrypted into ::ffff:0:0/96, from where it cannot be told from an IPv4 address,
        with probability 2^-96.
        """
        if packed.startswith(MAPPED):
            address = int.from_bytes(packed[12:], "big")
            blocks = (address * _V4_SPREAD >> 32) & _V4_READ | _V4_START
            return MAPPED + (address ^ self._pad(blocks, 32)).to_bytes(4, "big")
        address = int.from_bytes(packed, "big")
        spread = address * _V6_SPREAD >> _BLOCK
        even, odd = spread & _V6_READ[0], address * (_V6_SPREAD << 1) >> _BLOCK & _V6_READ[1]
        return (address ^ self._pad(even << _BLOCK | odd | _V6_START, 128)).to_bytes(16, "big")

    def decrypt(self, packed: bytes) -> bytes:
        """Return the address that `encrypt` made `packed` of."""
        mapped = packed.startswith(MAPPED)
        start, bits = (1 << 96 | 0xFFFF, 32) if mapped else (1, 128)
        read, sealed = start, int.from_bytes(packed, "big")
        for shift in range(bits - _STEP, -1, -_STEP):
            read = read << _STEP | self._walk(read, sealed >> shift)
        # The delimiter is above the 128 bits of IPv6; before those of IPv4 stands ::ffff:0:0/96 and, in bit 128, it.
        return (read & (1 << _BLOCK) - 1).to_bytes(16, "big")

    def _walk(self, read: int, sealed: int) -> int:
        """Return the next four bits behind those `read`; `sealed` ends with their encryption."""
        pads = self._pad(read * _HEAP_SPREAD + _HEAP_PATHS, len(_HEAP))
        node = 1
        for shift in range(_STEP - 1, -1, -1):
            bit = (sealed >> shift ^ pads >> len(_HEAP) - node) & 1
            node = node << 1 | bit
        return node - (1 << _STEP)

    def _pad(self, blocks: int, count: int) -> int:
        """Return one bit per block, the first highest: the last of AES under one key xor AES under the other."""
        data = blocks.to_bytes(16 * count, "big")
        one, other = self._one(data)[15::16], self._other(data)[15::16]
        return int(one.translate(_LAST_BIT), 2) ^ int(other.translate(_LAST_BIT), 2)


def encrypt_function(root: bytes, *, tenant: str, kid: str, domain: str) -> Callable[[object], str]:
    """Return the function address -> encrypted address, both text; IPv4 to IPv4, IPv6 to IPv6.

    `root` is the 32-byte token root of key `kid`. ::ffff:a.b.c.d is encrypted as a.b.c.d is (the draft's
    section 3.1.2). It raises FormError as `forms.ip_v1`. Raises ConfigError: a bad root, tenant, kid or domain.
    """
    encrypt = _cipher(root, tenant, kid, domain).encrypt
    return lambda value: ip_text(encrypt(ip_v1(value)))


def decrypt_function(root: bytes, *, tenant: str, kid: str, domain: str) -> Callable[[object], str]:
    """Return the inverse of `encrypt_function`, which raises as it does. Any address decrypts to some address."""
    decrypt = _cipher(root, tenant, kid, domain).decrypt
    return lambda value: ip_text(decrypt(ip_v1(value)))


def _cipher(root: bytes, tenant: str, kid: str, domain: str) -> PrefixCipher:
    check_name("tenant", tenant)
    check_name("key id", kid)
    check_name("domain", domain)
    return PrefixCipher(expand(check_root(root), SCHEME, tenant, domain, kid))
