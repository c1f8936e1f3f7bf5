"""Logging: one line a record on stderr, and only fields of an allow-list beside the text.

The texts are constants of the code; what varies goes into the fields, and none of them can hold a message's value.
Other libraries put exceptions and parameters into theirs: of their records no more than the logger's name is shown.
What is said again and again is said once a while, with how often it was left out.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

Format = Literal["text", "json"]
_TRACED = {"trace_id": "trace.id", "span_id": "span.id"}
_COUNTS = {"duplicates", "left_out", "loaded", "messages", "rejected", "seconds"}
_PIPELINE = "pipeline"
_NAMES = {"hint", "queue", "reasons", "table", "version", "workers"}
FIELDS = frozenset(
    {
        "code",
        "error",
        "exit_code",
        "function",
        "message_id",
        _PIPELINE,
        "sqlstate",
        "worker",
        *_COUNTS,
        *_NAMES,
        *_TRACED,
    }
)
"""What may stand beside a log's text: codes, counts, ids of ours and of SQS, names of the configuration, reject reasons
and hints; never a field of a message."""

NOTICE = 25
"""The level of what is no trouble, and is said without --verbose: a dependency is back, a process starts."""
logging.addLevelName(NOTICE, "NOTICE")

_OTHERS = "coatcheck-others"
_about: ContextVar[Mapping[str, str] | None] = ContextVar("about", default=None)
_form: Format = "text"
_only_json = False


def about(ids: Mapping[str, str]) -> None:
    """Have what this task says from now on carry a trace's ids (of FIELDS)."""
    _about.set(ids)


class LineFormatter(logging.Formatter):
    """`2026-11-23T10:00:00Z warning: text (name=value ...)`; neither exception texts nor unknown fields.

    The pipeline is named only where there are `several`.
    """

    def __init__(self, *, several: bool = False) -> None:
        super().__init__()
        self._fields = FIELDS if several else FIELDS - {_PIPELINE}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = " ".join(f"{name}={record.__dict__[name]}" for name in sorted(self._fields & record.__dict__.keys()))
        text = f"{_head(record)}: {record.getMessage()}"
        return f"{text} ({fields})" if fields else text


class JsonFormatter(logging.Formatter):
    """One JSON object a line, by the Elastic Common Schema (ECS 8.11): our fields stand in `coatcheck`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, object] = {
            "@timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "log.level": record.levelname.lower(),
            "message": record.getMessage(),
            "ecs.version": "8.11.0",
            "event.dataset": "coatcheck.log",
            "log.logger": record.name,
            "process.pid": record.process,
            "service.name": "coatcheck",
        }
        fields = {name: record.__dict__[name] for name in sorted(FIELDS & record.__dict__.keys())}
        if "error" in fields:
            entry["error.type"] = fields.pop("error")
        entry |= {ecs: fields.pop(name) for name, ecs in _TRACED.items() if name in fields}
        return json.dumps(entry | ({"coatcheck": fields} if fields else {}), default=str)


_DISTINCT = sorted(FIELDS - _COUNTS - _NAMES - _TRACED.keys())


class Repeats(logging.Filter):
    """Lets a text with the same codes through once in `every_s` seconds; then with `left_out`, how often it came."""

    def __init__(self, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._every_s, self._clock = every_s, clock
        self._said: dict[tuple[object, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is to be said; information, such as the sum of an invocation, always is."""
        if record.levelno < NOTICE:
            return True
        told = record.__dict__
        key = (record.name, record.msg, *(told.get(name) for name in _DISTINCT))
        now, (since, left_out) = self._clock(), self._said.get(key, (float("-inf"), 0))
        if now - since < self._every_s:
            self._said[key] = since, left_out + 1
            return False
        self._said[key] = now, 0
        if left_out:
            record.left_out = left_out
        return True


class _About(logging.Filter):
    """Adds the ids of the trace that a record belongs to, and the pipeline, unless the record names one itself."""

    pipeline = ""

    def filter(self, record: logging.LogRecord) -> bool:
        record.__dict__.update(_about.get() or {})
        if self.pipeline:
            record.__dict__.setdefault(_PIPELINE, self.pipeline)
        return True


_ours = _About()


def name_pipeline(pipeline: str) -> None:
    """Have what this process says from now on carry the pipeline that it works for ("": several, or none)."""
    _ours.pipeline = pipeline


class _NameFormatter(LineFormatter):
    """A record of another library: who had something to say, and how bad it is."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(_name_only(record))


class _JsonNameFormatter(JsonFormatter):
    """The same as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(_name_only(record))


def _name_only(record: logging.LogRecord) -> logging.LogRecord:
    told = {name: record.__dict__[name] for name in ("name", "levelname", "created", "process", _PIPELINE)
            if name in record.__dict__}  # fmt: skip
    text = f"a record of {record.name}, whose text may hold a value and is left out"
    return logging.makeLogRecord(told | {"msg": text})


def _head(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"{when} {record.levelname.lower()}"


def configure(
    *,
    verbose: bool = False,
    form: Format = "text",
    unattended: bool = False,
    pipeline: str = "",
    several: bool = False,
) -> None:
    """Send coatcheck's own logs to stderr, as text or JSON: notices and warnings, with `verbose` information too.

    Every record carries the `pipeline` that this process works for; text shows it only if there are `several`. Other
    libraries stay silent; with `verbose` it is told that one has warned. With `unattended`, no person reads stderr: if
    logs are JSON, `say` logs what would be printed there otherwise.
    """
    global _form, _only_json
    _form, _only_json = form, unattended and form == "json"
    logger = logging.getLogger("coatcheck")
    ours = _handler(JsonFormatter() if form == "json" else LineFormatter(several=several))
    ours.addFilter(_ours)
    ours.addFilter(Repeats())
    name_pipeline(pipeline)
    logger.handlers[:] = [ours]
    logger.setLevel(logging.INFO if verbose else NOTICE)
    logger.propagate = False
    root = logging.getLogger()  # without a handler there, Python prints everybody's warnings as they are
    for before in [handler for handler in root.handlers if handler.name == _OTHERS]:
        root.removeHandler(before)
    names = _JsonNameFormatter() if form == "json" else _NameFormatter(several=several)
    others = _handler(names) if verbose else logging.NullHandler()
    others.addFilter(_ours)
    others.setLevel(logging.WARNING)
    others.name = _OTHERS
    root.addHandler(others)


def say(level: int, text: str, **fields: object) -> bool:
    """Log a line meant for stderr if everything there is to be JSON; return whether it was logged."""
    if _only_json:
        logging.getLogger("coatcheck.terminal").log(level, text, extra=fields)
    return _only_json


def announce(logger: logging.Logger, text: str, **fields: object) -> None:
    """Log that a process starts: always as JSON, which programs read, and with --verbose as text."""
    logger.log(NOTICE if _form == "json" else logging.INFO, text, extra=fields)


def silence_others() -> None:
    """Take away the handlers that somebody else has put before everything, as Lambda's runtime does."""
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if handler.name == _OTHERS]


def _handler(formatter: logging.Formatter) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    return handler
