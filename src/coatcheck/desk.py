"""What officers do at the desk: it takes keys and database at once. Part of the composition root."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from coatcheck import custody, keyring
from coatcheck.config import Config
from coatcheck.errors import ConfigError
from coatcheck.keys import TOKEN_PATTERN, Form, FormError, LoaderKeys, Tokenizer
from coatcheck.keys.siv import SEALED_PATTERN
from coatcheck.pipeline.mask import form_of
from coatcheck.sql import register
from coatcheck.sql.connection import connect, translated
from coatcheck.vault.register import forms_of_keys, hold
from coatcheck.vault.reveal import Asked, Desk, Original, Request, Unsealer

QUARANTINE = "quarantine:"
"""In front of the id of a quarantined message that is asked for."""


@contextmanager
def _desk(config: Config) -> Iterator[Desk]:
    with connect(custody.dsn(config)) as connection:
        yield Desk(connection)


def request(config: Config, items: Sequence[str], *, reason: str, ticket: str, break_glass: bool = False) -> Asked:
    """Ask for the originals of tokens, or of quarantined messages (quarantine:ID).

    What is no such item is found here, and never leaves this process: it may be a value that somebody took for a token.
    Raises ConfigError, RefusedError, UnreachableError.
    """
    for place, item in enumerate(items, start=1):
        _refuse_other_items(place, item)
    with _desk(config) as desk:
        return desk.request(items, reason, ticket, break_glass=break_glass)


def _refuse_other_items(place: int, item: str) -> None:
    number = item.removeprefix(QUARANTINE)
    if TOKEN_PATTERN.fullmatch(item) or (item != number and number.isascii() and number.isdigit()):
        return
    if SEALED_PATTERN.fullmatch(item):
        raise ConfigError(
            f"item {place} is a sealed text, which has no original in the vault",
            hint="who holds the token root opens it: `from coatcheck import Tokenizer`",
        )
    hint = "copy it whole, as it stands in the table; `coatcheck find` gives the token of a value"
    raise ConfigError(f"item {place} is no token", hint=hint)


def approve(config: Config, request_id: int) -> int:
    """Approve a request as this database user; return how many approvals it still waits for."""
    with _desk(config) as desk:
        return desk.approve(request_id)


def deny(config: Config, request_id: int) -> None:
    """Deny a request, or take one's own back."""
    with _desk(config) as desk:
        desk.deny(request_id)


def requests(config: Config, most: int) -> list[Request]:
    """Return the requests that this user may know of, the newest first."""
    with _desk(config) as desk:
        return desk.requests(most)


def items(config: Config, request_id: int) -> list[str]:
    """Return what a request is for. Raises ConfigError: this user knows of no such request."""
    with _desk(config) as desk:
        found = desk.items(request_id)
    if not found:
        raise ConfigError(f"there is no request {request_id} for this user", hint="see `coatcheck reveal list`")
    return found


def reveal(config: Config, request_id: int, show: Callable[[list[Original]], None]) -> list[Original]:
    """Open an approved request and hand its originals to `show`; return them.

    Everything that can go wrong with keys is looked at before the opening is on the trail. Raises ConfigError,
    RefusedError, UnreachableError, and what `show` raises.
    """
    keys = keyring.loader_keys(config, role="revealer")
    opener = custody.opener(config)
    keyring.hold(config, keys, every=False)
    forms = _forms(config)
    with _desk(config) as desk:
        _refuse_unknown_keys(keys, desk.items(request_id))
        desk.open(request_id)
        tokenizers = {kid: custody.tokenizer(keys, kid) for kid in keys.kids}
        unsealer = Unsealer(opener, tokenizers, forms)
        return desk.reveal(request_id, unsealer, show)


def _forms(config: Config) -> dict[str, Form]:
    """Return the form of every domain that has tokens in this database, whichever pipeline loads them."""
    with connect(custody.dsn(config)) as connection, translated("read the register of pipelines"):
        columns = register.all_columns(register.tables(connection))
    return {column.domain: form_of(column) for column in columns if column.scheme == "pt1"}


def _refuse_unknown_keys(keys: LoaderKeys, wanted: Sequence[str]) -> None:
    kids = {match[2] for match in map(TOKEN_PATTERN.fullmatch, wanted) if match}
    if unknown := sorted(kids - set(keys.kids)):
        raise ConfigError(
            f"the keyring has no {', '.join(unknown)}: originals could not be held against their tokens",
            hint="bring the keyring that the loaders use: `coatcheck keys list`",
        )


def find(config: Config, value: str, *, domain: str, reason: str, ticket: str) -> dict[str, str]:
    """Return the token of a value by key id, the active one first; on the trail, and without the value.

    Raises ConfigError: no column has the domain, or the value has no canonical form; RefusedError, UnreachableError.
    """
    keys, known = keyring.loader_keys(config, role="revealer"), _forms(config)
    if domain not in known:
        raise ConfigError("no column has tokens of this domain", hint=f"this database has {', '.join(sorted(known))}")
    with connect(custody.dsn(config)) as connection:
        hold(connection, custody.keyring_id(keys))
        forms = forms_of_keys(connection, keys.kids, domain, known[domain])
        tokens = {kid: _token(custody.tokenizer(keys, kid), domain, value, form) for kid, form in forms.items()}
        Desk(connection).record_find(domain, reason, ticket)
    return tokens


def _token(tokenizer: Tokenizer, domain: str, value: str, form: Form) -> str:
    try:
        return tokenizer.token(domain, value, form)
    except FormError as error:
        hint = "an address is written as in the messages; see parse and strip_chars in [columns]"
        raise ConfigError(f"the value has no token in the domain {domain}: {error.reason}", hint=hint) from None


def policy(config: Config) -> dict[str, Any]:
    """Return what the desk allows, by option."""
    with _desk(config) as desk:
        return desk.policy()


def set_policy(config: Config, name: str, value: str) -> None:
    """Change what the desk allows; for the owner of the schema."""
    with _desk(config) as desk:
        desk.set_policy(name, value)
