from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr

from coatcheck.errors import ConfigError, RefusedError
from coatcheck.keys.keyring import FIRST_KID, VERSION, Keyring, Root, read_keyring

ONE, TWO, LEDGER = b"1" * 32, b"2" * 32, b"canary ledger".ljust(32)


def keyring(kid: str = FIRST_KID, **changes: str) -> Keyring:
    return Keyring(VERSION, "acme", [Root(kid, ONE, "2026-01-01T00:00:00Z")], kid, LEDGER, **changes)


def test_a_rotation_adds_and_a_retirement_removes() -> None:
    first = keyring()
    assert first.kids == ("k1",)
    both = first.rotated(Root(first.next_kid(), TWO, "2026-02-01T00:00:00Z"))
    assert (both.active, both.kids, [entry.kid for entry in both.keys]) == ("k2", ("k2", "k1"), ["k1", "k2"])
    assert (both.root("k1"), both.root("k2"), both.ledger) == (ONE, TWO, LEDGER)
    last = both.retired("k1")
    assert (last.active, last.kids, last.root("k2"), last.ledger) == ("k2", ("k2",), TWO, LEDGER)
    assert first.kids == ("k1",)  # documents do not change, others are made


def test_a_second_rotation_waits_for_the_first() -> None:
    both = keyring().rotated(Root("k2", TWO, ""))
    for attempt in (both.next_kid, lambda: both.rotated(Root("k3", TWO, ""))):
        with pytest.raises(RefusedError, match="the rotation to k2 is not over") as caught:
            attempt()
        assert "coatcheck keys retire k1" in caught.value.hint


def test_two_keys_of_one_id_are_never_made() -> None:
    with pytest.raises(RefusedError, match='"k1" is in the keyring already'):
        keyring().rotated(Root("k1", TWO, ""))


def test_the_active_key_and_an_unknown_one_are_not_retired() -> None:
    both = keyring().rotated(Root("k2", TWO, ""))
    with pytest.raises(RefusedError, match="k2 is the active key"):
        both.retired("k2")
    for action in (both.retired, both.root):
        with pytest.raises(ConfigError, match='"k3" is not in the keyring'):
            action("k3")


@pytest.mark.parametrize(
    ("kid", "following"),
    [("k1", "k2"), ("k9", "k10"), ("k007", "k8"), ("k0", "k1"), ("kab", "k2"), ("k999998", "k999999")],
)
def test_key_ids_count_up(kid: str, following: str) -> None:
    assert keyring(kid).next_kid() == following


def test_the_last_key_id_has_none_after_it() -> None:
    with pytest.raises(RefusedError, match="used up"):
        keyring("k999999").next_kid()


@given(st.integers(1, 12))
def test_no_key_id_comes_twice(rotations: int) -> None:
    now, seen = keyring(), [FIRST_KID]
    for number in range(rotations):
        now = now.rotated(Root(now.next_kid(), bytes([number]) * 32, "")).retired(seen[-1])
        seen.append(now.active)
        assert read_keyring(now.to_json(), "f") == now
        assert now.ledger == LEDGER
    assert len(set(seen)) == len(seen)


def test_a_document_reads_back_as_it_was_written() -> None:
    for document in (keyring(), keyring(wrapped_by="arn:aws:kms:x"), keyring().rotated(Root("k2", TWO, ""))):
        assert read_keyring(document.to_json(), "f") == document
    assert "wrapped_by" not in json.loads(keyring().to_json())
    assert json.loads(keyring(wrapped_by="a").to_json())["wrapped_by"] == "a"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b'"canary"', b'{"version": "canary"}'])
def test_damage_is_named_and_not_quoted(data: bytes) -> None:
    with pytest.raises(ConfigError, match="the place is damaged") as caught:
        read_keyring(data, "the place")
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2, "keys": "canary"}, "f has version 2, this coatcheck reads version 1"),
        ({"active": "k2"}, "no active key"),
        ({"keys": []}, "no active key"),
        ({"tenant": "a b"}, "is no tenant"),
        ({"keys": [{"kid": "1", "root": "", "created": ""}], "active": "1"}, "is no key id"),
        ({"keys": [{"kid": "k1", "root": "", "created": ""}] * 2}, "two of one id"),
        ({"ledger": "canary!"}, "f is damaged"),
        ({"ledger": None}, "f is damaged"),
    ],
)
def test_documents_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    content = json.loads(keyring().to_json()) | changes
    with pytest.raises(ConfigError, match=message) as caught:
        read_keyring(json.dumps(content).encode(), "f")
    assert caught.value.hint
    assert "canary" not in caught.value.message


def test_nobody_is_shown_a_root() -> None:
    document = keyring()
    shown = [repr(document), str(document), f"{document.keys}", pretty_repr(document), pretty_repr(document.keys)]
    assert not [text for text in shown if "1111" in text or "canary" in text]
    assert [text for text in shown if "k1" not in text] == []


def test_documents_of_keys_do_not_change_under_ones_hands() -> None:
    root = Root("k1", bytes(32), "2026-01-01T00:00:00Z")
    keyring = Keyring(1, "acme", [root], "k1", bytes(32))
    for document, name in ((root, "root"), (keyring, "ledger")):
        with pytest.raises(AttributeError):
            setattr(document, name, b"another")


def test_rich_is_shown_names_only() -> None:
    root = Root("k1", bytes(32), "2026-01-01T00:00:00Z")
    assert root.__rich_repr__() == [("kid", "k1")]
    assert Keyring(1, "acme", [root], "k1", bytes(32)).__rich_repr__() == [("tenant", "acme"), ("kids", ("k1",))]


def test_repr_is_made_of_names() -> None:
    root = Root("k1", bytes(32), "2026-01-01T00:00:00Z")
    assert repr(root) == "Root(k1)"
    assert repr(Keyring(1, "acme", [root], "k1", bytes(32))) == "Keyring(tenant='acme', kids=('k1',))"
