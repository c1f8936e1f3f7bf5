"""What `check` says of columns that contradict each other, and of a ledger key that no column reads."""

from __future__ import annotations

from typing import Any

import pytest

from coatcheck.config import Config
from coatcheck.config_advice import findings

TOKEN = {"from": "customer.email", "type": "text", "domain": "mail"}


def said(columns: dict[str, Any], key: str = "message_id") -> list[str]:
    config = Config.model_validate({"columns": columns, "ledger": {"key": key}})
    return [f"{finding.level}: {finding.what}" for finding in findings(config)]


@pytest.mark.parametrize(
    ("path", "type_", "where"),
    [
        ("customer", "jsonb", "in clear inside a document"),
        ("customer.email", "text", "in clear"),
        ("customer.email", "jsonb", "in clear"),
        ("customer.email.domain", "text", "in clear in part"),
        ("customer", "text", ""),
        ("customers", "jsonb", ""),
        ("customer.name", "text", ""),
        ("email", "text", ""),
        ("customer.email_at", "timestamptz", ""),
    ],
)
@pytest.mark.parametrize(
    "mask",
    ["token", "seal", "redact", "drop"],
)
def test_a_field_that_is_masked_here_and_kept_there(path: str, type_: str, where: str, mask: str) -> None:
    """Found: `check` was silent on a document that holds in clear what a column beside it masks."""
    masked = {"from": "customer.email", "type": "text", "mask": mask}
    masked |= {"domain": "mail"} if mask in ("token", "seal") else {}
    columns = {"kept": {"from": path, "type": type_}, "masked": masked}
    what = f"advice: column kept keeps the field customer.email {where}, and column masked masks it"
    assert said(columns) == ([what] if where else [])
    assert said(dict(reversed(columns.items()))) == said(columns)


def test_two_that_mask_it_and_two_that_keep_it_are_no_contradiction() -> None:
    assert said({"one": TOKEN, "other": TOKEN | {"mask": "redact", "domain": None}}) == []
    kept = {"from": "customer", "type": "jsonb"}
    assert said({"one": kept, "other": kept | {"from": "customer.email"}}) == []


def test_a_ledger_key_that_no_column_reads() -> None:
    columns = {"id": {"from": "event.id", "type": "text"}}
    note = "note: [ledger] key names the field {}, which no column reads"
    assert said(columns, "field:event.id") == said(columns, "field:event.id?") == said(columns) == []
    assert said(columns, "content") == []
    assert said(columns, "field:evnt.id") == [note.format("evnt.id")]
    assert said(columns, "field:event?") == [note.format("event")]


def test_the_login_pipeline_has_none() -> None:
    assert list(findings(Config())) == []
