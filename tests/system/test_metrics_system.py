"""A worker, and a supervisor with two, are watched over HTTP: while they load, while something is away, at the end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct

import psycopg
import pytest
from tests.support.fix_servers import BAD, Ask, LoginDatabase, Queue, logins, new_queue
from tests.support.process import Command, wait_until
from tests.support.tcp_proxy import TcpProxy

from coatcheck.demo.servers import SqsServer


def figures(ask: Ask, pipeline: str = "default") -> dict[str, float]:
    """Return every sample of a pipeline by its name and the other labels."""
    said = [line for line in ask("/metrics")[1].splitlines() if line[:1] == "#" or f'pipeline="{pipeline}"' in line]
    text = re.sub(f'pipeline="{pipeline}",?', "", "\n".join(said)).replace("{}", "")
    return {name: float(value) for name, value in re.findall(r"^([^# ]\S*) (\S+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_is_watched(
    command: Command, queue: Queue, login_database: LoginDatabase, ask: Ask, workers: str
) -> None:
    queue.send([*logins(300), *(BAD % number for number in range(7))])
    running = command.start("run", "--workers", workers)
    wait_until(lambda: figures(ask).get("coatcheck_messages_acked_total") == 307, "all is acked, and told")
    seen = figures(ask)
    assert seen["coatcheck_messages_received_total"] == 307
    assert seen["coatcheck_messages_loaded_total"] == login_database.rows() == 300
    assert seen["coatcheck_messages_quarantined_total"] == seen['coatcheck_rejects_total{reason="missing_field"}'] == 7
    assert seen["coatcheck_workers"] == float(workers)
    assert seen["coatcheck_batch_messages_sum"] == 307
    assert seen["coatcheck_batch_messages_count"] == seen["coatcheck_batches_total"]
    assert seen['coatcheck_stage_seconds_count{stage="write"}'] == seen["coatcheck_batches_total"]
    assert seen["coatcheck_vault_entries_total"] == 600
    assert 0 <= seen["coatcheck_oldest_message_age_seconds"] < 60
    assert 20e6 < seen["coatcheck_resident_memory_bytes"] < 300e6
    wait_until(lambda: figures(ask)["coatcheck_batches_under_way"] == 0, "nothing is under way")
    for path in ("/livez", "/readyz", "/startupz"):
        assert ask(path) == (200, "ok\n")
    assert ask("/")[0] == 404
    running.signal(15)
    assert running.wait().code == 0
    assert ask("/metrics") == (0, "")


def test_what_is_beside_the_road_is_told(command: Command, queue: Queue, sqs: SqsServer, ask: Ask) -> None:
    queue.send([BAD % number for number in range(7)])
    command.drain()
    with new_queue(sqs) as dead:
        dead.send(logins(3))
        queue.set(RedrivePolicy=json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": 5}))
        running = command.start("run", "--workers", "2")
        wait_until(lambda: figures(ask).get("coatcheck_dead_letters") == 3, "dead letters are told")
    seen = figures(ask)
    assert seen['coatcheck_quarantine_messages{reason="missing_field"}'] == 7
    assert seen['coatcheck_partitions_missing{table="vault"}'] == 0
    assert seen['coatcheck_reveals{event="requested"}'] == 0
    running.signal(15)
    assert running.wait().code == 0


def test_what_is_away_is_told(command: Command, queue: Queue, login_database: LoginDatabase, ask: Ask) -> None:
    with TcpProxy("127.0.0.1", login_database.server.port) as between:
        command.environment["DATABASE_URL"] = psycopg.conninfo.make_conninfo(login_database.dsn, port=between.port)
        command.set(LOG__FORMAT="json")
        running = command.start("run")
        wait_until(lambda: ask("/readyz")[0] == 200, "it is ready")
        between.refusing = True
        between.cut()
        queue.send(logins(10))
        wait_until(lambda: ask("/readyz") == (503, "database does not answer\n"), "the database is away")
        assert ask("/livez")[0] == ask("/startupz")[0] == 200
        assert figures(ask)['coatcheck_database_errors_total{sqlstate="08006"}'] >= 1
        between.refusing = False
        wait_until(lambda: ask("/readyz")[0] == 200, "it is back")
        running.signal(15)
        done = running.wait()
    assert done.code == 0
    logged = [json.loads(line) for line in done.err.splitlines()]
    (outage, *_) = [entry for entry in logged if entry["message"] == "the database refuses a batch for now"]
    assert outage["coatcheck"] == {"messages": 10, "pipeline": "default", "sqlstate": "08006"}
    assert logged[0]["message"] == "coatcheck is starting"
    (back,) = [entry for entry in logged if entry["message"] == "the database takes batches again"]
    assert back["log.level"] == "notice"
    assert 0 < back["coatcheck"]["seconds"] < 60
    assert len(logged) <= 4, "what is said again and again is said once a while"


def test_a_dead_worker_keeps_what_it_counted(
    command: Command, queue: Queue, login_database: LoginDatabase, ask: Ask
) -> None:
    queue.send(logins(200))
    running = command.start("run", "--workers", "2")
    wait_until(lambda: figures(ask).get("coatcheck_messages_acked_total") == 200, "all is told")
    os.kill(command.workers(running)[0], signal.SIGKILL)
    wait_until(lambda: figures(ask).get("coatcheck_worker_restarts_total") == 1, "it is started again")
    wait_until(lambda: figures(ask)["coatcheck_workers"] == 2, "both are there")
    queue.send(logins(50, first=200))
    wait_until(lambda: figures(ask)["coatcheck_messages_acked_total"] == 250, "counters go on from where they were")
    assert login_database.rows() == 250
    running.signal(15)
    assert running.wait().code == 0


def test_who_hangs_up_is_not_spoken_of(command: Command, ask: Ask) -> None:
    running = command.start("run")
    wait_until(lambda: ask("/startupz")[0] == 200, "it has started")
    port = int(command.environment["COATCHECK_METRICS__LISTEN"].rpartition(":")[2])
    for sent in (b"", b"GET /metrics", b"GET /metrics HTTP/1.1\r\n\r\n", b"\xff\0\r\n\r\n", b"PUT / HTTP/1.1\r\n\r\n"):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                linger = struct.pack("ii", 1, 0)  # the close is a reset
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                connection.sendall(sent)
    assert ask("/livez")[0] == 200
    running.signal(15)
    done = running.wait()
    assert (done.code, done.err) == (0, "")


def test_a_place_that_is_taken(command: Command, ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command.set(METRICS__LISTEN=f"127.0.0.1:{taken.getsockname()[1]}")
        for arguments in (("run", "--drain"), ("run", "--drain", "--workers", "2")):
            assert "coatcheck: error: cannot listen on [metrics] listen = 127.0.0.1:" in command(*arguments, code=2).err
    assert ask("/metrics") == (0, "")
