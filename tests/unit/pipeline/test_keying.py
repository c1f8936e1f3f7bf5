"""Which message is this? Sixteen bytes and a slot for any message, and the same ones for the same message only."""

from __future__ import annotations

import hashlib
import json
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.builders import ROOT, SENT_MS, a_ledger_hash, a_message

from coatcheck.keys.tokens import LedgerHash, ledger_hash
from coatcheck.pipeline.decode import decoder
from coatcheck.pipeline.keying import (
    DAY_S,
    FOREVER,
    SLOTS,
    NoLedgerKey,
    keyer,
    ledger_field,
    message_id_key,
    origin_for_body,
    origin_of,
)
from coatcheck.pipeline.message import Message

DAY_MS = 86_400_000
SLOT = SENT_MS // 1000 % SLOTS
UUID_TEXT = "00000000-0000-4000-8000-000000000001"
any_text = st.text(st.characters(exclude_categories=()))
decode = decoder(exact=False)


def key_of(
    message: Message, mode: str = "message_id", hashes: LedgerHash | None = None, pipeline: str = "default"
) -> tuple[bytes, int]:
    value = decode(message.body)
    return keyer(mode, hashes or a_ledger_hash(), pipeline)(message, value if isinstance(value, dict) else None)


# -- by message id


def test_a_message_ids_uuid_is_the_key_and_its_second_the_slot() -> None:
    assert key_of(a_message(message_id=UUID_TEXT)) == (UUID(UUID_TEXT).bytes, SLOT)
    assert key_of(a_message(message_id=UUID_TEXT.upper())) == (UUID(UUID_TEXT).bytes, SLOT)


@pytest.mark.parametrize(
    "message_id",
    ["", "1", "not a uuid", UUID_TEXT.replace("-", ""), UUID_TEXT[:-1] + "g", "\ud800", "ä" * 36, "-" * 36, "x" * 5000],
    ids=ascii,
)
def test_an_id_that_is_no_uuid_is_hashed(message_id: str) -> None:
    digest = hashlib.sha256(message_id.encode("utf-8", "surrogatepass")).digest()
    assert message_id_key(message_id) == digest[:16]
    assert key_of(a_message(message_id=message_id)) == (digest[:16], SLOT)


@given(st.uuids(), st.uuids())
def test_different_ids_have_different_keys(one: UUID, other: UUID) -> None:
    assert (message_id_key(str(one)) == message_id_key(str(other))) is (one == other)


@pytest.mark.parametrize(
    ("sent_ms", "slot"),
    [
        (0, 0),
        (999, 0),
        (1000, 1),
        (DAY_MS - 1, DAY_S - 1),
        (DAY_MS, DAY_S),
        (64 * DAY_MS - 1, SLOTS - 1),
        (64 * DAY_MS, 0),
        (65 * DAY_MS, DAY_S),
    ],
)
def test_the_slot_is_the_sent_second_on_a_ring_of_64_days(sent_ms: int, slot: int) -> None:
    assert key_of(a_message(sent_ms=sent_ms))[1] == slot


def test_two_deliveries_of_a_message_are_the_same_message() -> None:
    again = a_message('{"a": 2}', receipt="other", receive_count=7, received_ms=SENT_MS + 10 * DAY_MS)
    assert key_of(a_message('{"a": 1}')) == key_of(again)


# -- by origin


@given(st.uuids().map(str) | any_text, st.integers(0, 10**15 - 1), any_text, st.integers(0, 10**13))
def test_a_redriven_copy_keeps_key_and_slot(message_id: str, sent_ms: int, new_id: str, later_ms: int) -> None:
    first = a_message(message_id=message_id, sent_ms=sent_ms)
    copy = a_message(message_id=new_id, sent_ms=later_ms, origin=origin_of(first))
    again = a_message(message_id="third", sent_ms=later_ms + 1, origin=origin_of(copy))
    if message_id:
        assert key_of(first) == key_of(copy) == key_of(again)
    else:
        assert key_of(copy) == key_of(a_message(message_id=new_id, sent_ms=later_ms))  # there was no identity to keep


def test_the_origin_of_a_plain_message_is_its_id_and_time() -> None:
    assert origin_of(a_message(message_id="a:b", sent_ms=5)) == "id:a:b:5"
    assert origin_of(a_message(origin="key:abc")) == "key:abc"


def test_an_id_may_hold_what_separates_it_from_its_time() -> None:
    first = a_message(message_id="a:b:5")
    assert key_of(a_message(message_id="copy", sent_ms=0, origin=origin_of(first))) == key_of(first)


def test_the_senders_key_outranks_id_and_day() -> None:
    one = key_of(a_message(message_id="1", origin="key:abc", sent_ms=0))
    other = key_of(a_message(message_id="2", origin="key:abc", sent_ms=SENT_MS))
    assert one == other == (a_ledger_hash()("sender")(b"abc"), FOREVER)
    assert key_of(a_message(origin="key:abd"))[0] != one[0]


def test_a_senders_key_is_hashed_under_the_tenants_key() -> None:
    """Else anybody could compute which ledger entry stands for which file."""
    keys = {
        key_of(a_message(origin="key:abc"), hashes=ledger_hash(root, tenant))[0]
        for root in (ROOT, bytes(32)) for tenant in ("one", "two")
    }  # fmt: skip
    assert len(keys) == 4


MALFORMED = [
    "", ":", "key", "key:", "id", "id:", "id::", "id::5", "id:x", "id:x:", "ID:x:5", "KEY:abc", " key:abc", "other:abc",
    "\ud800", "\0", f"id:{UUID_TEXT}", f"id:{UUID_TEXT}:-1", f"id:{UUID_TEXT}:1.5", f"id:{UUID_TEXT}: 5",
    f"id:{UUID_TEXT}:5x", f"id:{UUID_TEXT}:\u0665", f"id:{UUID_TEXT}:\u00b2", f"id:{UUID_TEXT}:{'9' * 16}",
    f"id:{UUID_TEXT}:{'9' * 5000}",
]  # fmt: skip


@pytest.mark.parametrize("origin", MALFORMED, ids=lambda origin: ascii(origin)[:30])
def test_a_malformed_origin_counts_for_nothing(origin: str) -> None:
    assert key_of(a_message(origin=origin)) == key_of(a_message())


# -- what `send` sets


def test_a_body_has_one_origin_for_each_repeat() -> None:
    origins = [origin_for_body(body, repeat) for body in ("a", "b", "", "1\na", "\ud800") for repeat in range(11)]
    assert len(set(origins)) == 55
    assert origin_for_body("a", 0) == origins[0] == "key:" + hashlib.sha256(b"0\na").hexdigest()[:32]
    assert len({key_of(a_message(origin=origin)) for origin in origins}) == 55


# -- by content


def test_by_content_the_body_alone_counts() -> None:
    one = key_of(a_message('{"a": 1}', message_id="1"), "content")
    assert one == key_of(a_message('{"a": 1}', message_id="2", sent_ms=0, origin="key:abc"), "content")
    assert one == (a_ledger_hash()("content")(b'{"a": 1}'), FOREVER)
    assert one[0] != key_of(a_message('{"a":1}'), "content")[0]
    assert one[0] != hashlib.sha256(b'{"a": 1}').digest()[:16]


def test_by_content_a_body_that_is_no_json_has_a_key_too() -> None:
    assert key_of(a_message("no json"), "content")[0] != key_of(a_message("no json either"), "content")[0]


# -- by field


def test_by_field_the_fields_value_counts() -> None:
    one = key_of(a_message('{"event": "e1", "x": 1}', message_id="1"), "field:event")
    assert one == key_of(a_message('{"event": "e1", "x": 2}', message_id="2", sent_ms=0), "field:event")
    assert one == (a_ledger_hash()("field:event")(b"e1"), FOREVER)
    assert one[0] != key_of(a_message('{"event": "e2"}'), "field:event")[0]


def test_by_field_a_whole_number_is_its_text_and_white_space_around_does_not_count() -> None:
    keys = {key_of(a_message(json.dumps({"event": value})), "field:event") for value in (7, "7", " 7 ")}
    assert len(keys) == 1


def test_by_field_dots_reach_into_objects() -> None:
    message = a_message('{"meta": {"event": {"id": "e1"}}}')
    assert key_of(message, "field:meta.event.id") == (a_ledger_hash()("field:meta.event.id")(b"e1"), FOREVER)


def test_equal_values_of_different_fields_are_different_messages() -> None:
    message = a_message('{"a": "e1", "b": "e1"}')
    assert key_of(message, "field:a")[0] != key_of(message, "field:b")[0]


UNUSABLE = [
    "{}", '{"event": null}', '{"event": ""}', '{"event": "  "}', '{"event": true}', '{"event": 1.5}',
    '{"event": ["e1"]}', '{"event": {"id": "e1"}}', '{"event": "\\u0000"}', '{"event": "\\ud800"}', '{"evnt": "e1"}',
]  # fmt: skip


@pytest.mark.parametrize("body", UNUSABLE)
def test_without_a_usable_field_there_is_no_key(body: str) -> None:
    """Found: by a misspelled field every message fell back to its id, and each repeat was loaded."""
    for origin in (None, "key:abc"):
        with pytest.raises(NoLedgerKey):
            key_of(a_message(body, origin=origin), "field:event")


@pytest.mark.parametrize("body", ['{"meta": "x"}', '{"meta": ["id"]}', '{"meta": null}', '{"meta.id": "x"}'])
def test_a_nested_field_that_is_not_there_is_no_key(body: str) -> None:
    with pytest.raises(NoLedgerKey):
        key_of(a_message(body), "field:meta.id")
    assert key_of(a_message(body), "field:meta.id?") == key_of(a_message(body))


@pytest.mark.parametrize("body", UNUSABLE)
def test_the_message_id_stands_in_where_the_configuration_says_so(body: str) -> None:
    for origin in (None, "key:abc"):
        message = a_message(body, origin=origin)
        assert key_of(message, "field:event?") == key_of(message)
    usable = a_message('{"event": "e1"}')
    assert key_of(usable, "field:event?") == key_of(usable, "field:event")


@pytest.mark.parametrize("body", ["[]", "no json", ""])
def test_a_body_without_an_object_is_known_by_its_message_id(body: str) -> None:
    for mode in ("field:event", "field:event?"):
        assert key_of(a_message(body), mode) == key_of(a_message(body))


def test_the_field_that_keys_are_made_of() -> None:
    modes = ("message_id", "content", "field:a", "field:a.b?", "field:a:b")
    assert [ledger_field(mode) for mode in modes] == ["", "", "a", "a.b", "a:b"]


# -- by pipeline

EVENT = '{"event": "e1", "n": 7, "a": {"b": "x"}}'
KNOWN: dict[str, tuple[str, Message, str, int]] = {
    "uuid": ("message_id", a_message(EVENT), "00000000000040008000000000000001", SLOT),
    "no uuid": ("message_id", a_message(EVENT, message_id="odd"), "990cb8ebd0afb7150da453a213036a92", SLOT),
    "sender": ("message_id", a_message(EVENT, origin="key:" + "ab" * 16), "11982d0b0dc3f31e6f2202caad97413b", FOREVER),
    "origin": ("message_id", a_message(EVENT, origin="id:x:5000"), "2d711642b726b04401627ca9fbac32f5", 5),
    "content": ("content", a_message(EVENT), "a4213d3346878bb1207f28c18978765d", FOREVER),
    "no json": ("content", a_message("no json"), "606b1075c614fb0435f58310e8e3bda0", FOREVER),
    "field": ("field:event", a_message(EVENT), "1bcceda55d9ee7f181ac7eafef6ca282", FOREVER),
    "number": ("field:n", a_message(EVENT), "fbc508933fed55429099dafeff20a851", FOREVER),
    "nested": ("field:a.b", a_message(EVENT), "c493296ba54e2a2d6a8befe7a0581286", FOREVER),
    "optional": ("field:event?", a_message(EVENT), "1bcceda55d9ee7f181ac7eafef6ca282", FOREVER),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_default_pipelines_keys_are_those_of_a_database_without_pipelines(name: str) -> None:
    """These bytes stand in the ledgers of those who upgrade: another key would load everything again."""
    mode, message, key, slot = KNOWN[name]
    assert key_of(message, mode) == key_of(message, mode, pipeline="default") == (bytes.fromhex(key), slot)


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in ("uuid", "no uuid", "origin")])
def test_one_message_on_two_queues_is_a_message_of_each_pipeline(name: str) -> None:
    """Found: the second pipeline took the first one's ids for its own, and acked them without a row."""
    mode, message, *_ = KNOWN[name]
    found = [key_of(message, mode, pipeline=pipeline) for pipeline in ("default", "orders", "order", "s", "a_b")]
    assert len({key for key, _ in found}) == len(found)
    assert len({slot for _, slot in found}) == 1
    assert key_of(message, mode, pipeline="orders") == found[1]


@pytest.mark.parametrize("name", ["uuid", "no uuid", "origin"])
def test_a_message_id_is_the_same_under_every_name(name: str) -> None:
    """Who gives a second file of today a name of its own must not load what is under way once more."""
    mode, message, key, slot = KNOWN[name]
    assert key_of(message, mode, pipeline="orders") == (bytes.fromhex(key), slot)


def test_no_name_of_a_pipeline_runs_into_what_follows_it() -> None:
    """Also where it would make a namespace of the default pipeline, or of another one's field."""
    body = json.dumps({"x": "e1", "b:field:x": "e1", "field:x": "e1"})
    pairs = [
        ("default", "field:x"), ("a", "field:x"), ("a:field", "field:x"), ("a:7:b", "field:x"), ("a", "field:field:x"),
        ("a", "field:b:field:x"), ("a:field:b", "field:x"), ("1:a", "field:x"), ("field", "field:x"), ("", "field:x"),
    ]  # fmt: skip
    assert len({key_of(a_message(body), mode, pipeline=name) for name, mode in pairs}) == len(pairs)


@given(st.uuids(), st.sampled_from(["orders", "default"]))
def test_one_id_has_one_key_in_a_pipeline_however_it_is_spelled(message_id: UUID, pipeline: str) -> None:
    plain, upper, redriven = (
        key_of(message, pipeline=pipeline)
        for message in (
            a_message(message_id=str(message_id)),
            a_message(message_id=str(message_id).upper()),
            a_message(message_id="copy", sent_ms=SENT_MS + 9000, origin=f"id:{message_id}:{SENT_MS}"),
        )
    )
    assert plain == upper == redriven


# -- any message


bodies = any_text | any_text.map(lambda text: json.dumps({"a": text}))
bodies |= any_text.map(lambda text: json.dumps({"a": {"b": text}}))
origins = st.none() | any_text | any_text.map("key:".__add__)
origins |= st.tuples(any_text, any_text).map(lambda two: f"id:{two[0]}:{two[1]}")
modes = st.sampled_from(["message_id", "content", "field:a?", "field:a.b?"])


@settings(deadline=None)
@given(
    modes, bodies, any_text | st.uuids().map(str), origins, st.integers(0, 10**15), st.sampled_from(["default", "b"])
)
def test_any_message_has_a_key_of_16_bytes_and_a_slot(  # noqa: PLR0917 - hypothesis passes them
    mode: str, body: str, message_id: str, origin: str | None, sent_ms: int, pipeline: str
) -> None:
    message = a_message(body, message_id=message_id, origin=origin, sent_ms=sent_ms)
    key, slot = key_of(message, mode, pipeline=pipeline)
    assert type(key) is bytes
    assert len(key) == 16
    assert slot == FOREVER or 0 <= slot < SLOTS
    assert key_of(message, mode, pipeline=pipeline) == (key, slot)
