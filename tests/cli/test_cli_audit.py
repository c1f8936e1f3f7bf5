"""`coatcheck audit` as it is typed: what it prints, what it refuses, and what it never shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.fix_postgres import Database
from tests.support.fix_servers import Alone
from tests.support.process import Command

CANARY = "canary-7f3a"
FIELDS = ["seq", "at_us", "actor", "event", "detail", "hash"]


@pytest.fixture
def audited(alone: Alone, database: Database) -> Alone:
    """The command, and a trail of five entries."""
    alone.environment |= {"DATABASE_URL": database.dsn}
    for number in range(5):
        append(database, "reveal opened" if number % 2 else "reveal asked", f'{{"ticket":"{CANARY}","n":{number}}}')
    return alone


def append(database: Database, event: str, detail: str) -> None:
    database.execute("SELECT coatcheck.audit_append(%s, %s)", event, detail)


def listed(out: str) -> list[int]:
    return [json.loads(line)["seq"] for line in out.splitlines()]


def test_the_list_is_a_table_newest_last(audited: Alone) -> None:
    head, *lines = audited("audit", "list").out.splitlines()
    assert head.split() == ["seq", "time", "(UTC)", "actor", "event", "detail"]
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4", "5"]
    assert all(CANARY in line and "  postgres  " in line for line in lines)


def test_the_export_has_exactly_these_fields(audited: Alone, database: Database) -> None:
    lines = audited("audit", "list", "--json").out.splitlines()
    assert len(lines) == 5
    stored = database.execute("SELECT seq, at_us, actor, event, detail, encode(hash, 'hex') FROM coatcheck.audit")
    for line, row in zip(lines, sorted(stored), strict=True):
        assert list(json.loads(line)) == FIELDS
        assert tuple(json.loads(line).values()) == row


def test_the_list_can_be_narrowed(audited: Alone, database: Database) -> None:
    assert listed(audited("audit", "list", "--json", "--limit", "2").out) == [4, 5]
    assert listed(audited("audit", "list", "--json", "--event", "reveal opened").out) == [2, 4]
    both = audited("audit", "list", "--json", "--event", "reveal opened", "--event", "reveal asked", "--limit", "3")
    assert listed(both.out) == [3, 4, 5]
    database.execute("UPDATE coatcheck.audit SET at_us = 1000000 * extract(epoch FROM '2026-01-10 12:00Z'::timestamptz)"
                     " + seq * 3600000000")  # fmt: skip
    for since, found in (
        ("2026-01-10", [1, 2, 3, 4, 5]),
        ("2026-01-11", []),
        ("2026-01-10T15:00", [3, 4, 5]),
        ("2026-01-10T15:00:00.000001Z", [4, 5]),
        ("2026-01-10T17:00+01:00", [4, 5]),
    ):
        assert listed(audited("audit", "list", "--json", "--since", since).out) == found


def test_a_hundred_by_default_and_all_of_them_as_json(
    audited: Alone, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute("SELECT count(coatcheck.audit_append('reveal asked', n::text)) FROM generate_series(1, 150) AS n")
    assert len(audited("audit", "list").out.splitlines()) == 101
    assert len(audited("audit", "list", "--json").out.splitlines()) == 155
    monkeypatch.setattr("coatcheck.cli.audit._PAGE", 60)
    pages = audited("audit", "list", "--limit", "130").out.split("\n\n")
    assert [len(page.strip().splitlines()) for page in pages] == [61, 61, 11]
    assert len(audited("audit", "list", "--json").out.splitlines()) == 155


def test_a_terminal_is_shown_nothing_that_it_would_obey(audited: Alone, database: Database) -> None:
    append(database, "reveal asked", "\x1b[31mred\u202e\n")
    out = audited("audit", "list").out
    assert "\\x1b[31mred\\u202e\\n" in out
    assert "\x1b" not in out + audited("audit", "list", "--json").out


@pytest.mark.parametrize("since", ["yesterday", "2026-13-01", "1"])
def test_a_date_that_is_none(audited: Alone, since: str) -> None:
    assert "is no date such as 2026-11-23" in audited("audit", "list", "--since", since, code=2).err


def test_verify_the_database_and_an_export(audited: Alone, database: Database) -> None:
    hash_ = database.value("SELECT encode(hash, 'hex') FROM coatcheck.audit WHERE seq = 5")
    done = audited("audit", "verify")
    assert done.err == ""
    ok, head, last = done.out.splitlines()
    assert (ok, head) == ("ok           5 entries, unbroken", f"head         5 {hash_}")
    assert last.endswith(" UTC")
    (audited.folder / "audit.jsonl").write_text(audited("audit", "list", "--json").out)
    nothing: dict[str, Any] = {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "COATCHECK_CONFIG": "nowhere.toml"}
    assert audited("audit", "verify", "audit.jsonl", **nothing).out == done.out


def test_verify_what_comes_in(database: Database, tmp_path: Path) -> None:
    append(database, "reveal asked", "{}")
    command = Command(tmp_path, {"DATABASE_URL": database.dsn})
    export = command("audit", "list", "--json").out
    del command.environment["DATABASE_URL"]
    assert command("audit", "verify", "-", text=export).out.startswith("ok           1 entries, unbroken\n")
    assert "line 1 of <stdin> is no entry" in command("audit", "verify", "-", code=1, text="x").err


def test_an_export_that_starts_later(audited: Alone) -> None:
    audited("audit", "init-key")
    (audited.folder / "later.jsonl").write_text(audited("audit", "list", "--json", "--limit", "2").out)
    done = audited("audit", "verify", "later.jsonl")
    assert done.out.startswith("ok           2 entries, unbroken\n")
    told = "entry 4 is the first one here, and no checkpoint covers entry 3\n"
    assert done.err == f"note: the beginning is not proven: {told}"


def test_a_break_is_told_and_nothing_of_the_detail(audited: Alone, database: Database) -> None:
    audited("audit", "init-key")
    audited("audit", "checkpoint", "--to", "notes/")
    (audited.folder / "audit.jsonl").write_text(audited("audit", "list", "--json").out)
    database.execute("UPDATE coatcheck.audit SET detail = replace(detail, '7f3a', '0000') WHERE seq = 5")
    text = (audited.folder / "audit.jsonl").read_text()
    (audited.folder / "audit.jsonl").write_text(text.replace('"seq":3', '"seq":"3"').replace("asked", "ASKED", 1))
    said = []
    for arguments, code, words in (
        ("audit verify", 1, "entry 5 was changed"),
        ("audit verify --checkpoint notes", 1, "entry 5 was changed"),
        ("audit verify audit.jsonl", 1, "entry 1 was changed"),
        ("audit checkpoint --to notes/", 4, "no checkpoint is signed: entry 5 was changed"),
    ):
        done = audited(*arguments.split(), code=code)
        assert done.out == ""
        assert done.err.startswith(f"coatcheck: error: {words}")
        assert "coatcheck: hint: " in done.err
        said.append(done.err)
    (audited.folder / "audit.jsonl").write_text(text.replace('"seq":3', '"seq":"3"'))
    said.append(audited("audit", "verify", "audit.jsonl", code=1).err)
    assert "line 3 of audit.jsonl is no entry" in said[-1]
    for text in said:
        assert "canary" not in text
        assert "0000" not in text


def test_keys_and_checkpoints(audited: Alone, database: Database) -> None:
    made = audited("audit", "init-key", "--tenant", "acme")
    assert made.out == "wrote coatcheck-keys/audit-private.pem\nwrote coatcheck-keys/audit-public.txt\n"
    warning, note = made.err.splitlines()
    assert "is stored in clear" in warning
    assert note.startswith("next: keep audit-private.pem where checkpoints are made, not on a host that loads nor on")
    assert "audit-private.pem exists" in audited("audit", "init-key", code=2).err
    shown = audited("audit", "checkpoint").out
    assert shown.splitlines()[:2] == ["coatcheck/audit/v1 acme", "5"]
    assert audited("audit", "checkpoint", "--to", "-").out == shown
    variable: dict[str, Any] = {"COATCHECK_AUDIT__CHECKPOINT_TO": "notes/"}
    place = "notes/0000000000000000005.note"
    assert audited("audit", "checkpoint", **variable).out == f"wrote the checkpoint of entry 5 to {place}\n"
    assert (audited.folder / place).read_text() == shown
    assert audited("audit", "checkpoint", **variable).err == "nothing new since entry 5\n"
    append(database, "reveal asked", "{}")
    found = audited("audit", "verify", "--checkpoint", "notes", "--checkpoint", place).out
    assert found.splitlines()[-1] == "checkpoints  2 confirmed, up to entry 5"
    database.execute("DELETE FROM coatcheck.audit WHERE seq > 3")
    err = audited("audit", "verify", "--checkpoint", "notes", code=1).err
    assert "the audit trail was cut off: it ends with entry 3, and had 5 at the checkpoint of " in err
    public = (audited.folder / "coatcheck-keys" / "audit-public.txt").rename(audited.folder / "public.txt")
    assert "audit-public.txt is missing" in audited("audit", "verify", "--checkpoint", place, code=2).err
    database.execute("TRUNCATE coatcheck.audit")
    assert audited("audit", "verify", "--checkpoint", place, "--key", str(public), code=1).err
    assert "nothing to sign" in audited("audit", "checkpoint").err


def test_the_tenant_is_that_of_the_keyring(alone: Alone) -> None:
    alone("keys", "init", "--tenant", "acme")
    alone("audit", "init-key", COATCHECK_KEYS__PASSPHRASE="correct horse")
    text = (alone.folder / "coatcheck-keys" / "audit-public.txt").read_text()
    assert text.startswith("coatcheck/audit/acme+")
    assert "ENCRYPTED" in (alone.folder / "coatcheck-keys" / "audit-private.pem").read_text()
    assert alone("keys", "list").out.count("\n") == 4, "the audit key is no key of the keyring"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("audit list", 3, "cannot connect to the database"),
        ("audit list --limit 0", 2, "0 is not in the range"),
        ("audit verify", 3, "cannot connect to the database"),
        ("audit verify nowhere.jsonl", 2, "'nowhere.jsonl': No such file"),
        ("audit verify --checkpoint nowhere", 2, "audit-public.txt is missing"),
        ("audit checkpoint", 2, "audit-private.pem is missing"),
        ("audit checkpoint --follow", 2, "audit-private.pem is missing"),
        ("audit init-key --tenant a/b", 2, '"a/b" is no tenant'),
    ],
)
def test_ways_to_fail(alone: Alone, arguments: str, code: int, words: str) -> None:
    done = alone(*arguments.split(), code=code)
    assert done.out == ""
    assert words in done.err


def test_a_place_that_is_none(audited: Alone) -> None:
    audited("audit", "init-key")
    assert "s3://X names no place in S3" in audited("audit", "checkpoint", "--to", "s3://X", code=2).err
    assert "cannot be read (ENOENT)" in audited("audit", "verify", "--checkpoint", "nowhere", code=2).err
    assert "cannot be written (ENOENT)" in audited("audit", "checkpoint", "--to", "no/where", code=2).err
