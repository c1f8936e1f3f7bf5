"""What every Python peer does with a message: its row, and the entry that deletes it. Standard library only."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date

TABLE = "user_logins"
COLUMNS = ("user_id", "device_type", "masked_ip", "masked_device_id", "locale", "app_version", "create_date")
PER_REQUEST = 10
WAIT_SECONDS = 20

Row = tuple[str, str, str, str, str | None, int, "date"]


def row(body: str) -> Row:
    """Parse a login event and mask its address and device."""
    event: dict[str, Any] = json.loads(body)
    return (
        event["user_id"],
        event["device_type"],
        mask(event["ip"]),
        mask(event["device_id"]),
        event["locale"],
        version_number(event["app_version"]),
        datetime.now(UTC).date(),
    )


def mask(value: str) -> str:
    """Hide a value so that equal ones stay equal, as the usual solutions do: without a key, so it can be guessed."""
    return sha256(value.encode()).hexdigest()


def version_number(text: str) -> int:
    """Turn 1.2.3 into 1002003: an integer in the order of versions."""
    major, minor, patch = [*map(int, text.split(".")), 0, 0][:3]
    return major * 1_000_000 + minor * 1_000 + patch


def receive_arguments() -> dict[str, Any]:
    """Return what a receive asks for: ten messages, and a long poll."""
    return {"QueueUrl": queue_url(), "MaxNumberOfMessages": PER_REQUEST, "WaitTimeSeconds": WAIT_SECONDS}


def delete_arguments(messages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what deletes up to ten messages."""
    entries = [{"Id": message["MessageId"], "ReceiptHandle": message["ReceiptHandle"]} for message in messages]
    return {"QueueUrl": queue_url(), "Entries": entries}


def all_deleted(response: Mapping[str, Sequence[Any]]) -> None:
    """Raise if a delete failed: a row would come twice."""
    if response.get("Failed"):
        raise RuntimeError(f"{len(response['Failed'])} messages were not deleted")


def queue_url() -> str:
    """Return the URL of the queue."""
    return os.environ["QUEUE_URL"]


def database_url() -> str:
    """Return the connection string of the database."""
    return os.environ["DATABASE_URL"]
