"""What is logged: texts of ours and fields of the allow-list; of other libraries the name at most."""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from coatcheck.ops import logs

CANARY = f"canary{secrets.token_hex(8)}"
PROGRAM = """
import asyncio, logging, sys
from coatcheck.ops import logs

logs.configure(verbose=sys.argv[1] == "verbose")
logs.configure(verbose=sys.argv[1] == "verbose")  # twice is as good as once
canary = sys.argv[2]

for name in ("botocore.credentials", "psycopg", "psycopg.pool", "asyncio", "urllib3", "", "coatchecker"):
    logger = logging.getLogger(name)
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
        logger.log(number, "failed with %s", canary)
    try:
        raise ValueError(canary)
    except ValueError:
        logger.exception("it failed: " + canary)

async def forgotten():
    task = asyncio.ensure_future(fail())
    await asyncio.sleep(0.01)
    del task

async def fail():
    raise ValueError(canary)

asyncio.run(forgotten())

ours = logging.getLogger("coatcheck.somewhere")
ours.info("of use to some", extra={"messages": 3, "body": canary})
ours.warning("ours", extra={"code": "Throttled", "body": canary})
try:
    raise ValueError(canary)
except ValueError:
    ours.error("ours failed", exc_info=True)
"""


def printed(how: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how, CANARY], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == ""
    assert CANARY not in done.stderr
    return [line.partition("Z ")[2] for line in done.stderr.splitlines()]


OURS = ["warning: ours (code=Throttled)", "error: ours failed"]


def test_other_libraries_are_silent() -> None:
    assert printed("quiet") == OURS


def test_verbose_tells_who_had_something_to_say() -> None:
    lines = printed("verbose")
    assert lines[-3:] == ["info: of use to some (messages=3)", *OURS]
    others = lines[:-3]
    assert len(others) == 7 * 4 + 1, "warnings and worse, and the task that nobody looked at"
    assert others[0] == "warning: a record of botocore.credentials, whose text may hold a value and is left out"
    assert any(line.startswith("error: a record of asyncio,") for line in others)


@pytest.mark.parametrize("how", ["quiet", "verbose"])
def test_no_word_of_pythons_own_about_missing_handlers(how: str) -> None:
    assert not [line for line in printed(how) if "handler" in line]


def a_record(text: str, level: int = logging.WARNING, **fields: object) -> logging.LogRecord:
    return logging.getLogger("coatcheck.here").makeRecord("coatcheck.here", level, "f", 1, text, (), None, extra=fields)


def test_json_by_the_elastic_common_schema() -> None:
    record = a_record("acks fail", code="Throttled", error="SqsError", messages=3, body=CANARY)
    record.exc_info = (ValueError, ValueError(CANARY), None)
    line = logs.JsonFormatter().format(record)
    assert CANARY not in line
    entry = json.loads(line)
    assert datetime.fromisoformat(entry.pop("@timestamp")).utcoffset() == timedelta(0)
    assert entry.pop("process.pid") == os.getpid()
    assert entry == {
        "log.level": "warning",
        "message": "acks fail",
        "ecs.version": "8.11.0",
        "event.dataset": "coatcheck.log",
        "log.logger": "coatcheck.here",
        "service.name": "coatcheck",
        "error.type": "SqsError",
        "coatcheck": {"code": "Throttled", "messages": 3},
    }
    assert "coatcheck" not in json.loads(logs.JsonFormatter().format(a_record("nothing beside")))


def test_json_of_other_libraries_is_their_name() -> None:
    other = logging.getLogger("elsewhere").makeRecord("elsewhere", logging.ERROR, "f", 1, "%s", (CANARY,), None)
    entry = json.loads(logs._JsonNameFormatter().format(other))
    assert entry["message"] == "a record of elsewhere, whose text may hold a value and is left out"
    assert entry["log.level"] == "error"
    assert CANARY not in json.dumps(entry)


def test_what_is_said_again_and_again_is_said_once_a_while() -> None:
    now = 0.0
    repeats = logs.Repeats(10.0, lambda: now)
    assert repeats.filter(a_record("a", sqlstate="08006", messages=1))
    for now in (0.0, 1.0, 9.9):  # noqa: B007 - the clock reads it
        assert not repeats.filter(a_record("a", sqlstate="08006", messages=2))
    assert repeats.filter(a_record("a", sqlstate="53300"))
    assert repeats.filter(a_record("b", sqlstate="08006"))
    assert repeats.filter(a_record("c", message_id="1"))
    assert repeats.filter(a_record("c", message_id="2"))
    now = 10.0
    again = a_record("a", sqlstate="08006")
    assert repeats.filter(again)
    assert again.__dict__["left_out"] == 3
    assert "(left_out=3 sqlstate=08006)" in logs.LineFormatter().format(again)
    now = 20.0
    once_more = a_record("a", sqlstate="08006")
    assert repeats.filter(once_more)
    assert "left_out" not in once_more.__dict__


def test_notices_are_said_without_being_asked_for_and_not_again_and_again() -> None:
    repeats = logs.Repeats(10.0, lambda: 0.0)
    notice = a_record("it is back", logs.NOTICE, seconds=1.5)
    assert repeats.filter(notice)
    assert not repeats.filter(a_record("it is back", logs.NOTICE, seconds=0.1)), "a connection that comes and goes"
    assert logs.LineFormatter().format(notice).endswith(" notice: it is back (seconds=1.5)")
    assert json.loads(logs.JsonFormatter().format(notice))["log.level"] == "notice"


SAYING = """
import logging, sys
from coatcheck import terminal
from coatcheck.errors import ConfigError
from coatcheck.ops import logs

logs.configure(verbose="verbose" in sys.argv, form=sys.argv[1], unattended="unattended" in sys.argv)
logs.announce(logging.getLogger("coatcheck.worker"), "starting", workers=2, secret=sys.argv[2])
terminal.warn("somebody should know")
error = ConfigError("it is 5 %s wrong", hint="mend it")
error.reasons = {"not_json": {"": 1}}
sys.exit(terminal.fail(error))
"""


def stderr(*arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SAYING, arguments[0], CANARY, *arguments[1:]],
        capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"NO_COLOR": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert CANARY not in done.stderr
    return done.stderr.splitlines()


WORDS = [
    "coatcheck: warning: somebody should know", "coatcheck: error: it is 5 %s wrong", "coatcheck: hint: mend it",
]  # fmt: skip


def test_stderr_of_a_process_that_logs_json_is_json_alone() -> None:
    start, warning, error = map(json.loads, stderr("json", "unattended"))
    assert (start["message"], start["coatcheck"], start["log.level"]) == ("starting", {"workers": 2}, "notice")
    assert (warning["message"], warning["log.level"]) == ("somebody should know", "warning")
    assert (error["message"], error["log.level"]) == ("it is 5 %s wrong", "error")
    assert error["coatcheck"] == {"exit_code": 2, "hint": "mend it", "reasons": {"not_json": {"": 1}}}


def test_a_person_is_told_in_words() -> None:
    assert stderr("text", "unattended") == WORDS
    assert stderr("text") == WORDS
    assert stderr("json")[1:] == WORDS, "a command that a person has given"
    start, *words = stderr("text", "verbose", "unattended")
    assert (start.partition("Z ")[2], words) == ("info: starting (workers=2)", WORDS)


def test_the_trace_that_a_record_belongs_to() -> None:
    record = a_record("acks fail", messages=3, trace_id="ab" * 16, span_id="cd" * 8)
    entry = json.loads(logs.JsonFormatter().format(record))
    assert (entry["trace.id"], entry["span.id"], entry["coatcheck"]) == ("ab" * 16, "cd" * 8, {"messages": 3})
    repeats = logs.Repeats()
    assert repeats.filter(record)
    assert not repeats.filter(a_record("acks fail", trace_id="ef" * 16)), "another batch says the same again"


PIPELINES = """
import logging, sys
from coatcheck.ops import logs

logs.configure(verbose=True, form=sys.argv[1], pipeline=sys.argv[2], several=sys.argv[3] == "several")
logger = logging.getLogger("coatcheck.somewhere")
logger.warning("of ours", extra={"messages": 3})
logger.warning("of another", extra={"pipeline": "returns"})
logging.getLogger("elsewhere").warning("a value")
"""


def said_of(form: str, pipeline: str, many: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PIPELINES, form, pipeline, many], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stderr.splitlines()


def test_every_json_line_names_the_pipeline() -> None:
    fields = [json.loads(line).get("coatcheck") for line in said_of("json", "orders", "one")]
    assert fields == [{"messages": 3, "pipeline": "orders"}, {"pipeline": "returns"}, {"pipeline": "orders"}]
    assert [json.loads(line).get("coatcheck") for line in said_of("json", "", "several")][2] is None


def test_a_text_line_names_the_pipeline_where_there_are_several() -> None:
    lines = [line.partition("Z ")[2] for line in said_of("text", "orders", "several")]
    assert lines[0] == "warning: of ours (messages=3 pipeline=orders)"
    assert lines[1] == "warning: of another (pipeline=returns)"
    assert lines[2].endswith(" is left out (pipeline=orders)")
    lines = [line.partition("Z ")[2] for line in said_of("text", "default", "one")]
    assert lines[:2] == ["warning: of ours (messages=3)", "warning: of another"]
    assert lines[2].endswith(" is left out")


def test_the_same_of_two_pipelines_is_not_a_repetition() -> None:
    repeats = logs.Repeats()
    assert repeats.filter(a_record("a worker has died", pipeline="logins"))
    assert repeats.filter(a_record("a worker has died", pipeline="orders"))
    assert not repeats.filter(a_record("a worker has died", pipeline="orders"))
