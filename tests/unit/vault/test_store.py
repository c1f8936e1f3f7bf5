"""The road's side of the vault: what of a batch is kept, once, and what is remembered of it and when."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.pretty import pretty_repr
from tests.support.builders import (
    KID,
    LEDGER_ROOT,
    TENANT,
    FakeKeys,
    a_column,
    a_ledger_hash,
    a_message,
    a_sealer,
    a_tokenizer,
    stored_key,
)

from coatcheck.keys import Opener, OpenError, Tokenizer
from coatcheck.keys.derive import lp
from coatcheck.keys.forms import Form
from coatcheck.pipeline.columns import Column, Mask, Parse
from coatcheck.pipeline.mask import form_of
from coatcheck.pipeline.message import Alias, Batch, Row, VaultEntry
from coatcheck.pipeline.road import Road
from coatcheck.vault.store import VaultStore, framed_contexts, vault_context

EPOCH = 20263
NAME = a_column("text", name="name", path="name", parse=Parse.TEXT, mask=Mask.TOKEN, domain="name", vault=True)
ADDRESS = a_column("text", name="ip", path="ip", parse=Parse.IP, mask=Mask.TOKEN, domain="ip", vault=True)
NETWORK = a_column("text", name="net", path="ip", parse=Parse.IP, mask=Mask.SUBNET, domain="net")
NOTE = a_column("text", name="note", path="note", parse=Parse.TEXT, mask=Mask.SEAL, domain="note")
LOOSE = a_column("text", name="loose", path="loose", parse=Parse.TEXT, mask=Mask.TOKEN, domain="loose")
KEPT = a_column("text", name="kept", path="kept")
COLUMNS = (KEPT, NAME, ADDRESS, NETWORK, NOTE, LOOSE)
RETIRING = Tokenizer(LEDGER_ROOT, tenant=TENANT, kid="k0")
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda text: text.strip() != ""
)


def a_store(columns: Sequence[Column] = COLUMNS, **options: Any) -> VaultStore:
    return VaultStore(columns=columns, sealer=a_sealer(), epoch=options.pop("epoch", lambda: EPOCH), **options)


def rows(*records: Mapping[str, object], columns: Sequence[Column] = COLUMNS, rotating: bool = False) -> list[Row]:
    """Take records down the road; there is none that is rejected."""
    road = Road(
        columns=columns, tokenizer=a_tokenizer(), ledger_hash=a_ledger_hash(), sealer=a_sealer(), rotating=rotating
    )
    travelled = [road.travel(a_message(json.dumps(record))) for record in records]
    assert all(isinstance(row, Row) for row in travelled), travelled
    return [row for row in travelled if isinstance(row, Row)]


def kept(store: VaultStore, *records: Mapping[str, object], columns: Sequence[Column] = COLUMNS, **road: bool) -> Batch:
    batch = Batch(rows(*records, columns=columns, **road))
    store.keep(batch)
    return batch


def token(value: object, column: Column = NAME) -> str:
    return a_tokenizer().token(column.domain, value, form_of(column))


def old(value: object, column: Column = NAME, form: Form | None = None) -> str:
    return RETIRING.token(column.domain, value, form or form_of(column))


def tokens(batch: Batch) -> list[str]:
    return [entry.token for entry in batch.vault]


def original(entry: VaultEntry, *, token: str = "", epoch: int = 0) -> str:
    context = vault_context(token or entry.token, epoch or entry.epoch)
    return Opener(FakeKeys()).open(entry.sealed, stored_key(entry.sealed.dek_id), *context).decode()


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_each_distinct_token_once_in_order() -> None:
    batch = kept(a_store(), *({"name": name, "ip": "192.0.2.1"} for name in ("Ada", "Bob", "Ada", " Ada ", "Cleo")))
    expected = sorted([*map(token, ("Ada", "Bob", "Cleo")), token("192.0.2.1", ADDRESS)])
    assert tokens(batch) == expected
    assert {entry.epoch for entry in batch.vault} == {EPOCH}
    assert batch.aliases == []


def test_nothing_is_kept_of_what_is_absent() -> None:
    batch = kept(a_store(), {"kept": None}, {"name": None}, {"kept": "x", "note": "y", "loose": "z"})
    assert (batch.vault, batch.aliases) == ([], [])


def test_without_a_vault_nothing_is_kept() -> None:
    columns = (KEPT, NETWORK, NOTE, LOOSE)
    store = a_store(columns)
    batch = kept(store, {"ip": "192.0.2.1", "note": "x", "loose": "y"}, columns=columns)
    assert store.seals_each == 0
    assert (batch.vault, batch.aliases) == ([], [])
    assert batch.rows[0].originals == ()


def test_columns_that_are_dropped_shift_no_other() -> None:
    dropped = a_column("text", name="gone", path="gone", mask=Mask.DROP)
    columns = (dropped, KEPT, dropped, NAME, dropped, ADDRESS)
    batch = kept(a_store(columns), {"gone": "x", "kept": "y", "name": "Ada", "ip": "192.0.2.1"}, columns=columns)
    assert {original(entry) for entry in batch.vault} == {"Ada", "192.0.2.1"}
    assert set(tokens(batch)) == {token("Ada"), token("192.0.2.1", ADDRESS)}


def test_the_first_spelling_is_kept_as_it_came() -> None:
    columns = (a_column("text", name="name", path="name", mask=Mask.TOKEN, domain="name", vault=True, casefold=True),)
    batch = kept(a_store(columns), {"name": " Ådá\u0301 "}, {"name": "ådá\u0301"}, columns=columns)
    assert [original(entry) for entry in batch.vault] == [" Ådá\u0301 "]


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (-7, "-7"), (10**30, f"1{'0' * 30}"), ("7", "7"), ("é", "é")])
def test_what_is_opened_gives_its_token_again(value: object, text: str) -> None:
    [entry] = kept(a_store(), {"name": value}).vault
    assert original(entry) == text
    assert token(original(entry)) == entry.token


@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_every_original_opens_for_its_own_token_and_epoch_only(names: list[str]) -> None:
    batch = kept(a_store(), *({"name": name} for name in names))
    first = {token(name): name for name in reversed(names)}
    assert {entry.token: original(entry) for entry in batch.vault} == first
    for entry in batch.vault:
        for other in {*first, token("another")} - {entry.token}:
            with pytest.raises(OpenError):
                original(entry, token=other)
        for epoch in (EPOCH - 1, EPOCH + 1, 2026):
            with pytest.raises(OpenError):
                original(entry, epoch=epoch)


def test_two_columns_of_one_domain_share_their_entries() -> None:
    twin = a_column("text", name="twin", path="twin", mask=Mask.TOKEN, domain="name", vault=True)
    columns = (NAME, twin)
    batch = kept(a_store(columns), {"name": "Ada", "twin": "Ada"}, {"twin": "Bob"}, {"name": "Bob"}, columns=columns)
    assert tokens(batch) == sorted(map(token, ("Ada", "Bob")))
    assert {original(entry) for entry in batch.vault} == {"Ada", "Bob"}


# --- what is remembered -----------------------------------------------------------------------------------------------


def test_only_what_is_stored_is_remembered() -> None:
    store = a_store()
    lost = kept(store, {"name": "Ada"})
    again = kept(store, {"name": "Ada"})
    assert tokens(lost) == tokens(again) == [token("Ada")]
    store.stored(again)
    assert tokens(kept(store, {"name": "Ada"}, {"name": "Bob"})) == [token("Bob")]


def test_another_epoch_keeps_all_anew() -> None:
    now = [EPOCH]
    store = a_store(epoch=lambda: now[0])
    store.stored(kept(store, {"name": "Ada"}))
    assert kept(store, {"name": "Ada"}).vault == []
    now[0] = EPOCH + 1
    [entry] = kept(store, {"name": "Ada"}).vault
    assert (entry.epoch, original(entry)) == (EPOCH + 1, "Ada")


def test_what_is_stored_late_in_the_old_epoch_is_not_in_the_new_one() -> None:
    now = [EPOCH]
    store = a_store(epoch=lambda: now[0])
    late = kept(store, {"name": "Ada"})
    now[0] = EPOCH + 1
    store.stored(kept(store, {"name": "Bob"}))
    store.stored(late)
    assert tokens(kept(store, {"name": "Ada"}, {"name": "Bob"})) == [token("Ada")]


def test_an_erasure_makes_forget_and_an_older_snapshot_teaches_nothing() -> None:
    store = a_store()
    store.stored(kept(store, {"name": "Ada"}), erasures=2)
    late = kept(store, {"name": "Bob"})
    assert tokens(kept(store, {"name": "Ada"})) == []
    store.stored(kept(store, {"name": "Eve"}), erasures=3)
    store.stored(late, erasures=2)
    left = kept(store, {"name": "Ada"}, {"name": "Bob"}, {"name": "Eve"})
    assert tokens(left) == sorted(map(token, ("Ada", "Bob")))


def test_what_was_left_out_before_an_erasure_was_known_is_missed() -> None:
    store = a_store()
    first = kept(store, {"name": "Ada"})
    assert not store.missed(first, 5), "nothing was left out"
    store.stored(first, erasures=5)
    one, other = kept(store, {"name": "Ada"}), kept(store, {"name": "Ada"})
    assert tokens(one) == []
    assert not store.missed(one, 5)
    assert store.missed(one, 6)
    assert store.missed(other, 6), "although it is known by now"
    again = kept(store, {"name": "Ada"})
    assert tokens(again) == [token("Ada")]
    assert not store.missed(again, 6)


@given(st.integers(2, 9), st.lists(st.integers(0, 30), max_size=120))
def test_memory_is_bounded_and_never_wrong(remember: int, names: list[int]) -> None:
    """Whatever comes: what is not stored is kept, and no more than `remember` tokens and one batch are remembered."""
    store, stored = a_store(remember=remember), set[str]()
    for name in names:
        batch = kept(store, {"name": name})
        assert token(name) in stored or tokens(batch) == [token(name)]
        store.stored(batch)
        stored.add(token(name))
        assert len(store._recent) + len(store._older) <= remember + 1


def test_what_comes_often_is_not_forgotten() -> None:
    store, seals = a_store(remember=10), 0
    for number in range(500):
        batch = kept(store, {"name": "often"}, {"name": number})
        seals += token("often") in tokens(batch)
        store.stored(batch)
    assert seals == 1


def test_large_batches_are_remembered_within_their_size() -> None:
    store = a_store(remember=10)
    for start in range(0, 1000, 100):
        store.stored(kept(store, *({"name": number} for number in range(start, start + 100))))
    assert len(store._recent) + len(store._older) <= 200


# --- while a key retires ----------------------------------------------------------------------------------------------


def rotated(
    *records: Mapping[str, object], columns: Sequence[Column] = COLUMNS, store: VaultStore | None = None, **options: Any
) -> Batch:
    store = store or a_store(columns, retiring=RETIRING, **options)
    return kept(store, *records, columns=columns, rotating=True)


def test_every_text_under_a_key_gets_its_alias() -> None:
    record: dict[str, object] = {"name": "Ada", "ip": "192.0.2.1", "note": "secret", "loose": "Eve", "kept": "x"}
    batch = rotated(record, record)
    seal = (tokenizer.seal_for("note", form_of(NOTE))("secret") for tokenizer in (RETIRING, a_tokenizer()))
    assert sorted(batch.aliases) == sorted(
        [
            Alias(old("Ada"), token("Ada")),
            Alias(old("192.0.2.1", ADDRESS), token("192.0.2.1", ADDRESS)),
            Alias(old("192.0.2.1", NETWORK), token("192.0.2.1", NETWORK)),
            Alias(old("Eve", LOOSE), token("Eve", LOOSE)),
            Alias(*seal),
        ]
    )
    assert {original(entry) for entry in batch.vault} == {"Ada", "192.0.2.1"}


def test_only_what_the_vault_keeps_is_sealed() -> None:
    assert a_store().seals_each == a_store(retiring=RETIRING).seals_each == 2


def test_aliases_that_are_stored_are_not_written_again() -> None:
    store = a_store(retiring=RETIRING)
    batch = rotated({"name": "Ada", "loose": "Eve", "note": "n"}, store=store)
    assert len(batch.aliases) == 3
    store.stored(batch)
    again = rotated({"name": "Ada", "loose": "Eve", "note": "n"}, {"loose": "Bob"}, store=store)
    assert (again.vault, again.aliases) == ([], [Alias(old("Bob", LOOSE), token("Bob", LOOSE))])


def test_aliases_that_are_not_stored_are_written_again() -> None:
    store = a_store(retiring=RETIRING)
    first, second = (rotated({"loose": "Eve"}, store=store) for _ in range(2))
    assert first.aliases == second.aliases != []


@pytest.mark.parametrize("first", ["with", "without"])
def test_a_column_without_a_vault_takes_nothing_from_one_with_it(first: str) -> None:
    """Two columns of one domain, of which one keeps originals: in whatever order a value comes, its original is kept.

    And a value that came in the column without a vault only has no entry.
    """
    mute = a_column("text", name="mute", path="mute", mask=Mask.TOKEN, domain="name")
    columns = (mute, NAME) if first == "without" else (NAME, mute)
    store = a_store(columns, retiring=RETIRING)
    batch = rotated({"mute": "Ada"}, {"mute": "Ada", "name": "Ada"}, {"mute": "Bob"}, columns=columns, store=store)
    assert tokens(batch) == [token("Ada")]
    assert batch.aliases == sorted(Alias(old(name), token(name)) for name in ("Ada", "Bob"))
    store.stored(batch)
    later = rotated({"mute": "Ada"}, {"name": "Bob"}, {"mute": "Bob"}, {"name": "Ada"}, columns=columns, store=store)
    assert tokens(later) == [token("Bob")]


def test_old_tokens_are_made_in_the_form_frozen_for_the_old_key() -> None:
    folded = a_column("text", name="name", path="name", mask=Mask.TOKEN, domain="name", vault=True, casefold=True)
    [alias] = rotated({"name": "Ada"}, columns=(folded,), old_forms={"name": Form("text")}).aliases
    assert alias == Alias(old("Ada", form=Form("text")), token("ada", folded))


def test_every_old_spelling_of_a_coarser_form_gets_its_alias() -> None:
    """Under the old key they are values of their own; their rows must join the new token's group when it is there."""
    folded = a_column("text", name="name", path="name", mask=Mask.TOKEN, domain="name", vault=True, casefold=True)
    store = a_store((folded,), retiring=RETIRING, old_forms={"name": Form("text")})
    batch = rotated({"name": "Ada"}, {"name": "ADA"}, {"name": "Ada"}, columns=(folded,), store=store)
    new = token("ada", folded)
    assert tokens(batch) == [new]
    assert sorted(batch.aliases) == sorted(Alias(old(name, form=Form("text")), new) for name in ("Ada", "ADA"))
    store.stored(batch)
    later = rotated({"name": "ada"}, {"name": "ADA"}, columns=(folded,), store=store)
    assert (later.vault, later.aliases) == ([], [Alias(old("ada", form=Form("text")), new)])


def test_what_had_no_old_form_has_no_alias() -> None:
    """It was rejected under the old key: no row has an old token. It must not stop the road now."""
    batch = rotated({"name": "--"}, {"name": "Ada"}, old_forms={"name": Form("text", strip_chars="-")})
    assert [alias.new for alias in batch.aliases] == [token("Ada")]
    assert {original(entry) for entry in batch.vault} == {"--", "Ada"}


def test_what_was_too_long_under_the_old_form_has_no_alias() -> None:
    short = a_column(
        "varchar(93)", name="note", path="note", parse=Parse.TEXT, mask=Mask.SEAL, domain="note", strip_chars="-"
    )
    batch = rotated({"note": f"a{'-' * 60}b"}, columns=(short,), old_forms={"note": Form("text")})
    assert (batch.vault, batch.aliases) == ([], [])


@given(
    st.lists(st.tuples(st.text("aA-", min_size=1, max_size=3), st.booleans()), max_size=30),
    st.sampled_from([Form("text"), Form("text", casefold=True), Form("text", strip_chars="-")]),
    st.integers(2, 8),
)
def test_no_new_token_comes_without_the_alias_of_its_value(
    arrivals: list[tuple[str, bool]], form: Form, remember: int
) -> None:
    """Batches of one that are committed or lost: at no moment is there a row whose value's old token has no alias."""
    options: dict[str, Any] = {"casefold": True, "strip_chars": "-"}
    folded = a_column("text", name="name", path="name", mask=Mask.TOKEN, domain="name", vault=True, **options)
    store = a_store((folded,), retiring=RETIRING, old_forms={"name": form}, remember=remember)
    arrivals = [arrival for arrival in arrivals if arrival[0].strip("-")]
    aliases: dict[str, str] = {}
    vault: set[str] = set()
    for name, committed in arrivals:
        batch = Batch(rows({"name": name}, columns=(folded,), rotating=True))
        store.keep(batch)
        if not committed:
            continue
        store.stored(batch)
        for alias in batch.aliases:
            assert aliases.setdefault(alias.old, alias.new) == alias.new
        vault |= set(tokens(batch))
        assert batch.rows[0].values[0] in vault
        assert aliases[RETIRING.token("name", name, form)] == batch.rows[0].values[0]


# --- what is not shown ------------------------------------------------------------------------------------------------


def test_no_original_shows(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    record: dict[str, object] = {"name": "canary-name", "ip": "203.0.113.77", "note": "canary-note", "loose": "canary"}
    store = a_store(retiring=RETIRING, old_forms={"name": Form("text", strip_chars="-")})
    batch = rotated(record, store=store)
    store.stored(batch)
    shows: list[Callable[[object], str]] = [repr, str, pretty_repr]
    shown = [show(thing) for show in shows for thing in (store, batch, *batch.rows, *batch.vault, *batch.aliases)]
    text = "\n".join([*shown, caplog.text])
    assert "canary" not in text
    assert "203.0.113" not in text


def test_a_sealer_that_fails_shows_no_original() -> None:
    class Broken(FakeKeys):
        def new_data_key(self) -> Any:
            raise OpenError("a data key")

    store = VaultStore(columns=COLUMNS, sealer=a_sealer(Broken()), epoch=lambda: EPOCH)
    batch = Batch(rows({"name": "canary-name"}))
    with pytest.raises(OpenError) as caught:
        store.keep(batch)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert batch.vault == []
    assert KID == "k1"


def test_framed_contexts_are_the_frames_of_the_contexts() -> None:
    tokens = ["pt1_ip_k1_" + "0" * 40, "pt1_device_k1_" + "1" * 40, "x"]
    assert framed_contexts(tokens, 20264) == [lp(*vault_context(token, 20264)) for token in tokens]


def test_the_context_never_changes() -> None:
    """What is sealed under another one would not open any more."""
    assert vault_context("pt1_ip_k1_0", 20264) == (b"coatcheck/vault/v1", b"pt1_ip_k1_0", b"\x00\x00\x4f\x28")
