"""Passwords made for each connection: by a command, and by IAM."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.auth
import psycopg
import pytest
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from tests.support.fix_postgres import TABLE, Database, batch, postgres_sink, rows, until

from coatcheck import custody
from coatcheck.config import Config
from coatcheck.config_load import load
from coatcheck.errors import CoatcheckError, ConfigError, UnreachableError
from coatcheck.keys.passwords import IamPassword, PasswordCommand
from coatcheck.sql.connection import Dsn, connect

CANARY = "canary-3b9e"
HOST = "db.abcdefghijkl.eu-central-1.rds.amazonaws.com"


def test_the_first_line_is_the_password(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes("Zoë 東京 $HOME;\r\nnot this\n".encode())
    assert PasswordCommand(["cat", str(path)])() == "Zoë 東京 $HOME;"
    assert PasswordCommand(["echo", "$HOME; *"])() == "$HOME; *"  # no shell


FAILING: dict[str, tuple[list[str], type[CoatcheckError], str]] = {
    "missing": ([f"/no/such/{CANARY}"], ConfigError, "cannot be started"),
    "nothing": (["true"], ConfigError, "prints no password"),
    "empty line": (["printf", f"\\n{CANARY}"], ConfigError, "prints no password"),
    "no text": (["printf", "\\377"], ConfigError, "prints no password"),
    "NUL": (["printf", f"{CANARY}\\000"], ConfigError, "prints no password"),
    "fails": (["sh", "-c", f"echo {CANARY}; echo {CANARY} >&2; exit 3"], UnreachableError, "ends with 3"),
    "killed": (["sh", "-c", f"echo {CANARY}; kill -9 $$"], UnreachableError, "ends with -9"),
    "hangs": (["sh", "-c", f"echo {CANARY}; sleep 60 & wait"], UnreachableError, "does not end within"),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_command_that_gives_none(case: str, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """It is told without what it has printed, also where a connection is opened."""
    arguments, kind, what = FAILING[case]
    command = PasswordCommand(arguments, patience_s=0.5)
    began = time.monotonic()
    dsn = Dsn(database.dsn, command)
    with pytest.raises(kind, match=what) as caught:
        command()
    with pytest.raises(kind, match=what) as connecting:
        connect(dsn)
    with pytest.raises(kind, match=what) as opening:
        asyncio.run(postgres_sink(dsn).open())
    assert time.monotonic() - began < 20
    for error in (caught.value, connecting.value, opening.value):
        assert CANARY not in str(error) + repr(error) + error.hint
        assert error.hint
    assert CANARY not in caplog.text


def configured(**target: Any) -> Config:
    return Config(target={"table": TABLE, **target})


@pytest.mark.usefixtures("quick_retries")
def test_a_password_that_changes_while_a_worker_runs(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next connection takes the new one; the moments in between are waited out."""
    caplog.set_level("DEBUG")
    role_dsn = database.role("coatcheck_loader", f"ALL ON {TABLE}")
    role, path = database.roles[-1], tmp_path / "password"
    path.write_text("known")
    bare = psycopg.conninfo.make_conninfo(role_dsn, password="")
    config = configured(dsn=bare, password_command=(shutil.which("cat"), str(path)))
    dsn = custody.dsn(config)
    sink = postgres_sink(dsn, connections=1, login_patience_s=60.0)

    async def work() -> None:
        assert (await sink.write(batch(rows(1)))).loaded == 1
        path.write_text("")  # the store is behind
        database.execute(f"ALTER ROLE {role} PASSWORD '{CANARY}'")
        database.terminate()
        writing = asyncio.create_task(sink.write(batch(rows(2))))
        await until(lambda: "the database refuses the login" in caplog.text, "it is told")
        path.write_text(f"{CANARY}\n")
        assert (await writing).loaded == 1
        await sink.close()

    asyncio.run(work())
    with connect(dsn) as connection:
        assert connection.info.user == role
    assert CANARY not in caplog.text
    assert CANARY not in repr(dsn) + repr(config) + repr(sink)


def test_a_command_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_TARGET__PASSWORD_COMMAND", json.dumps(["/bin/echo", "a b"]))
    assert load().target.password_command == ("/bin/echo", "a b")


@pytest.mark.parametrize("command", ["/bin/echo x", ["echo"], ["./echo"], ["/bin/echo", 1], ["/bin/echo", "\0"]])
def test_a_command_that_is_none(command: object) -> None:
    with pytest.raises(ValueError, match=r"absolute path|a list of a program"):
        configured(password_command=command)


def test_one_way_to_a_password() -> None:
    with pytest.raises(ValueError, match="leave one out"):
        configured(password_command=("/bin/true",), iam=True)


@pytest.fixture
def at_noon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fixed credentials, and a fixed time for who signs."""
    noon = datetime(2026, 12, 1, 12, tzinfo=UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: noon.replace(tzinfo=None))
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"secret-{CANARY}")


def expected(region: str, user: str = "loader") -> str:
    """Return the token as the presigner makes it from first principles."""
    request = AWSRequest("GET", f"https://{HOST}:5432/?Action=connect&DBUser={user}")
    SigV4QueryAuth(Credentials("AKIDEXAMPLE", f"secret-{CANARY}"), "rds-db", region, expires=900).add_auth(request)
    return str(request.url).removeprefix("https://")


@pytest.mark.usefixtures("at_noon")
def test_the_token_of_iam() -> None:
    """A known answer; the region comes from the host's name, whatever else says."""
    token = IamPassword(HOST, 5432, "loader", region="us-east-1")()
    assert token.startswith(f"{HOST}:5432/?Action=connect&DBUser=loader&X-Amz-Algorithm=AWS4-HMAC-SHA256")
    assert "X-Amz-Expires=900" in token
    assert "%2Feu-central-1%2Frds-db%2Faws4_request" in token
    assert token == expected("eu-central-1")


@pytest.mark.usefixtures("at_noon")
def test_iam_gives_the_password_of_each_connection() -> None:
    config = configured(dsn=f"host={HOST} user=loader dbname=x", iam=True)
    dsn = custody.dsn(config)
    assert isinstance(dsn, Dsn)
    assert dsn.password() == expected("eu-central-1")
    assert CANARY not in repr(dsn) + repr(dsn.password)


def test_a_made_password_is_the_one_that_is_sent(database: Database) -> None:
    """It outranks the one in the string; made for each connection."""
    made: list[str] = []
    dsn = Dsn(database.role(), lambda: made.append("known") or "known")  # type: ignore[func-returns-value]  # counts
    wrong = Dsn(psycopg.conninfo.make_conninfo(dsn, password="wrong"), dsn.password)
    for _ in range(2):
        connect(wrong).close()
    assert made == ["known", "known"]


@pytest.mark.parametrize(
    ("dsn", "what"),
    [
        (f"host={HOST} user=x sslmode=disable", "TLS"),
        (f"host={HOST} user=x sslmode=prefer", "TLS"),
        ("host=127.0.0.1 user=x", "TLS"),
        (f"host={HOST},other user=x", "single host"),
        ("user=x host=/tmp", "TLS"),
    ],
)
def test_iam_where_it_cannot_be(dsn: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    with pytest.raises(ConfigError, match=what):
        custody.dsn(configured(dsn=dsn, iam=True))


@pytest.mark.usefixtures("at_noon")
def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigError, match="no valid AWS credentials") as caught:
        IamPassword(HOST, 5432, "loader")()
    assert "AWS_PROFILE" in caught.value.hint
