from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import CoatcheckError, UnreachableError
from coatcheck.keys import LoaderKeys, Opener, OpenerKeys, OpenError, Sealer, sealing
from coatcheck.keys.derive import lp
from coatcheck.keys.sealing import pad, unpad
from coatcheck.pipeline.message import DataKey, Sealed

if TYPE_CHECKING:
    from coatcheck.pipeline.ports import BodySealer

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "golden_tokens.json").read_text())


class FakeKeys:
    """Both halves of a provider: numbers instead of random keys, the key itself as its wrapping."""

    def __init__(self, tenant: str = "default") -> None:
        self.tenant = tenant
        self.kid = "k1"
        self.kids = ("k1",)
        self.drawn = 0
        self.unwrapped = 0
        self.away = False

    def token_root(self, kid: str | None = None) -> bytes:
        raise NotImplementedError(kid)

    def ledger_root(self) -> bytes:
        raise NotImplementedError

    def describe(self) -> dict[str, str]:
        return {}

    def new_data_key(self) -> tuple[bytes, bytes, DataKey]:
        if self.away:
            raise UnreachableError("the key service is away")
        self.drawn += 1
        dek_id, key = self.drawn.to_bytes(16, "big"), self.drawn.to_bytes(32, "big")
        return dek_id, key, DataKey(dek_id, "fake", key)

    def unwrap(self, data_key: DataKey) -> bytes:
        self.unwrapped += 1
        if data_key.kek != "fake":
            raise OpenError("a data key")
        return data_key.wrapped


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


CONTEXTS = st.lists(st.binary(max_size=40), max_size=3)


def test_the_fake_fits_the_ports() -> None:
    loader: LoaderKeys = FakeKeys()
    opener: OpenerKeys = FakeKeys()
    sealer: BodySealer = Sealer(loader)
    assert Opener(opener).open(sealer.seal(b"x"), sealer.data_key(sealer.seal(b"").dek_id)) == b"x"


@given(st.binary(max_size=300), CONTEXTS)
def test_open_undoes_seal_for_any_bytes(plaintext: bytes, context: list[bytes]) -> None:
    keys = FakeKeys()
    sealer = Sealer(keys)
    sealed = sealer.seal(plaintext, *context)
    assert Opener(keys).open(sealed, sealer.data_key(sealed.dek_id), *context) == plaintext


@given(CONTEXTS, CONTEXTS)
def test_only_the_same_context_opens(one: list[bytes], other: list[bytes]) -> None:
    keys = FakeKeys()
    sealer = Sealer(keys)
    sealed = sealer.seal(b"203.0.113.77", *one)
    opener, data_key = Opener(keys), sealer.data_key(sealed.dek_id)
    if one == other:
        assert opener.open(sealed, data_key, *other) == b"203.0.113.77"
    else:
        with pytest.raises(OpenError):
            opener.open(sealed, data_key, *other)


def test_any_two_rows_swapped_do_not_open() -> None:
    keys = FakeKeys()
    sealer = Sealer(keys, max_values=2)
    rows = [(context, sealer.seal(b"v", *context)) for context in ([b"ip", b"t1"], [b"ip", b"t2"], [b"device", b"t1"])]
    opener = Opener(keys)
    for context, _ in rows:
        for other, sealed in rows:
            if other is not context:
                with pytest.raises(OpenError):
                    opener.open(sealed, sealer.data_key(sealed.dek_id), *context)


@pytest.mark.parametrize("part", ["dek_id", "nonce", "ciphertext", "short", "no nonce", "long nonce", "empty"])
def test_any_change_does_not_open(part: str) -> None:
    keys = FakeKeys()
    sealer = Sealer(keys)
    sealed = sealer.seal(b"203.0.113.77", b"ip")
    dek_id, nonce, ciphertext = sealed.dek_id, sealed.nonce, sealed.ciphertext
    changed = {
        "dek_id": Sealed(bytes(16), nonce, ciphertext),
        "nonce": Sealed(dek_id, bytes(12), ciphertext),
        "ciphertext": Sealed(dek_id, nonce, bytes([ciphertext[0] ^ 1]) + ciphertext[1:]),
        "short": Sealed(dek_id, nonce, ciphertext[:15]),
        "no nonce": Sealed(dek_id, b"", ciphertext),
        "long nonce": Sealed(dek_id, nonce * 20, ciphertext),
        "empty": Sealed(dek_id, nonce, b""),
    }[part]
    with pytest.raises(OpenError):
        Opener(keys).open(changed, sealer.data_key(dek_id), b"ip")


def test_another_tenant_or_data_key_does_not_open() -> None:
    keys = FakeKeys()
    sealer = Sealer(keys, max_values=1)
    sealed, other = sealer.seal(b"x"), sealer.seal(b"x")
    data_key = sealer.data_key(sealed.dek_id)
    with pytest.raises(OpenError):
        Opener(FakeKeys("other")).open(sealed, data_key)
    with pytest.raises(OpenError):
        Opener(keys).open(sealed, sealer.data_key(other.dek_id))
    with pytest.raises(OpenError):
        Opener(keys).open(sealed, DataKey(sealed.dek_id, "fake", bytes(32)))
    with pytest.raises(OpenError):  # the right key under another name
        Opener(keys).open(sealed, DataKey(bytes(16), "fake", data_key.wrapped))


def test_a_changed_wrapping_is_not_hidden_by_the_cache() -> None:
    keys = FakeKeys()
    sealer, opener = Sealer(keys), Opener(keys)
    sealed = sealer.seal(b"x")
    data_key = sealer.data_key(sealed.dek_id)
    assert opener.open(sealed, data_key) == b"x"
    with pytest.raises(OpenError, match="a data key does not open"):
        opener.open(sealed, DataKey(data_key.dek_id, "other", data_key.wrapped))


def test_an_error_tells_nothing_and_ends_with_1() -> None:
    keys = FakeKeys()
    sealer = Sealer(keys)
    sealed = sealer.seal(b"canary")
    with pytest.raises(CoatcheckError) as caught:
        Opener(keys).open(sealed, sealer.data_key(sealed.dek_id), b"canary")
    error = caught.value
    assert (error.message, error.exit_code) == ("a sealed value does not open", 1)
    assert (error.__context__, error.__cause__) == (None, None)


@given(st.binary(max_size=100))
def test_padding_round_trips_and_hides_the_length_within_a_step(plaintext: bytes) -> None:
    padded = pad(plaintext)
    assert unpad(padded) == plaintext
    assert len(padded) % 32 == 0
    assert len(padded) == len(pad(bytes((len(plaintext) + 4 + 31) // 32 * 32 - 4)))


def test_short_and_long_addresses_have_one_length() -> None:
    sealer = Sealer(FakeKeys())
    sizes = {len(sealer.seal(text).ciphertext) for text in (b"", b"1.1.1.1", b"255.255.255.255", b"x" * 28)}
    assert sizes == {32 + 16}
    assert len(sealer.seal(b"x" * 29).ciphertext) == 64 + 16


@given(st.binary(max_size=80))
def test_what_pad_cannot_have_made_does_not_open(padded: bytes) -> None:
    try:
        plaintext = unpad(padded)
    except OpenError:
        return
    assert pad(plaintext) == padded


@pytest.mark.parametrize(
    "padded", [b"", bytes(31), bytes(33), b"\0\0\0\x1d" + bytes(28), bytes(31) + b"\1", b"\xff" * 32]
)
def test_bad_padding_does_not_open(padded: bytes) -> None:
    with pytest.raises(OpenError):
        unpad(padded)


def test_a_data_key_lives_for_so_many_values() -> None:
    keys = FakeKeys()
    sealer = Sealer(keys, max_values=3)
    ids = [sealer.seal(b"x").dek_id for _ in range(7)]
    assert [len([other for other in ids if other == dek_id]) for dek_id in dict.fromkeys(ids)] == [3, 3, 1]
    assert all(sealer.data_key(dek_id).dek_id == dek_id for dek_id in ids)
    assert keys.drawn == 3


def test_a_data_key_lives_for_so_long() -> None:
    clock, keys = Clock(), FakeKeys()
    sealer = Sealer(keys, clock=clock)
    first = sealer.seal(b"x").dek_id
    clock.now += 3599.9
    assert sealer.seal(b"x").dek_id == first
    clock.now += 0.1
    assert sealer.seal(b"x").dek_id != first
    assert keys.drawn == 2


def test_no_key_is_drawn_before_it_is_needed() -> None:
    keys = FakeKeys()
    Sealer(keys)
    assert keys.drawn == 0


def test_with_the_key_service_away_the_old_key_is_not_used_on() -> None:
    clock, keys = Clock(), FakeKeys()
    sealer = Sealer(keys, clock=clock)
    first = sealer.seal(b"x")
    keys.away = True
    assert sealer.seal(b"x").dek_id == first.dek_id
    clock.now += 3600
    for _ in range(2):
        with pytest.raises(UnreachableError):
            sealer.seal(b"x")
    with pytest.raises(OpenError):
        sealer._encrypt(bytes(12), b"x", None)
    keys.away = False
    assert sealer.seal(b"x").dek_id != first.dek_id
    assert sealer.data_key(first.dek_id).kek == "fake"


def test_a_retired_key_seals_nothing_more() -> None:
    sealer = Sealer(FakeKeys())
    sealer.seal(b"x")
    sealer.retire()
    with pytest.raises(OpenError):
        sealer._encrypt(bytes(12), b"x", None)


def test_an_unknown_data_key_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        Sealer(FakeKeys()).data_key(bytes(16))


def test_wrapped_halves_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_DATA_KEYS_KEPT", 4)
    sealer = Sealer(FakeKeys(), max_values=1)
    ids = [sealer.seal(b"x").dek_id for _ in range(10)]
    assert list(sealer._data_keys) == ids[-4:]


def test_unwrapped_keys_are_cached_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_KEYS_CACHED", 2)
    keys = FakeKeys()
    sealer, opener = Sealer(keys, max_values=1), Opener(keys)
    rows = [(sealed := sealer.seal(b"x"), sealer.data_key(sealed.dek_id)) for _ in range(3)]
    for _ in range(3):
        opener.open(*rows[0])
    assert keys.unwrapped == 1
    for row in rows[1:]:
        opener.open(*row)
    assert (keys.unwrapped, len(opener._decrypts)) == (3, 2)
    opener.open(*rows[0])
    assert keys.unwrapped == 4


def test_nonces_do_not_repeat() -> None:
    sealer = Sealer(FakeKeys())
    sealed = [sealer.seal(b"x") for _ in range(3000)]
    assert len({value.nonce for value in sealed}) == 3000
    assert {len(value.nonce) for value in sealed} == {12}
    assert all(one.ciphertext != other.ciphertext for one, other in pairwise(sealed))


def test_a_forked_child_shares_neither_data_key_nor_nonces() -> None:
    """In a process of its own: forking a test runner with threads is no good idea."""
    program = """
import os
from coatcheck.keys import Sealer
from coatcheck.pipeline.message import DataKey

class Keys:
    tenant = "default"
    def new_data_key(self):
        dek_id, key = os.urandom(16), os.urandom(32)
        return dek_id, key, DataKey(dek_id, "fake", key)

sealer = Sealer(Keys())
sealer.seal(b"x")
pid = os.fork()
for _ in range(3):
    sealed = sealer.seal(b"x")
    line = f"{'parent' if pid else 'child'} {sealed.dek_id.hex()} {sealed.nonce.hex()}\\n"
    os.write(1, line.encode())  # one write: two processes share the pipe
if pid:
    os.waitpid(pid, 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    rows = [line.split() for line in done.stdout.splitlines()]
    deks = {name: {dek for who, dek, _ in rows if who == name} for name in ("parent", "child")}
    assert len(rows) == len({nonce for _, _, nonce in rows}) == 6
    assert not deks["parent"] & deks["child"]


def test_the_stored_form_is_aes_gcm_over_framed_context() -> None:
    """Opened by hand, from the description alone: who has the data key needs no coatcheck."""
    keys = FakeKeys()
    sealed = Sealer(keys).seal(b"203.0.113.77", b"ip", b"token")
    aad = lp("coatcheck/sealed/v1", "default", sealed.dek_id, b"ip", b"token")
    padded = AESGCM((1).to_bytes(32, "big")).decrypt(sealed.nonce, sealed.ciphertext, aad)
    assert padded == b"\0\0\0\x0c203.0.113.77" + bytes(16)


@pytest.mark.parametrize("case", GOLDEN["sealed"], ids=lambda case: str(len(case["plaintext"])))
def test_golden_sealed_values_open_for_ever(case: dict[str, str]) -> None:
    """Changing tests/data/golden_tokens.json is a breaking change: vaults hold values like these."""
    stored = GOLDEN["data_key"]
    dek_id = bytes.fromhex(stored["dek_id"])
    sealed = Sealed(dek_id, bytes.fromhex(case["nonce"]), bytes.fromhex(case["ciphertext"]))
    data_key = DataKey(dek_id, "fake", bytes.fromhex(stored["key"]))
    context = [part.encode() for part in case["context"]]
    assert Opener(FakeKeys(stored["tenant"])).open(sealed, data_key, *context).decode() == case["plaintext"]


def test_repr_shows_the_tenant_only() -> None:
    keys = FakeKeys()
    sealer = Sealer(keys)
    sealer.seal(b"canary")
    assert repr(sealer) == str(sealer) == "Sealer(tenant='default')"
    assert repr(Opener(keys)) == "Opener(tenant='default')"
