"""A small KMS in this process, true to AWS where no emulator is, and the part of IAM that stands before it.

    with FakeKms() as kms:
        key = kms.create_key()
        kms.grant("LOADER", policy("loader", TokenKeyArn=..., VaultKeyArn=key.arn, ...))

Real HTTP on loopback, AWS JSON 1.1, so that botocore's client is what is tested. Ciphertexts are authenticated with
their encryption context, keys have states, and who may do what is decided from policy documents by the access key id
that signed a request (signatures are not checked). An access key nobody granted anything may do everything. Every
message of an error holds `CANARY`: it must show up nowhere.
"""

from __future__ import annotations

import base64
import json
import os
import re
import threading
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from string import Template
from typing import Any, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

CANARY = "canary-of-the-server"
POLICIES = Path(__file__).resolve().parents[2] / "deploy" / "iam"
ROLES = ("loader", "revealer", "rotator", "eraser", "auditor")
Policy = dict[str, Any]


# -- IAM


def policy(role: str, **places: str) -> Policy:
    """Read a policy of deploy/iam with its placeholders filled in; one that is left out raises KeyError."""
    document: Policy = json.loads(Template((POLICIES / f"{role}.json").read_text()).substitute(places))
    return document


def allowed(document: Policy, action: str, resource: str, context: Mapping[str, str] | None = None) -> bool:
    """Tell whether a policy allows an action on a resource; `context` are the condition keys of the request.

    IAM user guide, "Policy evaluation logic": an explicit deny wins, and nothing is allowed by itself. Raises
    ValueError for what is not evaluated here, so that no policy is judged by half.
    """
    assert document["Version"] == "2012-10-17"
    effects = {
        statement["Effect"]
        for statement in document["Statement"]
        if _matches(statement, action, resource, context or {})
    }
    return effects == {"Allow"}


def _matches(statement: Policy, action: str, resource: str, context: Mapping[str, str]) -> bool:
    unknown = statement.keys() - {"Sid", "Effect", "Action", "Resource", "Condition"}
    if unknown or statement["Effect"] not in ("Allow", "Deny"):
        raise ValueError(f"{unknown or statement['Effect']} is not evaluated here")
    return (
        any(_like(pattern.lower(), action.lower()) for pattern in _many(statement["Action"]))
        and any(_like(pattern, resource) for pattern in _many(statement["Resource"]))
        and all(
            _holds(operator, context.get(key), _many(values))
            for operator, tests in statement.get("Condition", {}).items()
            for key, values in tests.items()
        )
    )


def _holds(operator: str, value: str | None, wanted: list[str]) -> bool:
    if operator == "StringEquals":
        return value in wanted
    if operator == "StringLike":
        return value is not None and any(_like(pattern, value) for pattern in wanted)
    raise ValueError(f"{operator} is not evaluated here")


def _like(pattern: str, text: str) -> bool:
    parts = (".*" if sign == "*" else "." if sign == "?" else re.escape(sign) for sign in pattern)
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None


def _many(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


# -- KMS


@dataclass
class FakeKey:
    """One symmetric KMS key. `state` is Enabled, Disabled or PendingDeletion."""

    arn: str
    state: str = "Enabled"
    material: bytes = field(default_factory=lambda: os.urandom(32), repr=False)


class KmsRefusal(Exception):  # noqa: N818 - an answer, no error of ours
    """An answer that is an error: its code and HTTP status."""

    def __init__(self, code: str, status: int = 400) -> None:
        super().__init__(code)
        self.code, self.status = code, status


class FakeKms:
    """See the module. `calls` are the operations asked for, each with who asked and the request."""

    def __init__(self, region: str = "eu-west-1") -> None:
        self.region = region
        self.keys: dict[str, FakeKey] = {}
        self.aliases: dict[str, str] = {}
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.away = False
        """While true, connections are closed without an answer."""
        self.gate = threading.Event()
        """While clear, requests wait."""
        self.gate.set()
        self.plaintexts: list[bytes] = []
        """Every key that was given out or drawn."""
        self._policies: dict[str, list[Policy]] = {}
        self._denied: set[tuple[str, str]] = set()
        self._script: deque[KmsRefusal] = deque()
        self._held = ""
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def create_key(self, alias: str = "") -> FakeKey:
        """Make a key, with an alias (`alias/name`) if told."""
        key = FakeKey(f"arn:aws:kms:{self.region}:111122223333:key/{uuid.uuid4()}")
        self.keys[key.arn] = key
        if alias:
            self.aliases[alias] = key.arn
        return key

    def grant(self, access_key: str, *documents: Policy) -> None:
        """Let whoever signs with `access_key` do what these policies allow, and nothing else."""
        self._policies.setdefault(access_key, []).extend(documents)

    def deny(self, access_key: str, action: str) -> None:
        """Deny an action (`kms:Decrypt`) to whoever signs with `access_key`."""
        self._denied.add((access_key, action))

    def script(self, *refusals: tuple[str, int]) -> None:
        """Answer the next requests with these codes and statuses."""
        self._script.extend(KmsRefusal(*refusal) for refusal in refusals)

    def hold(self, operation: str) -> None:
        """Answer an operation with 503 until `let_go`."""
        self._held = operation

    def let_go(self) -> None:
        """Answer everything again."""
        self._held = ""

    def count(self, operation: str) -> int:
        """Return how often an operation was asked for."""
        return sum(name == operation for _, name, _ in self.calls)

    def answer(self, access_key: str, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request. Raises KmsRefusal."""
        with self._lock:
            self.calls.append((access_key, operation, request))
            if self._script:
                raise self._script.popleft()
            if operation == self._held:
                raise KmsRefusal("ServiceUnavailable", 503)
            handle = getattr(self, f"_{operation}", None)
            if handle is None:
                raise KmsRefusal("UnknownOperationException")
            answer: dict[str, Any] = handle(access_key, request)
            return answer

    def _key(self, access_key: str, action: str, key_id: str, context: dict[str, str]) -> FakeKey:
        """Return a key for use in `action`: IAM is asked first, then its state."""
        arn = self.aliases.get(key_id, key_id)
        conditions = {f"kms:EncryptionContext:{name}": value for name, value in context.items()}
        documents = self._policies.get(access_key)
        fits = documents is None or any(allowed(document, action, arn, conditions) for document in documents)
        if not fits or (access_key, action) in self._denied:
            raise KmsRefusal("AccessDeniedException")
        if arn not in self.keys:
            raise KmsRefusal("NotFoundException")
        if self.keys[arn].state != "Enabled":
            raise KmsRefusal("DisabledException" if self.keys[arn].state == "Disabled" else "KMSInvalidStateException")
        return self.keys[arn]

    def _open(self, access_key: str, action: str, request: dict[str, Any], prefix: str = "") -> bytes:
        blob, context = _bytes(request["CiphertextBlob"]), request.get(f"{prefix}EncryptionContext", {})
        arn, _, rest = blob.partition(b"\0")
        named = request.get("KeyId" if not prefix else f"{prefix}KeyId", arn.decode(errors="replace"))
        key = self._key(access_key, action, named, context)
        if arn.decode(errors="replace") not in self.keys:
            raise KmsRefusal("InvalidCiphertextException")
        if key.arn != arn.decode():
            raise KmsRefusal("IncorrectKeyException")
        try:
            return AESGCM(key.material).decrypt(rest[:12], rest[12:], _aad(context))
        except (InvalidTag, ValueError):
            raise KmsRefusal("InvalidCiphertextException") from None

    def _wrap(self, key: FakeKey, plaintext: bytes, context: dict[str, str]) -> str:
        nonce = os.urandom(12)
        self.plaintexts.append(plaintext)
        return _text(key.arn.encode() + b"\0" + nonce + AESGCM(key.material).encrypt(nonce, plaintext, _aad(context)))

    def _GenerateDataKey(self, access_key: str, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - AWS's name
        return self._drawn(access_key, "kms:GenerateDataKey", request)

    def _GenerateDataKeyWithoutPlaintext(self, access_key: str, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        answer = self._drawn(access_key, "kms:GenerateDataKeyWithoutPlaintext", request)
        del answer["Plaintext"]
        return answer

    def _drawn(self, access_key: str, action: str, request: dict[str, Any]) -> dict[str, Any]:
        context = request.get("EncryptionContext", {})
        key = self._key(access_key, action, request["KeyId"], context)
        size = request.get("NumberOfBytes") or {"AES_256": 32, "AES_128": 16}[request["KeySpec"]]
        plaintext = os.urandom(size)
        return {
            "KeyId": key.arn,
            "Plaintext": _text(plaintext),
            "CiphertextBlob": self._wrap(key, plaintext, context),
        }

    def _Decrypt(self, access_key: str, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        plaintext = self._open(access_key, "kms:Decrypt", request)
        arn = _bytes(request["CiphertextBlob"]).partition(b"\0")[0].decode()
        return {"KeyId": arn, "Plaintext": _text(plaintext)}

    def _ReEncrypt(self, access_key: str, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        plaintext = self._open(access_key, "kms:ReEncryptFrom", request, "Source")
        context = request.get("DestinationEncryptionContext", {})
        key = self._key(access_key, "kms:ReEncryptTo", request["DestinationKeyId"], context)
        return {"KeyId": key.arn, "CiphertextBlob": self._wrap(key, plaintext, context)}

    def _DescribeKey(self, access_key: str, request: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        arn = self.aliases.get(request["KeyId"], request["KeyId"])
        documents = self._policies.get(access_key)
        if documents is not None and not any(allowed(document, "kms:DescribeKey", arn) for document in documents):
            raise KmsRefusal("AccessDeniedException")
        if arn not in self.keys:
            raise KmsRefusal("NotFoundException")
        return {"KeyMetadata": {"KeyId": arn.rpartition("/")[2], "Arn": arn, "KeyState": self.keys[arn].state}}


def leaks(text: str, secrets: Iterable[bytes]) -> list[str]:
    """Return in which spellings any of these keys stands in a text: raw, hex, base64, repr; or the server's canary."""
    found = [CANARY] if CANARY in text else []
    for secret in secrets:
        ways = {
            "hex": secret.hex(),
            "base64": _text(secret).rstrip("="),
            "repr": repr(secret)[2:-1],
            "raw": secret.decode("latin-1"),
        }
        found += [way for way, spelled in ways.items() if spelled in text]
    return found


def _handler(kms: FakeKms) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kms.gate.wait()
            if kms.away:
                self.close_connection = True
                return
            signer = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
            try:
                operation = self.headers["X-Amz-Target"].removeprefix("TrentService.")
                answer, status = kms.answer(signer[1] if signer else "", operation, request), 200
            except KmsRefusal as refusal:
                answer, status = {"__type": refusal.code, "message": f"{CANARY} {json.dumps(request)}"}, refusal.status
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
            pass

    return Handler


def _aad(context: dict[str, str]) -> bytes:
    return json.dumps(context, sort_keys=True).encode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
