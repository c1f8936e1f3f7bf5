"""What the peers run on: made from locks with hashes, gone if it cannot be made; what a peer makes of an event."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path

import pytest
from benchmarks.events import login_events
from benchmarks.peers import environments
from benchmarks.peers.environments import SkipError, installed, node_environment, peers_environment
from benchmarks.peers.login import COLUMNS, all_deleted, row, version_number
from benchmarks.peers.roster import CONTESTANTS, NODE, PYTHON, Contestant, find_starters

from coatcheck.config_columns import login_columns


def test_an_environment_that_cannot_be_made_is_a_word_and_no_folder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("=== no requirement\n")
    with pytest.raises(SkipError, match=r"python failed: .*[Ii]nvalid requirement"):
        peers_environment(tmp_path / "peers", lock)
    assert not (tmp_path / "peers").exists()


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        (
            "WARNING: old\nERROR: Invalid requirement: 'x'\n    x\n    ^ (from line 1)\n",
            "ERROR: Invalid requirement: 'x'",
        ),
        ("npm error code ENOLOCK\nnpm error more\n", "npm error code ENOLOCK"),
        ("one\nthe last\n\n", "the last"),
        ("", "no word why"),
    ],
)
def test_the_line_that_tells_why_is_taken(errors: str, told: str) -> None:
    command = [sys.executable, "-c", f"import sys; sys.exit({errors!r} or 1)" if errors else "raise SystemExit(1)"]
    with pytest.raises(SkipError) as raised:
        environments._run(command, time.monotonic() + 60)
    assert str(raised.value) == f"{Path(sys.executable).name} failed: {told}"


def test_an_environment_is_kept_while_its_lock_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []
    monkeypatch.setattr(environments, "_run", lambda command, _deadline: commands.append(command[-1]))
    lock, folder = tmp_path / "lock", tmp_path / "peers"
    lock.write_text("one")
    assert not installed(folder, lock)
    for _ in range(2):
        assert peers_environment(folder, lock) == folder / "bin" / "python"
    assert commands == [str(folder), str(lock)]
    lock.write_text("two")
    assert not installed(folder, lock)
    peers_environment(folder, lock)
    assert commands == [str(folder), str(lock)] * 2


def test_without_node_its_peers_are_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SkipError, match="Node is not installed"):
        node_environment()
    starters, missing = find_starters([one for one in CONTESTANTS if one.runs_on == NODE])
    assert (starters, missing) == ({}, {NODE: "Node is not installed"})


def test_a_node_that_is_too_old_is_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "node"
    old.write_text("#!/bin/sh\necho v18.19.0\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SkipError, match=r"Node is v18.19.0, not 20 or newer"):
        node_environment()


def test_nothing_is_installed_for_those_who_do_not_run() -> None:
    assert find_starters([one for one in CONTESTANTS if not one.is_peer]) == ({}, {})


def test_the_lock_files_name_hashes_and_no_place() -> None:
    lock = environments.LOCK.read_text()
    assert "://" not in lock
    for requirement in re.split(r"\n(?=\S)", lock.strip()):
        assert "--hash=sha256:" in requirement, requirement
    packages = json.loads(environments.NODE_LOCK.read_text())["packages"]
    assert all("resolved" not in package for package in packages.values())
    assert all("integrity" in package for name, package in packages.items() if name)


def test_nothing_replaces_urllib3_below_the_boto3_peers() -> None:
    """Niquests brings such a replacement, which makes boto3 twice as slow: it would flatter us."""
    names = set(re.findall(r"^([a-z0-9-]+)==", environments.LOCK.read_text(), re.MULTILINE))
    assert {"boto3", "urllib3", "aiobotocore", "asyncpg", "dlt", "psycopg2-binary"} <= names
    assert not names & {"niquests", "urllib3-future"}


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["false"], 1),
        (["sh", "-c", "mkdir once"], 1),  # the second finds it there: one of the two fails
    ],
)
def test_two_processes_fail_if_one_does(command: list[str], code: int, tmp_path: Path) -> None:
    both = Contestant("two", PYTHON, tuple(command[1:]), 2).command({PYTHON: command[:1]}, 0.0)
    assert subprocess.run(both, check=False, cwd=tmp_path, capture_output=True, timeout=30).returncode == code


def test_a_peer_masks_both_values_and_keeps_the_rest() -> None:
    for body in islice(login_events(seed=7, distinct=0.5), 50):
        event = json.loads(body)
        before = datetime.now(UTC).date()
        found = dict(zip(COLUMNS, row(body), strict=True))
        assert found["masked_ip"] == sha256(event["ip"].encode()).hexdigest()
        assert found["masked_device_id"] == sha256(event["device_id"].encode()).hexdigest()
        for name in ("user_id", "device_type", "locale"):
            assert found[name] == event[name]
        assert found["create_date"] in (before, datetime.now(UTC).date())
        assert event["ip"] not in map(str, found.values())


def test_a_peer_fills_the_columns_of_coatcheck() -> None:
    assert set(COLUMNS) == {"user_id", "device_type", "masked_ip", "masked_device_id", *COLUMNS[4:]}
    assert set(COLUMNS) <= set(login_columns())


def test_versions_keep_their_order() -> None:
    texts = ["0.2.6", "0.26", "2.6", "2.30.1", "11.0"]
    numbers = [version_number(text) for text in texts]
    assert numbers == sorted(set(numbers))
    assert version_number("2.3") == version_number("2.3.0") == 2_003_000


def test_a_delete_that_failed_is_an_error() -> None:
    all_deleted({"Successful": [{}], "Failed": []})
    with pytest.raises(RuntimeError, match="1 messages were not deleted"):
        all_deleted({"Failed": [{"Id": "1"}]})
