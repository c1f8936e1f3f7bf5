"""Which message is this? The 16-byte key and the slot under which the ledger remembers it.

Three ways, by configuration: `message_id` (SQS's own; genuine repeats of an event are separate messages), `content`
(the same body is the same message, whoever sent it and whenever), `field:NAME` (the producer's own event id). Content
and field values enter the ledger only as keyed hashes.

With `field:NAME` a message without that field has no key, and is a reject: if its message id stood in, a misspelled
NAME would load every repeat as a new message, and nobody would notice. `field:NAME?` says that it may stand in.

Pipelines share the ledger of their database. Keys by content, field and sender are derived from the pipeline's name too
(but for the default pipeline's), so that the same event on two queues is one message in each of two tables. SQS gives
no message id twice, so ids need no name.

An `origin` attribute outranks the message id: `redrive` sets it so that a message keeps its identity though SQS gives
it a new id, and `send` sets it so that sending a file again adds nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress

from coatcheck.keys.forms import FormError, text_v1
from coatcheck.keys.tokens import LedgerHash
from coatcheck.pipeline.decode import JsonObject
from coatcheck.pipeline.message import Message

DAYS, DAY_S = 64, 86_400
SLOTS = DAYS * DAY_S
"""The ledger is a ring of 64 daily partitions; a message's slot is its send second modulo 64 days."""

FOREVER = -1
"""The slot of keys that are not bound to a send time: content, field, and the sender's own keys."""

DEFAULT_PIPELINE = "default"
"""The pipeline whose keys do not carry its name: they stay as they were when there was only one."""

ORIGIN_ATTRIBUTE = "coatcheck-origin"
_HEX_UUID = 36
_KEY_BYTES = 16
_MS_DIGITS = 15

Keyer = Callable[[Message, JsonObject | None], tuple[bytes, int]]
"""Takes a message and its decoded object (None: the body holds none); returns key and slot, or raises NoLedgerKey."""


class NoLedgerKey(Exception):  # noqa: N818 - not an error
    """The message's object lacks the field that keys are made of; without the object the keyer takes the message id."""


_ORIGIN = re.compile(r"id:[!-~]{1,100}:(?P<sent_ms>[0-9]{1,15})|key:[0-9a-f]{32}")


def read_origin(text: str | None, sent_ms: int) -> tuple[str | None, int]:
    """Return (origin, send time) of a message whose attribute says `text`: a redriven message keeps its first time.

    Anybody who may send can write the attribute: what is not of our form is as if it were not there.
    """
    match = _ORIGIN.fullmatch(text) if text else None
    first_ms = int(match["sent_ms"] or sent_ms) if match else 0
    if match is None or first_ms > sent_ms:  # sent for the first time after it was sent
        return None, sent_ms
    return text, first_ms


def origin_of(message: Message) -> str:
    """Return the attribute by which a redriven copy of `message` keeps its identity."""
    return message.origin or f"id:{message.message_id}:{message.sent_ms}"


def origin_for_body(body: str, repeat: int) -> str:
    """Return the attribute for the `repeat`-th time that `body` stands in a file that is sent."""
    digest = hashlib.sha256(f"{repeat}\n{body}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"key:{digest[:32]}"


def message_id_key(message_id: str) -> bytes:
    """Return the 16 bytes of a UUID, or of the hash of an id that is none (SQS promises no form)."""
    if len(message_id) == _HEX_UUID:
        try:
            key = bytes.fromhex(message_id.replace("-", ""))
        except ValueError:
            key = b""
        if len(key) == _KEY_BYTES:
            return key
    return hashlib.sha256(message_id.encode("utf-8", "surrogatepass")).digest()[:_KEY_BYTES]


def keyer(mode: str, ledger_hash: LedgerHash, pipeline: str = DEFAULT_PIPELINE) -> Keyer:
    """Build the function that gives a message's (key, slot); `mode` as in `[ledger] key`.

    Only the one for `field:NAME` raises NoLedgerKey.
    """
    hashes = ledger_hash if pipeline == DEFAULT_PIPELINE else _scoped(ledger_hash, pipeline)
    sender_key, content_key = hashes("sender"), hashes("content")

    def by_origin(origin: str) -> tuple[bytes, int] | None:
        kind, _, rest = origin.partition(":")
        if kind == "key" and rest:
            return sender_key(rest.encode("utf-8", "surrogatepass")), FOREVER
        message_id, _, sent_ms = rest.rpartition(":")
        if kind == "id" and message_id and sent_ms.isascii() and sent_ms.isdigit() and len(sent_ms) <= _MS_DIGITS:
            return message_id_key(message_id), int(sent_ms) // 1000 % SLOTS
        return None

    def by_message_id(message: Message, _: JsonObject | None) -> tuple[bytes, int]:
        if message.origin is not None and (known := by_origin(message.origin)) is not None:
            return known
        return message_id_key(message.message_id), message.sent_ms // 1000 % SLOTS

    def by_content(message: Message, _: JsonObject | None) -> tuple[bytes, int]:
        return content_key(message.body.encode("utf-8", "surrogatepass")), FOREVER

    if mode == "message_id":
        return by_message_id
    return by_content if mode == "content" else _by_field(mode, hashes, by_message_id)


def _scoped(ledger_hash: LedgerHash, pipeline: str) -> LedgerHash:
    """Return the hashes of one pipeline. No namespace of the default pipeline begins with "pipeline:"."""
    scope = f"pipeline:{len(pipeline)}:{pipeline}:"  # with its length, no name can run into what follows
    return lambda namespace: ledger_hash(scope + namespace)


def ledger_field(mode: str) -> str:
    """Return the name of the field that `[ledger] key` makes keys of; empty if it makes them of something else."""
    kind, _, name = mode.partition(":")
    return name.removesuffix("?") if kind == "field" else ""


def _by_field(mode: str, ledger_hash: LedgerHash, by_message_id: Keyer) -> Keyer:
    name, may_be_absent = ledger_field(mode), mode.endswith("?")
    path = tuple(name.split("."))
    field_key = ledger_hash(f"field:{name}")

    def by_field(message: Message, value: JsonObject | None) -> tuple[bytes, int]:
        if value is None:  # it is rejected anyway
            return by_message_id(message, None)
        field: object = value
        for part in path:
            field = field.get(part) if isinstance(field, dict) else None
        with suppress(FormError):
            return field_key(text_v1(field)), FOREVER
        if may_be_absent:
            return by_message_id(message, value)
        raise NoLedgerKey

    return by_field
