"""Made-up login events: the same seed gives the same events, and no value belongs to anybody.

Addresses come from 240.0.0.0/4, which is reserved and never routed; device and user ids are arbitrary digits.
How many values are new is exact and evenly spread (every fifth event at a share of 0.2), so a short run and a
long run ask the same of the vault. The repeats are skewed: of 200,000 events the busiest 1 % of the values
make 19 % of the repeats, the busiest fifth 72 %, the busiest one 1 %. Address and device repeat apart.
"""

from __future__ import annotations

import random
from ipaddress import IPv4Address
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

NULL_LOCALES = 0.3
LOCALES = ("US", "DE", "FR", "BR", "ID", "PH", "PT", "CN", "PL", "SE", "JP", "NG")
DEVICE_TYPES = ("android", "ios")
FIRST_ADDRESS = 0xF000_0000
ADDRESSES = 0x0FFF_FFFF  # 240.0.0.0 to 255.255.255.254, without the broadcast address
DEVICES = 1_000_000_000
ADDRESS_STEP = 179_424_673  # coprime to ADDRESSES: i -> i * step mod n visits each value once, in no visible order
DEVICE_STEP = 387_420_489  # coprime to DEVICES


class Person(NamedTuple):
    """What stays the same from login to login of one user on one device."""

    user_id: str
    device_type: str
    device_id: str


def login_events(*, seed: int, distinct: float) -> Iterator[str]:
    """Yield message bodies without end; of the first n, ceil(n * distinct) bring a new address and device."""
    if not 0 <= distinct <= 1:
        raise ValueError(f"distinct must be between 0 and 1, not {distinct}")
    rng = random.Random(seed)  # noqa: S311 - test data that must repeat, no secret
    chance = rng.random
    new_address = _addresses(rng.randrange(ADDRESSES))
    new_person = _people(rng, rng.randrange(DEVICES))
    addresses: list[str] = []
    people: list[Person] = []
    for position in count():
        known = len(people)
        if known <= position * distinct:
            addresses.append(next(new_address))
            people.append(next(new_person))
            address, person = addresses[-1], people[-1]
        else:
            # the square favours early values: the one of rank r is drawn in proportion to r**-0.5
            address, person = addresses[int(known * chance() ** 2)], people[int(known * chance() ** 2)]
        locale = "null" if chance() < NULL_LOCALES else f'"{LOCALES[int(len(LOCALES) * chance())]}"'
        yield (
            f'{{"user_id": "{person.user_id}", "app_version": "{_version(chance())}",'
            f' "device_type": "{person.device_type}", "ip": "{address}", "locale": {locale},'
            f' "device_id": "{person.device_id}"}}'
        )


def uuid4_text(rng: random.Random) -> str:
    """Return a random version 4 UUID in its usual form."""
    digits = f"{rng.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _addresses(start: int) -> Iterator[str]:
    for address in _walk(start, ADDRESS_STEP, ADDRESSES):
        yield str(IPv4Address(FIRST_ADDRESS + address))


def _people(rng: random.Random, start: int) -> Iterator[Person]:
    for number in _walk(start, DEVICE_STEP, DEVICES):
        digits = f"{number:09d}"
        device_id = f"{digits[:3]}-{digits[3:5]}-{digits[5:]}"
        yield Person(uuid4_text(rng), DEVICE_TYPES[number % len(DEVICE_TYPES)], device_id)


def _walk(start: int, step: int, size: int) -> Iterator[int]:
    """Yield each number below `size` once, scattered."""
    for _ in range(size):
        yield start
        start = (start + step) % size


def _version(chance: float) -> str:
    """Turn a number in [0, 1) into one of 500 versions; a tenth of them have two parts only."""
    number = int(chance * 500)
    major, minor, patch = number // 100, number // 10 % 10, number % 10
    return f"{major}.{minor}.{patch}" if patch else f"{major}.{minor}"
