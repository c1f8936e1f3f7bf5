"""Every failure gets the right kind and shows no value; every response is read, odd bytes and all."""

from __future__ import annotations

import hashlib
import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyreqwest.exceptions import (
    CauseErrorDetails,
    ClientClosedError,
    ConnectError,
    ConnectTimeoutError,
    ReadError,
    RequestTimeoutError,
)

from coatcheck.sources import sqs_wire
from coatcheck.sources.sqs_wire import (
    SqsError,
    WireMessage,
    body_intact,
    decode_batch,
    decode_receive,
    refusal,
    transport_failure,
)

SENDER = "AWS.SimpleQueueService.NonExistentQueue;Sender"
REFUSALS: list[tuple[int, str | None, object, str, str]] = [
    # status, x-amzn-query-error, body, kind, code
    (400, SENDER, {"__type": "com.amazonaws.sqs#QueueDoesNotExist"}, "missing_queue", "QueueDoesNotExist"),
    (400, SENDER, b"", "missing_queue", "NonExistentQueue"),
    (400, None, {"__type": "AWS.SimpleQueueService.NonExistentQueue"}, "missing_queue", "NonExistentQueue"),
    (404, None, {"__type": "com.amazonaws.sqs#InvalidAddress"}, "missing_queue", "InvalidAddress"),
    (400, SENDER, {"__type": "com.amazonaws.sqs#SomethingNew"}, "missing_queue", "NonExistentQueue"),
    (400, None, {"__type": "com.amazonaws.sqs#SomethingNew"}, "invalid", "SomethingNew"),
    (403, None, {"__type": "com.amazonaws.sqs#RequestThrottled"}, "throttled", "RequestThrottled"),
    (400, None, {"__type": "com.amazon.coral.availability#ThrottlingException"}, "throttled", "ThrottlingException"),
    (400, None, {"__type": "ThrottlingException:http://internal.amazon.com/"}, "throttled", "ThrottlingException"),
    (403, None, {"__type": "com.amazonaws.sqs#OverLimit"}, "throttled", "OverLimit"),
    (400, "KMS.ThrottlingException;Sender", {"__type": "com.amazonaws.sqs#KmsThrottled"}, "throttled", "KmsThrottled"),
    (503, None, {"__type": "com.amazonaws.sqs#RequestThrottled"}, "throttled", "RequestThrottled"),
    (429, None, b"slow down", "throttled", "Http429"),
    (500, None, b"", "unavailable", "Http500"),
    (500, None, {"__type": "InternalFailure"}, "unavailable", "InternalFailure"),
    (502, None, b"<html>bad gateway</html>", "unavailable", "Http502"),
    (503, None, {"__type": "com.amazonaws.sqs#ServiceUnavailable"}, "unavailable", "ServiceUnavailable"),
    (400, None, {"__type": "com.amazonaws.sqs#QueueDeletedRecently"}, "unavailable", "QueueDeletedRecently"),
    (408, None, b"", "unavailable", "Http408"),
    (403, None, {"__type": "com.amazon.coral.service#ExpiredTokenException"}, "expired", "ExpiredTokenException"),
    (403, None, {"__type": "com.amazonaws.sqs#InvalidClientTokenId"}, "expired", "InvalidClientTokenId"),
    (400, None, {"__type": "com.amazon.coral.service#UnrecognizedClientException"}, "expired",
     "UnrecognizedClientException"),
    (403, None, {"__type": "x#AccessDeniedException", "Message": "no"}, "denied", "AccessDeniedException"),
    (400, "KMS.AccessDeniedException;Sender", {"__type": "com.amazonaws.sqs#KmsAccessDenied"}, "denied",
     "KmsAccessDenied"),
    (403, None, {"__type": "x#SignatureDoesNotMatch", "message": "The signature does not match"}, "denied",
     "SignatureDoesNotMatch"),
    (403, None, {"__type": "x#SignatureDoesNotMatch", "message": "Signature expired: 1 is now earlier than 2"}, "skew",
     "SignatureDoesNotMatch"),
    (400, None, {"__type": "x#InvalidSignatureException", "Message": "Signature not yet current: 2 is still later"},
     "skew", "InvalidSignatureException"),
    (403, None, {"__type": "x#RequestTimeTooSkewed"}, "skew", "RequestTimeTooSkewed"),
    (403, None, {"__type": "com.amazonaws.sqs#RequestExpired"}, "skew", "RequestExpired"),
    (401, None, b"", "denied", "Http401"),
    (403, None, b"<html>proxy says no</html>", "denied", "Http403"),
    (407, None, b"", "denied", "Http407"),
    (404, None, b"not found", "invalid", "Http404"),
    (301, None, b"", "invalid", "Http301"),
    (400, None, {"__type": "com.amazonaws.sqs#ReceiptHandleIsInvalid"}, "invalid", "ReceiptHandleIsInvalid"),
    (400, None, {"__type": "com.amazon.coral.service#SerializationException"}, "invalid", "SerializationException"),
    (400, None, {"__type": 7, "message": [1]}, "invalid", "Http400"),
    (400, None, ["QueueDoesNotExist"], "invalid", "Http400"),
    (400, "no code; at all", {"__type": "x#no code at all"}, "invalid", "Http400"),
    (400, None, b'{"__type":"x\xff"}', "invalid", "Http400"),
    (400, None, b"[" * 100_000, "invalid", "Http400"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "query_error", "body", "kind", "code"), REFUSALS)
def test_each_refusal_has_its_kind_and_code(
    status: int, query_error: str | None, body: object, kind: str, code: str
) -> None:
    error = refusal(
        "ReceiveMessage", status, query_error, body if isinstance(body, bytes) else json.dumps(body).encode()
    )
    assert (error.kind, error.code) == (kind, code)
    assert error.retryable is (kind in {"throttled", "unavailable", "expired", "skew"})
    assert error.message.startswith("SQS ReceiveMessage failed: ")
    assert error.message.endswith(f" ({code})")
    assert error.hint
    assert error.exit_code == 3


def caused(*messages: str) -> CauseErrorDetails:
    return {"causes": [{"message": message} for message in messages]}


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ConnectError("connection error", caused("tcp connect error")), "unavailable", "ConnectError"),
        (ConnectError("connection error", caused("client error (SendRequest)")), "unavailable", "BrokenResponse"),
        (ConnectError("connection error", caused("dns error", "no such name")), "unavailable", "UnknownHost"),
        (
            ConnectError("connection error", caused("invalid peer certificate: UnknownIssuer")),
            "unavailable",
            "UntrustedCertificate",
        ),
        (ConnectTimeoutError("timeout", {"causes": None}), "unavailable", "Timeout"),
        (RequestTimeoutError("timeout", {"causes": None}), "unavailable", "Timeout"),
        (ReadError("read error", caused("end of file before message length reached")), "unavailable", "ReadError"),
        (ClientClosedError("closed", {"causes": None}), "invalid", "ClientClosed"),
        (ValueError("Invalid header value: CANARY"), "invalid", "UnsendableRequest"),
    ],
)
def test_each_transport_failure_has_its_kind_and_code(error: Exception, kind: str, code: str) -> None:
    failure = transport_failure("DeleteMessageBatch", error)
    assert (failure.kind, failure.code) == (kind, code)
    assert "CANARY" not in f"{failure!r} {failure.hint}"


@given(st.integers(100, 599), st.text() | st.none(), st.binary() | st.text().map(str.encode))
def test_no_response_breaks_the_classification(status: int, query_error: str | None, body: bytes) -> None:
    error = refusal("ReceiveMessage", status, query_error, body)
    assert set(error.code) <= set(string.ascii_letters + string.digits + "._")


def test_a_refusal_shows_nothing_of_its_message() -> None:
    body = json.dumps({"__type": "x#InvalidParameterValue", "message": "Value CANARY for parameter"}).encode()
    error = refusal("SendMessageBatch", 400, "InvalidParameterValue;CANARY", body)
    assert "CANARY" not in f"{error!r} {error} {error.args} {vars(error)}"


def message(number: int, body: str = "{}", **more: object) -> dict[str, object]:
    md5 = hashlib.md5(body.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    return {"MessageId": f"id{number}", "ReceiptHandle": f"rh{number}", "MD5OfBody": md5, "Body": body} | more


def test_a_receive_is_decoded_whole() -> None:
    attributes = {"SentTimestamp": "1700000000000", "ApproximateReceiveCount": "2", "MessageGroupId": "g"}
    custom = {
        "origin": {"DataType": "String", "StringValue": "id:1"},
        "binary": {"DataType": "Binary", "BinaryValue": "AA=="},
    }
    raw = message(1, "a\u00e9\U0001f600", Attributes=attributes, MessageAttributes=custom, MD5OfMessageAttributes="x")
    (wire,) = decode_receive(json.dumps({"Messages": [raw], "Unknown": {"deep": [1]}}).encode())
    assert (wire.message_id, wire.receipt_handle, wire.body) == ("id1", "rh1", "a\u00e9\U0001f600")
    assert wire.attributes == attributes
    assert wire.message_attributes["origin"].string_value == "id:1"
    assert wire.message_attributes["binary"].string_value is None
    assert body_intact(wire)
    assert "\u00e9" not in repr(wire)


@pytest.mark.parametrize("empty", [b"{}", b'{"Messages":[]}', b'{"Messages":null}'])
def test_an_empty_receive_is_an_empty_list(empty: bytes) -> None:
    assert decode_receive(empty) == []


def nine_and(odd: bytes) -> bytes:
    good = [message(number) for number in range(9)]
    text = json.dumps({"Messages": [*good[:4], "ODD", *good[4:]]}).encode()
    return text.replace(b'"ODD"', odd)


ODD_BODIES = {
    "lone surrogate": (b'"\\ud800"', "\ud800"),
    "reversed pair": (b'"\\udc00\\ud800"', "\udc00\ud800"),
    "bytes that are no UTF-8": (b'"a\xffb"', "a\udcffb"),
    "a surrogate in UTF-8": (b'"\xed\xa0\x80"', "\udced\udca0\udc80"),
    "a raw control character": (b'"a\x01b"', "a\x01b"),
    "no text": (b"7", ""),
    "null": (b"null", ""),
}


@pytest.mark.parametrize("kind", ODD_BODIES)
def test_one_odd_body_does_not_take_its_neighbours_with_it(kind: str) -> None:
    odd, expected = ODD_BODIES[kind]
    raw = b'{"MessageId":"odd","ReceiptHandle":"r","Attributes":{"ApproximateReceiveCount":1},"Body":' + odd + b"}"
    got = decode_receive(nine_and(raw))
    assert [wire.message_id for wire in got] == ["id0", "id1", "id2", "id3", "odd", "id4", "id5", "id6", "id7", "id8"]
    assert got[4].body == expected
    assert got[4].attributes == {"ApproximateReceiveCount": "1"}
    assert all(body_intact(wire) for wire in got)


def test_what_nobody_could_ack_is_left_out() -> None:
    got = decode_receive(nine_and(b'{"MessageId":"odd","Body":"no receipt"}'))
    assert len(got) == 9


@pytest.mark.parametrize(
    "broken", [b"", b"<html>", b'{"Messages":[{"Mess', b"[]", b'"x"', b'{"Messages":7}', b"[" * 100_000, b"\xff\xfe"]
)
def test_a_broken_receive_is_unavailable_and_shows_nothing(broken: bytes) -> None:
    with pytest.raises(SqsError) as caught:
        decode_receive(broken)
    assert (caught.value.kind, caught.value.code) == ("unavailable", "BrokenResponse")
    assert caught.value.__context__ is None


@given(st.lists(st.text(st.characters(exclude_categories=())), max_size=10))
def test_any_bodies_come_back_as_they_were(bodies: list[str]) -> None:
    data = json.dumps({"Messages": [message(number, body) for number, body in enumerate(bodies)]}).encode()
    got = decode_receive(data)
    assert [wire.body for wire in got] == [json.loads(json.dumps(body)) for body in bodies]
    assert all(body_intact(wire) for wire in got)


def test_a_damaged_body_is_seen_unless_there_is_no_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = WireMessage("id", "rh", "damaged", hashlib.md5(b"whole", usedforsecurity=False).hexdigest())
    assert not body_intact(wire)
    assert body_intact(WireMessage("id", "rh", "anything"))
    monkeypatch.setattr(sqs_wire, "_MD5", False)
    assert body_intact(wire)


def test_a_batch_result_tells_what_failed_and_not_why_in_words() -> None:
    data = {
        "Successful": [{"Id": "0", "MessageId": "x", "MD5OfMessageBody": "y"}],
        "Failed": [{"Id": "1", "SenderFault": True, "Code": "ReceiptHandleIsInvalid", "Message": "CANARY"}],
    }
    result = decode_batch(json.dumps(data).encode())
    assert [entry.id for entry in result.successful] == ["0"]
    assert [(entry.id, entry.code, entry.sender_fault) for entry in result.failed] == [
        ("1", "ReceiptHandleIsInvalid", True)
    ]
    assert "CANARY" not in repr(result)


@pytest.mark.parametrize("data", [b"{}", b'{"Failed":null,"Successful":null}', b'{"Failed":[]}'])
def test_a_batch_result_without_lists_is_empty(data: bytes) -> None:
    result = decode_batch(data)
    assert (result.successful, result.failed) == ([], [])


def test_a_broken_batch_result_is_unavailable_and_shows_nothing() -> None:
    with pytest.raises(SqsError) as caught:
        decode_batch(b'{"Failed":[{"Id":"CANARY')
    assert (caught.value.kind, caught.value.code) == ("unavailable", "BrokenResponse")
    assert caught.value.__context__ is None


NAMESPACE = 'xmlns="http://queue.amazonaws.com/doc/2012-11-05/"'
OLD_SERVERS = {
    "ElasticMQ 1.2": (
        400,
        (
            f"<ErrorResponse {NAMESPACE}>\n<Error>\n<Type>Sender</Type>\n<Code>MissingAction</Code>\n"
            "<Message>MissingAction; see the SQS docs. CANARY</Message></Error></ErrorResponse>"
        ),
    ),
    "LocalStack 2": (
        500,
        (
            f"<?xml version='1.0' encoding='utf-8'?>\n<ErrorResponse {NAMESPACE}>"
            "<Error><Code>InternalError</Code><Message>"
            "exception while calling sqs with unknown operation: Operation detection failed. Missing Action in request "
            "for query-protocol service ServiceModel(sqs).</Message></Error></ErrorResponse>"
        ),
    ),
    "an answer in XML": (200, "<ReceiveMessageResponse><ReceiveMessageResult/></ReceiveMessageResponse>"),
    "an answer with a mark": (
        200,
        f"\ufeff<?xml version='1.0'?><GetQueueUrlResponse {NAMESPACE}>CANARY</GetQueueUrlResponse>",
    ),
    "an unknown code": (404, f"<ErrorResponse {NAMESPACE}><Error><Code>SomethingElse</Code></Error></ErrorResponse>"),
    "no code": (400, "<ErrorResponse>CANARY</ErrorResponse>"),
}


@pytest.mark.parametrize("server", OLD_SERVERS)
def test_a_server_of_the_old_protocol_is_told_at_once(server: str) -> None:
    status, text = OLD_SERVERS[server]
    if status == 200:
        with pytest.raises(SqsError) as caught:
            decode_receive(text.encode())
        error = caught.value
        with pytest.raises(SqsError) as caught:
            decode_batch(text.encode())
        assert caught.value.message == error.message.replace("ReceiveMessage", "batch")
    else:
        error = refusal("ReceiveMessage", status, None, text.encode())
    assert (error.kind, error.retryable) == ("invalid", False)
    assert "the server speaks only the old query protocol" in error.message
    assert "ElasticMQ 1.4, LocalStack 3.0" in error.hint
    assert "CANARY" not in repr(vars(error))


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (503, "<html><body>Bad gateway</body></html>", "unavailable"),
        (502, "<?xml version='1.0'?><html/>", "unavailable"),
        (503, "<ErrorResponse><Error><Code>ServiceUnavailable</Code></Error></ErrorResponse>", "unavailable"),
        (500, "<ErrorResponse><Error><Code>Unheard</Code></Error></ErrorResponse>", "unavailable"),
        (400, "<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>", "throttled"),
        (403, "<ErrorResponse><Error><Code>ExpiredToken</Code></Error></ErrorResponse>", "expired"),
        (200, "<html>a portal</html>", "unavailable"),
        (400, "{}", "invalid"),
    ],
)
def test_other_answers_in_xml_are_what_they_were(status: int, text: str, kind: str) -> None:
    error = refusal("ReceiveMessage", status, None, text.encode())
    assert error.kind == kind
    assert "query protocol" not in error.message
