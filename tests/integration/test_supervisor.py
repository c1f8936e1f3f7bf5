"""The supervisor and workers that do what no worker should: it warns, backs off, and starts others."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.process import alive

from coatcheck import supervisor
from coatcheck.errors import ConfigError
from coatcheck.pipeline.message import Counts

CANARY = "canary-192.0.2.1"
LINE = '{"received": 7, "loaded": 5, "duplicates": 1, "rejected": 1, "acked": 7, "seconds": 1.0}'


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(supervisor, "_BACKOFF_FIRST_S", 0.05)
    logger, propagate = logging.getLogger("coatcheck"), logging.getLogger("coatcheck").propagate
    logger.propagate = True  # a command in this process may have told it otherwise
    yield
    logger.propagate = propagate


def a_supervisor(
    script: str, *, drain: bool, tick: Callable[[Counts], None] = lambda _: None
) -> supervisor._Supervisor:
    made = supervisor._Supervisor("logins", [], drain=drain, tick=tick)
    made._command = [sys.executable, "-c", script]
    return made


def work_of(made: supervisor._Supervisor, workers: int = 1, limit: float = 30.0) -> Counts:
    return asyncio.run(asyncio.wait_for(made.run(workers), limit))


def warnings(caplog: pytest.LogCaptureFixture) -> list[tuple[str, object]]:
    assert CANARY not in caplog.text
    ours = [record for record in caplog.records if record.name.startswith("coatcheck")]  # asyncio warns of fast ends
    return [(record.message, record.__dict__.get("error")) for record in ours]


ODD = {
    "no JSON": (f"{CANARY} says hello", "JSONDecodeError"),
    "no counts": ('{"received": 1}', "KeyError"),
    "a list": ("[]", "TypeError"),
    "a number": ("7", "TypeError"),
    "counts of another kind": (LINE.replace("7", f'"{CANARY}"'), "TypeError"),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_line_that_is_no_count_is_passed_over(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    line, error = ODD[kind]
    seen: list[int] = []
    made = a_supervisor(f"print('''{line}'''); print('''{LINE}''')", drain=True, tick=lambda c: seen.append(c.loaded))
    counts = work_of(made)
    assert (counts.received, counts.loaded) == (7, 5)
    assert seen == [5]
    assert warnings(caplog) == [("a worker's counts are passed over", error)]


def test_bytes_that_are_no_text_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    script = f"import sys; sys.stdout.buffer.write(b'\\xff\\n'); print('{LINE}')"
    assert work_of(a_supervisor(script, drain=True)).loaded == 5
    assert warnings(caplog) == [("a worker's counts are passed over", "UnicodeDecodeError")]


def test_a_display_that_fails_ends_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Counts) -> None:
        raise BrokenPipeError(CANARY)

    assert work_of(a_supervisor(f"print('{LINE}')", drain=True, tick=broken)).loaded == 5
    assert warnings(caplog) == [("a worker's counts are passed over", "BrokenPipeError")]


def test_a_process_that_cannot_be_started_is_tried_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, tries = asyncio.create_subprocess_exec, 0

    async def flaky(*command: str, **options: int) -> asyncio.subprocess.Process:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise BlockingIOError(11, CANARY)
        return await start(*command, **options)  # type: ignore[arg-type]  # passed on as they come

    monkeypatch.setattr(asyncio, "create_subprocess_exec", flaky)
    assert work_of(a_supervisor(f"print('''{LINE}''')", drain=True)).loaded == 5
    assert warnings(caplog) == [("a worker cannot be followed and is started again", "BlockingIOError")] * 3


def test_a_worker_that_cannot_be_followed_is_ended_before_another_is_started(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A line without an end: more than the pipe's reader takes."""
    script = f"""
import os, sys, time
started = len(os.listdir({str(tmp_path)!r}))
open({str(tmp_path)!r} + '/' + str(os.getpid()), 'w').close()
if started:
    print('''{LINE}''')
else:
    print('x' * 1_000_000)
    sys.stdout.flush()
    time.sleep(60)
"""
    assert work_of(a_supervisor(script, drain=True)).loaded == 5
    assert [text for text, _ in warnings(caplog)] == ["a worker cannot be followed and is started again"]
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) == 2
    assert not alive(pids)


@pytest.mark.parametrize("code", [0, 1])
def test_whoever_ends_without_being_told_is_started_again(code: int, caplog: pytest.LogCaptureFixture) -> None:
    made: supervisor._Supervisor

    def tick(counts: Counts) -> None:
        if counts.loaded >= 15:
            made.stop()

    made = a_supervisor(f"print('''{LINE}'''); raise SystemExit({code})", drain=False, tick=tick)
    assert work_of(made).loaded == 15
    told = {0: "a worker has ended and is started again", 1: "a worker has died and is started again"}
    assert [text for text, _ in warnings(caplog)] == [told[code]] * 2


def test_a_final_code_still_ends_all(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError):
        work_of(a_supervisor("raise SystemExit(2)", drain=False), workers=3)
    assert not caplog.records


@pytest.mark.parametrize("code", [0, 2])
def test_a_signal_to_one_that_has_just_ended_leaves_its_exit_code_to_who_waits(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def polled(_: object) -> None:
        raise AssertionError("the exit code is taken from who waits for it")

    async def told() -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", f"print(1, flush=True); raise SystemExit({code})", stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        await process.stdout.read()  # it ends now; the loop has not heard of it yet
        with monkeypatch.context() as patch:
            patch.setattr(subprocess.Popen, "poll", polled)
            supervisor._tell(process, signal.SIGTERM)
        return await process.wait()

    assert asyncio.run(told()) in (code, -signal.SIGTERM)


def test_with_drain_the_end_is_the_end(caplog: pytest.LogCaptureFixture) -> None:
    assert work_of(a_supervisor(f"print('''{LINE}''')", drain=True), workers=2).loaded == 10
    assert not caplog.records


def several(scripts: dict[str, str], *, drain: bool, tick: Callable[[Counts], None] = lambda _: None) -> Any:
    made = supervisor._Supervisors(dict.fromkeys(scripts, ()), drain=drain, tick=tick)
    for each in made._each:
        each._command = [sys.executable, "-c", scripts[each.pipeline]]
    return made


def run_all(made: Any, workers: int = 1) -> supervisor.Supervised:
    done: supervisor.Supervised = asyncio.run(asyncio.wait_for(made.run(workers), 30.0))
    return done


def test_counts_are_of_each_pipeline_and_of_all() -> None:
    seen: list[int] = []
    scripts = dict.fromkeys(("logins", "orders"), f"print('''{LINE}''')")
    done = run_all(several(scripts, drain=True, tick=lambda counts: seen.append(counts.loaded)), workers=2)
    assert {name: counts.loaded for name, counts in done.counts.items()} == {"logins": 10, "orders": 10}
    assert (done.total.loaded, done.ended, seen[-1]) == (20, None, 20)
    assert done.total.seconds == max(counts.seconds for counts in done.counts.values())


@pytest.mark.parametrize("code", [2, 4])
def test_one_that_ends_for_good_leaves_the_others_running(code: int, caplog: pytest.LogCaptureFixture) -> None:
    made: Any

    def tick(counts: Counts) -> None:
        if counts.loaded >= 15 and made._each[0].samples().count(("coatcheck_pipeline_ended", str(code), 1)):
            made._signalled()

    made = several({"ill": f"raise SystemExit({code})", "well": f"print('''{LINE}''')"}, drain=False, tick=tick)
    done = run_all(made)
    assert done.ended is None, "it was stopped"
    assert (done.counts["ill"].loaded, done.counts["well"].loaded >= 15) == (0, True)
    told = [(record.message, record.levelname, record.__dict__.get("pipeline"), record.__dict__.get("exit_code"))
            for record in caplog.records if record.levelno >= logging.ERROR]  # fmt: skip
    assert told == [("a pipeline has ended and is not started again", "ERROR", "ill", code)]
    assert made.samples().keys() == {"ill", "well"}


def test_a_drain_ends_with_the_first_code_when_the_others_have_drained() -> None:
    later = f"import time; time.sleep(1); print('''{LINE}''')"
    done = run_all(several({"well": later, "ill": "raise SystemExit(4)"}, drain=True), workers=2)
    assert done.counts["well"].loaded == 10
    assert done.ended is not None
    assert (done.ended.exit_code, done.ended.message.split(":")[0]) == (4, "pipeline ill")


def test_when_all_have_ended_the_first_is_the_answer() -> None:
    later = "import time; time.sleep(1); raise SystemExit(2)"
    done = run_all(several({"later": later, "first": "raise SystemExit(4)"}, drain=False))
    assert done.ended is not None
    assert (done.ended.exit_code, done.ended.message.split(":")[0]) == (4, "pipeline first")


def test_one_alone_ends_as_it_always_did(caplog: pytest.LogCaptureFixture) -> None:
    done = run_all(several({"default": "raise SystemExit(4)"}, drain=False))
    assert done.ended is not None
    assert done.ended.message == "worker 0 has stopped with exit code 4"
    assert not caplog.records


def test_messages_that_some_workers_count_as_suppressed_add_up() -> None:
    """The count stands only in lines of workers that have any."""
    line = LINE.replace('"seconds"', '"suppressed": 2, "seconds"')
    assert work_of(a_supervisor(f"print('''{LINE}'''); print('''{line}''')", drain=True), workers=2).suppressed == 4
