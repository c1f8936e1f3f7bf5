from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import Any

import pytest

from coatcheck.errors import CoatcheckError, ConfigError, UnreachableError
from coatcheck.keys import secrets
from coatcheck.keys.secrets import AwsClient, Fault, read_secret

SECRET = "canary correct horse é"
OPTION = "keys.passphrase"
ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:coatcheck/pass-AbCdEf"


def refusal(reference: str, kind: type[CoatcheckError] = ConfigError) -> CoatcheckError:
    """Return the error; it names the option, has a hint, shows no secret, and nothing stands behind it."""
    with pytest.raises(kind) as caught:
        read_secret(reference, option=OPTION)
    error = caught.value
    assert OPTION in error.message
    assert error.hint
    assert error.__context__ is None
    assert "canary" not in "".join(traceback.format_exception(error)) + error.hint + repr(vars(error))
    return error


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "the secret"
    path.write_text(SECRET + "\n")
    path.chmod(0o600)
    return path


class Answers:
    """What AwsClient answers in these tests, and what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer: dict[str, Any] | Fault = {"SecretString": SECRET}
        self.asked: list[dict[str, Any]] = []
        self.made: list[dict[str, Any]] = []
        monkeypatch.setattr(secrets, "AwsClient", self._make)

    def _make(self, service: str, **options: Any) -> AwsClient:
        self.made.append({"service": service, **options})
        client = AwsClient(service, **options)
        return _Answering(self, client)

    def call(self, operation: str, **request: Any) -> dict[str, Any] | Fault:
        self.asked.append({"operation": operation, **request})
        return self.answer


class _Answering(AwsClient):
    def __init__(self, answers: Answers, client: AwsClient) -> None:
        super().__init__(client._service)
        self._answers = answers

    def call(self, operation: str, **request: Any) -> dict[str, Any] | Fault:
        return self._answers.call(operation, **request)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Answers:
    return Answers(monkeypatch)


# -- itself, and the environment


@pytest.mark.parametrize(
    "literal", [SECRET, "", "x:y", "ENV:X", "environment:X", "file", "env", "postgresql://u:p@h/d"]
)
def test_anything_else_is_the_secret_itself(literal: str) -> None:
    assert read_secret(literal, option=OPTION) == literal


def test_from_the_environment_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SECRET", f" {SECRET}\n")
    assert read_secret("env:MY_SECRET", option=OPTION) == f" {SECRET}\n"


def test_a_variable_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_SECRET", raising=False)
    error = refusal("env:MY_SECRET")
    assert (error.message, error.hint) == (
        "keys.passphrase: the environment variable MY_SECRET is not set",
        "set MY_SECRET",
    )
    monkeypatch.setenv("MY_SECRET", "")
    assert refusal("env:MY_SECRET").message == "keys.passphrase: the environment variable MY_SECRET is empty"


@pytest.mark.parametrize("name", ["", " ", "canary horse", "1X", "A=canary", "canary\n"])
def test_what_is_no_name_is_not_shown(name: str) -> None:
    assert refusal(f"env:{name}").message == "keys.passphrase: env: is not followed by a variable's name"


# -- files


@pytest.mark.parametrize(("end", "kept"), [("", ""), ("\n", ""), ("\r\n", ""), ("\n\n", "\n"), (" \n", " ")])
def test_from_a_file_without_its_last_line_end(file: Path, end: str, kept: str) -> None:
    file.write_bytes((SECRET + end).encode())
    assert read_secret(f"file:{file}", option=OPTION) == SECRET + kept
    assert read_secret(f"file://{file}", option=OPTION) == SECRET + kept


def test_links_are_followed_as_kubernetes_makes_them(file: Path, tmp_path: Path) -> None:
    (tmp_path / "..data").symlink_to(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(Path("..data") / file.name)
    assert read_secret(f"file:{link}", option=OPTION) == SECRET


@pytest.mark.parametrize(("mode", "done"), [(0o604, "read"), (0o602, "written"), (0o606, "written"), (0o644, "read")])
def test_a_file_that_is_open_to_others_is_refused(file: Path, tmp_path: Path, mode: int, done: str) -> None:
    file.chmod(mode)
    link = tmp_path / "link"
    link.symlink_to(file)
    for path in (file, link):
        error = refusal(f"file:{path}")
        assert error.message == f"keys.passphrase: the file {path} can be {done} by others"
        assert error.hint.startswith("chmod o-rwx ")
        assert "defaultMode: 0440" in error.hint


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o640, 0o600])
def test_a_group_may_read(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert read_secret(f"file:{file}", option=OPTION) == SECRET


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    assert refusal(f"file:{tmp_path}").message.endswith("is no regular file")
    assert refusal(f"file:{pipe}").message.endswith("is no regular file")
    assert refusal(f"file:{tmp_path}/none").message.endswith("cannot be read (ENOENT)")
    assert refusal("file:/a\0b").message.endswith("cannot be read (EINVAL)")
    assert refusal("file:canary horse").message == "keys.passphrase: the path after file: is not absolute"
    assert refusal("file:").message == "keys.passphrase: the path after file: is not absolute"


def test_what_is_no_secret_is_refused(file: Path) -> None:
    file.write_bytes(b"\n")
    assert refusal(f"file:{file}").message == f"keys.passphrase: the file {file} is empty"
    file.write_bytes(b"canary \xff")
    assert refusal(f"file:{file}").message == f"keys.passphrase: the file {file} is no UTF-8 text"
    file.write_bytes(b"canary " * 20_000)
    assert refusal(f"file:{file}").message == f"keys.passphrase: the file {file} is too large for a secret"


# -- Secrets Manager


@pytest.mark.parametrize(
    ("place", "name", "region"),
    [("coatcheck/pass", "coatcheck/pass", "eu-central-1"), (ARN, ARN, "eu-west-1")],
)
def test_from_secrets_manager(manager: Answers, place: str, name: str, region: str) -> None:
    assert read_secret(f"aws-secretsmanager:{place}", option=OPTION, region="eu-central-1", profile="p") == SECRET
    assert manager.asked == [{"operation": "GetSecretValue", "SecretId": name}]
    assert manager.made == [{"service": "secretsmanager", "region": region, "profile": "p"}]


def test_a_field_of_a_json_secret(manager: Answers) -> None:
    manager.answer = {"SecretString": json.dumps({"pass": SECRET, "number": 7, "none": None})}
    assert read_secret("aws-secretsmanager:db#pass", option=OPTION) == SECRET
    for field in ("number", "none", "other", ""):
        assert refusal(f"aws-secretsmanager:db#{field}").message == (
            "keys.passphrase: the secret db in AWS Secrets Manager has no text in the field after #"
        )


@pytest.mark.parametrize("text", ["canary", '"canary"', '{"pass": "canary', '["canary"]'])
def test_a_field_of_what_is_no_object(manager: Answers, text: str) -> None:
    manager.answer = {"SecretString": text}
    assert refusal("aws-secretsmanager:db#pass").message.endswith("is no JSON object")


def test_a_secret_of_bytes_is_text_or_nothing(manager: Answers) -> None:
    manager.answer = {"SecretBinary": SECRET.encode()}
    assert read_secret("aws-secretsmanager:db", option=OPTION) == SECRET
    manager.answer = {"SecretBinary": b"canary \xff"}
    assert refusal("aws-secretsmanager:db").message.endswith("is no UTF-8 text")
    manager.answer = {"SecretString": ""}
    assert refusal("aws-secretsmanager:db").message == (
        "keys.passphrase: the secret db in AWS Secrets Manager is empty"
    )


@pytest.mark.parametrize("place", ["", "#pass", "canary horse", "canary$"])
def test_what_is_no_name_of_a_secret_is_not_shown(manager: Answers, place: str) -> None:
    assert "is not followed by a secret's name or ARN" in refusal(f"aws-secretsmanager:{place}").message
    assert not manager.asked


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault("AccessDeniedException", "refused"), ConfigError, "allow secretsmanager:GetSecretValue"),
        (Fault("DecryptionFailure", "refused"), ConfigError, "kms:Decrypt on the key it is encrypted with"),
        (Fault("ResourceNotFoundException", "refused"), ConfigError, "check name, region and account"),
        (Fault("InvalidRequestException", "refused"), ConfigError, "scheduled for deletion"),
        (Fault("NoCredentialsError", "credentials"), ConfigError, "set AWS_PROFILE"),
        (Fault("NoRegionError", "setup"), ConfigError, "check region"),
        (Fault("ThrottlingException", "away"), UnreachableError, "is its endpoint right"),
        (Fault("ExpiredTokenException", "away"), UnreachableError, "renew them"),
    ],
)
def test_why_a_secret_is_not_given_out(manager: Answers, fault: Fault, kind: type[CoatcheckError], words: str) -> None:
    manager.answer = fault
    error = refusal("aws-secretsmanager:db", kind)
    assert type(error) is kind
    assert words in error.hint
    assert fault.code in error.message


def test_repr_shows_the_service_only() -> None:
    assert repr(AwsClient("kms", region="eu-west-1", profile="canary")) == "AwsClient('kms')"
