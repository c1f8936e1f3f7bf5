"""Who is compared: coatcheck, and the peers with the environment each needs and how much it is given to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.loader import BenchmarkError
from benchmarks.peers.environments import SkipError, node_environment, peers_environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

COATCHECK, PYTHON, NODE = "coatcheck", "python", "node"
TASKS = "TASKS"
"""Stands in a command for the number of tasks of each process."""
FEW_TASKS, MANY_TASKS = 8, 64
"""Without latency more tasks bring nothing; with it, they hide it. coatcheck has 64 receivers a worker as well."""
TWICE = '"$@" & other=$!; "$@"; mine=$?; wait $other && exit $mine'
"""A shell script that runs a command twice at once; it fails if either fails."""
LEAST = 10  # messages


@dataclass(frozen=True, slots=True)
class Contestant:
    """One that empties the queue. The shares are of the messages that coatcheck gets: its runs then take as long."""

    name: str
    runs_on: str
    arguments: tuple[str, ...] = ()
    processes: int = 1
    share: float = 1.0
    share_with_latency: float = 1.0

    @property
    def is_peer(self) -> bool:
        """Tell it from coatcheck."""
        return self.runs_on != COATCHECK

    def messages(self, most: int, latency_ms: float) -> int:
        """Return how many messages a run gets."""
        return max(LEAST, round(most * (self.share_with_latency if latency_ms else self.share)))

    def command(self, starters: Mapping[str, list[str]], latency_ms: float) -> list[str]:
        """Return the command of a peer; `starters` is what begins it, by what it runs on."""
        tasks = str(MANY_TASKS if latency_ms else FEW_TASKS)
        one = [*starters[self.runs_on], *(tasks if word == TASKS else word for word in self.arguments)]
        if self.processes == 1:
            return one
        if self.processes == 2:
            return ["/bin/sh", "-c", TWICE, "sh", *one]
        raise BenchmarkError(f"a peer runs in one or two processes, not {self.processes}")


def _script(name: str) -> str:
    return f"benchmarks.peers.{name}"


CONTESTANTS = (
    Contestant("coatcheck", COATCHECK),
    Contestant("coatcheck_2", COATCHECK, processes=2),
    Contestant("boto3_rows", PYTHON, (_script("boto3_rows"), "psycopg2"), 1, 0.1, 0.01),
    Contestant("boto3_values", PYTHON, (_script("boto3_values"),), 1, 0.15, 0.01),
    Contestant("aio_asyncpg", PYTHON, (_script("aio_asyncpg"), TASKS), 1, 0.3, 0.25),
    Contestant("aio_asyncpg_2", PYTHON, (_script("aio_asyncpg"), TASKS), 2, 0.5, 0.4),
    Contestant("node", NODE, (TASKS,), 1, 0.25, 0.2),
    Contestant("node_2", NODE, (TASKS,), 2, 0.4, 0.35),
    Contestant("dlt", PYTHON, (_script("dlt_pipeline"),), 1, 0.1, 0.01),
)
PEER_NAMES = tuple(contestant.name for contestant in CONTESTANTS if contestant.is_peer)


def find_starters(contestants: Iterable[Contestant]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return what starts the peers, and what cannot be had and why, both by what they run on."""
    starters: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    for runs_on in dict.fromkeys(contestant.runs_on for contestant in contestants if contestant.is_peer):
        try:
            starters[runs_on] = [str(peers_environment()), "-m"] if runs_on == PYTHON else node_environment()
        except SkipError as error:
            missing[runs_on] = str(error)
    return starters, missing
