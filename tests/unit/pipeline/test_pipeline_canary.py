"""Promise 4 on the road: whatever happens to a message, nothing of its body shows in a `repr`, an error or a log.

For every reason there is a message with a canary in each of its fields that ends in it. It goes through the whole
runner, with faults on the way, while everything that may be printed is looked at.
"""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from rich.pretty import pretty_repr
from tests.support.builders import (
    ABSENT,
    LOGIN_COLUMNS,
    FakeKeys,
    a_column,
    a_message,
    a_road,
    a_sealer,
    a_tokenizer,
    a_vault,
    login_body,
    opened,
)

from coatcheck.errors import CoatcheckError, RefusedError, UnreachableError
from coatcheck.keys import FormError, Sealer
from coatcheck.keys.forms import Form
from coatcheck.ops.logs import LineFormatter
from coatcheck.pipeline.breaker import Breaker
from coatcheck.pipeline.columns import Mask, Parse
from coatcheck.pipeline.message import Batch, Message, Outcome, Reason, Reject, Rejected, Row
from coatcheck.pipeline.runner import Limits, Runner
from coatcheck.pipeline.writer import Writer
from coatcheck.sinks.memory import MemorySink
from coatcheck.sources.memory import MemorySource

CANARIES = {
    "user_id": "Canary-User",
    "device_type": "Canary-Type",
    "ip": "203.0.113.77",
    "device_id": "Canary-Device",
    "locale": "Canary-Locale",
    "extra": "Canary-Extra",
    "kept": "Canary-Kept",
    "number": 7766554433,
}
GOOD: dict[str, Any] = CANARIES | {"number": 776655, "app_version": "776.655.443"}
SECRETS = [*map(str, CANARIES.values()), "776655", "776.655.443", "Canary"]
COLUMNS = (
    *LOGIN_COLUMNS,
    a_column("integer", name="column_n", path="number"),
    a_column("jsonb", name="column_j", path="kept"),
    a_column("text", name="column_r", path="extra", mask=Mask.REDACT),
    a_column("text", name="column_s", path="extra", mask=Mask.SHA256_INSECURE),
    a_column("text", name="column_d", path="extra", mask=Mask.DROP),
    a_column("timestamptz", name="column_t", path="when", parse=Parse.TIMESTAMP),
)


def body(**overrides: Any) -> str:
    return login_body(**(GOOD | overrides))


BODIES: dict[Reason, list[str]] = {
    Reason.NOT_JSON: [
        body()[:-1],
        body() + "Canary",
        "Canary",
        body().replace("776655", "NaN"),
        "\ufeff\ufeff" + body(),
    ],
    Reason.NOT_AN_OBJECT: [f"[{body()}]", '"Canary"', "7766554433"],
    Reason.TOO_DEEP: [body()[:-1] + ', "deep": ' + "[" * 50_000 + '"Canary"' + "]" * 50_000 + "}"],
    Reason.INVALID_TEXT: [
        body(locale="Canary\0"),
        body(user_id="Canary\ud800"),
        body(device_id="Canary\0"),
        body(device_id="Canary\udfff"),
        body(kept={"Canary": ["Canary\0"]}),
        body(kept={"Canary\ud800": 1}),
        body(extra="Canary\ud800"),
    ],
    Reason.MISSING_FIELD: [body(user_id=None), body(ip=ABSENT), body(device_id=None)],
    Reason.WRONG_TYPE: [
        body(user_id=["Canary"]),
        body(locale={"Canary": "Canary"}),
        body(app_version=776.655),
        body(number="Canary"),
        body(device_id=["Canary"]),
        body(extra=["Canary"]),
        body(ip=7766554433),
    ],
    Reason.TOO_LONG: [body(device_type="Canary" * 10), body(user_id="Canary" * 30)],
    Reason.OUT_OF_RANGE: [body(number=7766554433), body()[:-1] + ', "deep": ' + "776655" * 1000 + "}"],
    Reason.EMPTY_VALUE: [body(ip=""), body(device_id="  ")],
    Reason.NOT_AN_IP: [body(ip="Canary"), body(ip="203.0.113.777"), body(ip="203.0.113.77%Canary")],
    Reason.NOT_A_VERSION: [body(app_version="Canary"), body(app_version="776.655.443.1")],
    Reason.NOT_A_TIMESTAMP: [body(create_date="Canary"), body(when="Canary"), body(when=-7766554433)],
    Reason.REFUSED_BY_DATABASE: [body()],
    Reason.SUPPRESSED_BY_TABLE: [body()],
}
EVERY = [(reason, text) for reason, texts in BODIES.items() for text in texts]
Show = Callable[[object], str]
SHOWS: list[Show] = [repr, str, "{}".format, "{!r:>9}".format, ascii, pretty_repr, lambda value: f"%s {value}"]


ELSEWHERE = {Reason.NO_FIELD_FOUND, Reason.NO_LEDGER_KEY}
"""No message of this road can end in these, for a column is required, and its key is the message id: `test_road.py`."""


def test_there_is_a_message_for_every_reason() -> None:
    assert set(BODIES) | ELSEWHERE == set(Reason)


def clean(text: str) -> None:
    found = [secret for secret in [*SECRETS, *(json.dumps(secret) for secret in SECRETS)] if secret in text]
    assert not found


def silent(value: object) -> None:
    for show in SHOWS:
        clean(show(value))


def silent_all(*values: object) -> None:
    for value in values:
        silent(value)


def clean_error(error: BaseException) -> None:
    """Neither texts nor traceback of it and its causes; not even with the local variables of the frames."""
    silent(error)
    silent(error.args)
    clean(str(error.__dict__))
    for captured in (False, True):
        lines = traceback.TracebackException.from_exception(error, capture_locals=captured).format()
        clean("".join(line for line in lines if "/tests/" not in line))  # our own frames hold the bodies


def a_canary(text: str) -> Message:
    return a_message(text, receipt="Canary-Receipt", origin="id:Canary-Origin:776655")


@pytest.mark.parametrize(("reason", "text"), EVERY, ids=[reason for reason, _ in EVERY])
def test_nothing_on_the_road_shows_its_message(reason: Reason, text: str) -> None:
    road = a_road(COLUMNS)
    message = a_canary(text)
    entry = road.travel(message)
    if isinstance(entry, Row):
        assert reason in (Reason.REFUSED_BY_DATABASE, Reason.SUPPRESSED_BY_TABLE)
        reject = Reject(reason, "22003")
        row, entry = entry, road.refuse(entry, reject)
        silent_all(row, Batch(rows=[row]), Outcome(refused=[(row, reject)]), [row], {"row": row})
    assert entry.reject.reason is reason
    assert entry.reject.detail in ("", "22003", *(column.name for column in COLUMNS))
    assert opened(entry) == text
    silent_all(message, entry, entry.reject, entry.sealed, Batch(rejected=[entry]), [entry], (message, entry))
    clean(repr(road))


def test_the_tools_of_the_road_do_not_show_what_went_through() -> None:
    tokenizer, sealer = a_tokenizer(), a_sealer()
    tokenizer.token("ip", CANARIES["ip"], Form("ip"))
    sealer.seal(b"Canary-Body", b"key")
    silent_all(tokenizer, sealer, a_road(COLUMNS))


@pytest.mark.parametrize(
    "value", ["Canary\0", "Canary\ud800", "Canary" + "\u0301" * 65, ["Canary"], {"Canary": 1}, 776.655], ids=ascii
)
def test_a_value_without_a_form_does_not_show_in_the_error(value: Any) -> None:
    for form in (Form("ip"), Form("text"), Form("text", casefold=True, strip_chars="-")):
        with pytest.raises(FormError) as caught:
            a_tokenizer().token("d", value, form)
        silent(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None  # the error of a codec holds the text it failed on


# -- through the runner, with faults


class Sink(MemorySink):
    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    async def write(self, batch: Batch) -> Outcome:
        if self.fault == "before":
            raise UnreachableError("the database does not answer", hint="is it up?")
        for row in batch.rows:  # one is kept out, the others are refused
            if self.refuse or self.suppress:
                self.refuse[row.message.message_id] = "22003"
            else:
                self.suppress.add(row.message.message_id)
        outcome = await super().write(batch)
        if self.fault == "after":
            raise CoatcheckError("the answer was lost")
        if self.fault == "hang":
            await asyncio.sleep(3600)
        return outcome


class Gone(FakeKeys):
    def new_data_key(self) -> Any:
        raise UnreachableError("the key service is away")


async def run(source: MemorySource, sink: Sink, sealer: Sealer, breaker: Breaker) -> None:
    limits = Limits(seconds=0, drain_s=0.05)
    runner = Runner(
        source=source,
        writer=Writer(
            sink=sink,
            road=a_road(COLUMNS, sealer=sealer),
            sealer=sealer,
            vault=a_vault(sealer, COLUMNS),
            breaker=breaker,
        ),
        limits=limits,
    )
    if sink.fault == "hang":
        asyncio.get_running_loop().call_later(0.05, runner.stop)
    await asyncio.wait_for(runner.run(drain=True), 10)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("", None),
        ("before", UnreachableError),
        ("after", CoatcheckError),
        ("hang", None),
        ("breaker", RefusedError),
        ("keys", UnreachableError),
    ],
)
def test_neither_errors_nor_logs_show_a_message(
    fault: str, error: type[CoatcheckError] | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source, sink = MemorySource([text for _, text in EVERY]), Sink(fault)
    breaker = Breaker(ratio=1, window=10**6, run=5 if fault == "breaker" else 10**6)
    sealer = a_sealer(Gone() if fault == "keys" else None)
    story = run(source, sink, sealer, breaker)
    if error is None:
        asyncio.run(story, debug=True)
    else:
        with pytest.raises(error) as caught:
            asyncio.run(story, debug=True)
        if fault != "keys":
            clean_error(caught.value)
        else:  # the frames of the sealer hold the body itself, and nobody prints local variables there
            clean("".join(traceback.format_exception(caught.value)))
    assert fault != "hang" or any("the deadline has passed" in record.getMessage() for record in caplog.records)
    for record in caplog.records:
        clean(record.getMessage())
        clean(str({name: value for name, value in record.__dict__.items() if name != "exc_info"}))
        clean(LineFormatter().format(record))
    for entry in (*sink.rows, *sink.quarantine):
        silent(entry)
    assert fault or {entry.reject.reason for entry in sink.quarantine} == set(BODIES)
    assert fault or not sink.rows


def test_reject_and_row_show_what_an_operator_needs() -> None:
    entry = a_road().travel(a_message("Canary", message_id="the-id"))
    assert isinstance(entry, Rejected)
    assert repr(entry) == "Rejected(the-id, not_json)"
    assert pretty_repr(entry) == "Rejected(message_id='the-id', reason='not_json')"
    assert repr(entry.message) == str(entry.message) == "Message(the-id)"
    assert pretty_repr(entry.message) == "Message(message_id='the-id')"
    assert (
        repr(Reject(Reason.NOT_AN_IP, "masked_ip"))
        == "Reject(reason=<Reason.NOT_AN_IP: 'not_an_ip'>, detail='masked_ip')"
    )
    row = a_road().travel(a_message(login_body(), message_id="the-id"))
    assert repr(row) == "Row(the-id)"
    assert pretty_repr(row) == "Row(message_id='the-id')"
