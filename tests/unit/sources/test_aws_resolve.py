"""Endpoint, region and credentials come from where users of AWS tools expect them."""

from __future__ import annotations

import asyncio
import re
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
    ("URL of aws-us-gov", "https://sqs.us-gov-west-1.amazonaws.com/1/q", {}, {},
     ("https://sqs.us-gov-west-1.amazonaws.com", "us-gov-west-1", "https://sqs.us-gov-west-1.amazonaws.com/1/q")),
    ("URL of aws-iso", "https://sqs.us-iso-east-1.c2s.ic.gov/1/q", {}, {},
     ("https://sqs.us-iso-east-1.c2s.ic.gov", "us-iso-east-1", "https://sqs.us-iso-east-1.c2s.ic.gov/1/q")),
    ("URL of aws-iso-b", "https://sqs.us-isob-east-1.sc2s.sgov.gov/1/q", {}, {},
     ("https://sqs.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1", "https://sqs.us-isob-east-1.sc2s.sgov.gov/1/q")),
    ("URL of aws-iso-e", "https://sqs.eu-isoe-west-1.cloud.adc-e.uk/1/q", {}, {},
     ("https://sqs.eu-isoe-west-1.cloud.adc-e.uk", "eu-isoe-west-1", "https://sqs.eu-isoe-west-1.cloud.adc-e.uk/1/q")),
    ("URL of aws-iso-f", "https://sqs.us-isof-south-1.csp.hci.ic.gov/1/q", {}, {},
     ("https://sqs.us-isof-south-1.csp.hci.ic.gov", "us-isof-south-1",
      "https://sqs.us-isof-south-1.csp.hci.ic.gov/1/q")),
    ("URL of aws-eusc", "https://sqs.eusc-de-east-1.amazonaws.eu/1/q", {}, {},
     ("https://sqs.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1", "https://sqs.eusc-de-east-1.amazonaws.eu/1/q")),
    ("URL of aws-eusc's dual stack", "https://sqs.eusc-de-east-1.api.amazonwebservices.eu/1/q", {}, {},
     ("https://sqs.eusc-de-east-1.api.amazonwebservices.eu", "eusc-de-east-1",
      "https://sqs.eusc-de-east-1.api.amazonwebservices.eu/1/q")),
    ("URL of an isolated dual stack", "https://sqs.us-iso-east-1.api.aws.ic.gov/1/q", {}, {},
     ("https://sqs.us-iso-east-1.api.aws.ic.gov", "us-iso-east-1", "https://sqs.us-iso-east-1.api.aws.ic.gov/1/q")),
    ("URL of China's dual stack", "https://sqs.cn-north-1.api.amazonwebservices.com.cn/1/q", {}, {},
     ("https://sqs.cn-north-1.api.amazonwebservices.com.cn", "cn-north-1",
      "https://sqs.cn-north-1.api.amazonwebservices.com.cn/1/q")),
    ("URL of FIPS and dual stack", "https://sqs-fips.us-east-2.api.aws/1/q", {}, {},
     ("https://sqs-fips.us-east-2.api.aws", "us-east-2", "https://sqs-fips.us-east-2.api.aws/1/q")),
    ("URL of an isolated VPC endpoint", "https://vpce-1.sqs.us-iso-east-1.vpce.c2s.ic.gov/1/q", {}, {},
     ("https://vpce-1.sqs.us-iso-east-1.vpce.c2s.ic.gov", "us-iso-east-1",
      "https://vpce-1.sqs.us-iso-east-1.vpce.c2s.ic.gov/1/q")),
    ("URL of an isolated legacy kind", "https://us-isob-east-1.queue.sc2s.sgov.gov/1/q", {}, {},
     ("https://sqs.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1",
      "https://us-isob-east-1.queue.sc2s.sgov.gov/1/q")),
    ("URL in a region that is newer than botocore", "https://sqs.nz-west-9.amazonaws.com/1/q", {}, {},
     ("https://sqs.nz-west-9.amazonaws.com", "nz-west-9", "https://sqs.nz-west-9.amazonaws.com/1/q")),
    ("URL of LocalStack, which has regions", "http://sqs.eu-west-1.localhost.localstack.cloud:4566/000000000000/q", {},
     {}, ("http://sqs.eu-west-1.localhost.localstack.cloud:4566", "eu-west-1",
          "http://sqs.eu-west-1.localhost.localstack.cloud:4566/000000000000/q")),
    ("URL of a name of one's own, and a region", "https://queues.example.com/1/q", {"region": "eu-west-1"}, {},
     ("https://queues.example.com", "eu-west-1", "https://queues.example.com/1/q")),
    ("URL of a server on an AWS host, and a region", "http://ec2-1-2-3-4.compute-1.amazonaws.com:9324/1/q",
     {"region": "eu-west-1"}, {},
     ("http://ec2-1-2-3-4.compute-1.amazonaws.com:9324", "eu-west-1",
      "http://ec2-1-2-3-4.compute-1.amazonaws.com:9324/1/q")),
    ("ARN", "arn:aws:sqs:eu-west-1:111122223333:q", {}, {"AWS_REGION": "us-west-2"},
     ("https://sqs.eu-west-1.amazonaws.com", "eu-west-1", None)),
    ("ARN in China", "arn:aws-cn:sqs:cn-north-1:111122223333:q", {}, {},
     ("https://sqs.cn-north-1.amazonaws.com.cn", "cn-north-1", None)),
    ("ARN of aws-us-gov", "arn:aws-us-gov:sqs:us-gov-east-1:111122223333:q", {}, {},
     ("https://sqs.us-gov-east-1.amazonaws.com", "us-gov-east-1", None)),
    ("ARN of aws-iso", "arn:aws-iso:sqs:us-iso-east-1:111122223333:q", {}, {},
     ("https://sqs.us-iso-east-1.c2s.ic.gov", "us-iso-east-1", None)),
    ("ARN of aws-iso-b", "arn:aws-iso-b:sqs:us-isob-east-1:111122223333:q.fifo", {}, {},
     ("https://sqs.us-isob-east-1.sc2s.sgov.gov", "us-isob-east-1", None)),
    ("ARN of aws-iso-e", "arn:aws-iso-e:sqs:eu-isoe-west-1:111122223333:q", {}, {},
     ("https://sqs.eu-isoe-west-1.cloud.adc-e.uk", "eu-isoe-west-1", None)),
    ("ARN of aws-iso-f", "arn:aws-iso-f:sqs:us-isof-east-1:111122223333:q", {}, {},
     ("https://sqs.us-isof-east-1.csp.hci.ic.gov", "us-isof-east-1", None)),
    ("ARN of aws-eusc", "arn:aws-eusc:sqs:eusc-de-east-1:111122223333:q", {}, {},
     ("https://sqs.eusc-de-east-1.amazonaws.eu", "eusc-de-east-1", None)),
    ("ARN, and the same region", "arn:aws:sqs:eu-west-1:111122223333:q", {"region": "eu-west-1"}, {},
     ("https://sqs.eu-west-1.amazonaws.com", "eu-west-1", None)),
    ("ARN at an emulator", "arn:aws:sqs:eu-west-1:000000000000:q", {"endpoint_url": "http://localhost:4566"}, {},
     ("http://localhost:4566", "eu-west-1", None)),
    ("ARN of an emulator with a region of its own", "arn:aws:sqs:elasticmq:000000000000:q", {},
     {"AWS_ENDPOINT_URL": "http://localhost:9324"}, ("http://localhost:9324", "elasticmq", None)),
    ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "logins", {"region": "eu-west-1"},
     {"AWS_ENDPOINT_URL": "http://localhost:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
     ("https://sqs.eu-west-1.amazonaws.com", "eu-west-1", None)),
    ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS, and SQS's own", AWS_URL, {},
     {"AWS_ENDPOINT_URL_SQS": "http://localhost:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
     ("https://sqs.eu-west-3.amazonaws.com", "eu-west-3", AWS_URL)),
    ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS does not reach the option", "logins",
     {"region": "eu-west-1", "endpoint_url": "http://localhost:3"}, {"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
     ("http://localhost:3", "eu-west-1", None)),
    ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=false", "logins", {"region": "eu-west-1"},
     {"AWS_ENDPOINT_URL": "http://localhost:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false"},
     ("http://localhost:1", "eu-west-1", None)),
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
    assert target.queue_name == re.split("[/:]", queue)[-1]
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
        ("arn:aws:sqs:eu-west-1:111122223333:logins", {"region": "eu-west-2"}, "eu-west-2", "leave source.region"),
        ("arn:aws-cn:sqs:eu-west-1:111122223333:logins", {}, "partition aws-cn", "copy the ARN"),
        ("arn:aws-new:sqs:xx-west-1:111122223333:logins", {}, "partition aws-new", "newer botocore"),
        ("arn:aws:sns:eu-west-1:111122223333:logins", {}, "source.queue", "ARN"),
        ("arn:aws:sqs:eu-west-1:1111:logins", {}, "source.queue", "ARN"),
        ("arn:aws:sqs:eu-west-1:111122223333:", {}, "source.queue", "ARN"),
        ("arn:aws:sqs:eu-west-1:111122223333:log ins", {}, "source.queue", "ARN"),
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


@pytest.mark.parametrize(
    ("queue", "options"),
    [
        ("https://queues.example.com/111122223333/q", {}),
        ("https://sqs.example.gov/111122223333/q", {}),
        ("https://mq.eu-west-1.amazonaws.com/111122223333/q", {}),
        ("https://queue.amazonaws.com.cn/111122223333/q", {}),
        ("https://my-lb-1.eu-west-1.elb.amazonaws.com/111122223333/q", {}),
        ("http://my-lb-1.eu-west-1.elb.amazonaws.com/111122223333/q", {}),
        ("logins", {"endpoint_url": "https://queues.example.com"}),
    ],
)
def test_where_no_region_can_be_told_none_is_guessed(
    monkeypatch: pytest.MonkeyPatch, queue: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(queue, **options)
    assert "no AWS region is configured" in caught.value.message
    assert "AWS_REGION" in caught.value.hint
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert resolve(queue, **options).region == "eu-west-1"


@pytest.mark.parametrize("end", ["\n", " ", "\t", "\r\n"])
@pytest.mark.parametrize(
    ("queue", "options", "env", "named"),
    [
        ("logins{}", {}, {}, "source.queue"),
        (AWS_URL + "{}", {}, {}, "source.queue"),
        ("logins", {"region": "eu-west-1{}"}, {}, "source.region"),
        ("logins", {"endpoint_url": "http://localhost:1{}"}, {}, "source.endpoint_url"),
        ("logins", {"profile": "some{}"}, {}, "source.profile"),
        ("logins", {}, {"AWS_REGION": "eu-west-1{}"}, "AWS_REGION"),
        ("logins", {}, {"AWS_DEFAULT_REGION": "eu-west-1{}"}, "AWS_DEFAULT_REGION"),
        ("logins", {}, {"AWS_ENDPOINT_URL": "http://localhost:1{}"}, "AWS_ENDPOINT_URL"),
        ("logins", {}, {"AWS_ENDPOINT_URL_SQS": "http://localhost:1{}"}, "AWS_ENDPOINT_URL_SQS"),
        ("logins", {}, {"AWS_PROFILE": "some{}"}, "AWS_PROFILE"),
        ("logins", {}, {"AWS_ROLE_ARN": "arn:aws:iam::1:role/x{}"}, "AWS_ROLE_ARN"),
        (AWS_URL, {}, {"AWS_ACCESS_KEY_ID": "AKIACANARY{}"}, "AWS_ACCESS_KEY_ID"),
        (AWS_URL, {}, {"AWS_SECRET_ACCESS_KEY": "CANARY{}"}, "AWS_SECRET_ACCESS_KEY"),
        (AWS_URL, {}, {"AWS_SESSION_TOKEN": "CANARY{}"}, "AWS_SESSION_TOKEN"),
        (AWS_URL, {}, {"AWS_SECURITY_TOKEN": "CANARY{}"}, "AWS_SECURITY_TOKEN"),
    ],
)
def test_a_blank_or_a_line_feed_at_an_end_is_told_with_the_name_of_its_setting(  # noqa: PLR0917 - a table's columns
    monkeypatch: pytest.MonkeyPatch, queue: str, options: dict[str, str], env: dict[str, str], named: str, end: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value.format(end))
    with pytest.raises(ConfigError) as caught:
        resolve(queue.format(end), **{name: value.format(end) for name, value in options.items()})
    assert f"{named} begins or ends with a blank or a line feed" in caught.value.message
    assert "CANARY" not in f"{caught.value!r} {caught.value.hint} {caught.value.__context__!r}"


def test_a_character_inside_a_key_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("AWS_ACCESS_KEY_ID", "AKIA CANARY"), ("AWS_SECRET_ACCESS_KEY", "CANARY\u200b")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(ConfigError, match=f"{name} holds a character") as caught:
                resolve(AWS_URL)
            assert "CANARY" not in repr(caught.value)


def test_a_malformed_key_in_a_file_is_told_with_its_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = AKIA\u200b\naws_secret_access_key = s\n")
    with pytest.raises(ConfigError, match="aws_access_key_id in the file of the AWS profile"):
        resolve(AWS_URL)


def test_a_profile_of_aws_login_names_the_package_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "config").write_text(
        "[profile mine]\nregion = eu-west-1\nlogin_session = arn:aws:iam::111122223333:user/me\n"
    )
    with pytest.raises(ConfigError) as caught:
        resolve(AWS_URL, profile="mine")
    assert "MissingDependencyException: " in caught.value.message
    assert "botocore[crt]" in caught.value.message
    assert 'pip install "botocore[crt]"' in caught.value.hint


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("[profile mine]\nsource_profile = gone\nrole_arn = arn:aws:iam::1:role/x\n", "gone"),
        ("[profile mine]\nrole_arn = arn:aws:iam::1:role/x\n", "missing: source_profile or credential_source"),
        ("[profile mine]\nsource_profile = mine\nrole_arn = arn:aws:iam::1:role/x\n", "infinite loop"),
        ("[profile mine]\naws_access_key_id = AKIACANARY\n", "missing: aws_secret_access_key"),
        ("[profile mine]\nsso_session = gone\nsso_account_id = 1\nsso_role_name = x\n", "gone"),
        ("[profile mine\n", "unable to parse config file"),
    ],
)
def test_the_reason_of_the_sdk_reaches_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: str, says: str
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (tmp_path / "config").write_text(config)
    with pytest.raises(ConfigError) as caught:
        resolve(AWS_URL, profile="mine")
    assert says in caught.value.message
    assert "CANARY" not in f"{caught.value!r} {caught.value.hint} {caught.value.__context__!r}"
