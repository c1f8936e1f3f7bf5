"""Checkpoints in S3: an embedded server with Object Lock, and a scripted one for what AWS refuses."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from pydantic import SecretStr
from tests.support.fix_postgres import Database

from coatcheck import trail
from coatcheck.config import AuditConfig, Config, KeysConfig, TargetConfig
from coatcheck.demo.servers import SqsServer
from coatcheck.errors import ConfigError, RefusedError, UnreachableError
from coatcheck.vault.checkpoints import note_name
from coatcheck.vault.notes_s3 import S3Notes

CANARY = "canary-7f3a"


@pytest.fixture(autouse=True)
def _aws(aws_by_environment: None) -> None:
    """By the environment only."""


class S3Server(SqsServer):
    """The embedded server with S3 instead of SQS."""

    label = "S3 server"

    def _environment(self, port: int) -> dict[str, str]:
        return super()._environment(port) | {"SERVICES": "s3"}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def client(s3: S3Server) -> Iterator[Any]:
    """The foreign hand of boto3; one, as making it takes longer than a test."""
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    made = boto3.client("s3", endpoint_url=s3.url, region_name="us-east-1", **keys)
    yield made
    made.close()


class Bucket:
    """A bucket, seen by somebody else."""

    def __init__(self, client: Any, name: str, *, lock: bool) -> None:
        self.client, self.name = client, name
        self.client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=lock)

    def put(self, key: str, data: bytes = b"x") -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=data)

    def keys(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [entry["Key"] for entry in found]

    def target(self, prefix: str = "audit") -> str:
        return f"s3://{self.name}/{prefix}"


@pytest.fixture
def bucket(s3: S3Server, client: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    return Bucket(client, name, lock="no_lock" not in request.node.name)


def notes(target: str, **options: Any) -> S3Notes:
    return S3Notes(target, **{"retain_days": 10} | options)


def test_a_note_is_locked_and_never_overwritten(bucket: Bucket) -> None:
    store = notes(bucket.target(), clock=lambda: datetime.now(UTC))
    assert store.newest(100) is None
    assert store.add(7, b"note 7") == f"s3://{bucket.name}/audit/{note_name(7)}"
    assert store.add(7, b"note 7"), "the same one again is no error: its answer may have been lost"
    with pytest.raises(RefusedError, match="exists and is another checkpoint"):
        store.add(7, b"another")
    found = bucket.client.get_object(Bucket=bucket.name, Key=f"audit/{note_name(7)}")
    with found["Body"] as body:
        assert body.read() == b"note 7"
    assert found["ObjectLockMode"] == "COMPLIANCE"
    until = found["ObjectLockRetainUntilDate"] - datetime.now(UTC)
    assert timedelta(days=9, hours=23) < until < timedelta(days=10, minutes=1)
    with pytest.raises(ClientError, match="AccessDenied"):
        bucket.client.delete_object(Bucket=bucket.name, Key=f"audit/{note_name(7)}", VersionId=found["VersionId"])
    assert bucket.keys() == [f"audit/{note_name(7)}"]
    store.close()


def test_the_newest_note_is_found_wherever_the_head_is(bucket: Bucket) -> None:
    for seq in (1, 20, 4000, 3_000_000):
        bucket.put(f"audit/{note_name(seq)}", f"note {seq}".encode())
    bucket.put(f"audit/deeper/{note_name(9_000_000)}")
    bucket.put("audit/README")
    bucket.put("zzz/" + note_name(9_000_000))
    store = notes(bucket.target())
    for head in (0, 1, 50, 5000, 3_000_000, 2**63 - 1):
        assert store.newest(head) == (f"s3://{bucket.name}/audit/{note_name(3_000_000)}", b"note 3000000")
    store.close()


def test_more_notes_than_a_page(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for seq in range(1, 8):
        bucket.put(note_name(seq), b"%d" % seq)
    store = notes(f"s3://{bucket.name}")
    ask, asked = store._ask, []

    def small_pages(operation: str, **request: Any) -> dict[str, Any]:
        asked.append(operation)
        return ask(operation, **request, **({"MaxKeys": 3} if operation == "ListObjectsV2" else {}))

    monkeypatch.setattr(store, "_ask", small_pages)
    assert store.newest(5000) == (f"s3://{bucket.name}/{note_name(7)}", b"7")
    assert asked.count("ListObjectsV2") >= 3
    store.close()


def test_a_bucket_with_no_lock(bucket: Bucket) -> None:
    with pytest.raises(
        ConfigError, match=rf"S3 refuses PutObject in the bucket {bucket.name} \(InvalidRequest\)"
    ) as hint:
        notes(bucket.target()).add(1, b"note")
    assert "--object-lock-enabled-for-bucket" in hint.value.hint
    assert bucket.keys() == []


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_is_not_there() -> None:
    store = notes("s3://no-such-bucket/audit")
    for work in (lambda: store.newest(1), lambda: store.add(1, b"note")):
        with pytest.raises(ConfigError, match=r"no-such-bucket \(NoSuchBucket\)") as caught:
            work()
        assert caught.value.hint == "check the name, the region and the account"
    store.close()


@pytest.fixture
def config(database: Database, tmp_path: Path) -> Config:
    config = Config(
        target=TargetConfig(dsn=SecretStr(database.dsn)),
        keys=KeysConfig(path=tmp_path / "keys"),
        audit=AuditConfig(retain_days=30),
    )
    trail.init_key(config, "acme")
    return config


def nowhere(note: str) -> None:
    raise AssertionError(note)


def test_a_trail_that_was_rewritten_is_found_by_its_notes_in_s3(
    database: Database, config: Config, bucket: Bucket
) -> None:
    def fill(count: int) -> None:
        for _ in range(count):
            database.execute("SELECT coatcheck.audit_append('reveal opened', %s)", CANARY)

    fill(3)
    place = f"s3://{bucket.name}/audit/{note_name(3)}"
    assert trail.checkpoint(config, bucket.target(), nowhere) == (place, 3)
    assert trail.checkpoint(config, bucket.target("audit/"), nowhere) == (None, 3)
    database.execute("TRUNCATE coatcheck.audit")
    fill(5)
    with pytest.raises(RefusedError, match="no checkpoint is signed: the audit trail was rewritten: entry 3"):
        trail.checkpoint(config, bucket.target(), nowhere)
    assert bucket.keys() == [f"audit/{note_name(3)}"]


def test_botocore_is_loaded_for_s3_only(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "coatcheck.vault.notes_s3", raising=False)
    trail.notes_at(config, "-", nowhere)
    trail.notes_at(config, "folder/", nowhere)
    assert "coatcheck.vault.notes_s3" not in sys.modules


# -- what AWS refuses: an answer for each method, and every text of it is a canary


class Scripted:
    """Answers each request as `answer` says: status, code, body."""

    def __init__(self) -> None:
        self.answer: Callable[[str], tuple[int, str, bytes]] = lambda _: (200, "", b"")
        self.requests: list[str] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _respond(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                scripted.requests.append(self.command)
                status, code, body = scripted.answer(self.command)
                if code:
                    text = f"<Error><Code>{code}</Code><Message>{CANARY}</Message><Resource>{CANARY}</Resource></Error>"
                    body = text.encode()
                self.send_response(status)
                cut = code == "" and body.endswith(b"...")
                self.send_header("Content-Length", str(len(body) + (10 if cut else 0)))
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = cut

            do_GET = do_PUT = _respond  # noqa: N815 - http.server's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    server = Scripted()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    yield server
    server.close()


LISTED = f"<ListBucketResult><Contents><Key>audit/{note_name(3)}</Key></Contents></ListBucketResult>".encode()
OBJECTS = "arn:aws:s3:::bucket/audit/*"


def failed(kind: type[Exception], work: Callable[[], object]) -> Any:
    with pytest.raises(kind) as caught:
        work()
    assert CANARY not in f"{caught.value!r} {getattr(caught.value, 'hint', '')} {caught.value.__context__!r}"
    return caught.value


def test_each_permission_that_is_missing_is_named(scripted: Scripted) -> None:
    store = notes("s3://bucket/audit")
    scripted.answer = lambda _: (403, "AccessDenied", b"")
    error = failed(ConfigError, lambda: store.newest(1))
    assert error.message == "S3 refuses ListObjectsV2 in the bucket bucket (AccessDenied)"
    assert error.hint == "allow s3:ListBucket on arn:aws:s3:::bucket"
    error = failed(ConfigError, lambda: store.add(1, b"note"))
    assert error.hint == f"allow s3:PutObject and s3:PutObjectRetention on {OBJECTS}"
    listings = iter([(200, "", LISTED), (403, "AccessDenied", b"")])
    scripted.answer = lambda _: next(listings)
    error = failed(ConfigError, lambda: store.newest(1))
    assert error.hint == f"allow s3:GetObject on {OBJECTS}"
    store.close()


def test_other_answers(scripted: Scripted) -> None:
    store = notes("s3://bucket/audit")
    for status, code, kind, words in (
        (503, "SlowDown", UnreachableError, r"S3 does not answer \(SlowDown\)"),
        (409, "ConditionalRequestConflict", UnreachableError, r"S3 does not answer"),
        (403, "InvalidAccessKeyId", ConfigError, r"S3 has no valid AWS credentials \(InvalidAccessKeyId\)"),
        (403, "ExpiredToken", UnreachableError, r"the AWS credentials for S3 have expired"),
        (400, "AuthorizationHeaderMalformed", ConfigError, r"S3 refuses PutObject"),
        (400, "SomethingNew", ConfigError, r"S3 refuses PutObject in the bucket bucket \(SomethingNew\)"),
    ):
        answer = status, code, b""
        scripted.answer = lambda _, answer=answer: answer  # type: ignore[misc]  # bound as it is now
        assert re.search(words, failed(kind, lambda: store.add(1, b"note")).message)
    store.close()


def test_a_server_that_is_away(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    error = failed(UnreachableError, lambda: notes("s3://bucket").newest(1))
    assert "S3 does not answer" in error.message
    assert scripted.requests == [], "AWS_ENDPOINT_URL_S3 outranks AWS_ENDPOINT_URL"


def test_a_note_that_breaks_off(scripted: Scripted) -> None:
    scripted.answer = lambda _: (200, "", LISTED if len(scripted.requests) == 1 else b"text...")
    store = notes("s3://bucket/audit")
    error = failed(UnreachableError, lambda: store.newest(1))
    assert "cannot be read to its end" in error.message
    store.close()
