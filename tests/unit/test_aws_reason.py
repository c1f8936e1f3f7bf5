"""What of an SDK's error may be shown: its class, and its text without what could be a secret."""

from __future__ import annotations

import botocore.exceptions as boto
import pytest

from coatcheck.aws_reason import hint_of, reason_of

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYCANARYKEY9"

SHOWN: list[tuple[Exception, str]] = [
    (boto.ProfileNotFound(profile="mine"), "ProfileNotFound: the config profile (mine) could not be found"),
    (
        boto.MissingDependencyException(msg='pip install "botocore[crt]" before proceeding.'),
        'MissingDependencyException: missing Dependency: pip install "botocore[crt]" before proceeding',
    ),
    (boto.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
     "PartialCredentialsError: partial credentials found in env, missing: AWS_SECRET_ACCESS_KEY"),
    (boto.ConfigParseError(path="/home/me/.aws/config"),
     "ConfigParseError: unable to parse config file: /home/me/.aws/config"),
    (boto.CredentialRetrievalError(provider="assume-role", error_msg="the role has gone"),
     "CredentialRetrievalError: error when retrieving credentials from assume-role: the role has gone"),
    (boto.CredentialRetrievalError(provider="custom-process", error_msg="CANARY"),
     "CredentialRetrievalError: credential_process failed"),
    (boto.EndpointConnectionError(endpoint_url="https://me:CANARY@sso.example/CANARY?token=CANARY"),
     'EndpointConnectionError: could not connect to the endpoint URL: "https://sso.example"'),
    (boto.ProxyConnectionError(proxy_url="http://me:CANARY@proxy:3128"),
     'ProxyConnectionError: failed to connect to proxy URL: "http://proxy:3128"'),
    (boto.InvalidConfigError(error_msg=f"no such key {SECRET} of AKIAIOSFODNN7CANARY"),
     "InvalidConfigError: no such key *** of ***"),
    (boto.InvalidConfigError(error_msg="two\nlines\x1b[31m"), "InvalidConfigError: two lines [31m"),
    (boto.ClientError({"Error": {"Code": "AccessDenied", "Message": "CANARY"}}, "AssumeRole"),
     "AccessDenied in AssumeRole"),
    (boto.ClientError({"Error": {"Code": "CANARY CANARY"}}, "AssumeRole"), "ClientError in AssumeRole"),
    (ValueError("CANARY"), "ValueError"),
    (OSError("CANARY"), "OSError"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "expected"), SHOWN, ids=[expected.partition(":")[0] for _, expected in SHOWN])
def test_a_reason_is_class_and_useful_text(error: Exception, expected: str) -> None:
    assert reason_of(error) == expected
    assert "CANARY" not in reason_of(error)


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"])
def test_a_secret_of_the_environment_is_never_shown(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "short-canary")
    assert reason_of(boto.InvalidConfigError(error_msg="it is short-canary.")) == "InvalidConfigError: it is ***"


def test_a_long_text_is_cut() -> None:
    assert len(reason_of(boto.InvalidConfigError(error_msg="word " * 1000))) < 350


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (boto.MissingDependencyException(msg=""), "botocore[crt]"),
        (boto.LoginRefreshRequired(), "aws login"),
        (boto.UnauthorizedSSOTokenError(), "aws sso login"),
        (boto.SSOTokenLoadError(error_msg=""), "aws sso login"),
        (boto.TokenRetrievalError(provider="sso", error_msg=""), "aws sso login"),
        (boto.ProfileNotFound(profile=""), "AWS_PROFILE"),
    ],
)
def test_hints_say_what_to_do(error: Exception, hint: str) -> None:
    assert hint in hint_of(error)
