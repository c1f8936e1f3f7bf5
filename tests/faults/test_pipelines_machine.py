"""Three pipelines in two databases with one keyring: whatever is done to them in any order, every promise holds."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.pipelines_machine import run
from tests.support.pipelines_world import templates

from coatcheck.demo.servers import PostgresServer

SHARDS, EXAMPLES, STEPS = 8, 40, 40
"""In all 320 examples. A failure is shrunk for up to five minutes."""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shard", range(1, SHARDS + 1))
def test_every_promise_holds_after_every_step(postgres_server: PostgresServer, tmp_path: Path, shard: int) -> None:
    with templates(postgres_server, tmp_path) as base:
        steps = run(base, tmp_path, shard=shard, examples=EXAMPLES, steps=STEPS)
    assert sum(count >= STEPS for count in steps) >= EXAMPLES
