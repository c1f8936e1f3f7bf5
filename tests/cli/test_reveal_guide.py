"""Every command of docs/reveal.md runs in its order, as the person whose prompt it has; its tables are complete."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.support.fix_servers import BAD, Alone, LoginDatabase, login
from tests.support.vaults import load, token

from coatcheck import desk
from coatcheck.config import Config
from coatcheck.sinks.postgres.roles import PREFIX, ROLES

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "reveal.md").read_text(encoding="utf-8")
PLACEHOLDER = "pt1_ip_k1_b020d2d943e7196cb67a8a852c7c9f79792199b4"
ADDRESS = "198.51.100.20"


def lines() -> Iterator[tuple[str, str]]:
    """The lines of the guide's console blocks: whose prompt, and the command."""
    for block in re.findall(r"```console\n(.*?)```", GUIDE, re.DOTALL):
        for line in block.splitlines():
            match = re.fullmatch(r"([a-z]*)\$ (.*)", line)
            assert match, line
            yield match[1], match[2]


@pytest.fixture
def config(login_database: LoginDatabase, keyring: Path) -> Config:
    config = Config.model_validate({"target": {"dsn": login_database.dsn}, "keys": {"path": str(keyring)}})
    load(config, login(1, ip=ADDRESS), BAD % 1)
    return config


def test_the_commands_run_in_their_order(  # noqa: PLR0917 - fixtures
    login_database: LoginDatabase, config: Config, keyring: Path, alone: Alone, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    own = shutil.copytree(keyring, tmp_path / "keys")
    dsns = {"": login_database.dsn}
    said = []
    for person, line in lines():
        command = line.replace(PLACEHOLDER, token(config, "masked_ip", ADDRESS))
        if command.startswith("psql "):
            statement = shlex.split(command)[-1]
            login_database.execute(statement)
            name, password = re.findall(r"ROLE (\w+) .*'(.*)'", statement)[0]
            login_database.roles.append(name)
            dsns[name] = psycopg.conninfo.make_conninfo(login_database.dsn, user=name, password=password)
            continue
        text, pipe, piped = command.rpartition(" | ")
        monkeypatch.setattr("sys.stdin", io.StringIO(text.removeprefix("echo ") + "\n" if pipe else ""))
        program, *arguments = shlex.split(piped)
        assert program == "coatcheck"
        done = alone(*arguments, DATABASE_URL=dsns[person], COATCHECK_KEYS__PATH=str(own))
        said.append((command, done.out))
    shown = alone.folder / "address.txt"
    assert shown.read_text() == f"{token(config, 'masked_ip', ADDRESS)}\t{ADDRESS}\n"
    assert stat.S_IMODE(shown.stat().st_mode) == 0o600
    assert (alone.folder / "body.txt").read_text() == f"quarantine:1\t{BAD % 1}\n"
    found = [out for command, out in said if " find " in command]
    assert found == [token(config, "masked_ip", ADDRESS) + "\n"] * 2
    printed = "".join(out for _, out in said)
    assert ADDRESS not in printed
    assert "heartbeat" not in printed
    actors = {actor for (actor,) in login_database.execute("SELECT DISTINCT actor FROM coatcheck.audit")}
    assert actors == {"olga", "lars", "postgres"}


def cells(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    rows = [line for line in GUIDE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0].splitlines() if "|" in line]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:] if row.startswith("|")]


def test_the_policy_is_told_with_its_defaults(config: Config) -> None:
    told = {row[0].strip("`| "): row[1].strip("` ") for row in cells("The policy")}
    real = {
        name: ", ".join(value)
        if isinstance(value, list)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
        for name, value in desk.policy(config).items()
    }
    assert told == real


KINDS = "reveal|token|tokens|quarantine|erasure|epoch|policy|rotation|retokenize|key|data keys|seal key"


def test_every_event_is_told() -> None:
    sql = "".join(path.read_text() for path in (ROOT / "src/coatcheck/sql/migrations").glob("*.sql"))
    words = set(re.findall(rf"'((?:{KINDS}) [a-z ,-]+)'", sql))
    told = set(re.findall(r"`([^`]+)`", " ".join(row[0] for row in cells("The trail"))))
    assert told == words


def test_every_role_is_told() -> None:
    told = set(re.findall(rf"`{PREFIX}(\w+)`", GUIDE))
    assert told >= ROLES.keys() - {"owner"}
