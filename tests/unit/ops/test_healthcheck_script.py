"""The image's health check, against the endpoint that it asks: a worker that moves, one that hangs, and none."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from coatcheck.ops.endpoint import Endpoint
from coatcheck.ops.metrics import Sample

SCRIPT = Path(__file__).parents[3] / "deploy" / "docker" / "healthcheck.py"
HEARTBEAT = "coatcheck_heartbeat_timestamp_seconds"


def ask(listen: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", SCRIPT],
        env={"COATCHECK_METRICS__LISTEN": listen}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize("host", ["", "0.0.0.0", "127.0.0.1", "localhost"])  # noqa: S104 - what users write
def test_a_worker_that_moves(host: str) -> None:
    with Endpoint(f"{host}:0", lambda: {"default": [(HEARTBEAT, "", time.time())]}) as endpoint:
        assert ask(f"{host}:{endpoint.port}") == (0, "ok\n")


def test_a_worker_that_hangs() -> None:
    with Endpoint("127.0.0.1:0", lambda: {"default": [(HEARTBEAT, "", time.time() - 1000)]}) as endpoint:
        assert ask(f"127.0.0.1:{endpoint.port}") == (1, "event loop is stuck\n")


def test_one_of_two_pipelines_hangs() -> None:
    samples: dict[str, list[Sample]] = {
        "logins": [(HEARTBEAT, "", time.time())],
        "orders": [(HEARTBEAT, "", time.time() - 1000)],
    }
    with Endpoint("127.0.0.1:0", lambda: samples) as endpoint:
        assert ask(f"127.0.0.1:{endpoint.port}") == (1, "pipeline orders: event loop is stuck\n")


@pytest.mark.parametrize("listen", ["", "127.0.0.1:1", ":none"])
def test_nobody_is_there(listen: str) -> None:
    code, said = ask(listen)
    assert code == 1
    assert said.startswith("no answer: ")
