"""What /livez, /readyz and /startupz answer, by the metrics."""

from __future__ import annotations

import time

import pytest

from coatcheck.ops.endpoint import live, not_started, not_up, state
from coatcheck.ops.metrics import Sample

HEART, RECEIVING, UP = (
    "coatcheck_heartbeat_timestamp_seconds",
    "coatcheck_receiving_timestamp_seconds",
    "coatcheck_up",
)
RESTARTS, ENDED = "coatcheck_worker_restarts_total", "coatcheck_pipeline_ended"
WELL: list[Sample] = [(UP, "queue", 1), (UP, "database", 1), (UP, "keys", 1)]
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


@pytest.mark.parametrize(
    ("path", "samples", "said"),
    [
        ("/livez", [(HEART, "", 1.0)], "event loop is stuck"),
        ("/readyz", [*WELL, (UP, "database", 0)], "database does not answer"),
        ("/startupz", WELL[:2], "keys is not there yet"),
    ],
)
def test_each_pipeline_has_to_be_well_and_the_one_that_is_not_is_named(
    path: str, samples: list[Sample], said: str
) -> None:
    well: list[Sample] = [*WELL, (HEART, "", time.time())]
    samples = [(HEART, "", time.time()), *samples] if path != "/livez" else [*WELL, *samples]
    samples = list({(name, label): (name, label, value) for name, label, value in samples}.values())
    assert state(path, {"logins": well, "orders": samples}) == [f"pipeline orders: {said}"]
    assert state(path, {"logins": well, "orders": well}) == []
    assert state(path, {"orders": samples}) == [said], "one pipeline needs no name"


def test_a_pipeline_that_has_ended_is_not_ready_and_does_not_have_the_others_restarted() -> None:
    ended: list[Sample] = [(ENDED, "4", 1.0)]
    said = ["pipeline orders: it has ended with exit code 4, and is not started again"]
    for pipelines in ({"logins": WELL, "orders": ended}, {"logins": WELL, "orders": [*WELL, *ended]}):
        assert state("/readyz", pipelines) == said
        assert state("/startupz", pipelines) == state("/livez", pipelines) == []


def test_a_pipeline_whose_start_fails_again_and_again_does_not_have_the_others_restarted() -> None:
    failing: list[Sample] = [(RESTARTS, "", 1.0)]
    assert state("/startupz", {"logins": WELL, "orders": failing}) == []
    assert len(state("/readyz", {"logins": WELL, "orders": failing})) == 3
    assert len(state("/startupz", {"logins": WELL, "orders": [(RESTARTS, "", 0.0)]})) == 3
    assert len(state("/startupz", {"orders": failing})) == 3, "alone, it is restarted by who watches it"


def test_there_is_no_other_path() -> None:
    with pytest.raises(LookupError):
        state("/", {"logins": WELL})
