"""Every error has one form: `coatcheck: error: ...` and `coatcheck: hint: ...` on stderr, and nothing on stdout."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.support.fix_servers import Alone
from tests.support.process import Command

FORM = r"coatcheck: {}: ([^A-Z\s]|COATCHECK_).*[^.\s]"
"""It begins with a small letter, unless it begins with the name of a variable, and ends without a full stop."""

ARGUMENTS = (
    ("--nonsense", "no such option"),
    ("nonsense", "no such command 'nonsense'"),
    ("rum", "no such command 'rum'"),
    ("run --nonsense", "no such option"),
    ("run --drian", "no such option"),
    ("run --workers", "requires an argument"),
    ("run --workers 0", "0 is not in the range"),
    ("run --workers many", "'many' is not a valid integer"),
    ("run further", "the configuration has no pipeline further"),
    ("send", "missing argument 'FILE'"),
    ("send nowhere.jsonl", "'nowhere.jsonl': No such file"),
    ("send folder", "Is a directory"),
    ("quarantine shw 1", "no such command 'shw'"),
    ("quarantine show", "missing argument 'ID'"),
    ("quarantine show first", "'first' is not a valid integer"),
    ("quarantine list --limit 0", "0 is not in the range"),
    ("quarantine retry", "nothing is selected"),
    ("redrive --limit 0", "0 is not in the range"),
    ("demo --messages 3", "3 is not in the range"),
    ("--config nowhere.toml check", "there is no configuration file nowhere.toml"),
    ("keys list", "coatcheck-keys/seal-public.json is missing"),
    ("run --drain", "coatcheck-keys/token-root.json is missing"),
)
FILES = (
    ("[source\n", "is no valid TOML"),
    ("\udcff", "is no valid TOML"),
    ('[sourse]\nqueue = "x"\n', "sourse: no such option"),
    ('[source]\nqueu = "x"\n', "source.queu: no such option"),
    ("[source]\nwait_seconds = 99\n[batch]\nmessages = 0\n", "source.wait_seconds: .*batch.messages: "),
    ('[target]\ntable = "a.b.c"\n', "target.table: "),
    ('[columns]\nx = { from = "x", type = "blob" }\n', "x: unknown type"),
    ('[columns]\nx = { from = "x", type = "text", mask = "token" }\n', "x: .*needs a domain"),
    ('[columns]\nx = { type = "text" }\n', "columns.x.from: "),
    ('[columns]\nx = { from = "x", type = "text", mask = "sha256-insecure" }\n', "refused unless"),
    ('[target]\npartition_by = "nowhere"\n', "target.partition_by: no column in clear of type date or timestamptz"),
    ('[target]\npartition_by = "masked_ip"\n', "target.partition_by: no column in clear"),
    ('[target]\npartition_by = "app_version"\n', "target.partition_by: no column in clear"),
    (
        '[target]\npartition_by = "x"\n[columns.x]\nfrom = "x"\ntype = "date"\nmask = "drop"\n',
        "target.partition_by: no c",
    ),
    ('[target]\npartition = "week"\n', "target.partition: "),
    ("[target]\nkeep_partitions = 2\n", "target.keep_partitions: is for a table with target.partition_by"),
    ("[target]\nkeep_partitions = -1\n[vault]\nkeep_epochs = 1001\n", "target.keep_partitions: .*vault.keep_epochs: "),
)
VARIABLES = (
    ("COATCHECK_SUORCE__QUEUE", "unknown environment variable COATCHECK_SUORCE__QUEUE"),
    ("COATCHECK_QUEUE", "unknown environment variable COATCHECK_QUEUE"),
    ("COATCHECK_SOURCE__QEUE", "source.qeue: no such option"),
    ("COATCHECK_SOURCE__WAIT_SECONDS", "source.wait_seconds: "),
    ("COATCHECK_COLUMNS", "no JSON"),
    ("COATCHECK_CONFIG", "there is no configuration file s3cret"),
)


@pytest.fixture
def outside(tmp_path: Path) -> Command:
    """The command as a process, with nothing to speak to."""
    return Command(tmp_path, {})


def well_formed(command: Alone, *arguments: str, code: int = 2, what: str, **variables: str) -> str:
    done = command(*arguments, code=code, **variables)
    assert done.out == ""
    error, hint = done.err.splitlines()
    assert re.fullmatch(FORM.format("error"), error), error
    assert re.fullmatch(FORM.format("hint"), hint), hint
    assert re.search(what, error), error
    return done.err


@pytest.mark.parametrize(("arguments", "what"), ARGUMENTS)
def test_misuse_on_the_command_line(alone: Alone, arguments: str, what: str) -> None:
    (alone.folder / "folder").mkdir()
    err = well_formed(alone, *arguments.split(), what=what)
    assert "`coatcheck " in err.splitlines()[1] or "--" in err, "the hint names a command or an option"


@pytest.mark.parametrize(("text", "what"), FILES, ids=[what for _, what in FILES])
def test_a_wrong_file(alone: Alone, text: str, what: str) -> None:
    (alone.folder / "coatcheck.toml").write_text(text, encoding="utf-8", errors="surrogateescape")
    assert "coatcheck.toml" in well_formed(alone, "check", what=what)


@pytest.mark.parametrize(("name", "what"), VARIABLES, ids=[name for name, _ in VARIABLES])
def test_a_wrong_variable(alone: Alone, name: str, what: str) -> None:
    variables: dict[str, Any] = {name: "s3cret"}
    err = well_formed(alone, "check", what=what, **variables)
    assert "s3cret" not in err or name == "COATCHECK_CONFIG", "values are not repeated: one may be a secret"


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        ("--config folder check", 2, "cannot read folder"),
        ("init --path nowhere/x.toml", 2, "cannot write nowhere/x.toml"),
        ("keys init --tenant a/b", 2, '"a/b" is no tenant'),
        ("quarantine show 1 --reason FRAUD --ticket INC-1", 4, "on a terminal only"),
        ("quarantine discard 1", 4, "erases bodies for good"),
        ("migrate", 3, "cannot connect to the database"),
        ("quarantine list", 3, "cannot connect to the database"),
    ],
)
def test_other_ways_to_fail(alone: Alone, arguments: str, code: int, what: str) -> None:
    (alone.folder / "folder").mkdir()
    well_formed(alone, *arguments.split(), code=code, what=what)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("nonsense", 2),
        ("host=127.0.0.1 password=s3cret x", 2),
        ("postgresql://user:s3cret@127.0.0.1:port/x", 3),
        ("postgresql://user:s3cret@127.0.0.1:1/x", 3),
    ],
)
def test_a_wrong_connection_string_is_not_repeated(alone: Alone, url: str, code: int) -> None:
    err = well_formed(alone, "migrate", code=code, what="the database", DATABASE_URL=url)
    assert "s3cret" not in err
    assert "[target] dsn" in err


def test_no_aws_credentials(alone: Alone) -> None:
    nothing: dict[str, Any] = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_ENDPOINT_URL": ""}
    err = well_formed(alone, "status", what="no AWS credentials", **nothing)
    assert "AWS_PROFILE" in err


def test_colour_on_a_terminal_only(outside: Command) -> None:
    del outside.environment["NO_COLOR"]
    assert "\x1b" not in outside("run", "--nonsense", code=2).err
    assert "\x1b[31mcoatcheck: error: \x1b[0m" in outside.on_terminal("run", "--nonsense", code=2)
    outside.environment["NO_COLOR"] = "1"
    assert "\x1b" not in outside.on_terminal("run", "--nonsense", code=2)


def test_a_reader_that_goes_away_is_no_error(outside: Command) -> None:
    done = outside.through("head -n 1", "--help")
    assert done.err == ""
    assert done.out.startswith("Usage: coatcheck")


UNCAUGHT = """
import gc, threading
from coatcheck import cli

class Worse:
    def __del__(self):
        int("canary-7f3a")

def work(*_, **__):
    thread = threading.Thread(target=lambda: int("canary-7f3a"))
    thread.start()
    thread.join()
    Worse()
    gc.collect()

cli.cli.main = work
cli.main()
"""


def test_what_nobody_can_catch_is_told_without_its_text() -> None:
    """In a thread, and in a finalizer: Python would print the whole traceback with the error's text."""
    done = subprocess.run([sys.executable, "-c", UNCAUGHT], capture_output=True, text=True, check=True)
    told = "coatcheck: warning: internal error: ValueError, where nobody could catch it\n"
    assert (done.stdout, done.stderr) == ("", told * 2)
