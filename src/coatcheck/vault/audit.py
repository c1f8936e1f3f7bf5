"""The audit trail: who did what with originals and keys, as a hash chain in the database."""

from __future__ import annotations

import json
from typing import Any

import psycopg

from coatcheck.sql import query


def append(connection: psycopg.Connection[Any], event: str, **detail: object) -> None:
    """Append to the audit trail; `detail` are counts, key ids and names, never a value."""
    connection.execute(
        query("audit_append"), {"event": event, "detail": json.dumps(detail, sort_keys=True, separators=(",", ":"))}
    )
