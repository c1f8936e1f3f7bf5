"""All experiments one after the other: docs/benchmarks/*.json, then the page. `make bench-full`; it takes hours.

    python -m benchmarks.full
    python -m benchmarks.full --only road peers
    python -m benchmarks.full --quick      # minutes, a few messages, into a temporary folder: does everything work

Each experiment is a process of its own. One that fails leaves the result file that was there and does not keep the
others from running; it is told at the end, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.envelope import say
from benchmarks.page import DOCS, RESULTS
from benchmarks.page import main as write_page

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
GRACE_SECONDS = 60.0
"""How long an experiment may take to stop its servers when this is interrupted."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One result file: its name, the module that measures it, and the options of a full and of a quick run."""

    name: str
    module: str
    full: str = ""
    quick: str = ""

    def command(self, json: Path, *, quick: bool) -> list[str]:
        """Return the command that writes the result file."""
        options = (self.quick if quick else self.full).split()
        return [sys.executable, "-m", self.module, *options, "--json", str(json)]


_ROAD = "--runs 5 --messages 300000 --no-gate"
_ROAD_QUICK = "--runs 1 --messages 2000 --no-gate"

EXPERIMENTS = (
    Experiment("road", "benchmarks.road", f"{_ROAD} --workers 1 2", f"{_ROAD_QUICK} --workers 1 2"),
    Experiment(
        "road-latency",
        "benchmarks.road",
        f"{_ROAD} --workers 1 --latency-ms 20",
        f"{_ROAD_QUICK} --workers 1 --latency-ms 20",
    ),
    Experiment(
        "road-novault",
        "benchmarks.road",
        f"{_ROAD} --workers 1 2 --vault off",
        f"{_ROAD_QUICK} --workers 1 --vault off",
    ),
    Experiment(
        "road-new", "benchmarks.road", f"{_ROAD} --workers 1 2 --distinct 1", f"{_ROAD_QUICK} --workers 1 --distinct 1"
    ),
    Experiment("latency", "benchmarks.latency", "--runs 5", "--runs 1"),
    Experiment("idle", "benchmarks.idle", "--runs 5", "--runs 1"),
    Experiment("memory", "benchmarks.memory", "", "--messages 2000"),
    Experiment(
        "scaling", "benchmarks.scaling", "--runs 5", "--runs 1 --messages 2000 --latency-messages 1000 --receivers 4"
    ),
    Experiment("peers", "benchmarks.peers", "--runs 5", "--runs 1 --messages 1000 --latency-ms 0"),
    Experiment("growth", "benchmarks.growth", "--runs 5", "--runs 1 --messages 2000 --ledger 0 5000 --vault 0 5000"),
)
"""In the order in which they run: the longest is the last."""


def take(experiment: Experiment, folder: Path, *, quick: bool) -> str | None:
    """Run an experiment and put its result file into the folder; return what went wrong, None if nothing."""
    with tempfile.TemporaryDirectory(prefix="coatcheck-full-") as own:
        result = Path(own) / "result.json"
        command = experiment.command(result, quick=quick)
        say(f"{experiment.name}: {' '.join(command[1:-2])}")
        started = time.monotonic()
        code = _run(command)
        say(f"{experiment.name}: {time.monotonic() - started:,.0f} s, exit code {code}")
        if code:
            return f"exit code {code}"
        if not result.is_file():
            return "it wrote no result file"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{experiment.name}.json").write_bytes(result.read_bytes())
    return None


def _run(command: Sequence[str]) -> int:
    """Run a command to its end. If this is interrupted it is told to stop, and has time to."""
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


def take_all(experiments: Sequence[Experiment], docs: Path, *, quick: bool) -> int:
    """Run the experiments, write the page, tell what failed, and return the exit code."""
    failed = {}
    for experiment in experiments:
        if wrong := take(experiment, docs / RESULTS, quick=quick):
            failed[experiment.name] = wrong
    code = write_page(["--docs", str(docs)])
    say(f"page: {docs / 'benchmarks.md'}")
    for name, wrong in failed.items():
        say(f"benchmark: error: {name}: {wrong}")
    return 1 if failed else code


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    names = [experiment.name for experiment in EXPERIMENTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full", description="all experiments, then the page")
    option = parser.add_argument
    option("--only", nargs="+", choices=names, metavar="NAME", default=names, help=f"of {', '.join(names)}")
    option("--quick", action="store_true", help="few messages and one run; not for the page in docs")
    option("--docs", type=Path, metavar="FOLDER", help="default: docs, with --quick a new temporary folder")
    options = parser.parse_args(arguments)
    options.docs = options.docs or (Path(tempfile.mkdtemp(prefix="coatcheck-bench-")) if options.quick else DOCS)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for, and return the exit code."""
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the experiment, as Ctrl-C does
    asked = [experiment for experiment in EXPERIMENTS if experiment.name in options.only]
    return take_all(asked, options.docs.absolute(), quick=options.quick)


if __name__ == "__main__":
    sys.exit(main())
