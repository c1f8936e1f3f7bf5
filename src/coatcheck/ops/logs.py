"""Logging: one line a record on stderr, and only fields of an allow-list beside the text.

The texts are constants of the code; what varies goes into the fields, and none of them can hold a message's value.
Other libraries put exceptions and parameters into theirs: of their records no more than the logger's name is shown.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

FIELDS = frozenset({"code", "error", "exit_code", "message_id", "messages", "sqlstate", "seconds", "worker"})
"""What may stand beside a log's text: codes, counts, ids of ours and of SQS; never a field of a message."""

_OTHERS = "coatcheck-others"


class LineFormatter(logging.Formatter):
    """`2026-11-23T10:00:00Z warning: text (name=value ...)`; neither exception texts nor unknown fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = " ".join(f"{name}={record.__dict__[name]}" for name in sorted(FIELDS & record.__dict__.keys()))
        text = f"{_head(record)}: {record.getMessage()}"
        return f"{text} ({fields})" if fields else text


class _NameFormatter(logging.Formatter):
    """A record of another library: who had something to say, and how bad it is."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{_head(record)}: a record of {record.name}, whose text may hold a value and is left out"


def _head(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{when} {record.levelname.lower()}"


def configure(*, verbose: bool = False) -> None:
    """Send coatcheck's own logs to stderr: warnings, with `verbose` information too.

    Other libraries stay silent; with `verbose` it is told that one has warned.
    """
    logger = logging.getLogger("coatcheck")
    logger.handlers[:] = [_handler(LineFormatter())]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = False
    root = logging.getLogger()  # without a handler there, Python prints everybody's warnings as they are
    for ours in [handler for handler in root.handlers if handler.name == _OTHERS]:
        root.removeHandler(ours)
    others = _handler(_NameFormatter()) if verbose else logging.NullHandler()
    others.setLevel(logging.WARNING)
    others.name = _OTHERS
    root.addHandler(others)


def _handler(formatter: logging.Formatter) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    return handler
