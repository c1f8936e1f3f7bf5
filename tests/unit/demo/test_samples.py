"""The sample logins hold what they promise, judged by the stages of the road themselves."""

from __future__ import annotations

import ipaddress
import json
import re
import time
import uuid
from collections import Counter, defaultdict

import pytest

from coatcheck.config import Config
from coatcheck.demo.samples import FAULTS, Samples, sample_logins
from coatcheck.keys.forms import FormError
from coatcheck.pipeline.columns import Mask
from coatcheck.pipeline.decode import decoder
from coatcheck.pipeline.mask import form_of
from coatcheck.pipeline.message import Reason, Reject
from coatcheck.pipeline.validate import validator

KEYS = {"user_id", "app_version", "device_type", "ip", "locale", "device_id"}
RANGES = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "10.0.0.0/8", "2001:db8::/32")
NETWORKS = [ipaddress.ip_network(text) for text in RANGES]


@pytest.fixture(scope="module")
def samples() -> Samples:
    return sample_logins()


def travel(samples: Samples) -> tuple[Counter[str], dict[str, set[bytes]], list[dict[str, str | None]]]:
    """Decode, validate and canonicalise every body: rejects by reason, values by column, the good logins."""
    columns = Config.model_validate({}).plan()
    decode, validate = decoder(exact=False), validator(columns)
    masked = [(place, column, form_of(column)) for place, column in enumerate(columns) if column.mask is Mask.TOKEN]
    rejected: Counter[str] = Counter()
    values: dict[str, set[bytes]] = defaultdict(set)
    good = []
    for body in samples.bodies:
        value = decode(body)
        record = value if isinstance(value, Reject) else validate(value, 1_700_000_000_000)
        if isinstance(record, Reject):
            rejected[record.reason] += 1
            continue
        try:
            forms = {column.name: form.canonical(record[place]) for place, column, form in masked}
        except FormError as error:
            rejected[error.reason] += 1
            continue
        for name, form in forms.items():
            values[name].add(form)
        good.append(json.loads(body))
    return rejected, values, good


@pytest.mark.parametrize(("count", "seed"), [(300, 7), (300, 8), (1000, 1), (20, 7), (1, 7), (0, 7)])
def test_the_road_agrees_with_every_figure(count: int, seed: int) -> None:
    samples = sample_logins(count, seed)
    rejected, values, good = travel(samples)
    assert len(samples.bodies) == count
    assert samples.rejected == rejected
    assert samples.good == len(good) == count - count // 20
    assert samples.distinct_ips == len(values["masked_ip"])
    assert samples.distinct_devices == len(values["masked_device_id"])


def test_they_are_the_same_for_a_seed_and_others_for_another() -> None:
    assert sample_logins() == sample_logins()
    assert sample_logins(seed=8).bodies != sample_logins().bodies


def test_every_fault_is_there_once(samples: Samples) -> None:
    assert samples.rejected == Counter(reason for reason, _ in FAULTS)
    assert sum(samples.rejected.values()) == len(FAULTS) == 15
    assert set(samples.rejected) >= {Reason.NOT_JSON, Reason.NOT_AN_OBJECT, Reason.INVALID_TEXT, Reason.NOT_AN_IP}
    assert any(r"\u0000" in body for body in samples.bodies)
    assert not any("\0" in body for body in samples.bodies)  # SQS would refuse it


def test_good_ones_have_the_six_fields_in_the_forms_of_the_real_ones(samples: Samples) -> None:
    _, _, good = travel(samples)
    assert all(set(login) == KEYS for login in good)
    assert all(uuid.UUID(login["user_id"] or "").version == 4 for login in good)
    assert all(re.fullmatch(r"made-up-\d{6}", login["device_id"] or "") for login in good)
    parts = Counter((login["app_version"] or "").count(".") for login in good)
    assert set(parts) == {1, 2}
    assert min(parts.values()) > 50
    assert 0.2 < sum(login["locale"] is None for login in good) / len(good) < 0.4
    assert {login["device_type"] for login in good} == {"android", "ios"}


def test_addresses_belong_to_no_one(samples: Samples) -> None:
    _, values, _ = travel(samples)
    for form in values["masked_ip"]:
        address = ipaddress.IPv6Address(form)
        plain = address.ipv4_mapped or address
        assert any(plain in network for network in NETWORKS), plain


def test_repeats_are_there_to_be_found(samples: Samples) -> None:
    _, _, good = travel(samples)
    logins = Counter(login["ip"] for login in good)
    users: dict[str | None, set[str | None]] = defaultdict(set)
    for login in good:
        users[login["ip"]].add(login["user_id"])
    (top, most), *_ = logins.most_common(1)
    assert most >= 8
    assert len(users[top]) >= 5
    assert Counter(login["device_id"] for login in good).most_common(1)[0][1] >= 8
    devices = {(login["device_id"], login["user_id"]) for login in good}
    assert len(devices) > len({device for device, _ in devices})  # some share a device


def test_one_address_comes_in_several_spellings(samples: Samples) -> None:
    _, _, good = travel(samples)
    spellings = {login["ip"] for login in good}
    assert {"198.51.100.20", "::ffff:198.51.100.20"} <= spellings
    assert {"2001:db8:51::c0de", "2001:DB8:51::C0DE", "2001:0db8:0051:0000:0000:0000:0000:c0de"} <= spellings
    assert samples.distinct_ips == len(spellings) - 3


def test_they_are_made_in_no_time() -> None:
    best = min(_seconds() for _ in range(5))
    assert best < 0.02


def _seconds() -> float:
    started = time.perf_counter()
    sample_logins()
    return time.perf_counter() - started
