"""Where SQS is and who we are there: endpoint, region, credentials, and SigV4 signatures.

botocore answers the first three, once at the start, so profiles, SSO, IRSA, ECS, IMDS, FIPS and `AWS_ENDPOINT_URL`
work as users know them. It is imported inside the functions (it takes 0.1 s) and stays off the hot path: requests are
signed here, with a key that is derived once a day and credential.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from coatcheck.aws_reason import hint_of, reason_of
from coatcheck.errors import ConfigError
from coatcheck.sources import aws_settings as settings
from coatcheck.sources.aws_credentials import (
    KEYS_MAX_AGE,
    STATIC,
    Credentials,
    Keys,
    malformed,
    no_credentials,
)
from coatcheck.sources.aws_partitions import Partitions, takes_any_region
from coatcheck.sources.queue_address import QueueAddress, read_address

__all__ = [
    "CONTENT_TYPE",
    "KEYS_MAX_AGE",
    "AwsTarget",
    "Credentials",
    "Keys",
    "Signer",
    "host_header",
    "request_path",
    "resolve",
]

CONTENT_TYPE = "application/x-amz-json-1.0"
"""The content type of AWS JSON 1.0, signed and sent with every request."""

DEFAULT_REGION = "us-east-1"
"""The region of a server that is not AWS, when none is configured: emulators take any."""


@dataclass(frozen=True, slots=True)
class AwsTarget:
    """Which queue, where, and as whom. `queue_url` is None when the queue was given by name or ARN: ask GetQueueUrl."""

    endpoint_url: str
    region: str
    queue_name: str
    queue_url: str | None
    credentials: Credentials
    ca_bundle: str | None = None
    partitions: Partitions | None = None

    @property
    def is_aws(self) -> bool:
        """Whether the endpoint is one of AWS, not of an emulator."""
        return self.partitions is not None and self.partitions.is_aws(self.endpoint_url)

    def region_of(self, url: str) -> str | None:
        """Return the region that the host of a URL tells, if it tells one."""
        return self.partitions.region_of(url) if self.partitions is not None else None


class Signer:
    """Signs POSTs of AWS JSON bodies to one endpoint (AWS General Reference, "Signature Version 4 signing process").

    `offset` is added to the local clock, in seconds: set it when AWS finds the clock skewed. Not thread-safe.
    """

    def __init__(self, endpoint_url: str, region: str, *, clock: Callable[[], float] = time.time) -> None:
        self.offset = 0.0
        self._clock = clock
        self._region = region
        self._host = host_header(endpoint_url)
        self._path = request_path(endpoint_url)
        self._second = -1
        self._polls: dict[bytes, Mapping[str, str]] = {}
        self._keys: Keys | None = None
        self._day = ""

    def sign(self, operation: str, payload: bytes, keys: Keys) -> Mapping[str, str]:
        """Return the headers of one request of `AmazonSQS.<operation>`, but for those the HTTP client sets itself."""
        second = int(self._clock() + self.offset)
        if second != self._second or keys is not self._keys:
            self._prepare(second, keys)
        if operation != "ReceiveMessage":
            return self._signed(operation, payload, keys)
        headers = self._polls.get(payload)  # polls are all the same: signed once a second
        if headers is None:
            headers = self._polls[payload] = self._signed(operation, payload, keys)
        return headers

    def _signed(self, operation: str, payload: bytes, keys: Keys) -> Mapping[str, str]:
        target = "AmazonSQS." + operation
        digest = hashlib.sha256(payload).hexdigest()
        canonical = hashlib.sha256(f"{self._head}{target}{self._tail}{digest}".encode()).hexdigest()
        signature = hmac.digest(self._signing_key, f"{self._to_sign}{canonical}".encode(), "sha256").hex()
        headers = {
            "content-type": CONTENT_TYPE,
            "x-amz-date": self._date,
            "x-amz-target": target,
            "authorization": self._authorization + signature,
        }
        if keys.token:
            headers["x-amz-security-token"] = keys.token
        return headers

    def _prepare(self, second: int, keys: Keys) -> None:
        """Build all that stays the same for one second: the texts around target, payload hash and signature."""
        date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
        scope = f"{date[:8]}/{self._region}/sqs/aws4_request"
        if date[:8] != self._day or keys is not self._keys:
            self._signing_key = _signing_key(keys.secret_key, date[:8], self._region)
        token = f"x-amz-security-token:{' '.join(keys.token.split())}\n" if keys.token else ""
        names = f"content-type;host;x-amz-date;{'x-amz-security-token;' if keys.token else ''}x-amz-target"
        first = f"POST\n{self._path}\n\ncontent-type:{CONTENT_TYPE}\nhost:{self._host}\n"
        self._head = f"{first}x-amz-date:{date}\n{token}x-amz-target:"
        self._tail = f"\n\n{names}\n"
        self._to_sign = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n"
        self._authorization = (
            f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature="
        )
        self._date = date
        self._day = date[:8]
        self._keys = keys
        self._second = second
        self._polls = {}


def resolve(
    queue: str, *, region: str | None = None, endpoint_url: str | None = None, profile: str | None = None
) -> AwsTarget:
    """Find endpoint, region and credentials of the queue with this name, URL or ARN. Blocks (seconds with IMDS).

    The endpoint is the option's, else botocore's (`AWS_ENDPOINT_URL_SQS`, `AWS_ENDPOINT_URL`, the profile), else that
    of the queue's URL (unless that is AWS's usual host), else AWS's for the region. The region is the option's (an
    ARN's must be the same), else the one in the queue's URL, else that of `AWS_REGION`, `AWS_DEFAULT_REGION` or the
    profile, else the one in the endpoint; an emulator gets us-east-1. Raises ConfigError: no queue name, URL or ARN, no
    region, no credentials, or a configuration that botocore refuses.
    """
    settings.refuse_ends(queue=queue, region=region, endpoint_url=endpoint_url, profile=profile)
    address = read_address(queue)
    try:
        session = _session(profile)
        partitions = Partitions.of(session)
        _check_arn(address, region, partitions)
        region = region or address.region or partitions.region_of(address.url) or _region_set(session)
        endpoint, is_default = _endpoint(session, partitions, address.url, region, endpoint_url)
        ca_bundle = session.get_config_variable("ca_bundle")
        found = session.get_credentials()
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - botocore, its loaders and providers: each fails in its own way
        failure = ConfigError(f"botocore refuses the AWS configuration ({reason_of(error)})", hint=hint_of(error))
    else:
        region = region or _region_at(endpoint, partitions)
        is_aws = is_default or partitions.is_aws(endpoint)
        _check_credentials(found, is_aws=is_aws)
        return AwsTarget(
            endpoint_url=endpoint,
            region=region,
            queue_name=address.name,
            queue_url=address.url or None,
            credentials=Credentials(lambda: _session(profile).get_credentials(), found=found),
            ca_bundle=ca_bundle or None,
            partitions=partitions,
        )
    raise failure  # outside the handler: what was caught may quote a URL with its password


def _check_arn(address: QueueAddress, region: str | None, partitions: Partitions) -> None:
    """Raise ConfigError for an ARN whose region is not the configured one, or not in the ARN's partition."""
    if not address.partition:
        return
    if region and region != address.region:
        raise ConfigError(
            f"source.queue is in {address.region}, and source.region is {region}",
            hint="leave source.region out: an ARN says the region",
        )
    partition = partitions.partition_of(address.region)
    if address.partition not in partitions.regions or partition not in (None, address.partition):
        raise ConfigError(
            f"source.queue: the ARN's region {address.region} is not in its partition {address.partition}",
            hint="copy the ARN from the queue's page; a partition that is newer than botocore needs a newer botocore",
        )


def _region_at(endpoint: str, partitions: Partitions) -> str:
    """Return the region to sign for at an endpoint when none is configured. Raises ConfigError: it cannot be told."""
    if told := partitions.region_of(endpoint):
        return told
    if takes_any_region(endpoint) and not partitions.is_aws(endpoint):
        return DEFAULT_REGION
    raise ConfigError(
        "no AWS region is configured, and the host of the URL does not tell one",
        hint="set AWS_REGION, or source.region in the configuration",
    )


def _check_credentials(found: Any, *, is_aws: bool) -> None:
    """Raise ConfigError if botocore found no credentials, or has malformed ones at hand."""
    if found is None:
        raise no_credentials("none found", is_aws=is_aws)
    if found.method in STATIC:
        keys = Keys(found.access_key or "", found.secret_key or "", found.token or "")
        if error := malformed(keys, found.method):
            raise error


def _region_set(session: Any) -> str | None:
    region: str | None = os.environ.get("AWS_REGION") or session.get_config_variable("region")
    return region


def _session(profile: str | None) -> Any:
    from botocore.session import Session  # noqa: PLC0415 - see the module

    return Session(profile=profile or None)


def _endpoint(
    session: Any, partitions: Partitions, queue_url: str, region: str | None, given: str | None
) -> tuple[str, bool]:
    """Return the endpoint's URL without a trailing slash, and whether it is the one AWS has for the region.

    Raises ConfigError: there is no region to find AWS's endpoint by, or the endpoint is not a URL.
    """
    configured = _client_endpoint(session, region, given, ignore_configured=None)
    default = _client_endpoint(session, region, None, ignore_configured=True)
    if given or configured != default:
        endpoint = configured.rstrip("/")
    elif queue_url and not partitions.is_usual(queue_url):
        parts = urlsplit(queue_url)
        endpoint = f"{parts.scheme}://{parts.netloc}"
    elif region:
        return default, True
    else:
        raise ConfigError("no AWS region is configured", hint="set AWS_REGION, or source.region in the configuration")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.port == 0 or parts.query:
        raise ConfigError("the endpoint is no http:// or https:// URL", hint="for example http://127.0.0.1:4566")
    return endpoint, False


def _client_endpoint(session: Any, region: str | None, given: str | None, *, ignore_configured: bool | None) -> str:
    """Ask botocore for the endpoint; None leaves it to AWS_IGNORE_CONFIGURED_ENDPOINT_URLS and the profile."""
    from botocore.config import Config  # noqa: PLC0415 - see resolve

    client = session.create_client(
        "sqs",
        region_name=region or DEFAULT_REGION,
        endpoint_url=given or None,
        aws_access_key_id="unused",  # the client is only asked for its endpoint: no search for credentials
        aws_secret_access_key="unused",  # noqa: S106  # as above
        config=Config(ignore_configured_endpoint_urls=ignore_configured),
    )
    try:
        return str(client.meta.endpoint_url)
    finally:
        client.close()


def request_path(endpoint_url: str) -> str:
    """Return the path that is signed, and sent, of requests to an endpoint."""
    return quote(urlsplit(endpoint_url).path or "/", safe="/~")


def host_header(url: str) -> str:
    """Return the Host header as HTTP clients send it: lower case, no user, no default port."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return host if parts.port in (None, default) else f"{host}:{parts.port}"


def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, "sqs", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
