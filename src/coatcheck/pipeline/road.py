"""The three pure stages in a row: a message becomes a masked row, or a reject with its body sealed."""

from __future__ import annotations

from collections.abc import Sequence

from coatcheck.keys.tokens import LedgerHash, Tokenizer
from coatcheck.pipeline.columns import Column, Kind
from coatcheck.pipeline.columnwise import columnwise
from coatcheck.pipeline.decode import JsonObject, decoder
from coatcheck.pipeline.keying import DEFAULT_PIPELINE, NoLedgerKey, keyer, ledger_field
from coatcheck.pipeline.mask import Masked, masker, vault_columns
from coatcheck.pipeline.message import Message, Reason, Reject, Rejected, Row
from coatcheck.pipeline.ports import BodySealer
from coatcheck.pipeline.validate import validator

_EXACT = (Kind.NUMERIC, Kind.JSONB)


class Road:
    """Decode, validate and mask by the plan of `columns`; key every message by `ledger_key`; seal what is rejected.

    Each `pipeline` has keys of its own. With `rotating` the raw values of all columns under a key id go along, for
    their aliases.
    """

    def __init__(
        self,
        *,
        columns: Sequence[Column],
        tokenizer: Tokenizer,
        ledger_hash: LedgerHash,
        sealer: BodySealer,
        ledger_key: str = "message_id",
        rotating: bool = False,
        pipeline: str = DEFAULT_PIPELINE,
    ) -> None:
        self.decode = decoder(exact=any(column.type.kind in _EXACT for column in columns))
        self._validate = validator(columns)
        vaulted = vault_columns(columns, rotating=rotating)
        self._mask = masker(columns, tokenizer, vaulted)
        self._key, self._key_field = keyer(ledger_key, ledger_hash, pipeline), ledger_field(ledger_key)
        self._rows = columnwise(columns, decode=self.decode, key=self._key, tokenizer=tokenizer, vaulted=vaulted)
        self._sealer = sealer

    def travel_together(self, messages: Sequence[Message]) -> list[Row | Rejected]:
        """Take many messages to the end of the road, in order: the same as `travel` for each, in half the time."""
        rows = self._rows(messages)
        return [self.travel(message) if row is None else row for message, row in zip(messages, rows, strict=True)]

    def travel(self, message: Message) -> Row | Rejected:
        """Take one message to the end of the road. Never raises for what a message holds."""
        value = self.decode(message.body)
        if type(value) is Reject:
            key, slot = self._key(message, None)
            return self._rejected(message, key, slot, value)
        try:
            key, slot = self._key(message, value)  # type: ignore[arg-type]  # narrowed by the line above
        except NoLedgerKey:
            return self._unkeyed(message, value)  # type: ignore[arg-type]
        masked = self.masked(value, message.sent_ms)  # type: ignore[arg-type]
        if type(masked) is tuple:
            return Row(message, key, slot, *masked)
        return self._rejected(message, key, slot, masked)  # type: ignore[arg-type]

    def _unkeyed(self, message: Message, value: JsonObject) -> Rejected:
        """Reject a message that has no ledger key, for what else is wrong with it if anything is.

        It is held under its message id: a redelivery is known again, and is not held a second time.
        """
        masked = self.masked(value, message.sent_ms)
        reject = masked if type(masked) is Reject else Reject(Reason.NO_LEDGER_KEY, self._key_field)
        return self._rejected(message, *self._key(message, None), reject)

    def masked(self, value: dict[str, object], sent_ms: int) -> Masked | Reject:
        """Validate and mask one decoded object: the stored columns' values and the vault's raw ones, or the reject."""
        record = self._validate(value, sent_ms)
        return self._mask(record) if type(record) is list else record  # type: ignore[return-value]

    def refuse(self, row: Row, reject: Reject) -> Rejected:
        """Turn a row that the database refused into a reject."""
        return self._rejected(row.message, row.key, row.slot, reject)

    def _rejected(self, message: Message, key: bytes, slot: int, reject: Reject) -> Rejected:
        body = message.body.encode("utf-8", "surrogatepass")
        return Rejected(message, key, slot, reject, self._sealer.seal(body, key))
