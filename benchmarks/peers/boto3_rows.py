"""Peer: boto3, and one INSERT for each message; a commit and a delete for each receive. The exercise's usual solution.

    python -m benchmarks.peers.boto3_rows psycopg2

Both drivers do; psycopg2 is the usual one, and the faster one here.
"""

from __future__ import annotations

import importlib
import sys

import boto3
from benchmarks.peers.login import COLUMNS, TABLE, all_deleted, database_url, delete_arguments, receive_arguments, row

INSERT = f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}) VALUES (%s, %s, %s, %s, %s, %s, %s)"  # noqa: S608 - our names


def main(driver: str) -> None:
    """Empty the queue."""
    sqs = boto3.client("sqs")
    connection = importlib.import_module(driver).connect(database_url())
    cursor = connection.cursor()
    while messages := sqs.receive_message(**receive_arguments()).get("Messages"):
        for message in messages:
            cursor.execute(INSERT, row(message["Body"]))
        connection.commit()
        all_deleted(sqs.delete_message_batch(**delete_arguments(messages)))
    connection.close()


if __name__ == "__main__":
    main(sys.argv[1])
