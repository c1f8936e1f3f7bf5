"""Promise 4: personal data never leaves the process in clear.

Every field of every message holds a word that stands nowhere else; then everything goes wrong that can go wrong, and
whatever was printed, logged or stored is searched for those words.
"""

from __future__ import annotations

import base64
import json
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.canaries import canary, nowhere
from tests.support.fix_postgres import postgres
from tests.support.fix_servers import LoginDatabase, Queue, commanding, login
from tests.support.process import Command, Running, wait_until

from coatcheck.demo.servers import PostgresServer

TALKATIVE = (
    "log_min_messages=debug1",
    "log_error_verbosity=verbose",
    "log_statement=all",
    "log_parameter_max_length=-1",
    "log_parameter_max_length_on_error=-1",
    "log_min_duration_statement=0",
)
"""All that PostgreSQL can be made to write down: statements, and their parameters, also of failed ones."""


class Birds:
    """Messages full of canaries. `masked` may be stored nowhere in clear, `kept` only where the message was loaded."""

    def __init__(self) -> None:
        self.masked: set[str] = set()
        self.kept: set[str] = set()
        self.rejected: set[str] = set()

    def good(self, number: int) -> str:
        """A message that is loaded: two masked fields, unmasked ones, and one that no column takes."""
        device, ip = canary(), f"2001:db8:{secrets.randbelow(65536):x}:{secrets.randbelow(65536):x}::{1 + number:x}"
        self.masked |= {device, ip, other := canary()}
        user, kind = canary(), canary()
        self.kept |= {user, kind}
        return login(number, device_id=device, ip=ip, user_id=user, device_type=kind, password=other)

    def bad(self, number: int) -> str:
        """A message that is rejected, for one of many reasons."""
        words = [canary() for _ in range(5)]
        self.rejected |= set(words)
        user, kind, ip, device, extra = words
        fields = {"user_id": user, "device_type": kind, "ip": "192.0.2.1", "device_id": device, "note": extra}
        fields["app_version"] = "1.2.3"
        match number % 10:
            case 0:
                fields["ip"] = ip
            case 1:
                fields["ip"] = ""
            case 2:
                fields["app_version"] = ip
            case 3:
                fields["device_type"] = kind * 9
            case 4:
                fields["locale"] = f"{ip}\0"
            case 5:
                fields["create_date"] = ip
            case 6:
                return f"{ip} {user} {device} is no JSON"
            case 7:
                return json.dumps([fields, ip])
            case 8:
                return json.dumps(fields | {"user_id": [ip, user]})
            case _:
                return json.dumps(fields)[:-10] + ip
        return json.dumps(fields)

    def refused(self, number: int) -> str:
        """A message that only the database finds to be wrong; its unmasked fields are in the statement then."""
        device, user = canary(), canary()
        self.masked.add(device)
        return login(number, device_id=device, user_id=user, device_type="refused")


def test_the_search_finds() -> None:
    word = canary()
    for shift in range(4):
        encoded = base64.b64encode(b"?" * shift + word.encode() + b"??").decode()
        with pytest.raises(AssertionError):
            nowhere({word}, {"base64": encoded})
    for text in (word, f"..{word}..", word.encode().hex()):
        with pytest.raises(AssertionError):
            nowhere({word}, {"text": text})
    nowhere({word}, {"another": canary()})


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server that writes everything down, with a database to copy."""
    with postgres(TALKATIVE) as server:
        template = LoginDatabase(server, "exposed")
        template.create("template1")
        Command(tmp_path_factory.mktemp("exposed"), {"DATABASE_URL": template.dsn})("migrate")
        template.execute("ALTER TABLE user_logins ADD CHECK (device_type <> 'refused')")
        template.close()
        yield server


@pytest.fixture
def exposed(tmp_path: Path, queue: Queue, talkative: PostgresServer, keyring: Path) -> Iterator[Exposed]:
    database = LoginDatabase(talkative, f"exposed_{secrets.token_hex(4)}")
    database.create("exposed")
    try:
        with commanding(tmp_path, queue, database, keyring) as command:
            yield Exposed(command, queue, database)
    finally:
        talkative.start()
        database.drop()


class Exposed:
    """The command on a talkative database, with all that is said and stored kept for the search."""

    def __init__(self, command: Command, queue: Queue, database: LoginDatabase) -> None:
        self.command, self.queue, self.database = command, queue, database
        self.server = database.server
        self.birds = Birds()
        self.said: dict[str, str] = {}

    def ask(self, *arguments: str, code: int = 0) -> None:
        """Run a command to its end."""
        done = self.command("-v", *arguments, code=code)
        self.said[f"{len(self.said)} {' '.join(arguments)}"] = done.out + done.err

    def end(self, running: Running, number: int, code: int) -> None:
        """End a command by a signal."""
        running.signal(number)
        done = running.wait()
        assert done.code == code, done.err
        self.said[f"{len(self.said)} signalled"] = done.out + done.err

    def search(self) -> None:
        """Search everything."""
        self.ask("status", "--json")
        self.ask("quarantine", "list", "--all", "--json")
        stored = self.database.text()
        log = self.server.log_path.read_text(errors="replace")
        files = {str(path): path.read_text(errors="replace") for path in self.command.folder.glob("*.*")}
        places = {**self.said, **files, "the tables": stored, "PostgreSQL's log": log}
        assert "coatcheck.migration" in log, "the log must be one that would tell"
        nowhere(self.birds.masked | self.birds.rejected, places)
        nowhere(self.birds.kept, self.said | files)


def test_rejects_refusals_and_retries(exposed: Exposed) -> None:
    birds = exposed.birds
    exposed.queue.send([birds.good(number) for number in range(40)])
    exposed.queue.send([birds.bad(number) for number in range(30)])
    exposed.queue.send([birds.refused(number) for number in range(100, 105)])
    exposed.ask("run", "--drain", "--json")
    assert exposed.database.figures() == (40, 75, 35)
    exposed.ask("quarantine", "retry", "--all")
    exposed.ask("quarantine", "show", "1", "--reason", "INCIDENT", "--ticket", "OPS-1", code=4)
    exposed.ask("quarantine", "discard", "--reason", "not_json", "--yes")
    exposed.ask("quarantine", "list", "--all")
    exposed.ask("status")
    exposed.ask("check")
    exposed.search()
    held = exposed.database.text()
    assert all(word in held for word in birds.kept), "the search finds what is there"


def test_an_open_breaker_and_workers(exposed: Exposed) -> None:
    birds = exposed.birds
    exposed.command.set(BREAKER__RUN=20)
    exposed.queue.send([birds.bad(number) for number in range(60)])
    exposed.ask("run", code=4)
    exposed.ask("run", "--workers", "2", "--json", code=4)
    exposed.search()


def test_a_database_that_is_killed_and_signals(exposed: Exposed) -> None:
    birds = exposed.birds
    exposed.command.set(RUN__DRAIN_SECONDS=1, RUN__GIVE_UP_SECONDS=2, SOURCE__WAIT_SECONDS=1)
    exposed.queue.send([birds.good(number) for number in range(20)])
    running = exposed.command.start("-v", "run", "--json")
    wait_until(lambda: exposed.database.rows() == 20, "rows")
    exposed.server.kill()
    exposed.queue.send([birds.good(number) for number in range(20, 40)])
    exposed.queue.send([birds.bad(number) for number in range(20)])
    running.said("the database refuses a batch for now")
    exposed.end(running, signal.SIGTERM, 0)
    exposed.ask("run", "--drain", code=3)
    exposed.server.start()
    exposed.command.set(RUN__GIVE_UP_SECONDS=0)
    exposed.ask("run", "--drain", "--json")
    assert exposed.database.figures() == (40, 60, 20)
    exposed.search()


def test_a_table_that_differs(exposed: Exposed) -> None:
    """Errors of PostgreSQL that quote values: types, constraints, triggers."""
    exposed.database.execute(
        """
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'no %', NEW USING DETAIL = NEW::text, HINT = NEW::text; END $$;
        CREATE TRIGGER tell BEFORE INSERT ON user_logins FOR EACH ROW
        WHEN (NEW.app_version % 2 = 0) EXECUTE FUNCTION tell();
        """
    )
    exposed.command.set(BREAKER__RATIO=1, BREAKER__RUN=1000)
    exposed.queue.send([exposed.birds.good(number) for number in range(20)])
    exposed.ask("run", "--drain", "--json")
    rows, ledger, held = exposed.database.figures()
    assert (rows + held, ledger) == (20, 20)
    assert held > 0
    birds = exposed.birds
    said = exposed.said | {
        "the quarantine": str(exposed.database.execute("SELECT q::text FROM coatcheck.quarantine AS q"))
    }
    nowhere(birds.masked | birds.kept, said)
    exposed.search()


def test_what_is_sent_by_hand_stands_nowhere(exposed: Exposed) -> None:
    """`send` keeps a hash of each line in an attribute; neither it nor the command's words hold the line."""
    birds = exposed.birds
    bodies = [*(birds.good(number) for number in range(5)), *(birds.bad(number) for number in range(6, 10))]
    path = exposed.command.folder / "bodies"
    path.write_text("".join(f"{body}\n" for body in bodies))
    exposed.ask("send", "bodies")
    exposed.ask("send", "bodies")
    exposed.ask("run", "--drain", "--json")
    path.unlink()
    assert exposed.database.figures() == (5, 9, 4)
    exposed.search()
