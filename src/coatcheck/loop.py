"""The event loop that everything asynchronous runs on, and blocking work beside it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import uvloop

_T = TypeVar("_T")


def new_loop() -> asyncio.Runner:
    """Return a runner of a loop that outlives what it is given to run."""
    # not uvloop.run: it wraps the work in a coroutine of its own, which an interrupt before the start leaves behind
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def run_async(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end on uvloop."""
    try:
        with new_loop() as runner:
            return runner.run(work)
    finally:
        work.close()  # one that was interrupted before it began


def in_thread(work: Callable[[], _T]) -> asyncio.Future[_T]:
    """Do what may block for long in a thread that nobody has to wait for.

    asyncio waits for the threads of `asyncio.to_thread` before it ends: one that hangs would hold the shutdown.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def finish(result: _T | None, error: BaseException | None) -> None:
        if future.done():  # its caller was cancelled
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]  # without an error there is a result
        else:
            future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001 - raised where the result is taken
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, result, error)

    threading.Thread(target=run, daemon=True).start()
    return future
