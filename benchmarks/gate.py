"""The regression gate: no part of the road becomes dearer than the committed baseline says.

    python -m benchmarks.gate            # judge; exit 1 with a line `gate: missed: ...` for each part that has
    python -m benchmarks.gate --update   # measure and write benchmarks/baseline.json, to be committed with the reason

Each part of `benchmarks.stages` does what a worker does with 1,000 messages. Two things are measured of it:

* steps: the bytecode instructions and the calls of C functions that it takes, counted, not timed. A busy machine counts
  the same, so little is allowed for. CPython's minor versions differ: each has its own figure, and one without is told.
* time: CPU time of the thread, the lowest of many rounds, to that of a reference loop that runs in turns with it. It
  sees what happens inside C too. Other processors have other ratios: there it is told and not judged.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from benchmarks.envelope import machine, say
from benchmarks.stages import COUNT, parts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType

    Part = Callable[[], object]

BASELINE = Path(__file__).with_name("baseline.json")
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
STEPS_LIMIT = 1.03
TIME_LIMIT = 1.1
ROUNDS = 60
STRINGS = [f"value {number}" for number in range(500)]


class Cost(msgspec.Struct, frozen=True):
    """What a part costs: steps a message by CPython's minor version, and its time to that of the reference loop."""

    time: float
    steps: dict[str, float]


class Baseline(msgspec.Struct, frozen=True):
    """The committed costs of all parts, and where the times are from."""

    processor: str
    python: str
    parts: dict[str, Cost]


def reference() -> int:
    """Hash, cut and look up some strings: half Python, half C, like the road."""
    seen: dict[str, int] = {}
    for string in STRINGS:
        name = hashlib.sha256(string.encode()).hexdigest()[:3]
        seen[name] = seen.get(name, 0) + len(string.split(" "))
    return len(seen)


def steps(part: Part) -> float:
    """Count the bytecode instructions and the calls of C functions that a part takes, per message."""
    count = 0

    def traced(frame: FrameType, event: str, _: object) -> object:
        nonlocal count
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        else:
            count += event == "opcode"
        return traced

    def profiled(_: FrameType, event: str, __: object) -> None:
        nonlocal count
        count += event == "c_call"

    part()  # what is done once only, and the interpreter's own adaptation, are not counted
    before = sys.gettrace(), sys.getprofile()
    collects = gc.isenabled()
    gc.disable()  # who looks on at collections (hypothesis does) would be counted, at some time or other
    sys.setprofile(profiled)
    sys.settrace(traced)  # type: ignore[arg-type]  # it goes on tracing by returning itself
    try:
        if sys.version_info >= (3, 13):
            part()  # of a function that is traced for the first time it does not tell the opcodes
            count = 0
        part()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
        if collects:
            gc.enable()
    return count / COUNT


def ratio(part: Part, rounds: int = ROUNDS) -> float:
    """Return the lowest CPU time of a part to the lowest of the reference loop, run in turns."""
    lowest = [float("inf"), float("inf")]
    for _ in range(rounds):
        for place, work in enumerate((reference, part)):
            started = time.thread_time()
            work()
            lowest[place] = min(lowest[place], time.thread_time() - started)
    return lowest[1] / lowest[0]


def measure(rounds: int = ROUNDS) -> dict[str, Cost]:
    """Measure all parts; 0 rounds leave out the times."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            name: Cost(time=ratio(part, rounds) if rounds else 0.0, steps={MINOR: steps(part)})
            for name, part in parts(Path(folder)).items()
        }


def missed(found: Mapping[str, Cost], baseline: Baseline, *, times: bool) -> list[str]:
    """Return a line for each figure that is over its limit, and for each part that the baseline does not have."""
    lines = []
    for name, cost in found.items():
        known = baseline.parts.get(name)
        if known is None:
            lines.append(f"{name}: it is not in the baseline")
            continue
        now, then = cost.steps[MINOR], known.steps.get(MINOR)
        if then is not None and now > then * STEPS_LIMIT:
            lines.append(f"{name}: {now:.1f} steps a message, {now / then:.2f} times the {then:.1f} of the baseline")
        if times and cost.time > known.time * TIME_LIMIT:
            lines.append(f"{name}: {cost.time / known.time:.2f} times the baseline's time")
    return lines


def read() -> Baseline:
    """Return the committed baseline."""
    return msgspec.json.decode(BASELINE.read_bytes(), type=Baseline)


def update(found: Mapping[str, Cost]) -> None:
    """Write the baseline: all times anew, and the steps of this CPython; those of others stay as they are."""
    known = read().parts if BASELINE.is_file() else {}
    merged = {
        name: Cost(time=round(cost.time, 3), steps=(known[name].steps if name in known else {}) | _rounded(cost.steps))
        for name, cost in found.items()
    }
    here = machine()
    baseline = Baseline(processor=str(here["processor"]), python=MINOR, parts=merged)
    BASELINE.write_bytes(msgspec.json.format(msgspec.json.encode(baseline), indent=2) + b"\n")


def _rounded(counts: Mapping[str, float]) -> dict[str, float]:
    return {minor: round(count, 2) for minor, count in counts.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and judge or update; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description="costs against the baseline")
    parser.add_argument("--update", action="store_true", help="write the baseline")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    found = measure(options.rounds)
    if options.update:
        update(found)
    baseline = read()
    comparable = (baseline.processor, baseline.python) == (str(machine()["processor"]), MINOR)
    for name, cost in found.items():
        print(f"{name:<30} {cost.steps[MINOR]:7.1f} steps a message, {cost.time:6.2f} reference loops")
    if not comparable:
        say(f"gate: the baseline's times are of Python {baseline.python} on {baseline.processor}: not judged here")
    if not all(MINOR in cost.steps for cost in baseline.parts.values()):
        say(f"gate: the baseline has no steps of Python {MINOR}: not judged here")
    lines = missed(found, baseline, times=comparable)
    for line in lines:
        say(f"gate: missed: {line}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
