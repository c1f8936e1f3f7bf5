"""The signer gives what botocore gives, for any input, and derives its key once."""

from __future__ import annotations

import asyncio
import string
import time

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from coatcheck.sources import aws
from coatcheck.sources.aws import CONTENT_TYPE, Keys, Signer

WORD = st.text(string.ascii_letters + string.digits, min_size=1, max_size=40)
PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)
ENDPOINT = st.sampled_from(
    [
        "https://sqs.eu-west-1.amazonaws.com",
        "https://SQS.eu-west-1.amazonaws.com:443",
        "http://localhost:80",
        "http://127.0.0.1:4566",
        "http://[::1]:4566",
        "https://gateway.example:8443/aws/sqs",
        "http://localhost:4566/a%20b~c",
    ]
)
KEYS = st.builds(Keys, WORD, PRINTABLE, st.one_of(st.just(""), PRINTABLE, st.just("two  words\tof token")))
SECOND = st.integers(0, 2**33)


def by_botocore(  # noqa: PLR0917 - one argument for each thing that goes into a signature
    endpoint: str, region: str, operation: str, payload: bytes, keys: Keys, second: float
) -> dict[str, str]:
    headers = {"Content-Type": CONTENT_TYPE, "X-Amz-Target": f"AmazonSQS.{operation}"}
    request = AWSRequest(method="POST", url=endpoint, headers=headers, data=payload)
    request.context["timestamp"] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))
    credentials = BotoCredentials(keys.access_key, keys.secret_key, keys.token or None)
    auth = SigV4Auth(credentials, "sqs", region)
    auth._modify_request_before_signing(request)
    to_sign = auth.string_to_sign(request, auth.canonical_request(request))
    auth._inject_signature_to_request(request, auth.signature(to_sign, request))
    return {name.lower(): value for name, value in request.headers.items()}


@settings(max_examples=300)
@given(ENDPOINT, WORD, WORD, st.binary(max_size=300), KEYS, SECOND, st.integers(-5000, 5000))
def test_signs_as_botocore_does(  # noqa: PLR0917 - one argument for each thing that goes into a signature
    endpoint: str, region: str, operation: str, payload: bytes, keys: Keys, second: int, offset: int
) -> None:
    signer = Signer(endpoint, region, clock=lambda: second + 5000)
    signer.offset = offset
    signed = signer.sign(operation, payload, keys)
    assert signed == by_botocore(endpoint, region, operation, payload, keys, second + 5000 + offset)


@given(st.lists(st.tuples(SECOND, KEYS, WORD, st.binary(max_size=20)), min_size=2, max_size=8))
def test_what_it_keeps_between_requests_never_shows(requests: list[tuple[int, Keys, str, bytes]]) -> None:
    now = 0
    signer = Signer("http://localhost:4566", "us-east-1", clock=lambda: now)
    for second, keys, operation, payload in [*requests, *requests]:
        now = second
        expected = by_botocore("http://localhost:4566", "us-east-1", operation, payload, keys, second)
        assert signer.sign(operation, payload, keys) == expected


def test_the_signing_key_is_derived_once_a_day_and_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    derived: list[str] = []
    derive = aws._signing_key

    def count(secret: str, day: str, region: str) -> bytes:
        derived.append(day)
        return derive(secret, day, region)

    monkeypatch.setattr(aws, "_signing_key", count)
    now = 1_800_000_000.0
    signer = Signer("http://localhost:4566", "us-east-1", clock=lambda: now)
    keys = Keys("AKID", "secret")
    for _ in range(100):
        now += 60.0
        signer.sign("ReceiveMessage", b"{}", keys)
    assert derived == ["20270115"]
    now += 86_400.0
    signer.sign("ReceiveMessage", b"{}", keys)
    signer.sign("ReceiveMessage", b"{}", Keys("AKID", "other"))
    assert derived == ["20270115", "20270116", "20270116"]


def test_no_secret_is_shown() -> None:
    keys = Keys("AKIDCANARY", "SECRETCANARY", "TOKENCANARY")
    credentials = aws.Credentials(lambda: BotoCredentials("AKIDCANARY", "SECRETCANARY", "TOKENCANARY", "env"))
    asyncio.run(credentials.current())
    target = aws.AwsTarget("http://localhost", "us-east-1", "queue", None, credentials)
    for shown in (repr(keys), f"{keys}", repr(credentials), repr(target)):
        assert "CANARY" not in shown
    assert credentials.method == "env"
