"""What SQS answers: messages, batch results, and failures, classified.

AWS pages: SQS developer guide "Interpreting Amazon SQS JSON API responses"; SQS API reference "Common Error Types",
ReceiveMessage, DeleteMessageBatch. An error here carries no text of a response or request, which may hold a message:
it names the operation and AWS's error code.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal, TypeVar

import msgspec
from pyreqwest.exceptions import ClientClosedError, DetailedPyreqwestError, PyreqwestError, RequestTimeoutError

from coatcheck.errors import UnreachableError

Kind = Literal["throttled", "unavailable", "expired", "denied", "missing_queue", "invalid", "skew"]
"""What a failure means for the caller; see `SqsError`."""

Wire = TypeVar("Wire")

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_OK, _UNAUTHORIZED, _FORBIDDEN, _PROXY_AUTH, _TIMEOUT, _TOO_MANY, _SERVER = 200, 401, 403, 407, 408, 429, 500
_RETRYABLE = frozenset({"throttled", "unavailable", "expired", "skew"})
_HINTS: dict[Kind, str] = {
    "throttled": "SQS or KMS limits the rate; it is tried again more slowly",
    "unavailable": "are the endpoint, the network, the proxy and the TLS certificates right, and is the service up?",
    "expired": "renew the AWS credentials (for example `aws sso login`); they are read again by themselves",
    "denied": "check the secret key, the IAM policy, the queue's policy and the policy of its KMS key",
    "missing_queue": "check source.queue, the region and the account; `coatcheck send --create-queue` makes a queue",
    "invalid": "check that source.queue and source.endpoint_url belong to an SQS service, and a recent one: AWS JSON "
    "1.0 came with ElasticMQ 1.4 and LocalStack 3.0",
    "skew": "set the clock of this machine; until then AWS's clock is used",
}


class SqsError(UnreachableError):
    """A request that failed. `kind` says what to do, `code` is AWS's error code or the name of the transport's failure.

    Kinds: `throttled` (slow down), `unavailable` (5xx, no connection, timeout, broken response), `expired`
    (credentials, read again for the next request), `skew` (clock, corrected for the next request): these four are
    `retryable`. The others stay as they are until somebody acts: `denied`, `missing_queue`, `invalid`. `why` is what
    is known beyond the code, and never a text of a response.
    """

    def __init__(self, operation: str, kind: Kind, code: str, *, why: str = "", hint: str = "") -> None:
        told = f"SQS {operation} failed: {kind.replace('_', ' ')} ({code})"
        super().__init__(f"{told}: {why}" if why else told, hint=hint or _HINTS[kind])
        self.operation = operation
        self.kind = kind
        self.code = code

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without anybody's doing."""
        return self.kind in _RETRYABLE


# -- classification


_CODES: dict[Kind, str] = {
    "throttled": "RequestThrottled RequestThrottledException Throttling ThrottlingException ThrottledException "
    "TooManyRequestsException OverLimit RequestLimitExceeded BandwidthLimitExceeded LimitExceededException SlowDown "
    "PriorRequestNotComplete KmsThrottled KMS.ThrottlingException",
    "unavailable": "ServiceUnavailable ServiceUnavailableException InternalFailure InternalError InternalServerError "
    "RequestTimeout RequestTimeoutException QueueDeletedRecently",
    "expired": "ExpiredToken ExpiredTokenException TokenRefreshRequired InvalidClientTokenId InvalidToken "
    "UnrecognizedClientException InvalidAccessKeyId",
    "denied": "AccessDenied AccessDeniedException NotAuthorized AuthorizationError AuthFailure SignatureDoesNotMatch "
    "InvalidSignatureException MissingAuthenticationToken MissingAuthenticationTokenException IncompleteSignature "
    "IncompleteSignatureException OptInRequired InvalidSecurity KmsAccessDenied KMS.AccessDeniedException KmsDisabled "
    "KMS.DisabledException KmsNotFound KMS.NotFoundException KmsOptInRequired KMS.OptInRequired KmsInvalidState "
    "KMS.InvalidStateException KmsInvalidKeyUsage KMS.InvalidKeyUsageException",
    "missing_queue": "QueueDoesNotExist NonExistentQueue InvalidAddress",
    "skew": "RequestTimeTooSkewed RequestExpired RequestInTheFuture",
}
_KINDS: dict[str, Kind] = {code: kind for kind, codes in _CODES.items() for code in codes.split()}
_SIGNATURE = frozenset({"SignatureDoesNotMatch", "InvalidSignatureException"})
_PREFIX = "AWS.SimpleQueueService."
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9._]{0,79}")


def refusal(operation: str, status: int, query_error: str | None, body: bytes) -> SqsError:
    """Classify a response that is not 200. `query_error` is its x-amzn-query-error header (`code;fault`).

    The kind is that of the first code known here (the body's `__type`, then the header's), else that of the status.
    """
    if (old := _old_protocol(operation, status, body)) is not None:
        return old
    fields = _error_fields(body)
    names = [fields.get("__type", "").rpartition("#")[2].partition(":")[0], (query_error or "").partition(";")[0]]
    codes = [name.removeprefix(_PREFIX) for name in names if _CODE.fullmatch(name)]
    message = fields.get("message", fields.get("Message", "")).lower()
    for code in codes:
        if code in _SIGNATURE and ("expired" in message or "not yet current" in message):
            return SqsError(operation, "skew", code)
        if code in _KINDS:
            return SqsError(operation, _KINDS[code], code)
    return SqsError(operation, _kind_of_status(status), codes[0] if codes else f"Http{status}")


_OLD_ROOT = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?<(?:ErrorResponse|[A-Za-z]+Response)[\s>/]")
_OLD_CODE = re.compile(rb"<Code>\s*([A-Za-z][A-Za-z0-9._]{0,79})\s*</Code>")
_NO_ACTION = re.compile(rb"Missing ?Action|Invalid ?Action|query-protocol|Operation detection failed")
_READ = 4096


def _old_protocol(operation: str, status: int, body: bytes) -> SqsError | None:
    """Return the error of an answer in XML: that of a server which knows only the query protocol, or of its code.

    Servers answer so with 200, 400, 404 or 500. A 5xx whose XML does not speak of a missing action is an outage: AWS's
    front ends may tell those in XML too.
    """
    if not _OLD_ROOT.match(body):
        return None
    head = body[:_READ]
    match = _OLD_CODE.search(head)
    code = match[1].decode().removeprefix(_PREFIX) if match else ""
    if not _NO_ACTION.search(head):
        if code in _KINDS:
            return SqsError(operation, _KINDS[code], code)
        if status >= _SERVER:
            return None
    return SqsError(
        operation,
        "invalid",
        code or f"Http{status}",
        why="the server speaks only the old query protocol",
        hint="upgrade it to one that speaks AWS JSON 1.0: ElasticMQ 1.4, LocalStack 3.0 or newer",
    )


def entry_failure(operation: str, code: str) -> SqsError:
    """Classify an entry that failed in a batch answered with 200. An unknown code is a fault that passes."""
    name = code.removeprefix(_PREFIX) if _CODE.fullmatch(code) else "Unknown"
    return SqsError(operation, _KINDS.get(name, "unavailable"), name)


def _error_fields(body: bytes) -> dict[str, str]:
    try:
        fields = msgspec.json.decode(body)
    except _UNREADABLE:
        return {}
    return {name: value for name, value in fields.items() if isinstance(value, str)} if isinstance(fields, dict) else {}


def _kind_of_status(status: int) -> Kind:
    if status == _TOO_MANY:
        return "throttled"
    if status >= _SERVER or status in (_OK, _TIMEOUT):
        return "unavailable"
    return "denied" if status in (_UNAUTHORIZED, _FORBIDDEN, _PROXY_AUTH) else "invalid"


def transport_failure(operation: str, error: Exception) -> SqsError:
    """Classify a request that got no response. Certificate and name faults are told apart: people can cure them."""
    if isinstance(error, ClientClosedError):
        return SqsError(operation, "invalid", "ClientClosed")
    if not isinstance(error, PyreqwestError):  # a header or URL that cannot be sent: ValueError, which shows its value
        return SqsError(operation, "invalid", "UnsendableRequest")
    if isinstance(error, RequestTimeoutError):  # its subclasses mislead: no answer in time is a ConnectTimeoutError too
        return SqsError(operation, "unavailable", "Timeout")
    code = type(error).__name__
    if isinstance(error, DetailedPyreqwestError):
        causes = " ".join(str(cause.get("message", "")) for cause in error.details.get("causes") or ())
        if "certificate" in causes:
            code = "UntrustedCertificate"
        elif "dns error" in causes:
            code = "UnknownHost"
        elif "(SendRequest)" in causes:  # it was connected, though the class says ConnectError here too
            code = "BrokenResponse"
    return SqsError(operation, "unavailable", code)


# -- the wire format


class WireAttribute(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    """A message attribute; `string_value` is None for a binary one."""

    string_value: str | None = None


class WireMessage(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    """One message of a ReceiveMessage response. `attributes` are SQS's own (SentTimestamp, ...), all as text."""

    message_id: str
    receipt_handle: str
    body: str = ""
    md5_of_body: str = msgspec.field(default="", name="MD5OfBody")
    attributes: dict[str, str] = {}
    message_attributes: dict[str, WireAttribute] = {}

    def __repr__(self) -> str:
        """Show the id only."""
        return f"WireMessage({self.message_id})"


class BatchFailure(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    """One entry that a batch operation refused. The Message that comes with it may echo values and is not read."""

    id: str
    sender_fault: bool = False
    code: str = "Unknown"


class BatchSuccess(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    """One entry that a batch operation carried out."""

    id: str


class BatchResult(msgspec.Struct, frozen=True, gc=False):
    """What became of the entries of a batch operation."""

    successful: list[BatchSuccess]
    failed: list[BatchFailure]


class _ReceiveAnswer(msgspec.Struct, gc=False, rename="pascal"):
    messages: list[WireMessage] | None = None


class _BatchAnswer(msgspec.Struct, gc=False, rename="pascal"):
    successful: list[BatchSuccess] | None = None  # some emulators send null for none
    failed: list[BatchFailure] | None = None


_receive_decoder = msgspec.json.Decoder(_ReceiveAnswer)
_batch_decoder = msgspec.json.Decoder(_BatchAnswer)


def decode_receive(data: bytes) -> list[WireMessage]:
    """Decode a ReceiveMessage response. Raises SqsError (unavailable, BrokenResponse) when it is none.

    What msgspec refuses (a lone surrogate in one body) is read by the lenient decoder of the standard library, so that
    one odd body does not take its nine neighbours with it; its surrogates stay, for validation to reject.
    """
    try:
        return _receive_decoder.decode(data).messages or []
    except _UNREADABLE:
        messages = _lenient(data)
    if messages is None:
        raise _broken("ReceiveMessage", data)
    return messages


def _broken(operation: str, data: bytes) -> SqsError:
    """Return the error of a 200 that is not what it should be."""
    return _old_protocol(operation, _OK, data) or SqsError(operation, "unavailable", "BrokenResponse")


def _lenient(data: bytes) -> list[WireMessage] | None:
    try:
        found = json.loads(data.decode("utf-8", "surrogateescape"), strict=False).get("Messages") or []
        return [_wire_message(raw) for raw in found if isinstance(raw, dict) and _identified(raw)]
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None


def _identified(raw: dict[str, Any]) -> bool:
    return isinstance(raw.get("MessageId"), str) and isinstance(raw.get("ReceiptHandle"), str)


def _wire_message(raw: dict[str, Any]) -> WireMessage:
    attributes = {name: str(value) for name, value in (raw.get("Attributes") or {}).items()}
    custom = {
        name: WireAttribute(value.get("StringValue")) for name, value in (raw.get("MessageAttributes") or {}).items()
    }
    body, md5 = raw.get("Body"), raw.get("MD5OfBody")
    return WireMessage(
        raw["MessageId"],
        raw["ReceiptHandle"],
        body if isinstance(body, str) else "",
        md5 if isinstance(md5, str) else "",
        attributes,
        custom,
    )


def decode_batch(data: bytes) -> BatchResult:
    """Decode the response of a batch operation. Raises SqsError (unavailable, BrokenResponse) when it is none."""
    answer = decode("batch", _batch_decoder, data)
    return BatchResult(answer.successful or [], answer.failed or [])


def decode(operation: str, decoder: msgspec.json.Decoder[Wire], data: bytes) -> Wire:
    """Decode a 200's body. Raises SqsError (unavailable, BrokenResponse) when it is not what `decoder` expects."""
    try:
        return decoder.decode(data)
    except _UNREADABLE:
        failure = _broken(operation, data)
    raise failure


def _has_md5() -> bool:
    try:
        hashlib.md5(b"", usedforsecurity=False)
    except ValueError:  # a FIPS build without MD5
        return False
    return True


_MD5 = _has_md5()


def body_intact(wire: WireMessage) -> bool:
    """Whether the body is the one whose MD5 SQS told; True when it told none or MD5 is not to be had here.

    A body with lone surrogates counts as intact: it came whole, and validation rejects it.
    """
    if not _MD5 or not wire.md5_of_body:
        return True
    try:
        body = wire.body.encode()
    except UnicodeEncodeError:
        return True
    return hashlib.md5(body, usedforsecurity=False).hexdigest() == wire.md5_of_body
