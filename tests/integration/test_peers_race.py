"""The benchmark of the peers, small: it runs, finds wrong runs, and each peer that is installed does the job."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.envelope import read
from benchmarks.peers import command
from benchmarks.peers.command import main
from benchmarks.peers.environments import LOCK, NODE_FOLDER, NODE_LOCK, PYTHON_FOLDER, installed
from benchmarks.peers.roster import CONTESTANTS, NODE, PEER_NAMES, PYTHON, find_starters

BY_NAME = {contestant.name: contestant for contestant in CONTESTANTS}
ROWS = replace(BY_NAME["boto3_rows"], arguments=("benchmarks.peers.boto3_rows", "psycopg"))
"""The peer that runs on what the project itself is developed with."""


def test_a_small_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(
        command, "find_starters", lambda _: ({PYTHON: [sys.executable, "-m"]}, {NODE: "Node is not installed"})
    )
    file = tmp_path / "peers.json"
    options = ["--runs", "2", "--messages", "300", "--latency-ms", "0", "--only", "boto3_rows", "node"]
    assert main([*options, "--json", str(file)], (BY_NAME["coatcheck"], ROWS, BY_NAME["node"], BY_NAME["dlt"])) == 0
    told = capsys.readouterr().out
    assert "node: skipped (Node is not installed)" in told
    assert ">= 10 x boto3_rows in CPU per message: m" in told  # met or missed, but looked at
    envelope = read(file)
    assert envelope.experiment == "peers"
    assert [(run["peer"], run["round"], run["messages"]) for run in envelope.runs] == [
        (name, number, messages)
        for number in (1, 2)
        for name, messages in (("coatcheck", 300), ("boto3_rows", 30), ("node", None))
    ]
    for run in envelope.runs:
        if run["skipped"]:
            assert run["cpu_us"] is run["rate"] is None
        else:
            assert isinstance(run["postgres_us"], float)  # 0 for so few messages: it is counted in ticks of 10 ms
            for name in ("cpu_us", "rate", "rss_mb"):
                assert isinstance(run[name], float)
                assert run[name] > 0, name  # type: ignore[operator]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("pass",), "boto3_rows: 1 messages, but 0 rows in the table"),
        (("raise SystemExit('no such queue')",), "boto3_rows ended with 1: no such queue"),
    ],
)
def test_a_peer_that_fails_is_an_error(
    arguments: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second one fails on an empty queue, the first one with the first message."""
    monkeypatch.setattr(command, "find_starters", lambda _: ({PYTHON: [sys.executable, "-c"]}, {}))
    assert main(["--runs", "1", "--messages", "90"], (replace(ROWS, arguments=arguments),)) == 1
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("name", PEER_NAMES)
def test_a_peer_that_is_installed_does_the_job(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    contestant = BY_NAME[name]
    ready = installed(PYTHON_FOLDER, LOCK)
    if contestant.runs_on == NODE:
        ready = installed(NODE_FOLDER, NODE_LOCK) and bool(shutil.which("node"))
    if not ready:
        pytest.skip("its environment is made by python -m benchmarks.peers")
    assert not find_starters([contestant])[1]
    assert main(["--runs", "1", "--messages", "500", "--latency-ms", "0", "5"], (contestant,)) == 0, name
    assert f"\n{name}" in capsys.readouterr().out.replace(" ", "")
