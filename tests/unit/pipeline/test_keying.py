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
from coatcheck.pipeline.keying import DAY_S, FOREVER, SLOTS, keyer, message_id_key, origin_for_body, origin_of
from coatcheck.pipeline.message import Message

DAY_MS = 86_400_000
SLOT = SENT_MS // 1000 % SLOTS
UUID_TEXT = "00000000-0000-4000-8000-000000000001"
any_text = st.text(st.characters(exclude_categories=()))
decode = decoder(exact=False)


def key_of(message: Message, mode: str = "message_id", hashes: LedgerHash | None = None) -> tuple[bytes, int]:
    value = decode(message.body)
    return keyer(mode, hashes or a_ledger_hash())(message, value if isinstance(value, dict) else None)


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


@pytest.mark.parametrize(
    "body",
    [
        "{}", '{"event": null}', '{"event": ""}', '{"event": "  "}', '{"event": true}', '{"event": 1.5}',
        '{"event": ["e1"]}', '{"event": {"id": "e1"}}', '{"event": "\\u0000"}', '{"event": "\\ud800"}', "[]", "no json",
        "",
    ],
)  # fmt: skip
def test_without_a_usable_field_the_message_is_itself(body: str) -> None:
    assert key_of(a_message(body), "field:event") == key_of(a_message(body))
    assert key_of(a_message(body, origin="key:abc"), "field:event") == key_of(a_message(body, origin="key:abc"))


@pytest.mark.parametrize("body", ['{"meta": "x"}', '{"meta": ["id"]}', '{"meta": null}', '{"meta.id": "x"}'])
def test_a_nested_field_that_is_not_there_is_none(body: str) -> None:
    assert key_of(a_message(body), "field:meta.id") == key_of(a_message(body))


# -- any message


bodies = any_text | any_text.map(lambda text: json.dumps({"a": text}))
bodies |= any_text.map(lambda text: json.dumps({"a": {"b": text}}))
origins = st.none() | any_text | any_text.map("key:".__add__)
origins |= st.tuples(any_text, any_text).map(lambda two: f"id:{two[0]}:{two[1]}")
modes = st.sampled_from(["message_id", "content", "field:a", "field:a.b"])


@settings(deadline=None)
@given(modes, bodies, any_text | st.uuids().map(str), origins, st.integers(0, 10**15))
def test_any_message_has_a_key_of_16_bytes_and_a_slot(
    mode: str, body: str, message_id: str, origin: str | None, sent_ms: int
) -> None:
    message = a_message(body, message_id=message_id, origin=origin, sent_ms=sent_ms)
    key, slot = key_of(message, mode)
    assert type(key) is bytes
    assert len(key) == 16
    assert slot == FOREVER or 0 <= slot < SLOTS
    assert key_of(message, mode) == (key, slot)
