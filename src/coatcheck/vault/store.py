"""The road's side of the vault: which originals of a batch are to be kept, sealed for their token and epoch.

Each distinct token is stored once an epoch. A bounded memory of tokens that are stored spares most repeats; it learns
of a token after the commit only, and forgetting one costs an insert that meets its own entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coatcheck.keys.derive import lp
from coatcheck.keys.forms import Form, FormError
from coatcheck.keys.tokens import Tokenizer
from coatcheck.pipeline.columns import Column
from coatcheck.pipeline.mask import masking, vault_columns
from coatcheck.pipeline.message import NOTHING_LEFT_OUT, Alias, Batch, Value, VaultEntry
from coatcheck.pipeline.ports import BodySealer

_PURPOSE = b"coatcheck/vault/v1"


def vault_context(token: str, epoch: int) -> tuple[bytes, ...]:
    """Return what an original is bound to beside tenant and data key: it opens for this token and epoch only."""
    return _PURPOSE, token.encode(), epoch.to_bytes(4)


def framed_contexts(tokens: Sequence[str], epoch: int) -> list[bytes]:
    """Return `lp(*vault_context(token, epoch))` of many tokens, sharing what they have in common."""
    head, tail = lp(_PURPOSE), lp(epoch.to_bytes(4))
    around: dict[int, tuple[bytes, bytes]] = {}  # by length: a token is joined into it as the separator
    framed = []
    for data in map(str.encode, tokens):
        size = len(data)
        if size not in around:
            around[size] = head + size.to_bytes(4), tail
        framed.append(data.join(around[size]))
    return framed


class VaultStore:
    """Implements ports.Vault for the plan of `columns`.

    `retiring` computes the tokens under the key that retires while a rotation lasts; then every value brings the alias
    of its old token to its new one. `old_forms` are the forms that were frozen for that key, by domain. `epoch` gives
    the epoch of now. `remember` tokens are remembered as stored.
    """

    def __init__(
        self,
        *,
        columns: Sequence[Column],
        sealer: BodySealer,
        epoch: Callable[[], int],
        retiring: Tokenizer | None = None,
        old_forms: Mapping[str, Form] | None = None,
        remember: int = 65_536,
    ) -> None:
        stored = [column for column in columns if column.stored]
        forms = old_forms or {}
        self._places = tuple(
            (
                place,
                stored.index(column),
                column.vault,
                _old_text(column, retiring, forms.get(column.domain)) if retiring and column.scheme else None,
            )
            for place, column in enumerate(vault_columns(columns, rotating=retiring is not None))
        )
        self._seal_many, self._epoch = sealer.seal_many, epoch
        self._half = max(1, remember // 2)
        self._recent: set[str] = set()
        self._older: set[str] = set()
        self._of_epoch = 0
        self._erasures = 0

    @property
    def seals_each(self) -> int:
        """How many values it seals for one row at most."""
        return sum(vaulted for _, _, vaulted, _ in self._places)

    def keep(self, batch: Batch) -> None:
        """Add to a batch the entries and aliases of its rows that this process has not stored yet, by token."""
        if not self._places:
            return
        epoch = self._epoch()
        if epoch != self._of_epoch:
            self._recent, self._older, self._of_epoch = set(), set(), epoch
        batch.erasures = self._erasures if self._recent or self._older else NOTHING_LEFT_OUT
        originals, aliases = self._fresh(batch)
        if originals:
            tokens = sorted(originals)
            plaintexts = [str(originals[token]).encode() for token in tokens]
            sealed = self._seal_many(plaintexts, framed_contexts(tokens, epoch))
            batch.vault += [VaultEntry(token, epoch, value) for token, value in zip(tokens, sealed, strict=True)]
        batch.aliases += [Alias(old, aliases[old]) for old in sorted(aliases)]

    def _fresh(self, batch: Batch) -> tuple[dict[str, Value], dict[str, str]]:
        """Return what is not known to be stored: originals by token, and new tokens by old one.

        An alias is known by its old token: under an older form several old tokens may have become one.
        """
        rows, originals, aliases = batch.rows, dict[str, Value](), dict[str, str]()
        for place, index, vaulted, old_text in self._places:
            tokens: list[Any] = [row.values[index] for row in rows]  # a column of the vault holds tokens, or null
            if vaulted:
                fresh = self._unknown(tokens)
                for row, token in zip(rows, tokens, strict=True):
                    if token in fresh and token not in originals:
                        originals[token] = row.originals[place]
            if old_text is not None:
                for row, token in zip(rows, tokens, strict=True):
                    old = None if token is None else old_text(row.originals[place])
                    if old is not None and old not in aliases and not self._known(old):
                        aliases[old] = token
        return originals, aliases

    def _unknown(self, tokens: list[str | None]) -> set[str | None]:
        """Return those tokens that are not known to be stored, and remember the others for longer."""
        fresh = set(tokens).difference(self._recent)
        fresh.discard(None)
        if again := self._older.intersection(fresh):
            self._recent |= again
            fresh -= again
        return fresh

    def _known(self, text: str) -> bool:
        """Tell whether an entry or alias is known to be stored, and remember it for longer."""
        if text in self._recent:
            return True
        if text in self._older:
            self._recent.add(text)
            return True
        return False

    def stored(self, batch: Batch, erasures: int = 0) -> None:
        """Take note that the batch with what `keep` added has been committed as a whole.

        `erasures` is how many erasures its transaction saw. After one more all is forgotten: what was erased and comes
        again is to be stored again.
        """
        if erasures < self._erasures:
            return  # an older snapshot: what it has stored may be erased since
        self._learn(erasures)
        if any(entry.epoch != self._of_epoch for entry in batch.vault):
            return  # the epoch has changed meanwhile: what is stored in the old one is not in the new one
        self._recent.update([entry.token for entry in batch.vault])
        self._recent.update([alias.old for alias in batch.aliases])
        if len(self._recent) > self._half:
            self._recent, self._older = set(), self._recent

    def missed(self, batch: Batch, erasures: int) -> bool:
        """Tell whether an erasure may have taken what `keep` left out of a batch that has been committed since.

        `erasures` is how many its transaction saw. The rows may be without their originals and aliases until they are
        kept once more.
        """
        self._learn(erasures)
        return batch.erasures not in (NOTHING_LEFT_OUT, erasures)

    def _learn(self, erasures: int) -> None:
        if erasures > self._erasures:
            self._recent, self._older, self._erasures = set(), set(), erasures


def _old_text(column: Column, retiring: Tokenizer, form: Form | None) -> Callable[[object], str | None]:
    """Return the function value -> its text under the key that retires; None if it had none, so that no row has it."""
    masked = masking(column, retiring, form)

    def text(value: object) -> str | None:
        try:
            return str(masked(value))
        except FormError:
            return None

    return text
