"""Two pipelines of one file: they run side by side, and what ends one of them does not end the other."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator

import pytest
from tests.support.canaries import canary, nowhere
from tests.support.fix_servers import BAD, Ask, LoginDatabase, Queue, logins, new_queue
from tests.support.process import Command, wait_until

from coatcheck.demo.servers import SqsServer

FILE = """
[pipelines.logins.source]
queue = "{logins}"

[pipelines.orders.source]
queue = "{orders}"

[pipelines.orders.target]
table = "orders"

[pipelines.orders.breaker]
run = 20

[pipelines.orders.batch]
seconds = 2

[pipelines.orders.columns]
id    = {{ from = "id", type = "bigint", required = true }}
email = {{ from = "email", type = "varchar(256)", parse = "text", domain = "email" }}
"""


def orders(count: int) -> list[str]:
    return [json.dumps({"id": number, "email": f"a{number}@example.org"}) for number in range(count)]


@pytest.fixture
def second(sqs: SqsServer) -> Iterator[Queue]:
    with new_queue(sqs, VisibilityTimeout=120) as new:
        yield new


@pytest.fixture
def pair(command: Command, queue: Queue, second: Queue, bare_database: LoginDatabase) -> Command:
    """The command with a file of two pipelines, `logins` on `queue` and `orders` on `second`, migrated."""
    (command.folder / "coatcheck.toml").write_text(FILE.format(logins=queue.name, orders=second.name))
    del command.environment["COATCHECK_SOURCE__QUEUE"]
    command.environment["DATABASE_URL"] = bare_database.dsn
    command("migrate")
    return command


def figure(ask: Ask, name: str, pipeline: str, more: str = "") -> float | None:
    """Return the value of a metric of one pipeline."""
    found = re.search(rf'^{name}{{pipeline="{pipeline}"{re.escape(more)}}} (\S+)$', ask("/metrics")[1], re.MULTILINE)
    return float(found[1]) if found else None


def test_all_pipelines_of_a_file(pair: Command, queue: Queue, second: Queue, bare_database: LoginDatabase) -> None:
    queue.send([*logins(30), BAD % 1])
    second.send(orders(12))
    done = pair("run", "--drain", "--json").json()
    assert {name: done[name] for name in ("received", "loaded", "duplicates", "rejected", "acked")} == {
        "received": 43, "loaded": 42, "duplicates": 0, "rejected": 1, "acked": 43,
    }  # fmt: skip
    assert {name: (each["loaded"], each["rejected"]) for name, each in done["pipelines"].items()} == {
        "logins": (30, 1),
        "orders": (12, 0),
    }
    assert all(0 < each["seconds"] <= done["seconds"] for each in done["pipelines"].values())
    assert (bare_database.rows(), bare_database.count("orders")) == (30, 12)
    lines = pair("run", "--drain", "--workers", "2").out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["logins: 0 received", "orders: 0 received"]


def test_one_pipeline_by_name(pair: Command, queue: Queue, second: Queue, bare_database: LoginDatabase) -> None:
    queue.send(logins(3))
    second.send(orders(4))
    done = pair("run", "orders", "--drain", "--json").json()
    assert (done["loaded"], {name: each["loaded"] for name, each in done["pipelines"].items()}) == (4, {"orders": 4})
    assert (bare_database.rows(), bare_database.count("orders")) == (0, 4)
    assert pair("run", "--drain", COATCHECK_PIPELINE="logins").out.startswith("logins: 3 received, 3 loaded")
    assert "no pipeline returns" in pair("run", "returns", code=2).err


def test_a_drain_goes_on_without_the_one_whose_breaker_opens(
    pair: Command, queue: Queue, second: Queue, bare_database: LoginDatabase
) -> None:
    word = canary()
    queue.send(logins(300))
    second.send(BAD.replace("heartbeat", word) % number for number in range(100))
    done = pair("-v", "run", "--drain", "--json", code=4)
    nowhere({word}, {"stdout": done.out, "stderr": done.err})
    counts = done.json()
    assert (counts["pipelines"]["logins"]["loaded"], counts["loaded"], bare_database.rows()) == (300, 300, 300)
    assert "coatcheck: error: pipeline orders: the breaker is open: 20 messages in a row were rejected" in done.err
    assert "error: a pipeline has ended and is not started again (exit_code=4 pipeline=orders)" in done.err
    assert "coatcheck: error: pipeline orders: worker 0 has stopped with exit code 4" in done.err
    assert queue.depth() == (0, 0, 0)
    assert sum(second.depth()) == 100


def test_one_that_has_ended_is_told_and_the_other_goes_on(
    pair: Command, queue: Queue, second: Queue, bare_database: LoginDatabase, ask: Ask
) -> None:
    pair.set(LOG__FORMAT="json")
    running = pair.start("run", "--workers", "2")
    wait_until(lambda: len(pair.workers(running)) == 4, "two workers each")
    wait_until(lambda: ask("/readyz") == (200, "ok\n"), "both are ready")
    assert figure(ask, "coatcheck_workers", "logins") == figure(ask, "coatcheck_workers", "orders") == 2
    second.send(BAD % number for number in range(100))
    ended = "pipeline orders: it has ended with exit code 4, and is not started again\n"
    wait_until(lambda: ask("/readyz") == (503, ended), "the end of one is told")
    assert ask("/livez") == ask("/startupz") == (200, "ok\n")
    assert figure(ask, "coatcheck_pipeline_ended", "orders", ',exit_code="4"') == 1
    assert figure(ask, "coatcheck_pipeline_ended", "logins", ',exit_code="4"') is None
    assert figure(ask, "coatcheck_workers", "orders") is None
    assert len(pair.workers(running)) == 2
    queue.send(logins(50))
    wait_until(lambda: figure(ask, "coatcheck_messages_acked_total", "logins") == 50, "the other one goes on")
    assert bare_database.rows() == 50
    running.signal(signal.SIGTERM)
    done = running.wait()
    assert done.code == 0
    logged = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    (entry,) = [each for each in logged if each["message"] == "a pipeline has ended and is not started again"]
    assert (entry["log.level"], entry["coatcheck"]) == ("error", {"exit_code": 4, "pipeline": "orders"})


def test_when_all_have_ended_so_does_the_command(pair: Command, bare_database: LoginDatabase) -> None:
    bare_database.execute("DROP TABLE orders; DROP TABLE user_logins")
    done = pair("run", code=2)
    for name, table in (("logins", "user_logins"), ("orders", "orders")):
        assert f"coatcheck: error: pipeline {name}: the target table public.{table} is missing" in done.err
    assert done.err.count("has stopped with exit code 2") == 1, "the first of them is the command's own"


def test_metrics_and_looks_are_of_each_pipeline(pair: Command, queue: Queue, second: Queue, ask: Ask) -> None:
    second.set(DelaySeconds=900)
    second.send(orders(3))
    queue.send(logins(20))
    running = pair.start("run")
    wait_until(lambda: figure(ask, "coatcheck_messages_loaded_total", "logins") == 20, "the one has loaded")
    assert figure(ask, "coatcheck_messages_loaded_total", "orders") == 0
    delayed = ',state="delayed"'
    wait_until(lambda: figure(ask, "coatcheck_queue_messages", "orders", delayed) == 3, "each has its queue looked at")
    wait_until(lambda: figure(ask, "coatcheck_queue_messages", "logins", delayed) == 0, "the other one, too")
    lines = [line for line in ask("/metrics")[1].splitlines() if not line.startswith("#")]
    assert all(re.match(r'coatcheck_\w+{pipeline="(logins|orders)"', line) for line in lines)
    assert len(lines) == len({line.rpartition(" ")[0] for line in lines})
    running.signal(signal.SIGTERM)
    assert running.wait().code == 0


def test_a_worker_that_dies_is_started_again_and_named(pair: Command, ask: Ask) -> None:
    running = pair.start("-v", "run")
    wait_until(lambda: ask("/readyz")[0] == 200, "both are ready")
    first = pair.workers(running)
    os.kill(first[0], signal.SIGKILL)
    wait_until(lambda: len(now := pair.workers(running)) == 2 and first[0] not in now, "two again")
    restarts = {figure(ask, "coatcheck_worker_restarts_total", name): name for name in ("logins", "orders")}
    assert restarts.keys() == {0, 1}
    ill = restarts[1]
    wait_until(lambda: ask("/readyz")[0] == 200, "both are ready again")
    running.signal(signal.SIGTERM)
    done = running.wait()
    assert done.code == 0
    assert f"a worker has died and is started again (exit_code=-9 pipeline={ill} worker=0)" in done.err
    stopping = re.findall(r"stopping: no more receiving, finishing what is in progress \(pipeline=(\w+)\)", done.err)
    assert sorted(stopping) == ["logins", "orders"]


def test_json_logs_of_a_worker_name_its_pipeline(pair: Command) -> None:
    pair.set(LOG__FORMAT="json")
    done = pair("-v", "run", "--drain", DATABASE_URL="postgresql://postgres@127.0.0.1:1/none", code=3)
    lines = [json.loads(line) for line in done.err.splitlines() if line.startswith("{")]
    of_workers = {line["coatcheck"].get("pipeline") for line in lines if "coatcheck" in line} - {None}
    assert of_workers == {"logins", "orders"}
    for name in ("logins", "orders"):
        assert f"pipeline {name}: cannot connect to the database" in done.err


def test_a_drain_ends_with_the_code_of_the_first_that_ended(
    pair: Command, second: Queue, bare_database: LoginDatabase
) -> None:
    """One has no table and ends at its start; the other's breaker opens later."""
    second.send(BAD % number for number in range(100))
    bare_database.execute("DROP TABLE user_logins")
    done = pair("run", "--drain", code=2)
    assert "pipeline logins: the target table public.user_logins is missing" in done.err
    assert "pipeline orders: the breaker is open" in done.err
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["logins", "orders"]
