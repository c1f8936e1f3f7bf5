"""The attribute by which a message keeps its identity is anybody's to write: only our own forms count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.pipeline.keying import origin_for_body, origin_of, read_origin
from coatcheck.pipeline.message import Message

SENT_MS, FIRST_MS = 1_800_000_000_000, 1_700_000_000_000


def test_a_redriven_message_keeps_its_id_and_its_first_send_time() -> None:
    origin = origin_of(Message("8f5d6e5e-0000-4000-8000-000000000001", "", FIRST_MS, ""))
    assert read_origin(origin, SENT_MS) == (origin, FIRST_MS)


def test_a_senders_key_leaves_the_send_time() -> None:
    origin = origin_for_body("body", 0)
    assert read_origin(origin, SENT_MS) == (origin, SENT_MS)


@pytest.mark.parametrize(
    "text", [None, "", "key:", "key:xyz", "id:a b:5", "id:\u00e4:5", "id:x:", "id:\x00:5", "id:x:" + "9" * 16]
)
def test_other_forms_are_as_if_not_there(text: str | None) -> None:
    assert read_origin(text, SENT_MS) == (None, SENT_MS)


@given(st.text())
def test_what_is_accepted_is_short_printable_ascii(text: str) -> None:
    origin, sent_ms = read_origin(text, SENT_MS)
    assert 0 <= sent_ms < 10**15
    assert origin is None or (origin == text and origin.isascii() and origin.isprintable() and len(origin) < 130)
