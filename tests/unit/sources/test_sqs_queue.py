"""What is sent to a queue and what is said of one: the parts without a socket."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.builders import a_ledger_hash, a_message

from coatcheck.errors import ConfigError
from coatcheck.pipeline.keying import ORIGIN_ATTRIBUTE, keyer, read_origin
from coatcheck.sources.sqs_queue import MAX_BYTES, batches, file_entries, queue_findings

MOST = MAX_BYTES - 256
LINES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)


def entries(lines: list[str], *, as_new: bool = False) -> list[dict[str, Any]]:
    return list(file_entries(lines, as_new=as_new))


def origins(lines: list[str]) -> list[str]:
    return [entry["MessageAttributes"][ORIGIN_ATTRIBUTE]["StringValue"] for entry in entries(lines)]


# -- a file of bodies


def test_each_line_is_a_body_as_it_stands() -> None:
    lines = ['{"a": 1}\n', " padded \r\n", "no json\n", "ä\U0001f600\n", "last"]
    assert [entry["MessageBody"] for entry in entries(lines)] == [
        '{"a": 1}',
        " padded ",
        "no json",
        "ä\U0001f600",
        "last",
    ]


def test_blank_lines_are_left_out() -> None:
    assert entries(["\n", "", "  \n", "\t\r\n", "\u2003\n"]) == []
    assert origins(["\n", "a\n", "\n"]) == origins(["a"])


def test_an_entry_carries_its_key_as_a_string_attribute() -> None:
    (entry,) = entries(["a"])
    attribute = entry["MessageAttributes"][ORIGIN_ATTRIBUTE]
    assert attribute == {"DataType": "String", "StringValue": attribute["StringValue"]}
    assert read_origin(attribute["StringValue"], 5) == (attribute["StringValue"], 5)  # the source knows the form


def test_as_new_there_is_no_key() -> None:
    assert entries(["a\n", "a\n"], as_new=True) == [{"MessageBody": "a"}, {"MessageBody": "a"}]


@given(st.lists(LINES, max_size=12))
def test_the_same_file_again_has_the_same_keys_and_no_key_stands_twice(lines: list[str]) -> None:
    keys = origins(lines)
    assert keys == origins([line + "\n" for line in lines])
    assert len(set(keys)) == len(keys) == sum(bool(line.strip()) for line in lines)


@given(st.permutations(["a", "b", "a", "c", "a", "b"]))
def test_the_order_of_the_lines_does_not_matter(lines: list[str]) -> None:
    assert set(origins(lines)) == set(origins(["a", "a", "a", "b", "b", "c"]))


def test_a_line_repeated_in_a_file_is_a_message_of_its_own() -> None:
    """Two genuine logins may be equal to the last character; and a longer file has the shorter one's messages."""
    assert origins(["a", "b", "a"])[::2] == origins(["a", "a"])
    assert origins(["a"] * 5)[:3] == origins(["a"] * 3)


def test_keys_lead_to_distinct_ledger_entries() -> None:
    key = keyer("message_id", a_ledger_hash())
    found = {key(a_message(origin=origin), None) for origin in origins(["a", "a", "b", "a\u0301", "á"])}
    assert len(found) == 5


@pytest.mark.parametrize(
    ("line", "fits"),
    [("x" * MOST, True), ("x" * (MOST + 1), False), ("ä" * (MOST // 2), True), ("ä" * (MOST // 2 + 1), False)],
    ids=["ascii", "ascii+1", "utf8", "utf8+1"],
)
def test_a_line_that_sqs_cannot_take_is_refused_by_its_number(line: str, fits: bool) -> None:  # noqa: FBT001 - of the table
    if fits:
        assert len(entries([line])) == 1
        return
    for as_new in (True, False):
        with pytest.raises(ConfigError) as caught:
            entries(["good\n", "\n", line + "\n"], as_new=as_new)
        text = caught.value.message + caught.value.hint + str(caught.value)
        assert "line 3 is larger than SQS takes" in text
        assert line[:4] not in text


def test_what_is_no_text_is_refused_by_its_number() -> None:
    with pytest.raises(ConfigError, match="line 2") as caught:
        entries(["good\n", 'secret \ud800"\n'])
    assert "secret" not in caught.value.message + caught.value.hint


def test_entries_come_one_by_one() -> None:
    """A file may be larger than memory."""

    def endless() -> Any:
        while True:
            yield "a\n"

    first = file_entries(endless(), as_new=False)
    assert len({next(first)["MessageAttributes"][ORIGIN_ATTRIBUTE]["StringValue"] for _ in range(100)}) == 100


# -- batches


def sized(entry: dict[str, Any]) -> int:
    """The bytes of an entry, as SQS counts them: body, and names, types and values of attributes."""
    attributes = entry.get("MessageAttributes", {}).items()
    extra = sum(len(name) + len(value["DataType"]) + len(value["StringValue"]) for name, value in attributes)
    return len(entry["MessageBody"].encode()) + extra


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(["a", "b" * 1000, "c" * 104_000, "d" * 105_000, "ä" * 200_000, "e" * MOST]), max_size=40),
    st.booleans(),
)
def test_batches_keep_order_and_bounds(lines: list[str], as_new: bool) -> None:  # noqa: FBT001 - drawn by hypothesis
    everything = entries(lines, as_new=as_new)
    cut = list(batches(everything))
    assert [entry for batch in cut for entry in batch] == everything
    for batch in cut:
        assert 1 <= len(batch) <= 10
        assert sum(map(sized, batch)) <= MAX_BYTES
    for one, following in pairwise(cut):  # and none is smaller than it must be
        assert len(one) == 10 or sum(map(sized, one)) + sized(following[0]) > MAX_BYTES


def test_the_largest_line_fits_into_a_batch_with_its_key() -> None:
    assert sized(entries(["x" * MOST])[0]) <= MAX_BYTES


def test_no_entries_make_no_batch() -> None:
    assert list(batches([])) == []
    assert [len(batch) for batch in batches(entries(["a"] * 25))] == [10, 10, 5]


# -- what `check` says of a queue

DLQ = json.dumps({"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:000000000000:dead", "maxReceiveCount": 5})


def findings(batch_s: float = 0.2, **attributes: str) -> list[tuple[str, str]]:
    found = list(queue_findings(attributes, batch_s=batch_s))
    assert all(finding.component == "queue" and finding.hint for finding in found)
    return [(finding.level, finding.what) for finding in found]


def test_a_good_queue_has_no_findings() -> None:
    assert findings(VisibilityTimeout="30", RedrivePolicy=DLQ) == []
    assert findings(RedrivePolicy=DLQ) == []  # 30 s is what SQS gives a queue
    assert findings(VisibilityTimeout="10", RedrivePolicy=DLQ.replace("5}", '"3"}')) == []


@pytest.mark.parametrize(
    ("visibility", "batch_s", "level"),
    [
        ("2", 1, "error"),
        ("3", 1, "advice"),
        ("9", 0.2, "advice"),
        ("10", 0.2, None),
        ("179", 60, "error"),
        ("180", 60, None),
    ],
)
def test_the_visibility_timeout_must_outlast_a_batch(visibility: str, batch_s: float, level: str | None) -> None:
    found = findings(batch_s, VisibilityTimeout=visibility, RedrivePolicy=DLQ)
    assert [finding[0] for finding in found] == ([level] if level else [])
    assert all(f"visibility timeout of {visibility} s" in what for _, what in found)


def test_a_queue_that_hides_nothing_is_unwise_only() -> None:
    """`run` hides messages for 30 s by itself then."""
    ((level, what),) = findings(0.2, VisibilityTimeout="0", RedrivePolicy=DLQ)
    assert level == "advice"
    assert "0 s" in what
    assert [level for level, _ in findings(11, VisibilityTimeout="0", RedrivePolicy=DLQ)] == ["error"]


def test_a_queue_without_a_dead_letter_queue_is_unwise() -> None:
    advice = [("advice", "the queue has no dead-letter queue")]
    assert findings() == findings(RedrivePolicy="") == advice


@pytest.mark.parametrize(
    "policy",
    [DLQ.replace("5}", "2}"), DLQ.replace("5}", '"1"}'), "{}", "[]", "no json", '{"maxReceiveCount": 0}'],
)
def test_few_receives_are_unwise(policy: str) -> None:
    ((level, what),) = findings(RedrivePolicy=policy)
    assert level == "advice"
    assert "maxReceiveCount is below 3" in what
