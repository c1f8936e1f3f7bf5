"""Sealing many values is so many seals: bound to their contexts, under fresh nonces, within a data key's limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.builders import FakeKeys, stored_key

from coatcheck.keys import Opener, Sealer
from coatcheck.keys.derive import lp


@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=40))), st.integers(1, 7))
def test_each_opens_with_its_own_context(values: list[tuple[bytes, bytes]], most: int) -> None:
    keys = FakeKeys()
    sealer = Sealer(keys, max_values=most)
    sealed = sealer.seal_many([plain for plain, _ in values], [lp(context) for _, context in values])
    opener = Opener(keys)
    assert [opener.open(one, stored_key(one.dek_id), c) for one, (_, c) in zip(sealed, values, strict=True)] == [
        plain for plain, _ in values
    ]
    assert keys.drawn == -(-len(values) // most), "no data key is used beyond its limit"
    assert len({(one.dek_id, one.nonce) for one in sealed}) == len(values)


def test_it_goes_on_where_seal_left_off() -> None:
    keys = FakeKeys()
    sealer = Sealer(keys, max_values=5)
    sealer.seal(b"x")
    sealed = sealer.seal_many([b"y"] * 6, [lp(b"c")] * 6)
    assert [int.from_bytes(one.dek_id) for one in sealed] == [1, 1, 1, 1, 2, 2]
    assert [int.from_bytes(sealer.seal(b"z").dek_id) for _ in range(4)] == [2, 2, 2, 3]


def test_the_last_value_of_a_data_key_is_sealed_under_it() -> None:
    sealer = Sealer(FakeKeys(), max_values=2)
    sealer.seal(b"x")
    assert [int.from_bytes(one.dek_id) for one in sealer.seal_many([b"y"], [b""])] == [1]


def test_every_nonce_has_the_96_bits_of_gcm() -> None:
    """The library takes longer ones, too; of those, GCM uses a hash."""
    sealed = Sealer(FakeKeys()).seal_many([b"x"] * 3, [b""] * 3)
    assert [len(one.nonce) for one in sealed] == [12, 12, 12]


def test_a_value_without_a_context_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="zip"):
        Sealer(FakeKeys()).seal_many([b"x", b"y"], [b""])


def test_a_data_key_that_is_too_old_is_not_used() -> None:
    now = [0.0]
    keys = FakeKeys()
    sealer = Sealer(keys, clock=lambda: now[0], max_age=10.0)
    sealer.seal_many([b"x"], [b""])
    now[0] = 10.0
    sealer.seal_many([b"x"], [b""])
    assert keys.drawn == 2
