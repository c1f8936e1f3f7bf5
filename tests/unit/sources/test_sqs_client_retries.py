"""Back-off and retries, without a socket; and settings the client refuses."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest
from botocore.credentials import Credentials as BotoCredentials

from coatcheck.errors import ConfigError
from coatcheck.sources.aws import AwsTarget, Credentials
from coatcheck.sources.sqs_client import Backoff, Late, SqsClient, SqsError
from coatcheck.sources.sqs_wire import Kind


def target(endpoint: str = "http://127.0.0.1:1") -> AwsTarget:
    credentials = Credentials(lambda: BotoCredentials("AKID", "secret"))
    return AwsTarget(endpoint, "us-east-1", "logins", None, credentials)


def test_pauses_grow_to_the_cap_are_jittered_and_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high - low)
    backoff = Backoff()
    spans = [backoff.pause() for _ in range(100)]
    assert spans[:4] == [0.1, 0.2, 0.4, 0.8]
    assert spans[8:] == [20.0] * 92
    backoff.reset()
    assert backoff.pause() == 0.1


class Scripted(SqsClient):
    """Answers from a list instead of a server."""

    def __init__(self, *answers: bytes | Kind) -> None:
        super().__init__(target())
        self.answers = list(answers)
        self.timeouts: list[float] = []

    async def call(self, operation: str, payload: bytes, *, timeout: float, late: Late | None = None) -> bytes:  # noqa: ARG002 - as the original
        self.timeouts.append(timeout)
        answer = self.answers.pop(0)
        if isinstance(answer, bytes):
            return answer
        raise SqsError(operation, answer, "Scripted")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    taken: list[float] = []

    async def no_sleep(seconds: float) -> None:
        taken.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", no_sleep)
    return taken


def test_what_is_retryable_is_retried(pauses: list[float]) -> None:
    client = Scripted("throttled", "unavailable", "expired", "skew", b"{}")
    assert asyncio.run(client.call_retrying("GetQueueUrl", b"{}", timeout=3.0)) == b"{}"
    assert len(pauses) == 4
    assert client.timeouts[0] == 3.0


@pytest.mark.parametrize("kind", ["denied", "missing_queue", "invalid"])
def test_what_is_not_retryable_ends_at_once(pauses: list[float], kind: Kind) -> None:
    client = Scripted("throttled", kind, b"{}")
    with pytest.raises(SqsError) as caught:
        asyncio.run(client.call_retrying("GetQueueUrl", b"{}", timeout=3.0))
    assert caught.value.kind == kind
    assert len(pauses) == 1


def test_the_deadline_bounds_tries_and_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    away: Kind = "unavailable"

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    client = Scripted(*([away] * 1000))
    with pytest.raises(SqsError) as caught:
        asyncio.run(client.call_retrying("GetQueueUrl", b"{}", timeout=3.0, deadline=5.0))
    assert caught.value.kind == "unavailable"
    assert now[0] < 105.0
    assert max(client.timeouts) <= 3.0
    assert 2 < len(client.timeouts) < 1000


def test_a_queue_url_needs_no_request(pauses: list[float]) -> None:
    client = Scripted()
    assert asyncio.run(client.queue_url("http://127.0.0.1:1/0/logins")) == "http://127.0.0.1:1/0/logins"
    assert pauses == []


def test_a_control_answer_that_is_none_is_an_error(pauses: list[float]) -> None:
    with pytest.raises(SqsError) as caught:
        asyncio.run(Scripted(b'{"Queue":"CANARY"}').queue_url("logins"))
    assert (caught.value.operation, caught.value.code) == ("GetQueueUrl", "BrokenResponse")
    assert caught.value.__context__ is None
    assert pauses == []


@pytest.mark.parametrize("proxy", ["proxy.example:3128", "ftp://proxy.example", "http://", "CANARY"])
def test_a_proxy_that_is_none_is_refused(proxy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SqsClient(target(), proxy=proxy)
    assert "CANARY" not in f"{caught.value!r} {caught.value.hint}"


@pytest.mark.parametrize(
    "content", [None, b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_ca_bundle_that_is_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    bundle = tmp_path / "ca.pem"
    if content is not None:
        bundle.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        SqsClient(target("https://127.0.0.1:1"), ca_bundle=bundle)
    assert "ca_bundle" in caught.value.hint or str(bundle) in caught.value.hint


def test_without_tls_no_ca_bundle_is_read(tmp_path: Path) -> None:
    SqsClient(target(), ca_bundle=tmp_path / "missing.pem")
