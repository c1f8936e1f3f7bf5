"""The stages in a row: every message comes out as one row or one sealed reject, whatever it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.builders import (
    ABSENT,
    LOGIN,
    LOGIN_COLUMNS,
    SENT_MS,
    FakeKeys,
    a_column,
    a_message,
    a_road,
    a_sealer,
    a_tokenizer,
    login_body,
    opened,
    stored_key,
)

from coatcheck.keys import Opener, OpenError
from coatcheck.keys.forms import Form
from coatcheck.pipeline.columns import Mask, Parse
from coatcheck.pipeline.keying import FOREVER, message_id_key
from coatcheck.pipeline.message import Reason, Reject, Rejected, Row
from coatcheck.pipeline.validate import sent_date

REAL = Path(__file__).parents[4] / "shared" / "data" / "login-messages.jsonl"
TOKENS = a_tokenizer()


def rejected(body: str, **road: Any) -> Rejected:
    entry = a_road(**road).travel(a_message(body))
    assert isinstance(entry, Rejected)
    return entry


def test_a_login_becomes_its_row() -> None:
    message = a_message(login_body())
    row = a_road().travel(message)
    assert isinstance(row, Row)
    assert row.message is message
    assert (row.key, row.slot) == (message_id_key(message.message_id), SENT_MS // 1000 % (64 * 86_400))
    assert row.values == (
        LOGIN["user_id"],
        "android",
        TOKENS.token("ip", LOGIN["ip"], Form("ip")),
        TOKENS.token("device", LOGIN["device_id"], Form("text")),
        "RU",
        2_003_000,
        sent_date(19675),
    )


@pytest.mark.parametrize("nothing", [None, ABSENT])
def test_what_may_be_null_stays_null(nothing: Any) -> None:
    row = a_road().travel(a_message(login_body(locale=nothing, app_version=nothing, device_type=nothing)))
    assert isinstance(row, Row)
    assert (row.values[1], row.values[4], row.values[5]) == (None, None, None)


@pytest.mark.parametrize(
    ("body", "reject"),
    [
        ("oops", Reject(Reason.NOT_JSON)),
        ("raw \ud800", Reject(Reason.NOT_JSON)),
        ("[]", Reject(Reason.NOT_AN_OBJECT)),
        ("[" * 100_000, Reject(Reason.TOO_DEEP)),
        ('{"foo": "oops_wrong_msg_type", "bar": "123"}', Reject(Reason.MISSING_FIELD, "user_id")),
        (login_body(ip=None), Reject(Reason.MISSING_FIELD, "masked_ip")),
        (login_body(ip="1.2.3"), Reject(Reason.NOT_AN_IP, "masked_ip")),
        (login_body(ip=""), Reject(Reason.EMPTY_VALUE, "masked_ip")),
        (login_body(device_id=" "), Reject(Reason.EMPTY_VALUE, "masked_device_id")),
        (login_body(device_id="a\0"), Reject(Reason.INVALID_TEXT, "masked_device_id")),
        (login_body(locale="\ud800"), Reject(Reason.INVALID_TEXT, "locale")),
        (login_body(locale=5), Reject(Reason.WRONG_TYPE, "locale")),
        (login_body(device_type="x" * 33), Reject(Reason.TOO_LONG, "device_type")),
        (login_body(app_version="2"), Reject(Reason.NOT_A_VERSION, "app_version")),
        (login_body(create_date="today"), Reject(Reason.NOT_A_TIMESTAMP, "create_date")),
    ],
    ids=lambda value: ascii(value)[:20],
)  # fmt: skip
def test_a_bad_message_is_a_reject_with_its_body_sealed(body: str, reject: Reject) -> None:
    entry = rejected(body)
    assert entry.reject == reject
    assert opened(entry) == body
    assert body.encode("utf-8", "surrogatepass") not in entry.sealed.ciphertext


def test_a_field_no_column_reads_costs_nothing() -> None:
    body = login_body(extra="\ud800\0")[:-1] + ', "deep": ' + "[" * 200 + "1e999" + "]" * 200 + "}"
    assert isinstance(a_road().travel(a_message(body)), Row)


def test_a_sealed_body_opens_for_its_own_key_only() -> None:
    entry = rejected("oops")
    opener = Opener(FakeKeys())
    data_key = stored_key(entry.sealed.dek_id)
    assert opener.open(entry.sealed, data_key, entry.key) == b"oops"
    with pytest.raises(OpenError):
        opener.open(entry.sealed, data_key, bytes(16))


def test_a_row_the_database_refused_keeps_its_identity() -> None:
    road = a_road()
    row = road.travel(a_message(login_body()))
    assert isinstance(row, Row)
    entry = road.refuse(row, Reject(Reason.REFUSED_BY_DATABASE, "22003"))
    assert (entry.message, entry.key, entry.slot) == (row.message, row.key, row.slot)
    assert entry.reject == Reject(Reason.REFUSED_BY_DATABASE, "22003")
    assert opened(entry) == login_body()


def test_a_reject_is_keyed_like_the_row_it_would_have_been() -> None:
    good, bad = login_body(user_id="e1"), login_body(user_id="e1", ip="x")
    road = a_road(ledger_key="field:user_id")
    one, other = (road.travel(a_message(body, message_id=body[-5:])) for body in (good, bad))
    assert (one.key, one.slot) == (other.key, other.slot)
    assert one.slot == FOREVER


# -- without a ledger key


@pytest.mark.parametrize(
    "event",
    [ABSENT, None, "", " ", True, 1.5, ["e1"], {"id": "e1"}, "\0", "\ud800"],
    ids=lambda event: "absent" if event is ABSENT else ascii(event),
)
@pytest.mark.parametrize("origin", [None, "key:" + "ab" * 16, "id:first:5000"])
def test_a_message_without_its_ledger_key_is_held_under_its_message_id(event: Any, origin: str | None) -> None:
    """Found: by a misspelled field every repeat of an event was loaded as a new message."""
    body = login_body(event_id=event)
    message = a_message(body, origin=origin)
    entry = a_road(ledger_key="field:event_id").travel(message)
    assert isinstance(entry, Rejected)
    assert entry.reject == Reject(Reason.NO_LEDGER_KEY, "event_id")
    by_id = a_road().travel(message)
    assert (entry.key, entry.slot) == (by_id.key, by_id.slot), "a redelivery is known again, a redriven copy too"
    assert opened(entry) == body
    row = a_road(ledger_key="field:event_id?").travel(message)
    assert isinstance(row, Row)
    assert (row.key, row.slot) == (by_id.key, by_id.slot)


def test_what_else_is_wrong_with_a_message_without_a_key_is_said_first() -> None:
    road = a_road(ledger_key="field:event_id")
    for body, reason in ((login_body(ip="x"), Reason.NOT_AN_IP), ("[]", Reason.NOT_AN_OBJECT), ("{}", None)):
        entry = road.travel(a_message(body))
        assert isinstance(entry, Rejected)
        assert entry.reject.reason is (reason or Reason.MISSING_FIELD)
    foreign = a_road((a_column(),), ledger_key="field:event_id").travel(a_message('{"hello": "world"}'))
    assert isinstance(foreign, Rejected)
    assert foreign.reject == Reject(Reason.NO_FIELD_FOUND)


def test_a_message_of_another_pipeline_is_another_message() -> None:
    message = a_message(login_body(), origin="key:" + "ab" * 16)
    for key in ("message_id", "content", "field:user_id"):
        found = {a_road(ledger_key=key, pipeline=name).travel(message).key for name in ("default", "orders", "users")}
        assert len(found) == 3
        assert a_road(ledger_key=key).travel(message).key in found


@pytest.mark.parametrize(
    ("columns", "ledger_key", "body", "reason"),
    [
        ((a_column(),), "message_id", '{"Canary": "Canary"}', Reason.NO_FIELD_FOUND),
        ((a_column(),), "field:id", '{"f": "Canary", "id": ["Canary"]}', Reason.NO_LEDGER_KEY),
        ((a_column("jsonb"),), "message_id", '{"f": {"Canary": [1e131071, "Canary"]}}', Reason.OUT_OF_RANGE),
        ((a_column("jsonb"),), "message_id", '{"f": ' + "[" * 501 + '"Canary"' + "]" * 501 + "}", Reason.TOO_DEEP),
    ],
)
def test_nothing_of_such_a_message_shows(columns: Any, ledger_key: str, body: str, reason: Reason) -> None:
    road, message = a_road(columns, ledger_key=ledger_key), a_message(body)
    for entry in (road.travel(message), *road.travel_together([message])):
        assert isinstance(entry, Rejected)
        assert entry.reject.reason is reason
        assert "Canary" not in f"{entry!r} {entry.reject!r}"
        assert opened(entry) == body


def test_the_decoder_is_exact_where_a_column_needs_it() -> None:
    for type_, exact in (("numeric", True), ("jsonb", True), ("text", False)):
        road = a_road((a_column(type_),))
        assert str(road.decode('{"f": 0.10}')) == ("{'f': Decimal('0.10')}" if exact else "{'f': 0.1}")
    row = a_road((a_column("numeric"),)).travel(a_message('{"f": 0.1000000000000000055511151231257827}'))
    assert isinstance(row, Row)
    assert row.values == ("0.1000000000000000055511151231257827",)


def test_a_message_that_brought_the_decoder_to_its_depth_is_no_exception() -> None:
    """Found by this suite: the search for NUL in jsonb was recursive, and a message of 600 levels ended the worker."""
    road = a_road((a_column("jsonb"),))
    for depth in (300, 450, 600, 900, 2000):
        body = '{"f":' + '{"k":' * depth + '"\\u0000"' + "}" * depth + "}"
        entry = road.travel(a_message(body))
        assert isinstance(entry, Rejected)
        assert entry.reject.reason in (Reason.INVALID_TEXT, Reason.TOO_DEEP)


def test_a_time_that_rounds_up_to_the_year_10000_is_no_exception() -> None:
    """Found by this suite: it was an OverflowError where another column made the decoder exact."""
    road = a_road((a_column("timestamptz", parse=Parse.TIMESTAMP), a_column("numeric", name="n", path="n")))
    entry = road.travel(a_message('{"f": 253402300799.9999999999}'))
    assert isinstance(entry, Rejected)
    assert entry.reject == Reject(Reason.NOT_A_TIMESTAMP, "c")


def test_the_real_logins() -> None:
    if not REAL.exists():
        pytest.skip(f"the real logins are not here ({REAL})")
    road = a_road()
    lines = REAL.read_text(encoding="utf-8").splitlines()
    entries = [road.travel(a_message(line, message_id=str(number))) for number, line in enumerate(lines)]
    rows = [entry.values for entry in entries if isinstance(entry, Row)]
    rejects = [entry.reject for entry in entries if isinstance(entry, Rejected)]
    assert (len(lines), len(rows)) == (100, 99)
    assert rejects == [Reject(Reason.MISSING_FIELD, "user_id")]
    user, _, ip, device, locale, version, day = zip(*rows, strict=True)
    assert len(set(version)) == 94
    assert len({json.loads(line).get("app_version") for line in lines} - {None}) == 96
    assert locale.count(None) == 29
    assert len(set(user)) == len(set(ip)) == len(set(device)) == 99
    assert set(day) == {sent_date(SENT_MS // 86_400_000)}
    raw = {json.loads(line)[field] for line in lines if "ip" in line for field in ("ip", "device_id")}
    assert len(raw) == 198
    assert not raw & {value for row in rows for value in row}


# -- anything

fields = st.sampled_from([*LOGIN, "create_date", "extra"])
leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=40)
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=3), max_leaves=5
)
bodies = st.dictionaries(fields, values).map(lambda changes: login_body(**changes)) | st.text() | values.map(json.dumps)
WIDE = (
    a_column("varchar(8)", name="ip", path="ip", parse=Parse.IP),
    a_column("jsonb", name="extra", path="extra"),
    a_column("numeric", name="n", path="app_version"),
    a_column("timestamptz", name="t", path="create_date", parse=Parse.TIMESTAMP, default_sent_at=True),
    a_column("bigint", name="b", path="user_id"),
    a_column("boolean", name="o", path="extra.ip"),
    a_column("text", name="r", path="locale", mask=Mask.REDACT),
    a_column("text", name="s", path="device_id", mask=Mask.SHA256_INSECURE),
    a_column("text", name="d", path="device_type", mask=Mask.DROP),
)
roads = st.sampled_from(
    [
        a_road(),
        a_road(WIDE),
        a_road(ledger_key="content"),
        a_road(WIDE, ledger_key="field:extra.ip"),
        a_road(WIDE, ledger_key="field:extra.ip?"),
    ]
)


@settings(deadline=None, max_examples=300)
@given(roads, bodies)
def test_any_message_is_one_row_or_one_reject_that_opens(road: Any, body: str) -> None:
    message = a_message(body)
    entry = road.travel(message)
    assert entry.message is message
    assert len(entry.key) == 16
    if isinstance(entry, Row):
        assert len(entry.values) in (len(LOGIN_COLUMNS), len(WIDE) - 1)
    else:
        assert opened(entry) == body
        assert entry.reject.detail in ("", "extra.ip", *(column.name for column in LOGIN_COLUMNS + WIDE))


def test_every_reject_of_a_sealer_draws_its_nonce() -> None:
    sealer = a_sealer()
    road = a_road(sealer=sealer)
    entries = [road.travel(a_message("oops")) for _ in range(2000)]
    assert len({entry.sealed.nonce for entry in entries if isinstance(entry, Rejected)}) == 2000
