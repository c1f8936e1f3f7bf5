"""Where SQS is and who we are there: endpoint, region, credentials, and SigV4 signatures.

botocore answers the first three, once at the start, so profiles, SSO, IRSA, ECS, IMDS, FIPS and `AWS_ENDPOINT_URL`
work as users know them. It is imported inside the functions (it takes 0.1 s) and stays off the hot path: requests are
signed here, with a key that is derived once a day and credential.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from coatcheck.errors import ConfigError
from coatcheck.loop import in_thread

CONTENT_TYPE = "application/x-amz-json-1.0"
"""The content type of AWS JSON 1.0, signed and sent with every request."""

DEFAULT_REGION = "us-east-1"
"""The region of a server that is not AWS, when none is configured: emulators take any."""

KEYS_MAX_AGE = 60.0
"""Seconds after which the credentials are read again from botocore, which refreshes them when they end soon."""

_QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo")
_AWS_HOST = re.compile(
    r"(?:.+\.)?(?:sqs|sqs-fips)\.(?P<region>[a-z0-9-]+)\.(?:vpce\.)?"
    r"(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu|api\.aws|api\.amazonwebservices\.com\.cn)"
)
_LEGACY_HOST = re.compile(r"(?:(?P<region>[a-z0-9-]+)\.)?queue\.amazonaws\.com(?:\.cn)?")
_USUAL_HOST = re.compile(r"sqs\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?|" + _LEGACY_HOST.pattern)
"""Hosts for which botocore's own endpoint stands: that is the same, or better (FIPS or dual stack, as configured)."""


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """One set of credentials as it is at one moment. `token` is the session token, empty for long-term keys."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:
        """Show nothing: neither key id nor secret belongs into a log."""
        return "Keys(<redacted>)"


class Credentials:
    """The credentials behind the requests, kept fresh.

    `load` finds them with botocore (it may block for seconds: SSO, STS, IMDS) and returns a botocore credentials
    object, or None when there are none; `found` is one that was found already.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        *,
        found: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._found = found
        self._clock = clock
        self._keys: Keys | None = None
        self._read_again = 0.0
        self._reading = threading.Lock()

    def __repr__(self) -> str:
        """Show the method only."""
        return f"Credentials({self.method})"

    @property
    def method(self) -> str:
        """Where the credentials came from, in botocore's word; `none` before they were found."""
        return str(getattr(self._found, "method", "none"))

    async def current(self) -> Keys:
        """Return the keys to sign with, read again in a thread when a minute old or invalidated.

        While one task reads again, the others go on with the keys at hand. A failed re-reading keeps them too: AWS
        tells when they have ended. Raises ConfigError when there is nothing to sign with.
        """
        keys = self._keys
        if keys is not None:
            now = self._clock()
            if now < self._read_again:
                return keys
            self._read_again = now + KEYS_MAX_AGE
        return await in_thread(lambda: self._read(keys))

    def invalidate(self, refused: Keys | None = None) -> None:
        """Forget the keys: the next `current` looks for credentials anew (a rotated file or role is found).

        With `refused`, only if these are still the keys in use: many requests refused at once start one search.
        """
        if refused is None or refused == self._keys:
            self._keys = None
            self._found = None

    def _read(self, old: Keys | None) -> Keys:
        """Read the keys in place of `old`, in a thread; of several callers the first reads for all."""
        with self._reading:
            if self._keys is not None and self._keys is not old:
                return self._keys
            try:
                if self._found is None:
                    self._found = self._load()
                frozen = self._found.get_frozen_credentials() if self._found else None
            except Exception as error:  # noqa: BLE001 - each of botocore's providers fails in its own way
                if old is None:
                    raise _no_credentials(type(error).__name__) from None
                return old
            if frozen is None or not frozen.access_key or not frozen.secret_key:
                raise _no_credentials("none found")
            fresh = Keys(frozen.access_key, frozen.secret_key, frozen.token or "")
            keys = old if old == fresh and old is not None else fresh  # the same object keeps the signer's cache
            self._keys, self._read_again = keys, self._clock() + KEYS_MAX_AGE
            return keys


@dataclass(frozen=True, slots=True)
class AwsTarget:
    """Which queue, where, and as whom. `queue_url` is None when the queue was given by name: ask GetQueueUrl."""

    endpoint_url: str
    region: str
    queue_name: str
    queue_url: str | None
    credentials: Credentials
    ca_bundle: str | None = None


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
    """Find endpoint, region and credentials of the queue with this name or URL. Blocks (seconds where IMDS is asked).

    The endpoint is the option's, else botocore's (`AWS_ENDPOINT_URL_SQS`, `AWS_ENDPOINT_URL`, the profile), else that
    of the queue's URL (unless that is AWS's usual host), else AWS's for the region. The region is the option's, else
    the one in the queue's URL, else that of `AWS_REGION`, `AWS_DEFAULT_REGION` or the profile, else the one in the
    endpoint; a server that is not AWS gets us-east-1. Raises ConfigError: no queue name or URL, no region, no
    credentials, or a configuration that botocore refuses.
    """
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - 0.1 s, wanted only by those who talk to SQS

    queue_url = queue if queue.startswith(("http://", "https://")) else None
    name = _queue_name(queue)
    try:
        session = _session(profile)
        region = region or _region_of(queue_url) or os.environ.get("AWS_REGION")
        region = region or session.get_config_variable("region")
        endpoint, is_default = _endpoint(session, queue_url, region, endpoint_url)
        told = None if is_default else _region_of(endpoint)
        found = session.get_credentials()
        ca_bundle = session.get_config_variable("ca_bundle")
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(
            f"botocore refuses the AWS configuration ({type(error).__name__})",
            hint="check region, endpoint_url, AWS_PROFILE and the files in ~/.aws",
        ) from None
    is_aws = is_default or told is not None
    if not (region or told) and is_aws:
        raise ConfigError("no AWS region is configured", hint="set AWS_REGION, or source.region in the configuration")
    if found is None:
        raise _no_credentials("none found", is_aws=is_aws)
    return AwsTarget(
        endpoint_url=endpoint,
        region=region or told or DEFAULT_REGION,
        queue_name=name,
        queue_url=queue_url,
        credentials=Credentials(lambda: _session(profile).get_credentials(), found=found),
        ca_bundle=ca_bundle or None,
    )


def _session(profile: str | None) -> Any:
    from botocore.session import Session  # noqa: PLC0415 - see resolve

    return Session(profile=profile or None)


def _endpoint(session: Any, queue_url: str | None, region: str | None, given: str | None) -> tuple[str, bool]:
    """Return the endpoint's URL without a trailing slash, and whether it is the one AWS has for the region."""
    configured = _client_endpoint(session, region, given, ignore_configured=False)
    default = _client_endpoint(session, region, None, ignore_configured=True)
    if given or configured != default:
        endpoint = configured.rstrip("/")
    elif queue_url and not _USUAL_HOST.fullmatch(urlsplit(queue_url).hostname or ""):
        parts = urlsplit(queue_url)
        endpoint = f"{parts.scheme}://{parts.netloc}"
    else:
        return default, True
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.port == 0 or parts.query:
        raise ConfigError("the endpoint is no http:// or https:// URL", hint="for example http://127.0.0.1:4566")
    return endpoint, False


def _client_endpoint(session: Any, region: str | None, given: str | None, *, ignore_configured: bool) -> str:
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


def _queue_name(queue: str) -> str:
    parts = urlsplit(queue) if queue.startswith(("http://", "https://")) else None
    name = parts.path.rstrip("/").rpartition("/")[2] if parts else queue
    if _QUEUE_NAME.fullmatch(name) and not (parts and not parts.hostname):
        return name
    raise ConfigError(
        "source.queue is neither the name nor the URL of an SQS queue",
        hint="a name has up to 80 letters, digits, - and _; a URL looks like https://sqs.eu-west-1.amazonaws.com/111122223333/name",
    )


def _region_of(url: str | None) -> str | None:
    """Return the region that the host name of an AWS URL tells, None for any other URL."""
    host = (urlsplit(url).hostname or "") if url else ""
    if match := _AWS_HOST.fullmatch(host):
        return match["region"]
    if match := _LEGACY_HOST.fullmatch(host):
        return match["region"] or DEFAULT_REGION
    return None


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


def _no_credentials(why: str, *, is_aws: bool = True) -> ConfigError:
    hint = (
        "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a role"
        if is_aws
        else "the endpoint is not AWS, and emulators take any: AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test"
    )
    return ConfigError(f"no AWS credentials ({why})", hint=hint)
