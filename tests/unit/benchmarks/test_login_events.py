"""The login events of the benchmarks: what is promised about repeats, shape and determinism."""

from __future__ import annotations

import json
from collections import Counter
from ipaddress import ip_address
from itertools import islice
from typing import Any
from uuid import UUID

import pytest
from benchmarks.events import login_events


def bodies(count: int, *, seed: int = 1, distinct: float = 0.2) -> list[str]:
    return list(islice(login_events(seed=seed, distinct=distinct), count))


def events(count: int, *, seed: int = 1, distinct: float = 0.2) -> list[dict[str, Any]]:
    return [json.loads(body) for body in bodies(count, seed=seed, distinct=distinct)]


def test_the_same_seed_gives_the_same_bodies() -> None:
    assert bodies(500, seed=7) == bodies(500, seed=7)
    assert bodies(500, seed=7) != bodies(500, seed=8)


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    assert bodies(500)[:100] == bodies(100)


@pytest.mark.parametrize(("distinct", "expected"), [(0.0, 1), (0.2, 2000), (0.5, 5000), (1.0, 10_000)])
def test_the_share_of_new_values_is_exact(distinct: float, expected: int) -> None:
    made = events(10_000, distinct=distinct)
    assert len({event["ip"] for event in made}) == expected
    assert len({event["device_id"] for event in made}) == expected


def test_new_values_are_evenly_spread() -> None:
    made = events(10_000)
    for window in range(0, 10_000, 1000):
        before = {event["ip"] for event in made[:window]}
        assert len({event["ip"] for event in made[window : window + 1000]} - before) == 200


@pytest.mark.parametrize("field", ["ip", "device_id"])
def test_repeats_are_skewed(field: str) -> None:
    counts = sorted(Counter(event[field] for event in events(50_000)).values(), reverse=True)
    repeats = 50_000 - len(counts)
    assert 0.15 < sum(count - 1 for count in counts[: len(counts) // 100]) / repeats < 0.25
    assert 0.65 < sum(count - 1 for count in counts[: len(counts) // 5]) / repeats < 0.80
    assert counts[0] / 50_000 < 0.03


def test_address_and_device_repeat_independently() -> None:
    made = events(10_000)
    assert len({(event["ip"], event["device_id"]) for event in made}) > 8000


def test_a_body_has_the_shape_of_a_login() -> None:
    made = events(10_000)
    for event in made[:200]:
        assert str(UUID(event["user_id"])) == event["user_id"]
        assert UUID(event["user_id"]).version == 4
        assert ip_address(event["ip"]).is_reserved  # routed nowhere, so nobody's
        assert event["device_type"] in {"android", "ios"}
        assert all(part.isdigit() and int(part) < 1000 for part in event["app_version"].split("."))
    assert 0.28 < sum(event["locale"] is None for event in made) / len(made) < 0.32
    length = sum(map(len, bodies(10_000))) / 10_000
    assert 150 < length < 175


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        next(login_events(seed=1, distinct=1.5))
