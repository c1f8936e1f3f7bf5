"""Many messages at once: each comes out as it would by itself, whatever its neighbours hold."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from tests.support.builders import (
    ABSENT,
    LOGIN_COLUMNS,
    SENT_MS,
    FakeKeys,
    a_column,
    a_message,
    a_road,
    a_sealer,
    login_body,
    opened,
)

from coatcheck.pipeline import road as road_module
from coatcheck.pipeline.columns import Column, Mask, Parse
from coatcheck.pipeline.message import UNKNOWN_MS, Message, Rejected, Row
from coatcheck.pipeline.road import Road

DAY_MS = 86_400_000

# every kind, parse, mask and default there is, required and not, and paths of two names
ALL: tuple[Column, ...] = (
    a_column("varchar(5)", name="short", path="a"),
    a_column("text", name="long", path="a.b"),
    a_column("text", name="with_default", path="c", default="none"),
    a_column("text", name="needed", path="d", required=True),
    a_column("varchar(9)", name="as_text", path="a", parse=Parse.TEXT),
    a_column("integer", name="version", path="e", parse=Parse.VERSION),
    a_column("varchar(20)", name="address", path="f", parse=Parse.IP),
    a_column("integer", name="small", path="g"),
    a_column("bigint", name="big", path="g"),
    a_column("numeric", name="exact", path="h"),
    a_column("boolean", name="flag", path="i"),
    a_column("date", name="day", path="j", default_sent_at=True),
    a_column("timestamptz", name="moment", path="k", default_sent_at=True),
    a_column("timestamptz", name="when", path="l", parse=Parse.TIMESTAMP),
    a_column("jsonb", name="rest", path="m"),
    a_column("text", name="t_ip", path="f", mask=Mask.TOKEN, parse=Parse.IP, domain="ip", vault=True),
    a_column("text", name="t_text", path="n", mask=Mask.TOKEN, domain="text", vault=True, default="nobody"),
    a_column("text", name="net", path="f", mask=Mask.SUBNET, parse=Parse.IP, domain="net"),
    a_column("varchar(60)", name="sealed", path="n", mask=Mask.SEAL, domain="seal"),
    a_column("text", name="hashed", path="a", mask=Mask.SHA256_INSECURE),
    a_column("text", name="hidden", path="m", mask=Mask.REDACT),
    a_column("text", name="gone", path="d", mask=Mask.DROP, required=True),
)

known = st.sampled_from([
    "", "x", "fives", "sixsix", "long text", "\0", "a\0b", "ä", "\ud800", "1.2.3", "1.2", "1.2.3.4", "10.0.0.1",
    "01.2.3.4", "::1", "2026-11-25", "2026-11-25T10:00:00Z", "2026-11-25T10:00:00", " ", "9999.1",
])  # fmt: skip
texts = st.one_of(known, st.text(max_size=8))
scalars = st.one_of(
    texts,
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63, -(10**30), 1.5, 1e300, 253_402_300_800]),
)
values = st.one_of(scalars, st.lists(scalars, max_size=2), st.dictionaries(st.sampled_from("ab"), scalars, max_size=2))
records = st.dictionaries(st.sampled_from("abcdefghijklmn"), values)
bodies = st.one_of(records.map(json.dumps), st.sampled_from(["", "[]", "no json", '{"a":', "null", "[" * 3000]))
usual = st.fixed_dictionaries({"d": st.just("x"), "n": st.sampled_from(["one", "two"]), "f": st.just("10.0.0.1")})
mixed = st.lists(st.one_of(usual.map(json.dumps), usual.map(json.dumps), bodies), max_size=12)


def numbered(texts_: Sequence[str], *, undated: int = 0) -> list[Message]:
    """Return messages of these bodies; of each five, `undated` have no send time."""
    return [
        a_message(
            text,
            message_id=f"00000000-0000-4000-8000-{place:012d}",
            sent_ms=UNKNOWN_MS if place % 5 < undated else SENT_MS + place % 3 * DAY_MS,
        )
        for place, text in enumerate(texts_)
    ]


def shown(entry: Row | Rejected) -> Any:
    """All of an entry that is not drawn by chance."""
    if isinstance(entry, Row):
        return structs.astuple(entry)
    return entry.message, entry.key, entry.slot, entry.reject, opened(entry)


def same(road: Road, messages: Sequence[Message]) -> None:
    together = road.travel_together(messages)
    apart = [road.travel(message) for message in messages]
    assert [shown(entry) for entry in together] == [shown(entry) for entry in apart]
    for one, other in zip(together, apart, strict=True):
        if isinstance(one, Row) and isinstance(other, Row):  # True == 1 == 1.0, but not in a database
            assert list(map(type, one.values)) == list(map(type, other.values))


@settings(deadline=None, max_examples=400)
@given(mixed)
def test_each_comes_out_as_by_itself(texts_: list[str]) -> None:
    same(a_road(ALL), numbered(texts_))
    same(a_road(ALL), numbered(texts_, undated=1))
    same(a_road(ALL), numbered(texts_, undated=5))


@pytest.mark.parametrize("column", ALL, ids=[column.name for column in ALL])
@settings(deadline=None, max_examples=150)
@given(column_values=st.lists(st.one_of(known, texts, values), min_size=2, max_size=8))
def test_in_each_column_whatever_its_neighbours_are(column: Column, column_values: list[Any]) -> None:
    *outer, name = column.path
    objects = [{outer[0]: {name: value}} if outer else {name: value} for value in column_values]
    same(a_road((column,)), numbered([json.dumps(value) for value in objects]))


@settings(deadline=None)
@given(
    st.sampled_from(["message_id", "content", "field:n", "field:n?", "field:a.b", "field:nowhere"]),
    mixed,
    st.sampled_from(["default", "orders"]),
)
def test_by_every_kind_of_key(kind: str, texts_: list[str], pipeline: str) -> None:
    same(a_road(ALL, ledger_key=kind, pipeline=pipeline), numbered(texts_))


# nothing required, so that a message may have none of the fields; paths of one, two and three names
LOOSE: tuple[tuple[Column, ...], ...] = (
    (a_column(name="a", path="a"), a_column("integer", name="g", path="g", default=0)),
    (a_column(name="ab", path="a.b"), a_column("date", name="j", path="j", default_sent_at=True)),
    (a_column("jsonb", name="aba", path="a.b.a"), a_column(name="gone", path="n", mask=Mask.DROP, required=True)),
    (a_column(name="t", path="n", mask=Mask.TOKEN, domain="text", vault=True), a_column(name="r", mask=Mask.REDACT)),
)
strange = st.sampled_from([{}, {"hello": "world"}, {"a": {}}, {"a": None}, {"a": {"b": None}}, {"A": 1}, {"n": None}])
odd_records = st.one_of(strange, records, st.fixed_dictionaries({"n": st.just("x")}, optional={"a": values}))
some = st.lists(st.one_of(odd_records.map(json.dumps), bodies), max_size=10)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(LOOSE), some, st.sampled_from(["message_id", "field:n", "field:a.b?"]))
def test_messages_of_another_type_come_out_as_by_themselves(
    columns: tuple[Column, ...], texts_: list[str], kind: str
) -> None:
    same(a_road(columns, ledger_key=kind), numbered(texts_))


numbers = st.sampled_from(
    ["1e131071", "-1e1000", "1e1001", "1e-1001", "9" * 1001, "0." + "1" * 1001, "1e99", "7", "1.5"]
)
trees = st.recursive(
    numbers | st.just('"E+1000"'),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]")
        | st.lists(inner, max_size=3).map(
            lambda parts: "{" + ",".join(f'"{place}":{part}' for place, part in enumerate(parts)) + "}"
        )
    ),
    max_leaves=8,
)
deep = st.sampled_from([1, 499, 500, 501, 700]).map(lambda depth: "[" * depth + "1" + "]" * depth)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(trees, trees, deep), max_size=6))
def test_documents_come_out_as_by_themselves(documents: list[str]) -> None:
    columns = (a_column("jsonb"), a_column("jsonb", name="hidden", mask=Mask.DROP))
    same(a_road(columns), numbered([f'{{"f":{text}}}' for text in documents]))


def test_only_the_strange_ones_go_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    road = a_road((a_column(),), ledger_key="field:id")
    alone: list[str] = []
    travel = road_module.Road.travel

    def noted(self: Road, message: Message) -> Row | Rejected:
        alone.append(message.message_id[-1])
        return travel(self, message)

    monkeypatch.setattr(road_module.Road, "travel", noted)
    texts_ = ['{"f":"x","id":1}', '{"hello":1,"id":2}', '{"f":"x"}', "no json", '{"f":null,"id":3}']
    entries = road.travel_together(numbered(texts_))
    assert alone == ["1", "2", "3"]
    assert [isinstance(entry, Row) for entry in entries] == [True, False, False, False, True]


def test_nobody_travels_if_nobody_comes() -> None:
    assert a_road(ALL).travel_together([]) == []
    assert a_road(LOGIN_COLUMNS).travel_together([]) == []


def test_a_usual_message_does_not_go_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The point of it all: only what is odd costs the calls of the stages, and costs its neighbours nothing."""
    road = a_road(LOGIN_COLUMNS)
    alone: list[str] = []
    travel = road_module.Road.travel

    def noted(self: Road, message: Message) -> Row | Rejected:
        alone.append(message.message_id[-2:])
        return travel(self, message)

    monkeypatch.setattr(road_module.Road, "travel", noted)
    good = login_body()
    odd = [login_body(ip="no address"), "no json", login_body(user_id=ABSENT), login_body(locale="\0")]
    entries = road.travel_together(numbered([good, odd[0], good, odd[1], odd[2], good, odd[3], good]))
    assert alone == ["01", "03", "04", "06"]
    assert [isinstance(entry, Row) for entry in entries] == [True, False, True, False, False, True, False, True]


def test_nothing_of_a_message_is_in_what_it_says() -> None:
    """Errors on the quick way are caught there; what comes out says no more than the stages do."""
    sealer = a_sealer(FakeKeys())
    road = a_road(ALL, sealer=sealer)
    texts_ = [json.dumps({"d": "Canary", name: f"Canary\0{name}"}) for name in "abcdefghijklmn"]
    shown_ = " ".join(map(repr, road.travel_together(numbered(texts_))))
    assert "Rejected(" in shown_
    assert re.search("canary", shown_, re.IGNORECASE) is None
