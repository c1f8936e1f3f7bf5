"""Peer: dlt. A resource receives and masks, one pipeline run loads all of it, then the messages are deleted.

What was received is loaded when the resource ends, so all receipt handles are kept until then: memory grows with
the queue. dlt adds two columns of its own to the table.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import boto3
import dlt  # type: ignore[import-not-found,unused-ignore]  # in the environment of the peers only
from benchmarks.peers.login import (
    COLUMNS,
    PER_REQUEST,
    TABLE,
    all_deleted,
    database_url,
    delete_arguments,
    receive_arguments,
    row,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def main() -> None:
    """Empty the queue."""
    sqs = boto3.client("sqs")
    received: list[dict[str, Any]] = []

    @dlt.resource(name=TABLE, write_disposition="append", columns={"locale": {"data_type": "text"}})  # type: ignore[untyped-decorator,unused-ignore]  # dlt is not there to tell
    def logins() -> Iterator[list[dict[str, Any]]]:
        while messages := sqs.receive_message(**receive_arguments()).get("Messages"):
            yield [dict(zip(COLUMNS, row(message["Body"]), strict=True)) for message in messages]
            received.extend(messages)

    destination = dlt.destinations.postgres(database_url())
    pipeline = dlt.pipeline("logins", destination=destination, dataset_name="public", pipelines_dir="pipelines")
    pipeline.run(logins()).raise_on_failed_jobs()
    waiting = iter(received)
    while messages := list(islice(waiting, PER_REQUEST)):
        all_deleted(sqs.delete_message_batch(**delete_arguments(messages)))


if __name__ == "__main__":
    main()
