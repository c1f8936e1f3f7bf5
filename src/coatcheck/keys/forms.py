"""Canonical forms: the one spelling of a value that its token is computed over. Pure.

A form is frozen: its id goes into the key derivation, so another way to spell values is another id and
another token. `text/v1` leans on Unicode's stability policy: for assigned characters NFC and case folding
never change.
"""

from __future__ import annotations

import re
import socket
import string
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address
from unicodedata import combining, normalize

from coatcheck.errors import ConfigError
from coatcheck.pipeline.message import Reason

MAPPED = bytes(10) + b"\xff\xff"
"""What an IPv4 address begins with as 16 bytes (RFC 4291, 2.5.5.2)."""

_IP_BYTES = 16
_HOST_V4, _HOST_V6 = bytes(1), bytes(10)  # the bits beside /24 (of 32) and /48 (of 128)
_IPV4, _IPV6 = socket.AF_INET, socket.AF_INET6
_to_bytes, _to_text = socket.inet_pton, socket.inet_ntop
_OCTET = r"(?:0|[1-9][0-9]{0,2})"
# The shape only; inet_pton counts groups, "::" and octets. C libraries differ on zone ids and leading zeros.
_IPV6_SHAPE = re.compile(rf"(?:[0-9A-Fa-f]{{0,4}}:){{2,8}}(?:[0-9A-Fa-f]{{0,4}}|{_OCTET}(?:\.{_OCTET}){{3}})")

_ASCII_SPACE = " \t\n\r\f\v"
# Unicode's White_Space, written out: what str.strip() takes away is Python's choice and may grow.
_SPACE = (
    _ASCII_SPACE
    + "\x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    + "\u2028\u2029\u202f\u205f\u3000"
)
_STRIPPABLE = frozenset(string.punctuation + " ")
_INT_LIMIT = 10**4300  # Python's own limit for int to text; beyond it the conversion is quadratic
_MARKS_LIMIT = 64
_MARKS = re.compile(rb"[^\0]{%d}" % (_MARKS_LIMIT + 1))


class FormError(ValueError):
    """A value has no canonical form. Carries the `reason` it is rejected for, and nothing of the value."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def ip_v1(value: object) -> bytes:
    """Return an IPv4 or IPv6 address as 16 bytes, IPv4 as ::ffff:a.b.c.d, so mapped and plain are the same.

    ASCII white space around it is dropped; zone ids, ports, prefixes and leading zeros (of IPv4) are refused.
    Raises FormError: wrong_type (no text), empty_value, not_an_ip.
    """
    if not isinstance(value, str):
        raise FormError(Reason.WRONG_TYPE)
    if ":" not in value:
        packed = _ipv4(value)
        if packed:
            return packed
    text = value.strip(_ASCII_SPACE)
    packed = _ipv6(text) if ":" in text else _ipv4(text)
    if packed:
        return packed
    # Outside every `except`: the error that was caught may hold the value, and would hang on as __context__.
    raise FormError(Reason.NOT_AN_IP if text else Reason.EMPTY_VALUE)


def _ipv4(text: str) -> bytes:
    """Return the address mapped into IPv6, or nothing if `text` is not its only dotted spelling."""
    try:
        packed = _to_bytes(_IPV4, text)
    except (OSError, ValueError):
        return b""
    # POSIX.1-2024 allows leading zeros and macOS takes them; others read octal: only one spelling is good.
    # Asked only where there may be one: writing the address out costs twice what reading it does.
    if (text[0] == "0" or ".0" in text) and _to_text(_IPV4, packed) != text:
        return b""
    return MAPPED + packed


def _ipv6(text: str) -> bytes:
    if _IPV6_SHAPE.fullmatch(text) is None:
        return b""
    try:
        return _to_bytes(_IPV6, text)
    except OSError:
        return b""


def subnet_v1(value: object) -> bytes:
    """Return the network of an address as 16 bytes, host bits zero: the /24 of an IPv4, the /48 of an IPv6.

    Takes and refuses what `ip_v1` does. No network of one family equals one of the other: an IPv4's has
    the ff ff of ::ffff:0:0/96 in bytes 10 and 11, where an IPv6's has zeros.
    """
    packed = ip_v1(value)
    if packed.startswith(MAPPED):
        return packed[:15] + _HOST_V4
    return packed[:6] + _HOST_V6


def ip_text(packed: bytes) -> str:
    """Return the one spelling of 16 bytes: dotted for a mapped IPv4 address, else as RFC 5952 says.

    Raises FormError: not_an_ip (not 16 bytes).
    """
    if len(packed) != _IP_BYTES:
        raise FormError(Reason.NOT_AN_IP)
    if packed.startswith(MAPPED):
        return _to_text(_IPV4, packed[12:])
    return str(IPv6Address(packed))  # not inet_ntop: C libraries differ over ::a.b.c.d


def text_v1(value: object, *, casefold: bool = False, strip_chars: str = "") -> bytes:
    """Return a text (or a whole number, as decimal text) as UTF-8 in NFC, without white space around it.

    `casefold` ignores case; `strip_chars` are taken out wherever they stand ("-" and ":" of serials and
    MACs). Raises FormError: wrong_type (no text, no int, or an int of over 4300 digits), empty_value,
    invalid_text (a NUL, a lone surrogate, more than 64 combining marks in a row).
    """
    if not isinstance(value, str):
        value = _decimal(value)
    text = value if value.isascii() else _nfc(value)
    if casefold or strip_chars:
        text = _fold(text, casefold, strip_chars)
    text = text.strip(_SPACE)
    if not text:
        raise FormError(Reason.EMPTY_VALUE)
    if "\0" in text:
        raise FormError(Reason.INVALID_TEXT)
    if text.isascii():
        return text.encode()
    return utf8(text)


def utf8(text: str) -> bytes:
    """Return `text` as UTF-8. Raises FormError: invalid_text for a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        pass  # its .object is the value: nothing may be raised from within this block
    raise FormError(Reason.INVALID_TEXT)


def _nfc(text: str) -> str:
    """Normalize to NFC, but refuse a pile of marks: ordering them is quadratic, a second for 32,000."""
    if text.isascii():
        return text
    if len(text) > _MARKS_LIMIT and _MARKS.search(bytes(map(combining, text))):
        raise FormError(Reason.INVALID_TEXT)
    return normalize("NFC", text)


def _fold(text: str, casefold: bool, strip_chars: str) -> str:  # noqa: FBT001 - private, the form's options
    """Apply the options. Both can undo NFC (folding decomposes, taking out joins), so it is restored."""
    if casefold:
        text = text.casefold()
    if strip_chars:
        text = text.translate(dict.fromkeys(map(ord, strip_chars)))
    return _nfc(text)


def _decimal(value: object) -> str:
    # type() and not isinstance(): True is an int, and an enum's members may be
    if type(value) is int and -_INT_LIMIT < value < _INT_LIMIT:
        try:
            return str(value)
        except ValueError:  # the process was started with a lower limit of its own
            pass
    raise FormError(Reason.WRONG_TYPE)


def form_id(kind: str, *, casefold: bool = False, strip_chars: str = "") -> str:
    """Return the frozen id of a form, such as "ip/v1" or "text/v1+casefold+strip=-:" (sorted, each once)."""
    fold = "+casefold" if casefold else ""
    strip = f"+strip={''.join(sorted(set(strip_chars)))}" if strip_chars else ""
    return f"{kind}/v1{fold}{strip}"


@dataclass(frozen=True, slots=True)
class Form:
    """One canonical form: `kind` "ip", "subnet" or "text"; the options are for text only.

    Equal forms have equal ids. `strip_chars` are ASCII punctuation or the space; other characters are
    refused. Raises ConfigError.
    """

    kind: str = "text"
    casefold: bool = False
    strip_chars: str = ""

    def __post_init__(self) -> None:
        if self.kind not in {"ip", "subnet", "text"}:
            raise ConfigError(f'"{self.kind}" is no canonical form', hint='the forms are "ip", "subnet" and "text"')
        if self.kind != "text" and (self.casefold or self.strip_chars):
            raise ConfigError(
                f'the form "{self.kind}" takes no options', hint='leave casefold and strip_chars to "text"'
            )
        if not _STRIPPABLE.issuperset(self.strip_chars):
            raise ConfigError(
                "strip_chars takes ASCII punctuation and the space only",
                hint='such as strip_chars = "-:"; letters and digits tell identifiers apart',
            )
        object.__setattr__(self, "strip_chars", "".join(sorted(set(self.strip_chars))))

    @property
    def form_id(self) -> str:
        """The frozen id that goes into the key derivation."""
        return form_id(self.kind, casefold=self.casefold, strip_chars=self.strip_chars)

    def canonical(self, value: object) -> bytes:
        """Return the canonical bytes of `value`. Raises FormError."""
        return self.function()(value)

    def function(self) -> Callable[[object], bytes]:
        """Return `canonical` without the choice of form in it, for hot loops."""
        if self.kind == "ip":
            return ip_v1
        if self.kind == "subnet":
            return subnet_v1
        if not self.casefold and not self.strip_chars:
            return text_v1
        return lambda value: text_v1(value, casefold=self.casefold, strip_chars=self.strip_chars)

    def text(self, canonical: bytes) -> str:
        """Return canonical bytes as text: "192.0.2.1", "192.0.2.0/24", "2001:db8:1::/48" or the text itself.

        Raises FormError: not_an_ip (not the 16 bytes of an address or a network), invalid_text (no UTF-8).
        """
        if self.kind == "text":
            return _decoded(canonical)
        if self.kind == "ip":
            return ip_text(canonical)
        address = ip_text(canonical)
        if subnet_v1(address) != canonical:
            raise FormError(Reason.NOT_AN_IP)
        return f"{address}/{24 if canonical.startswith(MAPPED) else 48}"


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        pass  # its .object is the value
    raise FormError(Reason.INVALID_TEXT)


def parse_form(form_id: str) -> Form:
    """Return the form of a frozen id. Raises ConfigError: no form of this version has it."""
    kind, slash, options = form_id.partition("/v1")
    fold = options.startswith("+casefold")
    _, _, strip_chars = options.partition("+strip=")
    form = Form(kind, casefold=fold, strip_chars=strip_chars) if slash and kind in {"ip", "subnet", "text"} else None
    if form is None or form.form_id != form_id:
        raise ConfigError(f'"{form_id}" is no canonical form of this version', hint="upgrade coatcheck")
    return form
