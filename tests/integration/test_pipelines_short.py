"""A short run of the state machine over three pipelines, so that every change meets some of it.

`make faults` has the long one.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.pipelines_machine import run
from tests.support.pipelines_world import templates

from coatcheck.demo.servers import PostgresServer

EXAMPLES, STEPS = 8, 25


@pytest.mark.timeout(600)
def test_a_short_run(postgres_server: PostgresServer, tmp_path: Path) -> None:
    with templates(postgres_server, tmp_path) as base:
        steps = run(base, tmp_path, shard=0, examples=EXAMPLES, steps=STEPS)
    assert sum(count >= STEPS for count in steps) >= EXAMPLES
