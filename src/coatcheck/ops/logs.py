"""Logging: one line a record on stderr, and only fields of an allow-list beside the text.

The texts are constants of the code; what varies goes into the fields, and none of them can hold a message's value.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

FIELDS = frozenset({"code", "error", "exit_code", "message_id", "messages", "sqlstate", "seconds", "worker"})
"""What may stand beside a log's text: codes, counts, ids of ours and of SQS; never a field of a message."""


class LineFormatter(logging.Formatter):
    """`2026-11-23T10:00:00Z warning: text (name=value ...)`; neither exception texts nor unknown fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = " ".join(f"{name}={record.__dict__[name]}" for name in sorted(FIELDS & record.__dict__.keys()))
        text = f"{when} {record.levelname.lower()}: {record.getMessage()}"
        return f"{text} ({fields})" if fields else text


def configure(*, verbose: bool = False) -> None:
    """Send coatcheck's own logs to stderr: warnings, with `verbose` information too. Other libraries stay silent."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    logger = logging.getLogger("coatcheck")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = False
