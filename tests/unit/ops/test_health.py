"""What /livez, /readyz and /startupz answer, by the metrics."""

from __future__ import annotations

import pytest

from coatcheck.ops.endpoint import live, not_started, not_up
from coatcheck.ops.metrics import Sample

HEART, RECEIVING, UP = (
    "coatcheck_heartbeat_timestamp_seconds",
    "coatcheck_receiving_timestamp_seconds",
    "coatcheck_up",
)
NOW = 1000.0


@pytest.mark.parametrize(
    ("samples", "stuck"),
    [
        ([], []),
        ([(HEART, "", 999.0), (RECEIVING, "", 999.0)], []),
        ([(HEART, "", 880.0), (RECEIVING, "", 880.0)], []),
        ([(HEART, "", 879.0), (RECEIVING, "", 999.0)], ["event loop"]),
        ([(HEART, "", 999.0), (RECEIVING, "", 879.0)], ["receiving"]),
    ],
)
def test_live(samples: list[Sample], stuck: list[str]) -> None:
    """What is away does not make a worker dead: a restart would not bring it back."""
    assert live([*samples, (UP, "queue", 0), ("coatcheck_batch_messages", "", [1.0, 2.0])], NOW) == stuck


def test_ready_and_started() -> None:
    nothing: list[Sample] = []
    assert not_up(nothing) == not_started(nothing) == ["queue", "database", "keys"]
    some: list[Sample] = [(UP, "queue", 1), (UP, "database", 0)]
    assert (not_up(some), not_started(some)) == (["database", "keys"], ["keys"])
    every: list[Sample] = [(UP, "queue", 1), (UP, "database", 1), (UP, "keys", True)]
    assert not_up(every) == not_started(every) == []
