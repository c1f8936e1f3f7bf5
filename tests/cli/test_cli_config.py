"""`config show`: what is in force and where it comes from, and no secret of it."""

from __future__ import annotations

import json
import tomllib

import pytest
from tests.support.fix_servers import Alone

SECRETS = {
    "TARGET__DSN": "postgresql://someone:hush-1@db.example/x",
    "KEYS__PASSPHRASE": "hush-2",
    "KEYS__TOKEN_ROOT": "hush-3",
    "KEYS__PRIVATE_KEY": "hush-4",
    "KEYS__AUDIT_KEY": "hush-5",
}


def test_it_is_a_file_that_says_the_same(alone: Alone) -> None:
    """What is shown, given as a file, is shown again."""
    (alone.folder / "coatcheck.toml").write_text(
        '[source]\nqueue = "other"\n[batch]\nseconds = 2\n[columns]\n'
        'who = { from = "a.b", type = "text", domain = "who", strip_chars = " -", required = true }\n'
    )
    shown = alone("config", "show").out
    assert 'queue = "other"  # file' in shown
    assert "seconds = 2.0  # file" in shown
    assert 'who = { from = "a.b", type = "text", required = true, domain = "who", strip_chars = " -" }  # file' in shown
    assert "messages = 1000\n" in shown
    tomllib.loads(shown)
    (alone.folder / "again.toml").write_text(shown)
    again = alone("--config", "again.toml", "config", "show").out
    assert [line.partition("  # ")[0] for line in again.splitlines()] == [
        line.partition("  # ")[0] for line in shown.splitlines()
    ]


def test_secrets_are_hidden(alone: Alone) -> None:
    alone.environment |= {f"COATCHECK_{name}": value for name, value in SECRETS.items()}
    for arguments in ("config show", "config show --json"):
        done = alone(*arguments.split())
        assert "hush" not in done.out + done.err
        assert done.out.count("********") == len(SECRETS)


def test_an_url_is_shown_without_its_user(alone: Alone) -> None:
    done = alone("config", "show", COATCHECK_SOURCE__ENDPOINT_URL="https://hush-1:hush-2@sqs.example/p?a=b@c")
    assert 'endpoint_url = "https://********@sqs.example/p?a=b@c"  # environment' in done.out
    assert "hush" not in done.out


def test_origins(alone: Alone) -> None:
    (alone.folder / "coatcheck.toml").write_text(
        "[run]\ndrain_seconds = 3\n[batch]\nmessages = 7\n"
        '[columns]\nwho = { from = "who", type = "text", domain = "who" }\nwhere = { from = "x", type = "text" }\n'
    )
    done = alone(
        "config",
        "show",
        "--json",
        COATCHECK_RUN__GIVE_UP_SECONDS="4",
        COATCHECK_BATCH='{"messages": 8}',
        coatcheck_source__queue="low",
        COATCHECK_COLUMNS__who__domain="net",
    )
    origins = {(one["section"], one["name"]): (one["value"], one["origin"]) for one in json.loads(done.out)}
    assert origins["run", "drain_seconds"] == (3.0, "file")
    assert origins["run", "give_up_seconds"] == (4.0, "environment")
    assert origins["batch", "messages"] == (8, "environment")
    assert origins["batch", "seconds"][1] == "default"
    assert origins["source", "queue"] == ("low", "environment")
    assert (origins["columns", "who"][1], origins["columns", "where"][1]) == ("environment", "file")


@pytest.mark.parametrize("text", ["[source]\nqueue = 1\n", "[source]\nnone = 1\n", "="])
def test_what_is_wrong_is_told_as_everywhere(alone: Alone, text: str) -> None:
    (alone.folder / "coatcheck.toml").write_text(text)
    assert "coatcheck: error: " in alone("config", "show", code=2).err
