"""What coatcheck's own loggers say in this process, whatever other tests have made of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def said(*filters: logging.Filter) -> Iterator[list[logging.LogRecord]]:
    """Give the list that the records of the block come into, through `filters`."""
    listener, logger = _Listener(), logging.getLogger("coatcheck")
    for one in filters:
        listener.addFilter(one)
    logger.addHandler(listener)
    try:
        yield listener.records
    finally:
        logger.removeHandler(listener)
