"""Peer: aiobotocore and asyncpg on uvloop, as fast as we can write it and still delete only what is committed.

    python -m benchmarks.peers.aio_asyncpg TASKS

So many tasks receive and as many delete; between them two connections COPY whatever has come in, up to 1,000 rows
at once. It is faster than tasks that each do all three in turn: PostgreSQL gets fewer and larger commits.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import asyncpg  # type: ignore[import-not-found,import-untyped,unused-ignore]  # in the environment of the peers only
import uvloop
from aiobotocore.config import AioConfig  # type: ignore[import-not-found,unused-ignore]  # as above
from aiobotocore.session import get_session  # type: ignore[import-not-found,unused-ignore]  # as above
from benchmarks.peers.login import COLUMNS, TABLE, all_deleted, database_url, delete_arguments, receive_arguments, row

CONNECTIONS = 2
MOST_RECEIVES = 100
"""In one COPY."""

Messages = list[dict[str, Any]]


async def receive(sqs: Any, received: asyncio.Queue[Messages]) -> None:
    """Take messages until the queue is empty."""
    while messages := (await sqs.receive_message(**receive_arguments())).get("Messages"):
        await received.put(messages)


async def load(database: Any, received: asyncio.Queue[Messages], loaded: asyncio.Queue[Messages]) -> None:
    """Write what has come in, in one transaction each time."""
    while True:
        taken = [await received.get()]
        while len(taken) < MOST_RECEIVES and not received.empty():
            taken.append(received.get_nowait())
        rows = [row(message["Body"]) for messages in taken for message in messages]
        await database.copy_records_to_table(TABLE, records=rows, columns=COLUMNS)
        for messages in taken:
            await loaded.put(messages)
            received.task_done()


async def delete(sqs: Any, loaded: asyncio.Queue[Messages]) -> None:
    """Delete what is committed."""
    while True:
        messages = await loaded.get()
        all_deleted(await sqs.delete_message_batch(**delete_arguments(messages)))
        loaded.task_done()


async def main(tasks: int) -> None:
    """Empty the queue."""
    received: asyncio.Queue[Messages] = asyncio.Queue(2 * tasks)
    loaded: asyncio.Queue[Messages] = asyncio.Queue(2 * tasks)
    config = AioConfig(max_pool_connections=2 * tasks, parameter_validation=False)
    databases = [await asyncpg.connect(database_url()) for _ in range(CONNECTIONS)]
    async with get_session().create_client("sqs", config=config) as sqs, asyncio.TaskGroup() as group:
        endless = [group.create_task(load(database, received, loaded)) for database in databases]
        endless += [group.create_task(delete(sqs, loaded)) for _ in range(tasks)]
        await asyncio.gather(*(receive(sqs, received) for _ in range(tasks)))
        await received.join()
        await loaded.join()
        for task in endless:
            task.cancel()
    for database in databases:
        await database.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
