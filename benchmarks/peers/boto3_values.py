"""Peer: boto3, and one INSERT of many VALUES for each receive, by psycopg2's `execute_values`; a delete for each."""

from __future__ import annotations

import boto3
import psycopg2  # type: ignore[import-not-found,import-untyped,unused-ignore]  # in the environment of the peers only
from benchmarks.peers.login import COLUMNS, TABLE, all_deleted, database_url, delete_arguments, receive_arguments, row
from psycopg2.extras import execute_values  # type: ignore[import-not-found,import-untyped,unused-ignore]  # as above

INSERT = f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}) VALUES %s"  # noqa: S608 - our names


def main() -> None:
    """Empty the queue."""
    sqs = boto3.client("sqs")
    connection = psycopg2.connect(database_url())
    cursor = connection.cursor()
    while messages := sqs.receive_message(**receive_arguments()).get("Messages"):
        execute_values(cursor, INSERT, [row(message["Body"]) for message in messages])
        connection.commit()
        all_deleted(sqs.delete_message_batch(**delete_arguments(messages)))
    connection.close()


if __name__ == "__main__":
    main()
