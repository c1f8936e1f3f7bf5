"""Transcripts of sessions, `transcripts/*.txt`: what one types and what comes back, on real servers.

`$ ` begins a command. Below it stand the lines of its stdout, then with `! ` those of stderr, and `? 2` its exit code
if that is not 0. `<n>` is any number, `<time>` a point in time, `<id>` an id or fingerprint, `<...>` anything in a
line.
The folder holds `logins.jsonl`: three logins and a message of another kind, and `two.toml`, a file of the pipelines
`logins` and `orders`, with `orders.jsonl`; the database is empty.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.fix_servers import BAD, Alone, LoginDatabase, Queue, login, logins

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
TWO = """
[pipelines.logins.source]

[pipelines.orders.source]
queue = "orders-of-transcripts"

[pipelines.orders.target]
table = "orders"

[pipelines.orders.columns]
id    = { from = "id", type = "bigint", required = true }
email = { from = "email", type = "varchar(256)", parse = "text", domain = "email" }
"""
PLACEHOLDERS = {
    "<n>": r"[0-9][0-9.,]*",
    "<time>": r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[0-9.:+Z]*",
    "<id>": r"[0-9a-f][0-9a-f-]{7,}",
    "<...>": r".*",
}


@dataclass
class Step:
    """One command and what it is to say."""

    command: str
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    code: int = 0


def steps(path: Path) -> list[Step]:
    found: list[Step] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        match line[:2]:
            case "$ ":
                found.append(Step(line[2:]))
            case "! ":
                found[-1].err.append(line[2:])
            case "? ":
                found[-1].code = int(line[2:])
            case _ if found and not line.startswith("#"):
                found[-1].out.append(line)
    return found


def pattern(lines: list[str]) -> str:
    parts = re.split("(" + "|".join(PLACEHOLDERS) + ")", "".join(f"{line}\n" for line in lines))
    return "".join(PLACEHOLDERS.get(part) or re.escape(part) for part in parts)


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, alone: Alone, queue: Queue, bare_database: LoginDatabase) -> None:
    alone.environment |= {
        "AWS_ENDPOINT_URL": queue.endpoint,
        "DATABASE_URL": bare_database.dsn,
        "COATCHECK_SOURCE__QUEUE": queue.name,
    }
    (alone.folder / "logins.jsonl").write_text("".join(f"{body}\n" for body in [*logins(2), BAD % 1, login(2)]))
    (alone.folder / "two.toml").write_text(TWO)
    (alone.folder / "orders.jsonl").write_text('{"id": 1, "email": "a@example.org"}\n{"id": 2}\n')
    for step in steps(path):
        name, *arguments = shlex.split(step.command)
        assert name == "coatcheck"
        done = alone(*arguments, code=step.code)
        assert re.fullmatch(pattern(step.out), done.out), f"$ {step.command}\n{done.out}"
        assert re.fullmatch(pattern(step.err), done.err), f"$ {step.command}\n{done.err}"


def test_every_command_has_a_transcript() -> None:
    shown = {" ".join(shlex.split(step.command)[1:3]) for path in TRANSCRIPTS for step in steps(path)}
    for name in ("init", "check", "migrate", "run", "send", "status", "redrive", "keys init", "keys list",
                 "keys rotate", "keys retokenize", "keys retire", "keys rotate-seal", "keys rewrap",
                 "keys retire-seal", "reveal request", "reveal approve", "reveal deny", "reveal open", "reveal list",
                 "reveal policy", "find", "audit list", "audit verify", "maintain"):  # fmt: skip
        assert any(line.startswith(name) for line in shown), name
    for name in ("list", "show", "retry", "discard"):
        assert any(line.startswith(f"quarantine {name}") for line in shown), name
