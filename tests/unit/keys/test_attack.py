"""What the key protects, and what it does not.

The spaces are those of real identifiers made small: a /16 of IPv4 and ids of the form ddd-ddd. Whoever has
the tables but not the root tests a million guesses and confirms none; whoever has the root confirms all.
Nothing but the key stands between a token and its value: the root is THE secret.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest

from coatcheck.keys import Form, Tokenizer, sha256_insecure
from coatcheck.keys.siv import seal_function

ROOT, OTHER_ROOT = bytes(range(32)), bytes(range(1, 33))
SAMPLE = 300

Guess = Callable[[object], str]


class Space(NamedTuple):
    """All values there are, as `spell` of 0 to `size` - 1, and where their tokens belong."""

    size: int
    spell: Callable[[int], str]
    domain: str
    form: Form

    def all(self) -> list[str]:
        return [self.spell(number) for number in range(self.size)]

    def sample(self) -> list[str]:
        numbers = random.Random(7).sample(range(self.size), SAMPLE)  # noqa: S311 - a sample, the same each time
        return [self.spell(number) for number in numbers]


ADDRESSES = Space(2**16, lambda number: f"203.0.{number >> 8}.{number & 255}", "ip", Form("ip"))
IDS = Space(10**6, lambda number: f"{number // 1000:03}-{number % 1000:03}", "device", Form())


def tokens(root: bytes, space: Space) -> Guess:
    """Return what computes the tokens of `space`, for who knows all but perhaps the root."""
    return Tokenizer(root, tenant="default", kid="k1").for_domain(space.domain, space.form)


def sha256_of_the_text(value: object) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()


def hits(stolen: Iterable[str], guesses: Iterable[str]) -> int:
    return len(set(stolen).intersection(guesses))


@pytest.mark.parametrize("space", [ADDRESSES, IDS], ids=["addresses", "ids"])
def test_only_the_root_confirms_a_guess(space: Space) -> None:
    stolen = set(map(tokens(ROOT, space), space.sample()))
    digests = {token[-40:] for token in stolen}
    guesses = space.all()
    assert hits(digests, (sha256_of_the_text(value)[:40] for value in guesses)) == 0
    assert hits(stolen, map(tokens(OTHER_ROOT, space), guesses)) == 0
    assert hits(stolen, map(tokens(ROOT, space), guesses)) == len(stolen) == SAMPLE


def test_a_plain_hash_is_found_without_any_key() -> None:
    """The control: the same attack against the mode `sha256-insecure` finds everything."""
    stolen = map(sha256_insecure, ADDRESSES.sample())
    assert hits(stolen, map(sha256_of_the_text, ADDRESSES.all())) == SAMPLE


def test_an_unkeyed_hash_of_the_canonical_bytes_finds_nothing() -> None:
    digests = {token[-40:] for token in map(tokens(ROOT, ADDRESSES), ADDRESSES.sample())}
    canonical = ADDRESSES.form.function()
    for unkeyed in (hashlib.sha256, lambda data: hashlib.blake2b(data, digest_size=20)):
        assert hits(digests, (unkeyed(canonical(value)).hexdigest()[:40] for value in ADDRESSES.all())) == 0


@pytest.mark.parametrize("elsewhere", [{"tenant": "acme"}, {"kid": "k2"}, {"domain": "loginip"}, {"form": Form()}])
def test_the_tokens_of_another_scope_confirm_nothing(elsewhere: dict[str, str | Form]) -> None:
    """Even under one root: who can compute the tokens of one scope cannot confirm those of another."""
    scope = {"tenant": "default", "kid": "k1", "domain": "ip", "form": ADDRESSES.form} | elsewhere
    domain, form = scope.pop("domain"), scope.pop("form")
    guess = Tokenizer(ROOT, **scope).for_domain(domain, form)  # type: ignore[arg-type]
    stolen = {token[-40:] for token in map(tokens(ROOT, ADDRESSES), ADDRESSES.sample())}
    assert hits(stolen, (guess(value)[-40:] for value in ADDRESSES.all())) == 0


@pytest.mark.parametrize(("root", "found"), [(ROOT, SAMPLE), (OTHER_ROOT, 0)], ids=["root", "another root"])
def test_sealed_texts_are_guarded_by_the_same_key(root: bytes, found: int) -> None:
    seal, guess = (
        seal_function(each, tenant="default", kid="k1", domain="ip", form=ADDRESSES.form) for each in (ROOT, root)
    )
    assert hits(map(seal, ADDRESSES.sample()), map(guess, ADDRESSES.all())) == found
