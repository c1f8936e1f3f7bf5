"""What unit tests are made of: messages, logins, columns, roads, and keys that are no secret."""

from __future__ import annotations

import json
from typing import Any

from coatcheck.config_columns import login_columns
from coatcheck.keys import Opener, OpenError, Sealer, Tokenizer
from coatcheck.keys.tokens import LedgerHash, ledger_hash
from coatcheck.pipeline.columns import Column, ColumnType
from coatcheck.pipeline.message import DataKey, Message, Rejected
from coatcheck.pipeline.road import Road
from coatcheck.vault.store import VaultStore

ROOT = bytes(range(32))
LEDGER_ROOT = bytes(range(32, 64))
TENANT = "test"
KID = "k1"
SENT_MS = 1_700_000_000_000
"""2023-11-14T22:13:20Z"""

LOGIN_COLUMNS: tuple[Column, ...] = tuple(column.column(name) for name, column in login_columns().items())
"""The built-in login pipeline, whatever the environment says."""

LOGIN: dict[str, Any] = {
    "user_id": "424cdd21-063a-43a7-b91b-7ca1a833afae",
    "app_version": "2.3.0",
    "device_type": "android",
    "ip": "199.172.111.135",
    "locale": "RU",
    "device_id": "593-47-5928",
}
ABSENT: Any = object()
"""As an override of `login_body`: leave the field out."""


class FakeKeys:
    """Both halves of a key provider (see keys/provider.py). Data keys are counted, and are their own wrapping."""

    def __init__(self, tenant: str = TENANT) -> None:
        self.tenant = tenant
        self.kid = KID
        self.kids = (KID,)
        self.drawn = 0

    def token_root(self, kid: str | None = None) -> bytes:  # noqa: ARG002 - the port's signature
        return ROOT

    def ledger_root(self) -> bytes:
        return LEDGER_ROOT

    def new_data_key(self) -> tuple[bytes, bytes, DataKey]:
        self.drawn += 1
        dek_id = self.drawn.to_bytes(16, "big")
        return dek_id, self.unwrap(stored_key(dek_id)), stored_key(dek_id)

    def unwrap(self, data_key: DataKey) -> bytes:
        if data_key.kek != "fake":
            raise OpenError("a data key")
        return data_key.wrapped

    def describe(self) -> dict[str, str]:
        return {"provider": "fake"}


def stored_key(dek_id: bytes) -> DataKey:
    """Return the stored half of a data key that FakeKeys has drawn, or will draw."""
    return DataKey(dek_id, "fake", dek_id * 2)


def a_sealer(keys: FakeKeys | None = None) -> Sealer:
    return Sealer(keys or FakeKeys())


def opened(entry: Rejected) -> str:
    """Open the body of a reject that a sealer of FakeKeys sealed."""
    body = Opener(FakeKeys()).open(entry.sealed, stored_key(entry.sealed.dek_id), entry.key)
    return body.decode("utf-8", "surrogatepass")


def a_tokenizer() -> Tokenizer:
    return Tokenizer(ROOT, tenant=TENANT, kid=KID)


def a_ledger_hash() -> LedgerHash:
    return ledger_hash(LEDGER_ROOT, TENANT)


def a_message(
    body: str = "{}",
    *,
    message_id: str = "00000000-0000-4000-8000-000000000001",
    sent_ms: int = SENT_MS,
    receipt: str = "receipt-1",
    receive_count: int = 1,
    received_ms: int = SENT_MS + 5,
    origin: str | None = None,
) -> Message:
    return Message(message_id, body, sent_ms, receipt, receive_count, received_ms, origin)


def login_body(**overrides: Any) -> str:
    """Return the body of a good login with fields set otherwise, or left out (ABSENT)."""
    fields = LOGIN | overrides
    return json.dumps({name: value for name, value in fields.items() if value is not ABSENT})


def a_column(type_: str = "text", *, name: str = "c", path: str = "f", **options: Any) -> Column:
    """Return a column `c` filled from the field `f`."""
    return Column(name, tuple(path.split(".")), ColumnType.from_text(type_), **options)


def a_road(
    columns: tuple[Column, ...] = LOGIN_COLUMNS,
    *,
    ledger_key: str = "message_id",
    sealer: Sealer | None = None,
    pipeline: str = "default",
) -> Road:
    return Road(
        columns=columns,
        tokenizer=a_tokenizer(),
        ledger_hash=a_ledger_hash(),
        sealer=sealer or a_sealer(),
        ledger_key=ledger_key,
        pipeline=pipeline,
    )


def a_vault(sealer: Sealer | None = None, columns: tuple[Column, ...] = LOGIN_COLUMNS) -> VaultStore:
    return VaultStore(columns=columns, sealer=sealer or a_sealer(), epoch=lambda: 20234)


def label(value: object) -> str:
    """Name an odd value in a test's id: short, and ASCII."""
    return "a huge number" if isinstance(value, int) and abs(value) > 10**20 else ascii(value)[:24]
