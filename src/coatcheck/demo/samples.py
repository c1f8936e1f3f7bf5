"""Sample logins that the project makes up itself: what `coatcheck demo` sends, with figures to hold the result against.

All of it is invented: addresses come from the documentation and private ranges, device ids say so themselves.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import json
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator

from coatcheck.pipeline.message import Reason

Login = dict[str, str | int | None]

ONE_BAD_IN = 20
LOCALES = ("DE", "FR", "IN", "BR", "JP", "KE", "CA")
SHARED: tuple[tuple[str, ...], ...] = (
    ("203.0.113.7",),  # an office: its people log in from one address
    ("2001:db8:51::c0de", "2001:DB8:51::C0DE", "2001:0db8:0051:0000:0000:0000:0000:c0de"),  # one host, three spellings
    ("198.51.100.20", "::ffff:198.51.100.20"),  # plain, and mapped into IPv6
    ("10.20.0.5",),
)
"""The addresses that most logins come from, each with its spellings."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """Bodies for the queue, and what must come of them: rows, rejects by reason, distinct addresses and devices."""

    bodies: list[str]
    good: int
    rejected: dict[str, int]
    distinct_ips: int
    distinct_devices: int


def sample_logins(count: int = 300, seed: int = 7) -> Samples:
    """Make `count` logins, always the same ones for a `seed`; one in twenty cannot be loaded."""
    chance = random.Random(seed)  # noqa: S311 - invented data, nothing secret
    faults = itertools.cycle(FAULTS)
    bad = set(chance.sample(range(count), count // ONE_BAD_IN))
    bodies: list[str] = []
    rejected: Counter[str] = Counter()
    addresses: set[str] = set()
    devices: set[str] = set()
    for place, login in enumerate(itertools.islice(_logins(chance, people=max(1, count // 2)), count)):
        if place in bad:
            reason, spoil = next(faults)
            rejected[reason] += 1
            bodies.append(spoil(login))
        else:
            addresses.add(_address(str(login["ip"])))
            devices.add(str(login["device_id"]))
            bodies.append(json.dumps(login))
    return Samples(bodies, len(bodies) - len(bad), dict(rejected), len(addresses), len(devices))


def _logins(chance: random.Random, people: int) -> Iterator[Login]:
    """Yield logins of `people` who log in unequally often, many of them from few addresses."""
    shared = [itertools.cycle(spellings) for spellings in SHARED]
    own = [itertools.repeat(address) for address in itertools.islice(_addresses(chance), people)]
    crowd = [_person(chance, number) for number in range(people)]
    weights = [people / 4, *[people / 8] * (len(shared) - 1), *[1] * people]
    homes = chance.choices([*shared, *own], weights, k=people)
    often = list(itertools.accumulate(1 / (1 + rank) ** 0.5 for rank in range(people)))
    while True:
        who = chance.choices(range(people), cum_weights=often)[0]
        away = chance.random() < 0.15  # noqa: PLR2004 - now and then they travel
        yield {
            **crowd[who],
            "app_version": _version(chance),
            "ip": next(chance.choice(own) if away else homes[who]),
        }


def _person(chance: random.Random, number: int) -> Login:
    family = number - number % 2 if number % 10 == 1 else number  # here and there two people share a device
    return {
        "user_id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "app_version": None,
        "device_type": ("android", "ios")[family % 2],
        "ip": None,
        "locale": None if chance.random() < 0.3 else chance.choice(LOCALES),  # noqa: PLR2004 - the share without one
        "device_id": f"made-up-{family:06d}",
    }


def _addresses(chance: random.Random) -> Iterator[str]:
    """Yield distinct addresses of the ranges set aside for documentation and private networks."""
    seen = {_address(spelling) for spellings in SHARED for spelling in spellings}
    while True:
        low = chance.randrange(1, 255)
        new = chance.choice(
            (
                f"192.0.2.{low}",
                f"198.51.100.{low}",
                f"203.0.113.{low}",
                f"10.{chance.randrange(256)}.{chance.randrange(256)}.{low}",
                f"2001:db8:{chance.randrange(1, 65536):x}::{low:x}",
            )
        )
        if new not in seen:
            seen.add(new)
            yield new


def _version(chance: random.Random) -> str:
    major, minor, patch = chance.randrange(1, 5), chance.randrange(10), chance.randrange(20)
    return f"{major}.{minor}" if chance.random() < 0.4 else f"{major}.{minor}.{patch}"  # noqa: PLR2004 - short ones


def _address(text: str) -> str:
    """Return the one spelling of an address, an IPv4-mapped one as the plain IPv4."""
    address = ipaddress.ip_address(text)
    return str(getattr(address, "ipv4_mapped", None) or address)


def _with(**fields: str | int | None) -> Callable[[Login], str]:
    return lambda login: json.dumps({**login, **fields})


def _without(field: str) -> Callable[[Login], str]:
    return lambda login: json.dumps({name: value for name, value in login.items() if name != field})


FAULTS: tuple[tuple[Reason, Callable[[Login], str]], ...] = (
    (Reason.MISSING_FIELD, lambda _: json.dumps({"type": "heartbeat", "uptime": 86400})),  # another kind of message
    (Reason.NOT_JSON, lambda login: json.dumps(login)[:-20]),  # cut off
    (Reason.NOT_AN_IP, _with(ip="203.0.113.300")),
    (Reason.NOT_AN_OBJECT, lambda login: json.dumps([login])),
    (Reason.MISSING_FIELD, _without("device_id")),
    (Reason.INVALID_TEXT, _with(device_type="android\0")),  # travels as \u0000
    (Reason.NOT_A_VERSION, _with(app_version="4.1.0.2")),
    (Reason.WRONG_TYPE, _with(user_id=4711)),
    (Reason.TOO_LONG, _with(locale="x-" + "long" * 8)),
    (Reason.MISSING_FIELD, _with(user_id=None)),
    (Reason.NOT_JSON, lambda _: "login ok"),
    (Reason.NOT_AN_IP, _with(ip="unknown")),
    (Reason.EMPTY_VALUE, _with(device_id="")),
    (Reason.NOT_A_VERSION, _with(app_version="1.1000")),  # a part over 999 would collide
    (Reason.MISSING_FIELD, _without("ip")),
)
"""How a message can be bad, in the order they are used."""
