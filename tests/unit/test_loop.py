"""Blocking work in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest
from tests.support.fix_sqs import until

from coatcheck.loop import in_thread, run_async


def test_the_result_and_the_error_come_back() -> None:
    async def work() -> None:
        assert await in_thread(threading.current_thread) is not threading.current_thread()
        with pytest.raises(ZeroDivisionError):
            await in_thread(lambda: 1 // 0)

    run_async(work())


class PanicError(BaseException):
    """As extensions written in Rust raise."""


@pytest.mark.parametrize("ends", [SystemExit, PanicError])
def test_what_is_no_exception_does_not_leave_the_caller_waiting(ends: type[BaseException]) -> None:
    def give_up() -> None:
        raise ends

    async def work() -> str:
        try:
            await asyncio.wait_for(in_thread(give_up), 5)
        except ends:
            return "told"
        return "nothing"

    assert asyncio.run(work()) == "told"


def test_nobody_waits_for_a_thread_that_hangs() -> None:
    go_on = threading.Event()

    async def work() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(in_thread(lambda: go_on.wait(20)), 0.1)

    started = time.monotonic()
    try:
        run_async(work())
        assert time.monotonic() - started < 5
    finally:
        go_on.set()


@pytest.mark.parametrize("fails", [False, True])
def test_an_answer_that_nobody_wants_any_more_is_dropped(fails: bool, caplog: pytest.LogCaptureFixture) -> None:  # noqa: FBT001 - one of two ways
    """The caller was cancelled; then the loop is closed."""
    caplog.set_level(logging.DEBUG)
    go_on, ended = threading.Event(), threading.Event()

    def block() -> str:
        go_on.wait(20)
        ended.set()
        if fails:
            raise OSError("CANARY")
        return "late"

    async def work() -> None:
        waiting = asyncio.ensure_future(in_thread(block))
        await asyncio.sleep(0.05)
        waiting.cancel()
        go_on.set()
        await until(ended.is_set, "its end")
        await asyncio.sleep(0.1)

    asyncio.run(work())
    assert "CANARY" not in caplog.text
    assert "never retrieved" not in caplog.text
    assert "InvalidState" not in caplog.text


def test_an_answer_after_the_loop_is_gone_is_dropped() -> None:
    go_on = threading.Event()
    threads: list[threading.Thread] = []

    def block() -> None:
        threads.append(threading.current_thread())
        go_on.wait(20)

    async def work() -> None:
        in_thread(block)
        await until(lambda: threads, "its start")

    run_async(work())
    go_on.set()
    threads[0].join(5)
    assert not threads[0].is_alive()
