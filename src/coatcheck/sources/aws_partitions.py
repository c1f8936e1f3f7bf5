"""Which region the host of a URL belongs to, by the partitions that botocore knows.

botocore ships two tables, `endpoints` and `partitions`: the domains of each partition (aws, aws-cn, aws-us-gov, the
isolated ones, the European sovereign cloud) and what their regions are called. New partitions come with a new botocore.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_OLDEST = "queue.amazonaws.com"
_OLDEST_REGION = "us-east-1"
_REGIONAL = re.compile(r"(?:.+\.)?(?:sqs|sqs-fips)\.(?P<region>[a-z0-9-]+)(?:\.vpce)?")
_LEGACY = re.compile(r"(?P<region>[a-z0-9-]+)\.queue")
_USUAL = re.compile(r"sqs\.[a-z0-9-]+|(?:[a-z0-9-]+\.)?queue")
_SQS = frozenset({"sqs", "sqs-fips"})


@dataclass(frozen=True, slots=True)
class Partitions:
    """`domains` are the ends of AWS's host names, the longest first; `plain` those of its usual endpoints.

    `regions` has the pattern of the region names of each partition.
    """

    domains: tuple[str, ...]
    plain: frozenset[str]
    regions: dict[str, re.Pattern[str]]

    @classmethod
    def of(cls, session: Any) -> Partitions:
        """Read botocore's tables."""
        loader = session.get_component("data_loader")
        plain: set[str] = set()
        others: set[str] = set()
        regions: dict[str, re.Pattern[str]] = {}
        for partition in loader.load_data("endpoints")["partitions"]:
            plain.add(partition["dnsSuffix"])
            variants = partition["defaults"].get("variants", ())
            others.update(each["dnsSuffix"] for each in variants if "dnsSuffix" in each)
            regions[partition["partition"]] = re.compile(partition["regionRegex"], re.ASCII)
        for partition in loader.load_data("partitions")["partitions"]:
            outputs = partition["outputs"]
            plain.add(outputs["dnsSuffix"])
            others.add(outputs["dualStackDnsSuffix"])
            regions.setdefault(partition["id"], re.compile(partition["regionRegex"], re.ASCII))
        return cls(tuple(sorted(plain | others, key=len, reverse=True)), frozenset(plain), regions)

    def partition_of(self, region: str) -> str | None:
        """Return the partition that a region belongs to, None for a name like no region of AWS."""
        return next((name for name, pattern in self.regions.items() if pattern.fullmatch(region)), None)

    def is_aws(self, url: str) -> bool:
        """Whether the URL's host is in one of AWS's domains."""
        return self._cut(_host(url)) is not None

    def is_usual(self, url: str) -> bool:
        """Whether botocore's endpoint of the region can stand for this host: the same one, or a configured variant."""
        head, domain = self._cut(_host(url)) or ("", "")
        return domain in self.plain and _USUAL.fullmatch(head) is not None

    def region_of(self, url: str) -> str | None:
        """Return the region that the host of a URL tells, None if it tells none.

        In AWS's domains any region is believed; elsewhere (emulators, names of a company's own) only what is called
        like a region of AWS.
        """
        host = _host(url)
        if host == _OLDEST:
            return _OLDEST_REGION
        head, domain = self._cut(host) or (host, "")
        if domain:
            match = _REGIONAL.fullmatch(head) or _LEGACY.fullmatch(head)
            return match["region"] if match else None
        return next((region for region in _named(head.split(".")) if self.partition_of(region)), None)

    def _cut(self, host: str) -> tuple[str, str] | None:
        for domain in self.domains:
            if host.endswith(f".{domain}"):
                return host.removesuffix(f".{domain}"), domain
        return None


def takes_any_region(url: str) -> bool:
    """Whether the host is one where emulators run: plain HTTP, an address, or a name without a domain."""
    host = _host(url)
    if urlsplit(url).scheme == "http" or "." not in host or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _named(labels: list[str]) -> Iterable[str]:
    """Yield the labels that stand where SQS's host names have the region."""
    for label, following in itertools.pairwise(labels):
        if label in _SQS:
            yield following
        elif following == "queue":
            yield label


def _host(url: str) -> str:
    return (urlsplit(url).hostname or "").rstrip(".")
