"""The commands beside `run`, on real servers: what they print, what they change, and what they refuse."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.fix_servers import (
    BAD,
    LoginDatabase,
    Queue,
    commanding,
    login,
    logins,
    new_queue,
)
from tests.support.process import Command, wait_until
from tests.support.tcp_proxy import TcpProxy

from coatcheck.demo.servers import SqsServer


def lines(bodies: list[str]) -> str:
    return "".join(f"{body}\n" for body in bodies)


# -- init


@pytest.fixture
def newcomer(command: Command) -> Command:
    """The command as one meets it: no keyring, no file."""
    del command.environment["COATCHECK_KEYS__PATH"]
    return command


def test_init_makes_a_configuration_that_works(newcomer: Command, queue: Queue, login_database: LoginDatabase) -> None:
    done = newcomer("init", "--keys")
    assert done.out.splitlines() == [
        "wrote coatcheck.toml",
        "wrote coatcheck-keys/token-root.json",
        "wrote coatcheck-keys/seal-public.json",
        "wrote coatcheck-keys/seal-private.pem",
    ]
    assert "coatcheck: warning: coatcheck-keys/seal-private.pem is stored in clear" in done.err
    assert done.err.endswith(
        "next: `coatcheck check` tells what else is needed, `coatcheck migrate` makes the tables\n"
    )
    queue.send(logins(3))
    assert newcomer.drain()["loaded"] == 3
    assert login_database.rows() == 3


def test_nothing_is_ever_overwritten(newcomer: Command) -> None:
    newcomer.set(KEYS__PASSPHRASE="open sesame")
    assert "warning" not in newcomer("init", "--keys").err
    assert b"ENCRYPTED" in (newcomer.folder / "coatcheck-keys" / "seal-private.pem").read_bytes()
    files = [newcomer.folder / "coatcheck.toml", *(newcomer.folder / "coatcheck-keys").iterdir()]
    before = {path: path.read_bytes() for path in files}
    assert len(before) == 4
    done = newcomer("init", code=2)
    assert done.err.splitlines() == [
        "coatcheck: error: coatcheck.toml exists",
        "coatcheck: hint: it is never overwritten; move it away first",
    ]
    newcomer("init", "--keys", code=2)
    newcomer("keys", "init", code=2)
    assert {path: path.read_bytes() for path in files} == before


def test_the_keyring_beside_the_file_is_found_from_anywhere(newcomer: Command) -> None:
    place = newcomer.folder / "etc"
    place.mkdir()
    done = newcomer("init", "--keys", "--path", "etc/mine.toml")
    assert "wrote etc/coatcheck-keys/token-root.json" in done.out.splitlines()
    rows = newcomer("--config", str(place / "mine.toml"), "keys", "list", "--json").json()
    tokens = [(row["kid"], row["active"]) for row in rows if row["kind"] == "token"]
    assert tokens == [("k1", True)]
    assert {Path(row["path"]).parent.name for row in rows} == {"coatcheck-keys"}
    table = newcomer("keys", "list", COATCHECK_CONFIG="etc/mine.toml").out
    assert table.splitlines()[0].split() == ["key", "kind", "created", "fingerprint", "active", "file"]
    newcomer("keys", "list", code=2)


def test_keys_init_for_a_tenant(newcomer: Command) -> None:
    newcomer("keys", "init", "--tenant", "acme")
    kept = newcomer.folder / "coatcheck-keys"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in kept.iterdir()}
    assert modes == {"token-root.json": 0o600, "seal-public.json": 0o644, "seal-private.pem": 0o600}
    assert newcomer("status", "--json").json()["keys"]["tenant"] == "acme"


# -- check, migrate


def findings(command: Command, code: int, **variables: str) -> dict[str, list[str]]:
    """Return what `check --json` finds, by component and level."""
    found: dict[str, list[str]] = {}
    for finding in command("check", "--json", code=code, **variables).json():
        assert set(finding) == {"component", "level", "what", "hint"}
        if finding["level"] == "note":  # who can reverse which column: said whenever one asks
            assert finding["what"].startswith("column masked_")
            continue
        assert finding["hint"]
        found.setdefault(f"{finding['component']} {finding['level']}", []).append(finding["what"])
    return found


def test_check_reports_everything_at_once(
    command: Command, queue: Queue, bare_database: LoginDatabase, own_keyring: Path
) -> None:
    queue.set(VisibilityTimeout=3)
    bare_database.execute("CREATE TABLE user_logins (user_id varchar(8), app_version text, extra integer NOT NULL)")
    (own_keyring / "token-root.json").chmod(0o644)
    (own_keyring / "seal-private.pem").unlink()  # kept elsewhere, as it should
    command.set(KEYS__PATH=own_keyring, BATCH__SECONDS=2)
    command.environment["DATABASE_URL"] = bare_database.dsn
    assert findings(command, 1) == {
        "keys error": [f"the key file {own_keyring}/token-root.json can be read by others"],
        "queue error": ["the visibility timeout of 3 s is too short for batches that wait 2 s"],
        "queue advice": ["the queue has no dead-letter queue"],
        "database error": [
            "the schema coatcheck is missing",
            "public.user_logins.user_id is character varying(8), [columns] says varchar(128)",
            "public.user_logins has no column device_type",
            "public.user_logins has no column masked_ip",
            "public.user_logins has no column masked_device_id",
            "public.user_logins has no column locale",
            "public.user_logins.app_version is text, [columns] says integer",
            "public.user_logins has no column create_date",
            "public.user_logins.extra is NOT NULL without a default, and [columns] does not fill it",
        ],
    }
    text = command("check", code=1).out.splitlines()
    assert text[0] == "ok      config"
    assert text[1].startswith("note    config: column masked_ip holds tokens; the vault's private key opens")
    assert text[3].startswith("error   keys: the key file ")
    assert text[4] == f"        hint: chmod 600 {own_keyring}/token-root.json"
    assert "error   database: the schema coatcheck is missing" in text
    assert "        hint: run `coatcheck migrate`" in text


def test_check_is_content_after_mending(
    command: Command, sqs: SqsServer, queue: Queue, bare_database: LoginDatabase, own_keyring: Path
) -> None:
    command.set(KEYS__PATH=own_keyring)
    command.environment["DATABASE_URL"] = bare_database.dsn
    (own_keyring / "seal-private.pem").unlink()  # kept elsewhere, as it should
    (own_keyring / "token-root.json").chmod(0o640)
    assert set(findings(command, 1)) == {"keys error", "queue advice", "database error"}
    (own_keyring / "token-root.json").chmod(0o600)
    command("migrate")
    command.environment["DATABASE_URL"] = bare_database.role("coatcheck_loader")
    with new_queue(sqs) as dead:
        queue.set(RedrivePolicy=json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": 5}))
        assert findings(command, 0) == {}
        told = [line for line in command("check").out.splitlines() if not line.startswith("note ")]
        assert told == ["ok      config", "ok      keys", "ok      queue", "ok      database"]
        queue.set(RedrivePolicy=json.dumps({"deadLetterTargetArn": dead.arn, "maxReceiveCount": 1}))
        assert list(findings(command, 0)) == ["queue advice"]


def test_check_names_missing_privileges(command: Command, login_database: LoginDatabase) -> None:
    poor = login_database.role()
    found = findings(command, 1, DATABASE_URL=poor)["database error"]
    assert any("schema coatcheck" in what.lower() for what in found), found
    loader = login_database.role(
        "USAGE ON SCHEMA coatcheck",
        "SELECT ON coatcheck.migration",
        "SELECT, INSERT ON coatcheck.ledger",
        "INSERT ON coatcheck.data_key, coatcheck.batch",
    )
    lacking = {
        "this user lacks the privilege INSERT on public.user_logins",
        "this user lacks the privilege INSERT on coatcheck.quarantine",
    }
    assert lacking <= set(findings(command, 1, DATABASE_URL=loader)["database error"])
    command("run", "--drain", code=2, DATABASE_URL=loader)


def test_a_loader_needs_no_more_than_check_asks_for(
    command: Command, queue: Queue, login_database: LoginDatabase
) -> None:
    """Grant what is said to be missing until nothing is; then everything loads, and nothing can be read back."""
    loader = login_database.role("USAGE ON SCHEMA coatcheck", "SELECT ON coatcheck.migration")
    name = loader.split("user=")[1].split()[0]
    for finding in command("check", "--json", code=1, DATABASE_URL=loader).json():
        if finding["component"] == "database" and finding["level"] == "error":
            assert finding["hint"].startswith("GRANT "), finding
            login_database.execute(finding["hint"].replace("...", name))
    assert "database error" not in findings(command, 0, DATABASE_URL=loader)
    queue.send([*logins(20), BAD % 1])
    counts = command("run", "--drain", "--json", DATABASE_URL=loader).json()
    assert (counts["loaded"], counts["rejected"]) == (20, 1)
    command("quarantine", "list", code=2, DATABASE_URL=loader)


def test_check_reports_what_it_cannot_reach(command: Command) -> None:
    done = command(
        "check", code=1, DATABASE_URL="postgresql://postgres@127.0.0.1:1/x", COATCHECK_SOURCE__QUEUE="nowhere"
    )
    assert "ok      keys" in done.out
    assert "error   queue: SQS GetQueueUrl failed: missing queue (QueueDoesNotExist)" in done.out
    assert "error   database: cannot connect to the database: the database does not answer" in done.out


def test_migrate_twice(command: Command, bare_database: LoginDatabase) -> None:
    command.environment["DATABASE_URL"] = bare_database.dsn
    first = command("migrate").out.splitlines()
    assert first[0].startswith("applied 0001_")
    assert first[-1] == "created table user_logins"
    assert command("migrate").out == "nothing to do: the schema is up to date\n"
    assert bare_database.value("SELECT count(*) FROM coatcheck.migration") == len(first) - 1


def test_migrate_keeps_a_table_that_is_there(command: Command, bare_database: LoginDatabase) -> None:
    command.environment["DATABASE_URL"] = bare_database.dsn
    bare_database.execute("CREATE TABLE user_logins (kept text); INSERT INTO user_logins VALUES ('still here')")
    assert "created table" not in command("migrate").out
    assert bare_database.value("SELECT kept FROM user_logins") == "still here"


def test_migrate_while_a_worker_runs(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    queue.send(logins(1500))
    command.set(SOURCE__MAX_IN_FLIGHT=200)
    running = command.start("run", "--drain")
    wait_until(lambda: login_database.rows() >= 100, "rows")
    command("migrate")
    done = running.wait()
    assert (done.code, done.err) == (0, "")
    assert login_database.figures() == (1500, 1500, 0)


# -- send, status


def test_send_a_file_and_standard_input(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    (command.folder / "logins.jsonl").write_text(lines(logins(25)) + "\n  \n")
    assert command("send", "logins.jsonl").out == "sent 25 messages\n"
    assert command("send", "-", text=lines(logins(3, first=100))).out == "sent 3 messages\n"
    assert command("send", "-").out == "sent 0 messages\n"
    assert queue.depth() == (28, 0, 0)
    assert command.drain()["loaded"] == 28
    assert login_database.rows() == 28


def test_a_file_sent_twice_adds_nothing(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    (command.folder / "logins.jsonl").write_text(lines([*logins(10), login(3), login(3), BAD % 1]))
    command("send", "logins.jsonl")
    assert command.drain()["loaded"] == 12, "equal lines of one file are separate messages"
    command("send", "logins.jsonl")
    counts = command.drain()
    assert (counts["loaded"], counts["duplicates"], counts["rejected"], counts["acked"]) == (0, 13, 0, 13)
    assert login_database.figures() == (12, 13, 1)
    command("send", "--as-new", "logins.jsonl")
    assert command.drain()["loaded"] == 12
    assert login_database.figures() == (24, 26, 2)
    assert queue.depth() == (0, 0, 0)


def test_send_to_a_queue_that_is_not_there(command: Command, queue: Queue) -> None:
    command.set(SOURCE__QUEUE=f"{queue.name}-new")
    done = command("send", "-", text=login(1), code=3)
    assert "--create-queue" in done.err.splitlines()[-1]
    assert command("send", "--create-queue", "-", text=login(1)).out == "sent 1 messages\n"
    assert command("send", "--create-queue", "-", text=login(2)).out == "sent 1 messages\n"
    assert command.drain()["loaded"] == 2


def test_send_what_cannot_be_sent(command: Command, queue: Queue) -> None:
    done = command("send", "-", text=lines([login(1), "x" * 2**20]), code=2)
    assert done.err.splitlines()[-2] == "coatcheck: error: line 2 is larger than SQS takes (1 MiB)"
    assert queue.depth() == (0, 0, 0)


def test_odd_lines_travel_unharmed(command: Command, queue: Queue) -> None:
    bodies = ['{"text": "ä €  𝄞"}', "not json", "{}", '"\\u0000"', "x" * 200_000]
    command("send", "-", text=lines(bodies))
    assert sorted(message["Body"] for message in queue.receive()) == sorted(bodies)


def test_status(command: Command, queue: Queue) -> None:
    before = command("status", "--json").json()
    assert before["queue"] == {"visible": 0, "in_flight": 0, "delayed": 0}
    assert (before["newest_commit"], before["lag_s"], before["quarantined"]) == (None, None, {})
    queue.send([*logins(7), BAD % 1, BAD % 2, "no json"])
    command("send", "-", text=login(1))
    command.drain()
    command("send", "-", text=login(1))
    command.drain()
    queue.send(logins(4, first=50))
    queue.receive()
    queue.send(logins(2, first=60))
    after = command("status", "--json").json()
    assert after["queue"] == {"visible": 2, "in_flight": 4, "delayed": 0}
    assert (after["loaded_last_minute"], after["duplicates_last_minute"]) == (8, 1)
    assert after["quarantined"] == {"missing_field": 2, "not_json": 1}
    assert 0 <= after["lag_s"] < 60
    assert after["keys"]["kid"] == "k1"
    text = command("status").out
    assert "queue        2 waiting, 4 in flight, 0 delayed\n" in text
    assert "last minute  8 loaded, 1 duplicates\n" in text
    assert "quarantine   missing_field 2, not_json 1\n" in text
    assert "keys         local, tenant default, token key k1\n" in text


# -- run


def test_run_prints_its_counts(command: Command, queue: Queue) -> None:
    queue.send([*logins(5), "no json"])
    counts = command.drain()
    assert list(counts) == ["received", "loaded", "duplicates", "rejected", "acked", "seconds"]
    assert type(counts.pop("seconds")) is float
    assert counts == {"received": 6, "loaded": 5, "duplicates": 0, "rejected": 1, "acked": 6}
    done = command("run", "--drain")
    assert done.out.startswith("0 received, 0 loaded, 0 duplicates, 0 rejected, 0 acked in ")
    assert done.err == ""


def test_a_progress_bar_on_a_terminal_only(command: Command, queue: Queue) -> None:
    queue.send(logins(5))
    shown = command.on_terminal("run", "--drain")
    assert "loading" in shown
    assert "5 received, 5 loaded, 0 duplicates, 0 rejected, 5 acked in " in shown
    assert "login" not in shown.replace("logins", "")
    (command.folder / "logins.jsonl").write_text(lines(logins(5)))
    assert "sending" in command.on_terminal("send", "logins.jsonl")


# -- quarantine


@pytest.fixture
def held(command: Command, queue: Queue) -> list[dict[str, Any]]:
    """Three entries: two of one reason, one of another."""
    queue.send([login(1, ip="nowhere"), login(2, ip=None), "no json \x9b31m red"])
    queue.send(logins(2, first=10))
    assert command.drain()["rejected"] == 3
    return entries(command)


def entries(command: Command, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in command("quarantine", "list", "--json", *arguments).out.splitlines()]


WHY = ("--reason", "INCIDENT", "--ticket", "OPS-1")


def by_reason(held: list[dict[str, Any]], reason: str) -> str:
    return next(str(entry["quarantine_id"]) for entry in held if entry["reason"] == reason)


def test_list_and_show(command: Command, held: list[dict[str, Any]], own_keyring: Path) -> None:
    assert list(held[0]) == [
        "quarantine_id", "pipeline", "message_id", "reason", "detail", "sent_at", "received_at", "quarantined_at",
        "attempts", "state",
    ]  # fmt: skip
    assert sorted((entry["reason"], entry["detail"]) for entry in held) == [
        ("missing_field", "masked_ip"),
        ("not_an_ip", "masked_ip"),
        ("not_json", ""),
    ]
    assert {(entry["attempts"], entry["state"]) for entry in held} == {(1, "held")}
    assert [entry["reason"] for entry in entries(command, "--reason", "not_json")] == ["not_json"]
    assert len(entries(command, "--limit", "2")) == 2

    command("reveal", "policy", "one_person=true")
    number = by_reason(held, "not_json")
    piped = command("quarantine", "show", number, *WHY, code=4)
    assert piped.out == ""
    assert piped.err.startswith("coatcheck: error: originals are shown on a terminal only\n")
    whole = command.on_terminal("quarantine", "show", by_reason(held, "not_an_ip"), *WHY)
    assert whole == "request 1\n" + login(1, ip="nowhere") + "\n"
    odd = command.on_terminal("quarantine", "show", number, *WHY)
    assert odd == "request 2\nno json \\x9b31m red\n", "what a terminal would obey is escaped"

    done = command("quarantine", "show", number, *WHY, "--output", "body")
    path = command.folder / "body"
    assert (done.out, done.err) == ("wrote body\n", "request 3\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == "no json \x9b31m red\n"
    assert "body exists" in command("quarantine", "show", number, *WHY, "--output", "body", code=2).err
    assert "not held any more" in command("quarantine", "show", "999", *WHY, "--output", "other", code=4).err

    (own_keyring / "seal-private.pem").unlink()
    command.set(KEYS__PATH=own_keyring)
    assert "seal-private.pem" in command("quarantine", "show", number, *WHY, "--output", "other", code=2).err
    assert not (command.folder / "other").exists()


def test_retry_after_the_columns_were_mended(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    command("init")
    path = command.folder / "coatcheck.toml"
    right = path.read_text()
    wrong = right.replace('from = "locale",      type = "varchar(32)"', 'from = "locale",      type = "varchar(1)"')
    assert wrong != right
    path.write_text(wrong)
    queue.send([*logins(9), "no json"])
    counts = command.drain()
    assert (counts["loaded"], counts["rejected"]) == (3, 7), "a third has no locale, and two letters are too long"
    assert command("quarantine", "retry", "--all").out == "0 loaded, 7 rejected again: not_json 1, too_long 6\n"
    assert {entry["attempts"] for entry in entries(command)} == {2}
    path.write_text(right)
    assert command("quarantine", "retry", "--reason", "too_long").out == "6 loaded, 0 rejected again\n"
    assert login_database.figures() == (9, 10, 7)
    assert login_database.repeated() == 0
    assert [entry["reason"] for entry in entries(command)] == ["not_json"]
    states = sorted(entry["state"] for entry in entries(command, "--all"))
    assert states == ["held", *["loaded"] * 6]
    with_locale = login_database.value(
        "SELECT count(*) FROM user_logins WHERE locale = 'DE' AND create_date IS NOT NULL"
    )
    assert with_locale == 6


def test_retries_at_once_load_once(command: Command, queue: Queue, login_database: LoginDatabase) -> None:
    login_database.execute("ALTER TABLE user_logins ADD CONSTRAINT no CHECK (user_id = '') NOT VALID")
    queue.send(logins(150))
    assert command.drain()["rejected"] == 150
    login_database.execute("ALTER TABLE user_logins DROP CONSTRAINT no")
    running = [command.start("quarantine", "retry", "--all") for _ in range(3)]
    told = [one.wait() for one in running]
    assert [one.code for one in told] == [0, 0, 0]
    assert sum(int(one.out.partition(" loaded")[0]) for one in told) == login_database.rows() == 150
    assert login_database.repeated() == 0
    assert entries(command) == []


def test_a_retried_message_that_comes_again_is_known(
    command: Command, queue: Queue, login_database: LoginDatabase
) -> None:
    """Its ledger entry was written with its quarantine entry."""
    body = login(1)
    login_database.execute("ALTER TABLE user_logins ADD CONSTRAINT no CHECK (user_id <> 'user-1')")
    command("send", "-", text=body)
    assert command.drain()["rejected"] == 1
    login_database.execute("ALTER TABLE user_logins DROP CONSTRAINT no")
    assert command("quarantine", "retry", "1").out == "1 loaded, 0 rejected again\n"
    command("send", "-", text=body)
    assert command.drain()["duplicates"] == 1
    assert (login_database.rows(), queue.depth()) == (1, (0, 0, 0))


def test_discard(command: Command, login_database: LoginDatabase, held: list[dict[str, Any]]) -> None:
    number = by_reason(held, "not_json")
    done = command("quarantine", "discard", number, code=4)
    assert done.err.splitlines()[-1] == "coatcheck: hint: say --yes"
    assert "nothing is selected" in command("quarantine", "discard", "--yes", code=2).err
    assert "nothing is selected" in command("quarantine", "retry", code=2).err
    assert "[y/N]" in command.on_terminal("quarantine", "discard", number, typed="n\n", code=130)
    assert len(entries(command)) == 3
    assert command("quarantine", "discard", number, "--yes").out == "discarded 1 messages\n"
    assert "discarded 1 messages" in command.on_terminal("quarantine", "discard", "--reason", "not_an_ip", typed="y\n")
    assert [entry["reason"] for entry in entries(command)] == ["missing_field"]
    bodies = (
        "SELECT count(*) FROM coatcheck.quarantine WHERE state = 'discarded' AND ciphertext IS NULL AND nonce IS NULL"
    )
    assert login_database.value(bodies) == 2
    command("quarantine", "show", number, *WHY, "--output", "body", code=4)
    assert command("quarantine", "discard", "--all", "--yes").out == "discarded 1 messages\n"
    assert command("quarantine", "retry", "--all").out == "0 loaded, 0 rejected again\n"


# -- redrive


@pytest.fixture
def dead(sqs: SqsServer, queue: Queue) -> Iterator[Queue]:
    """The queue's dead-letter queue, where a message ends that is received once without an ack."""
    with new_queue(sqs, VisibilityTimeout=30) as new:
        queue.set(
            VisibilityTimeout=3,
            RedrivePolicy=json.dumps({"deadLetterTargetArn": new.arn, "maxReceiveCount": 1}),
        )
        yield new


def loaded_but_dead(  # noqa: PLR0917 - fixtures, given by name
    tmp_path: Path, queue: Queue, dead: Queue, database: LoginDatabase, keyring: Path, count: int
) -> None:
    """Load messages whose acks never arrive, so that they end in the dead-letter queue."""
    queue.send(logins(count))
    with (
        TcpProxy("127.0.0.1", int(queue.endpoint.rpartition(":")[2])) as between,
        commanding(tmp_path, queue, database, keyring) as command,
        database.session() as session,
    ):
        command.set(SOURCE__WAIT_SECONDS=1)  # the embedded server does not notice that a poll's owner has died
        with session.transaction():
            session.execute("LOCK TABLE user_logins")
            running = command.start("run", AWS_ENDPOINT_URL=f"http://127.0.0.1:{between.port}")
            wait_until(lambda: queue.depth()[1] == count and database.waiting(), "all is received, nothing committed")
            between.deafen()
        wait_until(lambda: database.count("coatcheck.ledger") == count, "all is committed")
        running.kill()

    def all_dead() -> bool:
        queue.receive()  # the embedded server moves dead letters when somebody asks for messages
        return dead.depth()[0] == count

    wait_until(all_dead, "all are dead letters")
    queue.set(VisibilityTimeout=30)


def test_a_redriven_message_keeps_its_identity(  # noqa: PLR0917 - fixtures, given by name
    command: Command, queue: Queue, dead: Queue, login_database: LoginDatabase, keyring: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    loaded_but_dead(folder, queue, dead, login_database, keyring, 12)
    dead.send([*logins(3, first=100), BAD % 1])
    assert command("redrive").out == "moved 16 messages\n"
    assert dead.depth() == (0, 0, 0)
    counts = command.drain()
    assert (counts["loaded"], counts["duplicates"], counts["rejected"]) == (3, 12, 1)
    assert login_database.figures() == (15, 16, 1)
    assert login_database.repeated() == 0
    assert queue.depth() == (0, 0, 0)


def test_redrive_some_and_from_elsewhere(command: Command, queue: Queue, sqs: SqsServer) -> None:
    done = command("redrive", code=2)
    assert done.err.splitlines() == [
        "coatcheck: error: the queue has no dead-letter queue",
        "coatcheck: hint: name the queue to move from: `coatcheck redrive --from NAME`",
    ]
    with new_queue(sqs) as elsewhere:
        elsewhere.send(logins(15))
        assert command("redrive", "--from", elsewhere.name, "--limit", "4").out == "moved 4 messages\n"
        assert (elsewhere.depth()[0], queue.depth()[0]) == (11, 4)
        assert command("redrive", "--from", elsewhere.url).out == "moved 11 messages\n"
    assert command.drain()["loaded"] == 15


def test_redriven_twice_it_is_still_itself(
    command: Command, queue: Queue, dead: Queue, login_database: LoginDatabase
) -> None:
    """Moved before it was ever loaded, dead again, moved again: one row, under its first identity."""
    queue.set(VisibilityTimeout=0)
    queue.send([login(1)])
    first = queue.receive()[0]
    identity = f"id:{first['MessageId']}:{first['Attributes']['SentTimestamp']}"
    for _ in range(2):
        wait_until(lambda: (queue.receive(), dead.depth()[0] == 1)[1], "it is dead")
        assert command("redrive").out == "moved 1 messages\n"
        (message,) = queue.call(
            "ReceiveMessage", QueueUrl=queue.url, VisibilityTimeout=1, MessageAttributeNames=["All"]
        )["Messages"]
        assert message["MessageAttributes"]["coatcheck-origin"]["StringValue"] == identity
    queue.set(VisibilityTimeout=30, RedrivePolicy="")
    assert command.drain()["loaded"] == 1
    assert login_database.figures() == (1, 1, 0)
