"""Which span sent a message: W3C's attribute, X-Ray's header, and everything that is neither."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.scripted_sqs import SENT_MS

from coatcheck.sources.sqs_message import message_of, producer_of, traced_message_of
from coatcheck.sources.sqs_wire import WireAttribute, WireMessage

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
W3C = f"00-{TRACE}-{SPAN}-01"
ROOT, PARENT = "1-5759e988-bd862e3fe1be46a994272793", "53995c3f42cd8ad8"
XRAY = f"00-{ROOT[2:].replace('-', '')}-{PARENT}"


def a_wire(text: str | None = None, header: str | None = None) -> WireMessage:
    custom = {} if text is None else {"traceparent": WireAttribute(text), "tracestate": WireAttribute("vendor=value")}
    system = {"SentTimestamp": str(SENT_MS)} | ({} if header is None else {"AWSTraceHeader": header})
    return WireMessage("id", "receipt", "body", "", system, custom)


@pytest.mark.parametrize(
    ("text", "producer"),
    [
        (W3C, W3C),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"00-{TRACE}-{SPAN}-ff", W3C),
        (f"01-{TRACE}-{SPAN}-01", W3C),
        (f"cc-{TRACE}-{SPAN}-01-what a later version adds", W3C),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"{W3C}-more", None),
        (f"{W3C} ", None),
        (f"{W3C}\n", None),
        (f" {W3C}", None),
        (W3C.upper(), None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE[1:]}-{SPAN}-01", None),
        ("anna@example.com", None),
        ("", None),
        (None, None),
    ],
)
def test_w3c(text: str | None, producer: str | None) -> None:
    assert producer_of(a_wire(text)) == producer


@pytest.mark.parametrize(
    ("header", "producer"),
    [
        (f"Root={ROOT};Parent={PARENT};Sampled=1", f"{XRAY}-01"),
        (f"Root={ROOT};Parent={PARENT};Sampled=0", f"{XRAY}-00"),
        (f"Sampled=?;Parent={PARENT};Root={ROOT}", f"{XRAY}-00"),
        (f"Root={ROOT}; Parent={PARENT}", f"{XRAY}-00"),
        (f"Self=1-00000001-{'1' * 24};Root={ROOT};Parent={PARENT};Lineage=a:0", f"{XRAY}-00"),
        (f"Root={ROOT};Sampled=1", None),
        (f"Root={ROOT};Parent={'0' * 16}", None),
        (f"Root=1-{'0' * 8}-{'0' * 24};Parent={PARENT}", None),
        (f"Root=2-{ROOT[2:]};Parent={PARENT}", None),
        (f"Root={ROOT};Parent={PARENT}a", None),
        ("Root=anna;Parent=example", None),
        ("", None),
    ],
)
def test_x_ray(header: str, producer: str | None) -> None:
    assert producer_of(a_wire(header=header)) == producer


def test_w3c_comes_before_x_ray_if_it_is_well_formed() -> None:
    header = f"Root={ROOT};Parent={PARENT};Sampled=1"
    assert producer_of(a_wire(W3C, header)) == W3C
    assert producer_of(a_wire("nonsense", header)) == f"{XRAY}-01"


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"), st.text())
def test_whatever_they_say_only_ids_go_on(text: str, header: str) -> None:
    producer = producer_of(a_wire(text, header))
    assert producer is None or re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", producer)


def test_nobody_asks_unless_it_is_traced() -> None:
    wire = a_wire(W3C)
    plain, traced = (make(wire, SENT_MS, fifo=False) for make in (message_of, traced_message_of))
    assert (plain.producer, traced.producer) == (None, W3C)
    assert traced_message_of(a_wire("x"), SENT_MS, fifo=False) == message_of(a_wire("x"), SENT_MS, fifo=False)
    assert W3C not in repr(traced)
