"""Endpoint, region and credentials come from where users of AWS tools expect them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coatcheck.errors import ConfigError
from coatcheck.sources.aws import resolve

AWS_URL = "https://sqs.eu-west-3.amazonaws.com/111122223333/logins"
LOCAL_URL = "http://127.0.0.1:4566/000000000000/logins"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "REGION", "DEFAULT_REGION", "PROFILE", "DEFAULT_PROFILE", "ENDPOINT_URL", "ENDPOINT_URL_SQS", "CA_BUNDLE",
        "SESSION_TOKEN", "USE_FIPS_ENDPOINT", "USE_DUALSTACK_ENDPOINT", "IGNORE_CONFIGURED_ENDPOINT_URLS",
        "ROLE_ARN", "WEB_IDENTITY_TOKEN_FILE", "CONTAINER_CREDENTIALS_RELATIVE_URI", "CONTAINER_CREDENTIALS_FULL_URI",
    ):  # fmt: skip
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SECRETCANARY")


CASES: list[tuple[str, str, dict[str, Any], dict[str, str], tuple[str, str, str | None]]] = [
    ("name, region by AWS_REGION", "logins", {}, {"AWS_REGION": "eu-north-1"},
     ("https://sqs.eu-north-1.amazonaws.com", "eu-north-1", None)),
    ("AWS_REGION before AWS_DEFAULT_REGION", "logins", {},
     {"AWS_REGION": "eu-north-1", "AWS_DEFAULT_REGION": "sa-east-1"},
     ("https://sqs.eu-north-1.amazonaws.com", "eu-north-1", None)),
    ("AWS_DEFAULT_REGION", "logins.fifo", {}, {"AWS_DEFAULT_REGION": "cn-north-1"},
     ("https://sqs.cn-north-1.amazonaws.com.cn", "cn-north-1", None)),
    ("the option before the environment", "logins", {"region": "us-west-2"}, {"AWS_REGION": "eu-north-1"},
     ("https://sqs.us-west-2.amazonaws.com", "us-west-2", None)),
    ("FIPS", "logins", {"region": "us-west-2"}, {"AWS_USE_FIPS_ENDPOINT": "true"},
     ("https://sqs-fips.us-west-2.amazonaws.com", "us-west-2", None)),
    ("URL tells endpoint and region", AWS_URL, {}, {"AWS_REGION": "us-west-2"},
     ("https://sqs.eu-west-3.amazonaws.com", "eu-west-3", AWS_URL)),
    ("URL, and FIPS asked for", AWS_URL, {}, {"AWS_USE_FIPS_ENDPOINT": "true"},
     ("https://sqs-fips.eu-west-3.amazonaws.com", "eu-west-3", AWS_URL)),
    ("URL of the dual stack", "https://sqs.eu-west-1.api.aws/1/q", {}, {},
     ("https://sqs.eu-west-1.api.aws", "eu-west-1", "https://sqs.eu-west-1.api.aws/1/q")),
    ("URL in China", "https://sqs.cn-north-1.amazonaws.com.cn/1/q", {}, {},
     ("https://sqs.cn-north-1.amazonaws.com.cn", "cn-north-1", "https://sqs.cn-north-1.amazonaws.com.cn/1/q")),
    ("URL of a VPC endpoint", "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/1/q", {}, {},
     ("https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com", "eu-west-1", "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/1/q")),
    ("URL of the legacy kind", "https://us-west-2.queue.amazonaws.com/1/q", {}, {},
     ("https://sqs.us-west-2.amazonaws.com", "us-west-2", "https://us-west-2.queue.amazonaws.com/1/q")),
    ("URL of the oldest kind", "https://queue.amazonaws.com/1/q", {}, {"AWS_REGION": "eu-west-1"},
     ("https://sqs.us-east-1.amazonaws.com", "us-east-1", "https://queue.amazonaws.com/1/q")),
    ("URL of an emulator", LOCAL_URL, {}, {}, ("http://127.0.0.1:4566", "us-east-1", LOCAL_URL)),
    ("an endpoint before the URL's", LOCAL_URL, {"endpoint_url": "http://localhost:9324/"}, {},
     ("http://localhost:9324", "us-east-1", LOCAL_URL)),
    ("AWS_ENDPOINT_URL before the URL's", LOCAL_URL, {}, {"AWS_ENDPOINT_URL": "http://localhost:9324"},
     ("http://localhost:9324", "us-east-1", LOCAL_URL)),
    ("AWS_ENDPOINT_URL_SQS before AWS_ENDPOINT_URL", "logins", {},
     {"AWS_ENDPOINT_URL": "http://localhost:1", "AWS_ENDPOINT_URL_SQS": "http://localhost:2"},
     ("http://localhost:2", "us-east-1", None)),
    ("the option before AWS_ENDPOINT_URL_SQS", "logins", {"endpoint_url": "http://localhost:3"},
     {"AWS_ENDPOINT_URL_SQS": "http://localhost:2", "AWS_REGION": "eu-west-1"},
     ("http://localhost:3", "eu-west-1", None)),
    ("the endpoint tells the region", "logins", {"endpoint_url": "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com"}, {},
     ("https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com", "eu-west-1", None)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("queue", "options", "env", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_where_the_queue_is(
    monkeypatch: pytest.MonkeyPatch,
    queue: str,
    options: dict[str, Any],
    env: dict[str, str],
    expected: tuple[str, str, str | None],
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    target = resolve(queue, **options)
    assert (target.endpoint_url, target.region, target.queue_url) == expected
    assert target.queue_name == queue.rpartition("/")[2]
    assert asyncio.run(target.credentials.current()).access_key == "AKIDENV"


def test_a_profile_gives_credentials_region_endpoint_and_ca_bundle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "config").write_text(
        "[profile staging]\nregion = eu-central-1\nservices = here\nca_bundle = /ca.pem\n"
        "[services here]\nsqs =\n  endpoint_url = https://sqs.internal:8443\n"
    )
    (tmp_path / "credentials").write_text("[staging]\naws_access_key_id = AKIDFILE\naws_secret_access_key = s\n")
    for target in (resolve("logins", profile="staging"), resolve(AWS_URL, profile="staging", region="eu-central-1")):
        assert target.endpoint_url == "https://sqs.internal:8443"
        assert target.region == "eu-central-1"
        assert target.ca_bundle == "/ca.pem"
        assert asyncio.run(target.credentials.current()).access_key == "AKIDFILE"


def test_a_rotated_credentials_file_is_read_when_aws_refuses_the_old_keys(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = AKIDONE\naws_secret_access_key = s\n")
    credentials = resolve(LOCAL_URL).credentials

    async def run() -> None:
        first = await credentials.current()
        file.write_text("[default]\naws_access_key_id = AKIDTWO\naws_secret_access_key = s\n")
        assert await credentials.current() is first
        credentials.invalidate(first)
        assert (await credentials.current()).access_key == "AKIDTWO"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("queue", "options", "says", "hints"),
    [
        ("logins", {}, "no AWS region", "AWS_REGION"),
        ("not a name", {"region": "eu-west-1"}, "source.queue", "up to 80"),
        ("x" * 81, {"region": "eu-west-1"}, "source.queue", "up to 80"),
        ("arn:aws:sqs:eu-west-1:111122223333:logins", {"region": "eu-west-1"}, "source.queue", "URL"),
        ("https:///logins", {}, "source.queue", "URL"),
        ("https://sqs.eu-west-1.amazonaws.com/", {}, "source.queue", "URL"),
        ("logins", {"endpoint_url": "localhost:4566"}, "botocore refuses", "endpoint_url"),
        ("logins", {"endpoint_url": "http://user:CANARY@localhost:4566"}, "endpoint", "http://127"),
        ("logins", {"endpoint_url": "http://localhost:99999"}, "", "endpoint_url"),
        ("logins", {"region": "eu west 1"}, "botocore refuses", "region"),
        ("logins", {"profile": "nobody", "region": "eu-west-1"}, "ProfileNotFound", "AWS_PROFILE"),
    ],
)
def test_a_wrong_configuration_is_told_with_a_hint(queue: str, options: dict[str, Any], says: str, hints: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(queue, **options)
    assert says in caught.value.message
    assert hints in caught.value.hint
    assert "CANARY" not in f"{caught.value!r} {caught.value.hint} {caught.value.__context__!r}"


def test_missing_credentials_are_told_with_what_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError) as on_aws:
        resolve(AWS_URL)
    with pytest.raises(ConfigError) as on_emulator:
        resolve(LOCAL_URL)
    assert "AWS_PROFILE" in on_aws.value.hint
    assert "AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test" in on_emulator.value.hint
