"""What is fuzzed: functions from bytes, each of which raises only when a promise is broken.

Whatever comes in (a message, an answer of SQS, a configuration, a key file, a token) comes out as a value or as one of
our own errors.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.builders import LOGIN, LOGIN_COLUMNS, a_column, a_message, a_road, a_tokenizer, opened

from coatcheck import config_load
from coatcheck.errors import CoatcheckError, ConfigError
from coatcheck.keys.forms import Form, FormError, parse_form
from coatcheck.keys.keyring import read_keyring
from coatcheck.keys.notes import SignerKey, read_verifier, split_notes
from coatcheck.keys.provider import OpenError
from coatcheck.keys.sealing import unpad
from coatcheck.pipeline.columns import Mask, Parse
from coatcheck.pipeline.decode import decoder
from coatcheck.pipeline.message import Reject, Rejected, Row
from coatcheck.sources import sqs_direct
from coatcheck.sources.sqs_message import message_of
from coatcheck.sources.sqs_wire import SqsError, body_intact, decode_batch, decode_receive, refusal
from coatcheck.vault import export

Target = Callable[[bytes], None]

_TOKEN = re.compile(r"pt1_[a-z]+_k1_[0-9a-f]{40}")
_decode, _decode_exact = decoder(exact=False), decoder(exact=True)
_road = a_road()
_odd_road = a_road(
    (
        a_column("text", name="a", path="a"),
        a_column("integer", name="b", path="b"),
        a_column("numeric(9, 3)", name="c", path="c"),
        a_column("timestamptz", name="d", path="d"),
        a_column("boolean", name="e", path="e"),
        a_column("jsonb", name="f", path="f"),
        a_column("varchar(40)", name="g", path="g.h.i"),
        a_column("varchar(256)", name="h", path="h", parse=Parse.IP, mask=Mask.SUBNET, domain="net"),
        a_column("varchar(4096)", name="i", path="i", parse=Parse.TEXT, mask=Mask.SEAL, domain="name"),
    ),
    ledger_key="content",
)
_tokenizer = a_tokenizer()
_FIELDS = tuple(LOGIN)
_FORMS = (Form("ip"), Form("text"), Form("text", casefold=True), Form("text", strip_chars=" -"), Form("subnet"))
_opens = [_tokenizer.open_for("name", form) for form in _FORMS[1:4]]
_signer = SignerKey("fuzz", Ed25519PrivateKey.from_private_bytes(bytes(32)))


def _text(data: bytes) -> str:
    """Return bytes as the text of a message: lone surrogates where they are no UTF-8."""
    return data.decode("utf-8", "surrogateescape")


def decode(data: bytes) -> None:
    """Any bytes, and any text, are an object or a reject."""
    for read in (_decode, _decode_exact):
        for body in (data, _text(data)):
            assert isinstance(read(body), dict | Reject)


def road(data: bytes) -> None:
    """Any body is one row, with tokens in masked columns, or one reject that opens; alone as with others."""
    body = _text(data)
    for way in (_road, _odd_road):
        message = a_message(body)
        entry = way.travel(message)
        if isinstance(entry, Rejected):
            assert opened(entry) == body
        else:
            (together,) = way.travel_together([message])
            assert isinstance(together, Row)
            assert together.values == entry.values
    _masked(body)


def _masked(body: str) -> None:
    entry = _road.travel(a_message(body))
    if isinstance(entry, Row):
        for place, column in enumerate(LOGIN_COLUMNS):
            if column.mask is Mask.TOKEN:
                assert _TOKEN.fullmatch(str(entry.values[place]))


def fields(data: bytes) -> None:
    """A login with any JSON text for one of its fields."""
    name = _FIELDS[data[0] % len(_FIELDS)] if data else _FIELDS[0]
    before = json.dumps({key: value for key, value in LOGIN.items() if key != name})
    body = f"{before[:-1]}, {json.dumps(name)}: {_text(data[1:])}}}"
    entry = _road.travel(a_message(body))
    if isinstance(entry, Rejected):
        assert opened(entry) == body
    _masked(body)


def forms(data: bytes) -> None:
    """A value has one canonical form, whose text has the same one, or none."""
    text = _text(data)
    for form in _FORMS:
        try:
            canonical = form.canonical(text)
        except FormError:
            continue
        if form.kind != "subnet":
            assert form.canonical(form.text(canonical)) == canonical
    with suppress(CoatcheckError):
        assert parse_form(text).form_id == text


def tokens(data: bytes) -> None:
    """A text that was not sealed here does not open, and what was does."""
    text = _text(data)
    for open_ in _opens:
        try:
            open_(text)
        except OpenError:
            continue
        raise AssertionError("a text opens that nobody sealed")
    try:
        sealed = _tokenizer.seal_for("name", _FORMS[1])(text)
    except FormError:
        return
    assert _FORMS[1].canonical(_opens[0](sealed)) == _FORMS[1].canonical(text)


def answers(data: bytes) -> None:
    """Any body of an answer of SQS is messages, results, or an error of ours."""
    for read in (decode_receive, decode_batch):
        with suppress(SqsError):
            read(data)
    refusal("ReceiveMessage", 400 + len(data) % 200, _text(data[:80]), data)
    with suppress(SqsError):
        for wire in decode_receive(data):
            body_intact(wire)
            message_of(wire, 0, fifo=bool(len(data) % 2))


class _Transport:
    """Stands for a socket."""

    def abort(self) -> None: ...
    def close(self) -> None: ...
    def write(self, data: bytes) -> None: ...


class _Pool:
    """Stands for the pool of a connection."""

    def lost(self, connection: object) -> None: ...
    def freed(self, connection: object) -> None: ...
    def send_again(self, exchange: sqs_direct.Exchange) -> None: ...


_loop = asyncio.new_event_loop()


def response(data: bytes) -> None:
    """Any bytes on a connection are an answer or a broken one, however they are cut; never another exception."""
    cut = int.from_bytes(data[:2], "big") % (len(data) + 1)
    for parts in ((data,), (data[:cut], data[cut:])):
        connection = sqs_direct._Connection(cast("sqs_direct.Direct", _Pool()))
        connection.connection_made(cast("asyncio.Transport", _Transport()))
        exchange = sqs_direct.Exchange(b"", _loop.create_future(), 0.0, again=False)
        connection.send(exchange)
        for part in parts:
            if part:
                connection.data_received(part)
        connection.connection_lost(None)
        assert exchange.answer.done()
        if exchange.answer.exception() is None:
            assert isinstance(exchange.answer.result(), sqs_direct.Answer)
        else:
            assert isinstance(exchange.answer.exception(), sqs_direct.DirectError)


_folder = tempfile.TemporaryDirectory(prefix="coatcheck-fuzz-")
_file = Path(_folder.name) / "coatcheck.toml"


def configuration(data: bytes) -> None:
    """Any file is a configuration, or an error that names what is wrong."""
    _file.write_bytes(data)
    with suppress(ConfigError):
        config_load.load(str(_file))


def files(data: bytes) -> None:
    """Any key file, note or export is what it should be, or an error of ours."""
    with suppress(CoatcheckError):
        read_keyring(data, "file")
    with suppress(CoatcheckError):
        read_verifier(_text(data), "file")
    with suppress(CoatcheckError):
        for note in split_notes(data, "file"):
            _signer.verifier.open(note, "file")
    with suppress(CoatcheckError):
        list(export.read(data.splitlines(keepends=True), "file"))
    with suppress(OpenError):
        unpad(data)


TARGETS: dict[str, Target] = {
    "decode": decode,
    "road": road,
    "fields": fields,
    "forms": forms,
    "tokens": tokens,
    "answers": answers,
    "response": response,
    "configuration": configuration,
    "files": files,
}
