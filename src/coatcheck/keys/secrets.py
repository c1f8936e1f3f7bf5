"""Secrets by reference, so that none stands in a configuration; and the calls to AWS that reading one takes.

A reference is `env:NAME`, `file:/path`, `aws-secretsmanager:<name or ARN>[#<JSON field>]`, or the secret itself. Calls
to AWS block, for `WORST_S` seconds at most once credentials are found. botocore takes 0.1 s to import, so it is
imported at the first call.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shlex
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from coatcheck.aws_reason import hint_of, reason_of
from coatcheck.errors import CoatcheckError, ConfigError, UnreachableError

CONNECT_S, READ_S, ATTEMPTS = 3.0, 5.0, 2
"""Seconds to connect and to wait for an answer, and how often one call tries: KMS answers within 0.1 s, or not."""

WORST_S = ATTEMPTS * (CONNECT_S + READ_S) + 2.0
"""Seconds after which a call has ended one way or the other (botocore waits a second or so between tries)."""

_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_SERVER_ERROR, _TOO_MANY = 500, 429

_AWAY = frozenset({
    "DependencyTimeoutException", "InternalFailure", "InternalServiceError", "KMSInternalException",
    "KeyUnavailableException", "LimitExceededException", "RequestLimitExceeded", "RequestTimeout",
    "RequestTimeoutException", "ServiceUnavailable", "ServiceUnavailableException", "SlowDown", "Throttling",
    "ThrottlingException", "ThrottledException", "TooManyRequestsException",
})  # fmt: skip
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
_CREDENTIALS = frozenset({
    "IncompleteSignature", "IncompleteSignatureException", "InvalidClientTokenId", "InvalidSignatureException",
    "MissingAuthenticationToken", "MissingAuthenticationTokenException", "NotAuthorized", "OptInRequired",
    "SignatureDoesNotMatch", "UnrecognizedClientException",
    # and what botocore raises when it finds none
    "NoCredentialsError", "PartialCredentialsError", "SSOTokenLoadError", "TokenRetrievalError",
    "UnauthorizedSSOTokenError",
})  # fmt: skip


_SIZE_LIMIT = 64 * 1024  # what Secrets Manager takes at most; a larger file is the wrong one
_FOR_OTHERS = stat.S_IROTH | stat.S_IWOTH
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_SECRET_ID = re.compile(r"[A-Za-z0-9/_+=.@:-]{1,512}")
_SECRET_ARN = re.compile(r"arn:aws[a-z-]*:secretsmanager:(?P<region>[a-z0-9-]+):[0-9]{12}:secret:.+")
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "DecryptionFailure"})


def read_secret(reference: str, *, option: str, region: str | None = None, profile: str | None = None) -> str:
    """Return the secret behind `reference`, which the user gave by `option` (such as "keys.passphrase").

    `env:NAME` is an environment variable; `file:/path` a file (links are followed: Kubernetes mounts are made of them)
    that others may neither read nor write, without its last line end; `aws-secretsmanager:ID` a secret's text, with
    `#field` a text field of the JSON object in it. Anything else is the secret itself. Raises ConfigError: nothing is
    there, or it is empty, no text, or not to be trusted; UnreachableError: Secrets Manager is away. May block.
    `region` and `profile` are for Secrets Manager; the region in an ARN outranks them, the default is the AWS SDK's.
    """
    kind, colon, place = reference.partition(":")
    if colon and kind == "env":
        what, secret = _from_environment(place, option)
    elif colon and kind == "file":
        what, secret = _from_file(place, option)
    elif colon and kind == "aws-secretsmanager":
        what, secret = _from_secrets_manager(place, option, region, profile)
    else:
        return reference
    if not secret:
        raise ConfigError(f"{option}: {what} is empty", hint="put the secret there")
    return secret


def _from_environment(name: str, option: str) -> tuple[str, str]:
    if not _VARIABLE.fullmatch(name):  # what is no name may be a secret, so it is not shown
        raise ConfigError(f"{option}: env: is not followed by a variable's name", hint="write env:NAME")
    if name not in os.environ:
        raise ConfigError(f"{option}: the environment variable {name} is not set", hint=f"set {name}")
    return f"the environment variable {name}", os.environ[name]


def _from_file(path: str, option: str) -> tuple[str, str]:
    what = f"the file {path}"
    if not path.startswith("/"):
        raise ConfigError(f"{option}: the path after file: is not absolute", hint="write file:/path/to/the/file")
    code = None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # non-blocking: a pipe must not hang
    except (OSError, ValueError) as error:
        code = errno.errorcode.get(getattr(error, "errno", None) or errno.EINVAL, "unknown error")
    if code is not None:
        raise ConfigError(f"{option}: {what} cannot be read ({code})", hint="check the path, and whose file it is")
    try:
        _check_file(what, path, os.fstat(fd), option)
        data = os.read(fd, _SIZE_LIMIT)
    finally:
        os.close(fd)
    return what, _text(data, what, option).removesuffix("\n").removesuffix("\r")


def _check_file(what: str, path: str, status: os.stat_result, option: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{option}: {what} is no regular file", hint="name the file that holds the secret")
    if status.st_mode & _FOR_OTHERS:
        done = "written" if status.st_mode & stat.S_IWOTH else "read"
        raise ConfigError(
            f"{option}: {what} can be {done} by others",
            hint=f"chmod o-rwx {shlex.quote(path)}; in Kubernetes, defaultMode: 0440 and fsGroup",
        )
    if status.st_size >= _SIZE_LIMIT:
        raise ConfigError(f"{option}: {what} is too large for a secret", hint="name the file that holds the secret")


def _text(data: bytes, what: str, option: str) -> str:
    with suppress(UnicodeDecodeError):  # raised below, outside: it holds the secret
        return data.decode("utf-8-sig")  # some editors put a byte order mark before the text
    raise ConfigError(f"{option}: {what} is no UTF-8 text", hint="store the secret as text")


def _from_secrets_manager(place: str, option: str, region: str | None, profile: str | None) -> tuple[str, str]:
    name, mark, field = place.partition("#")
    if not _SECRET_ID.fullmatch(name):
        raise ConfigError(
            f"{option}: aws-secretsmanager: is not followed by a secret's name or ARN",
            hint="write aws-secretsmanager:NAME, or aws-secretsmanager:NAME#FIELD for a field of a JSON secret",
        )
    what = f"the secret {name} in AWS Secrets Manager"
    arn = _SECRET_ARN.fullmatch(name)
    client = AwsClient("secretsmanager", region=arn["region"] if arn else region, profile=profile)
    try:
        answer = client.call("GetSecretValue", SecretId=name)
    finally:
        client.close()
    if isinstance(answer, Fault):
        raise _not_given(answer, what, option)
    text = answer.get("SecretString")
    secret = text if text is not None else _text(answer.get("SecretBinary", b""), what, option)
    return (f"the field of {what}", _field(secret, field, what, option)) if mark else (what, secret)


def _field(secret: str, field: str, what: str, option: str) -> str:
    content: object = None
    with suppress(msgspec.DecodeError, UnicodeError):  # raised below, outside: it may quote the secret
        content = msgspec.json.decode(secret)
    if not isinstance(content, dict):
        raise ConfigError(f"{option}: {what} is no JSON object", hint="leave #FIELD out, or store a JSON object")
    value = content.get(field)
    if not isinstance(value, str):
        raise ConfigError(
            f"{option}: {what} has no text in the field after #", hint="name a field of its JSON object that is a text"
        )
    return value


def _not_given(fault: Fault, what: str, option: str) -> CoatcheckError:
    if fault.kind != "refused":
        error = fault.error("AWS Secrets Manager")
        return type(error)(f"{option}: {error.message}", hint=error.hint)
    hint = "check name, region and account (an ARN says all three), and that it is not scheduled for deletion"
    if fault.code in _DENIED:
        hint = (
            f"allow secretsmanager:GetSecretValue on the secret that {option} names, "
            "and kms:Decrypt on the key it is encrypted with, if that is your own"
        )
    return ConfigError(f"{option}: {what} is not given out ({fault.code})", hint=hint)


class _Mute(logging.Filter):
    """At level DEBUG botocore.parsers logs whole answers, keys in clear: not those to our calls."""

    def __init__(self) -> None:
        super().__init__()
        self._ours = threading.local()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        self._ours.now = True
        try:
            yield
        finally:
            self._ours.now = False

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - the signature is logging's
        return not getattr(self._ours, "now", False)


_mute = _Mute()
logging.getLogger("botocore.parsers").addFilter(_mute)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why there is no answer: a code of AWS, or the name of what botocore raised; never a text of a service.

    `away` passes (throttling, 5xx, no connection, expired credentials that are read anew); `credentials` and `setup`
    are what people mend around the service; `refused` is the service's own answer. `why` is what botocore says, cleaned
    (see `aws_reason`), and `hint` what to do about that.
    """

    code: str
    kind: Literal["away", "credentials", "setup", "refused"]
    why: str = ""
    hint: str = ""

    def error(self, service: str) -> CoatcheckError:
        """Return the error for everything but `refused`, which each service words for itself."""
        if self.code in _EXPIRED:
            return UnreachableError(
                f"the AWS credentials for {service} have expired ({self.code})", hint="renew them: they are read anew"
            )
        if self.kind == "away":
            return UnreachableError(
                f"{service} does not answer ({self.why or self.code})",
                hint="is its endpoint right, and reachable from here (network, VPC endpoint, quota)?",
            )
        if self.kind == "credentials":
            return ConfigError(
                f"{service} has no valid AWS credentials ({self.why or self.code})",
                hint=self.hint or "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a role",
            )
        return ConfigError(
            f"{service} cannot be asked ({self.why or self.code})",
            hint=self.hint or "check region, endpoint, AWS_PROFILE and the files in ~/.aws",
        )


class AwsClient:
    """Calls to one AWS service by botocore, with short time-outs. For any thread; a forked child makes its own.

    Without `region` that of AWS_REGION, AWS_DEFAULT_REGION or the profile holds; `endpoint_url` is for servers that are
    not AWS (AWS_ENDPOINT_URL and its kin hold as everywhere). botocore's client is made at the first call; two threads
    may both make one then, which harms nobody.
    """

    __slots__ = ("_endpoint_url", "_made", "_profile", "_region", "_service")

    def __init__(
        self, service: str, *, region: str | None = None, endpoint_url: str | None = None, profile: str | None = None
    ) -> None:
        self._service, self._region, self._endpoint_url, self._profile = service, region, endpoint_url, profile
        self._made: tuple[int, Any] | None = None  # with the process that made it: sockets are not for two

    def __repr__(self) -> str:
        """Show the service only."""
        return f"AwsClient({self._service!r})"

    def call(self, operation: str, **request: Any) -> dict[str, Any] | Fault:
        """Send one request and return the answer, or why there is none. Raises nothing of botocore's."""
        try:
            from botocore import xform_name  # noqa: PLC0415 - see the module

            client = self._client()
            with _mute():
                answer: dict[str, Any] = getattr(client, xform_name(operation))(**request)
            return answer
        except Exception as error:  # noqa: BLE001 - botocore, its providers, urllib3: each fails in its own way
            fault = _fault(error, operation)
        if fault.kind == "credentials" or fault.code in _EXPIRED:
            self.close()  # the next call looks for credentials anew: a file or variable may have changed
        return fault

    def close(self) -> None:
        """Close connections; a later call opens them again."""
        made, self._made = self._made, None
        if made is not None and made[0] == os.getpid():
            made[1].close()

    def _client(self) -> Any:
        if self._made is not None and self._made[0] == os.getpid():
            return self._made[1]
        from botocore.config import Config  # noqa: PLC0415 - see the module
        from botocore.session import Session  # noqa: PLC0415

        session = Session(profile=self._profile or None)
        region = self._region or os.environ.get("AWS_REGION") or session.get_config_variable("region")
        config = Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        )
        client = session.create_client(
            self._service, region_name=region, endpoint_url=self._endpoint_url or None, config=config
        )
        self._made = (os.getpid(), client)
        return client


def _fault(error: Exception, operation: str) -> Fault:
    from botocore import exceptions as boto  # noqa: PLC0415 - see the module
    from botocore.parsers import ResponseParserError  # noqa: PLC0415

    if isinstance(error, boto.ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        # refreshing credentials asks STS, which refuses under another operation's name
        return _refusal(code if _CODE.fullmatch(code) else "Unknown", status, ours=error.operation_name == operation)
    name = type(error).__name__
    passing = (
        boto.HTTPClientError,
        boto.ConnectionError,
        boto.IncompleteReadError,
        boto.CredentialRetrievalError,
        boto.MetadataRetrievalError,
        ResponseParserError,
    )
    why, hint = reason_of(error), hint_of(error, "")
    if isinstance(error, passing):
        return Fault(name, "away", why, hint)
    return Fault(name, "credentials" if name in _CREDENTIALS else "setup", why, hint)


def _refusal(code: str, status: int, *, ours: bool) -> Fault:
    if code in _AWAY or code in _EXPIRED or status >= _SERVER_ERROR or status == _TOO_MANY:
        return Fault(code, "away")
    return Fault(code, "credentials" if code in _CREDENTIALS or not ours else "refused")
