"""The desk: originals are asked for, approved, opened on the record, and held against their tokens before being shown.

Who may what is decided in the database (`sql/migrations/0003_desk.sql`), by the user who is logged in there; this is
its client. A refusal comes back as a word and is on the trail by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg.rows import class_row

from coatcheck.errors import ConfigError, RefusedError
from coatcheck.keys import Form, FormError, Opener, OpenError, Tokenizer
from coatcheck.keys.forms import parse_form
from coatcheck.pipeline.message import DataKey, Sealed
from coatcheck.sql import query
from coatcheck.sql.connection import translated
from coatcheck.vault.store import vault_context

REFUSALS: Mapping[str, tuple[str, str]] = {
    "item": (
        "what is asked for is neither all tokens nor all quarantined messages",
        "give tokens (pt1_...), or quarantine:ID of `coatcheck quarantine list`",
    ),
    "reason": ("this reason is not one of the policy's", "`coatcheck reveal policy` lists the reasons"),
    "ticket": ("this ticket does not look like one", "`coatcheck reveal policy` shows the pattern"),
    "most": ("a request is for {figure:,} originals at most", "make several requests, each with its own approval"),
    "quota": ("{figure:,} originals are left of today's quota", "wait, or have the owner change daily_items"),
    "unknown": ("{figure:,} of them are not held any more", "see `coatcheck quarantine list`"),
    "stricter": ("the policy has become stricter since it was asked for", "make another request"),
    "break-glass off": ("the policy forbids to break the glass", "ask for an approval instead"),
    "break-glass most": ("with a broken glass it is {figure:,} originals at most", "ask for an approval instead"),
    "break-glass unreviewed": (
        "your last broken glass was not reviewed yet",
        "have it reviewed: `coatcheck reveal approve ID` by an approver",
    ),
    "no request": ("there is no such request", "see `coatcheck reveal list`"),
    "self": ("nobody approves what he asked for himself", "have another approver do it, logged in as himself"),
    "twice": ("you have approved this request already", "a second approval takes a second approver"),
    "not yours": ("the request is another person's", "only who asked may open it; make a request of your own"),
    "waiting": (
        "the request waits for {figure} more approval(s)",
        "have an approver run `coatcheck reveal approve ID`",
    ),
    "approved": ("the request is approved already", "who asked may run `coatcheck reveal open ID`"),
    "expired": ("the request has expired", "make another one; `coatcheck reveal policy` shows for how long they last"),
    "denied": ("the request was denied, or taken back", "make another one, with a better reason"),
    "opened": ("the request was opened already", "see `coatcheck reveal list`"),
    "shown": ("the originals were handed out already", "make another request: each is shown once"),
    "closed": ("the opening is over", "make another request: an opening lasts minutes"),
    "domain": ("this is no domain", "domains are letters and digits: see [columns]"),
    "option": ("the policy has no such option", "`coatcheck reveal policy` lists them"),
    "value": ("the policy does not take this value", "see docs/reveal.md for what each option takes"),
    "how": ("this is no way to erase", "see `coatcheck erase --help`"),
}
"""Refusal of the database -> message and hint. The one catalogue of refusals at the desk."""


def refuse(word: str | None, figure: int | None = None) -> None:
    """Raise RefusedError for a refusal; do nothing for None."""
    if word is not None:
        message, hint = REFUSALS.get(word, (f"the database refuses: {word}", "it is newer than this coatcheck"))
        raise RefusedError(message.format(figure=figure or 0), hint=hint)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was made: its number and how many approvals it waits for."""

    request_id: int
    approvals: int


@dataclass(frozen=True, slots=True)
class Request:
    """A request as `reveal list` shows it. `state` is a word; `review` is that of a broken glass."""

    request_id: int
    state: str
    kind: str
    requested_by: str
    reason: str
    ticket: str
    items: int
    approvals: int
    approved_by: list[str]
    break_glass: bool
    review: str | None
    requested_at: datetime
    expires_at: datetime


Problem = Literal["", "planted", "damaged", "gone"]
"""Not shown since it is not the original of its token, since it does not open, or since the vault has none."""


@dataclass(frozen=True, slots=True)
class Original:
    """One item and its original; with a `problem` there is none. Its repr shows neither."""

    item: str = field(repr=False)
    text: str = field(repr=False, default="")
    problem: Problem = ""


_WHO = {"reveal_approve": "approver", "set_policy": "owner"}


@contextmanager
def _only_for(role: str) -> Iterator[None]:
    """Say who may, where the database says that this user may not."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege:
        raise RefusedError(
            "this database user may not do that", hint=f"it takes a member: GRANT coatcheck_{role} TO ..."
        ) from None


class Desk:
    """One user's way to the desk of one database. Methods raise RefusedError, UnreachableError, ConfigError."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def _ask(self, name: str, /, **parameters: object) -> tuple[Any, ...]:
        with translated("ask at the desk"), _only_for(_WHO.get(name, "revealer")):
            found = self._connection.execute(query(name), parameters).fetchone()
        return found or ()

    def request(self, items: Sequence[str], reason: str, ticket: str, *, break_glass: bool) -> Asked:
        """Ask for originals."""
        number, refusal, figure = self._ask(
            "reveal_request", items=list(items), reason=reason, ticket=ticket, break_glass=break_glass
        )
        refuse(refusal, figure)
        return Asked(number, figure)

    def approve(self, request: int) -> int:
        """Approve a request, or review a broken glass; return how many approvals it still waits for."""
        refusal, figure = self._ask("reveal_approve", request=request)
        refuse(refusal, figure)
        return int(figure)

    def deny(self, request: int) -> None:
        """Deny a request."""
        refuse(*self._ask("reveal_deny", request=request))

    def requests(self, most: int) -> list[Request]:
        """Return the requests that this user may know of, the newest first."""
        with translated("read the requests"), self._connection.cursor(row_factory=class_row(Request)) as cursor:
            return cursor.execute(query("reveal_list"), {"most": most}).fetchall()

    def items(self, request: int) -> list[str]:
        """Return what a request is for; nothing if this user may not know of it."""
        with translated("read the requests"):
            return [item for (item,) in self._connection.execute(query("reveal_items"), {"request": request})]

    def record_find(self, domain: str, reason: str, ticket: str) -> None:
        """Put on the trail that the token of a value is looked up."""
        refuse(*self._ask("record_find", domain=domain, reason=reason, ticket=ticket))

    def policy(self) -> dict[str, Any]:
        """Return what the desk allows, by option."""
        with translated("read the policy"):
            cursor = self._connection.execute(query("policy"))
            names = [column.name for column in cursor.description or ()]
            return dict(zip(names, cursor.fetchone() or (), strict=True))

    def set_policy(self, name: str, value: str) -> None:
        """Change what the desk allows."""
        refuse(*self._ask("set_policy", name=name, value=value))

    def open(self, request: int) -> None:
        """Put the opening on the trail, for good: the connection is in autocommit mode."""
        _, refusal, figure = self._ask("reveal_open", request=request)
        refuse(refusal, figure)
        self._ask("reveal_settle", request=request)

    def reveal(self, request: int, unseal: Unsealer, show: Callable[[list[Original]], None]) -> list[Original]:
        """Hand the originals of an open request to `show`; return them.

        In one transaction: if they cannot be opened or shown, nothing was handed out, and the opening can be used again
        while it lasts. Raises also what `unseal` and `show` raise.
        """
        items = self.items(request)
        with translated("fetch originals"), self._connection.transaction():
            rows = self._connection.execute(query("reveal_fetch"), {"request": request}).fetchall()
            originals = unseal(items, rows)
            show(originals)
            problems = [original.problem for original in originals]
            counts = {word: problems.count(word) for word in ("planted", "damaged", "gone")}
            self._ask("reveal_shown", request=request, shown=problems.count(""), **counts)
        return originals


class Unsealer:
    """Opens what the desk hands out, and holds each original against its token: a loader may have planted another.

    `tokenizers` are by key id, `forms` the configured ones by domain, for tokens whose form was not frozen.
    """

    def __init__(self, opener: Opener, tokenizers: Mapping[str, Tokenizer], forms: Mapping[str, Form]) -> None:
        self._opener, self._tokenizers, self._forms = opener, tokenizers, forms

    def __call__(self, items: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> list[Original]:
        """Return the original of each item. Raises UnreachableError; ConfigError: no key opens any of them."""
        kept: dict[str, list[tuple[Any, ...]]] = {item: [] for item in items}
        for item, *rest in rows:
            kept[item].append(tuple(rest))
        foreign: list[ConfigError] = []
        found = [self._best(item, each, foreign) for item, each in kept.items()]
        if foreign and all(original.problem for original in found):
            raise foreign[0]
        return found

    def _best(self, item: str, rows: Sequence[tuple[Any, ...]], foreign: list[ConfigError]) -> Original:
        """Return the true original among what is kept under an item, or what is the matter with the newest."""
        tried = [self._original(item, row, foreign) for row in rows]
        return next((one for one in tried if not one.problem), tried[0] if tried else Original(item, "", "gone"))

    def _original(self, item: str, row: tuple[Any, ...], foreign: list[ConfigError]) -> Original:
        epoch, form_id, key, nonce, ciphertext, dek_id, kek, wrapped = row
        if kek is None:  # its data key is not there
            return Original(item, "", "damaged")
        context = (key.bytes,) if key is not None else vault_context(item, epoch)
        try:
            sealed, data_key = Sealed(dek_id.bytes, nonce, ciphertext), DataKey(dek_id.bytes, kek, wrapped)
            text = self._opener.open(sealed, data_key, *context).decode("utf-8", "surrogatepass")
        except (OpenError, UnicodeDecodeError):
            return Original(item, "", "damaged")
        except ConfigError as error:  # for another key: a loader may have planted it, so the others are looked at
            foreign.append(error)
            return Original(item, "", "damaged")
        if key is None and not self._is_token_of(item, text, form_id):
            return Original(item, "", "planted")
        return Original(item, text)

    def _is_token_of(self, token: str, text: str, form_id: str | None) -> bool:
        _, domain, kid, _ = token.split("_")
        try:
            form = parse_form(form_id) if form_id is not None else self._forms.get(domain)
            return form is not None and self._tokenizers[kid].token(domain, text, form) == token
        except (FormError, ConfigError):  # a form that no version has was planted, too
            return False
