"""`coatcheck erase` at the command line: how it asks, what it says; every command of docs/erasure.md runs."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shlex
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.fix_servers import Alone, LoginDatabase, login, logins
from tests.support.process import COATCHECK, Command, Done
from tests.support.vaults import load, token

from coatcheck.config import Config

GUIDE = Path(__file__).parents[2] / "docs" / "erasure.md"
TICKET = ("--ticket", "INC-1")
Erase = Callable[..., Done]


@pytest.fixture
def config(login_database: LoginDatabase, keyring: Path) -> Config:
    """Five logins of two people, in the built-in pipeline."""
    values = {"target": {"dsn": login_database.dsn}, "keys": {"path": str(keyring)}}
    config = Config.model_validate(values)
    load(config, *logins(3), login(1, ip="10.9.9.9"), login(3, ip="10.0.0.2"), "canary")
    return config


@pytest.fixture
def erase(
    alone: Alone, config: Config, login_database: LoginDatabase, keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> Erase:
    """Run the command as whoever erases, with a text on standard input."""
    dsn = login_database.role("coatcheck_eraser")
    assert config

    def run(*arguments: str, text: str = "", code: int = 0) -> Done:
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        return alone("erase", *arguments, code=code, DATABASE_URL=dsn, COATCHECK_KEYS__PATH=str(keyring))

    return run


def left(database: LoginDatabase, column: str) -> int:
    return int(database.value(f"SELECT count(*) FROM user_logins WHERE {column} LIKE 'pt1%%'"))


def test_by_subject(erase: Erase, login_database: LoginDatabase) -> None:
    done = erase("--where", "user_id=-", *TICKET, "--yes", text="user-1\n")
    assert done.out.splitlines()[:3] == [
        "erased 3 originals from the vault",
        "put 4 tombstones into the rows: masked_ip 2, masked_device_id 2",
        "what remains:",
    ]
    assert "* 2 rows with what is not masked: user_id 2, device_type 2" in done.out
    assert "* 1 quarantined messages, sealed and not searched" in done.out
    assert (left(login_database, "masked_ip"), left(login_database, "masked_device_id")) == (3, 3)
    assert "user-1" not in done.out + done.err
    again = erase("--where", "user_id=user-1", *TICKET, "--yes")
    assert "warning: nothing of it was there" in again.err


def test_by_value(erase: Erase, login_database: LoginDatabase) -> None:
    for arguments, text in (
        (("--value", "-"), "10.0.0.2\r\n"),
        (("--value",), "10.9.9.9"),
        (("--value=10.0.0.1",), ""),
    ):
        before = left(login_database, "masked_ip")
        done = erase(*arguments, "--domain", "ip", *TICKET, "--yes", text=text)
        assert "erased 1 originals from the vault" in done.out
        assert "10." not in done.out + done.err
        assert left(login_database, "masked_ip") == before - (2 if text.startswith("10.0.0.2") else 1)


def test_by_token_as_json(erase: Erase, config: Config) -> None:
    text = token(config, "masked_ip", "10.0.0.2")
    found = erase(text, *TICKET, "--yes", "--json", "--reason", "LEGAL").json()
    remains = found.pop("remains")
    assert found == {
        "erased": {
            "texts": 1,
            "entries": 1,
            "named": 0,
            "rows": {"masked_ip": 2},
            "shared": 0,
            "late": 0,
            "shared_in": [],
        }
    }
    assert all(set(one) == {"what", "todo", "count"} for one in remains)
    assert {one["count"] for one in remains if "quarantined" in one["what"]} == {1}


def test_by_epoch(erase: Erase) -> None:
    done = erase("--epoch", "20253", *TICKET, "--yes")
    assert done.out.startswith("erased 0 originals and 0 data keys\nwhat remains:\n* all rows with their tokens\n")
    refused = erase("--epoch", "29991", *TICKET, "--yes", code=4)
    assert "coatcheck: error: cannot erase the epoch" in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        ("--yes", 2, "one thing is to be erased"),
        ("--epoch 20253 --where user_id=canary --yes", 2, "one thing is to be erased"),
        ("canary --value canary --domain ip --yes", 2, "one thing is to be erased"),
        ("--value canary --yes", 2, "--value and --domain go together"),
        ("--where user_id=canary --domain ip --yes", 2, "--value and --domain go together"),
        ("--where canary --yes", 2, "--where takes COLUMN=VALUE"),
        ("--where masked_ip=canary --yes", 2, "the column masked_ip is masked"),
        ("--value canary --domain ip --yes", 2, "the value has no token in the domain ip: not_an_ip"),
        ("canary --yes", 2, "item 1 is no token"),
        ("--where user_id=canary", 4, "erasing is for good"),
        ("--where user_id=canary --reason CANARY --yes", 4, "this reason is not one of the policy's"),
    ],
)
def test_misuse(erase: Erase, arguments: str, code: int, what: str) -> None:
    done = erase(*shlex.split(arguments), *TICKET, code=code)
    error, hint = done.err.splitlines()
    assert error.startswith("coatcheck: error: ")
    assert what in error
    assert hint.startswith("coatcheck: hint: ")
    assert "canary" not in done.err.lower()


def typing(command: Command, arguments: tuple[str, ...], *answers: tuple[str, str], code: int) -> str:
    """Run it on a terminal, and type each answer when it asks for it; return what was to be seen."""
    ours, its = pty.openpty()
    shown, waiting = "", list(answers)
    with subprocess.Popen(
        [COATCHECK, *arguments], cwd=command.folder, env=command.environment | {"TERM": "dumb"},
        stdin=its, stdout=its, stderr=its, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(its)
        with suppress(OSError):  # so ends a terminal that nobody holds any more
            while chunk := os.read(ours, 65_536):
                shown += chunk.decode()
                if waiting and waiting[0][0] in shown:
                    os.write(ours, waiting.pop(0)[1].encode())
    os.close(ours)
    assert process.returncode == code, shown
    return shown


def test_on_a_terminal_it_asks_and_shows_no_value(
    config: Config, login_database: LoginDatabase, keyring: Path, tmp_path: Path
) -> None:
    command = Command(tmp_path, {"DATABASE_URL": config.conninfo(), "COATCHECK_KEYS__PATH": str(keyring)})
    arguments = ("erase", "--where", "user_id=-", *TICKET)
    value, question = ("value:", "user-1\n"), "erase for good what is masked in 2 rows? [y/N]:"
    shown = typing(command, arguments, value, (question, "n\n"), code=130)
    assert left(login_database, "masked_ip") == 5
    shown += typing(command, arguments, value, (question, "y\n"), code=0)
    assert "put 4 tombstones into the rows" in shown
    assert left(login_database, "masked_ip") == 3
    assert "user-1" not in shown


class Terminal(io.StringIO):
    """Standard input as if somebody sat there."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("arguments", "question"),
    [
        (f"pt1_ip_k1_{'0' * 40}", "erase 1 tokens for good, wherever they are?"),
        ("--value=10.0.0.9 --domain=ip", "erase this value for good, for all who have it?"),
        ("--where=user_id=user-1", "erase for good what is masked in 2 rows?"),
        ("--epoch=20253", "erase all originals of the epoch 20253 for good?"),
    ],
)
def test_a_no_erases_nothing(  # noqa: PLR0917 - fixtures and cases
    alone: Alone, config: Config, keyring: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, question: str
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    options = {"DATABASE_URL": config.conninfo(), "COATCHECK_KEYS__PATH": str(keyring)}
    done = alone("erase", *arguments.split(), *TICKET, code=130, **options)
    assert question in done.out + done.err
    assert "interrupted" in done.err
    assert "erased" not in done.out


def test_every_command_of_the_guide_runs(
    erase: Erase, alone: Alone, login_database: LoginDatabase, own_keyring: Path
) -> None:
    """In their order, as whoever may: the answers that a terminal would ask for are given beforehand."""
    typed = {"user_id": "user-1\n", "ip": "10.0.0.2\n"}
    lines = re.findall(r"^\$ (coatcheck .*)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) >= 8
    for line in lines:
        _, name, *arguments = shlex.split(line)
        if name == "erase":
            text = next((value for word, value in typed.items() if word in line), "")
            out = erase(*arguments, *([] if "--yes" in line else ["--yes"]), text=text).out
            assert json.loads(out)["erased"]["rows"] == {} if "--json" in line else "what remains:" in out
        else:
            alone(name, *arguments, DATABASE_URL=login_database.dsn, COATCHECK_KEYS__PATH=str(own_keyring))
    assert (left(login_database, "masked_ip"), left(login_database, "masked_device_id")) == (1, 3)


def test_the_guide_names_what_remains() -> None:
    """Its table has a row for each kind of remainder that the command tells of."""
    guide = GUIDE.read_text(encoding="utf-8")
    for words in ("backups and archived WAL", "quarantined messages", "on the queue", "copies and exports", "share",
                  "not masked", "`subnet`", "another domain", "rows were deleted", "keys retokenize"):  # fmt: skip
        assert words in guide, words
