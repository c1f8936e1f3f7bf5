"""Coverage-guided fuzzing of everything that reads what others wrote: `make fuzz`.

`python -m tests.fuzz --executions 10_000_000` spreads so many executions over all targets; `--only decode` takes one.
atheris is put into `.venvs/fuzz` first. An input that breaks a promise is written to `fuzz-TARGET-*` and ends it with
exit code 1. `--keep` adds the inputs that reach something new to the committed corpus, up to a few a target.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "tests" / "fuzz" / "requirements.lock"
PLACE = ROOT / ".venvs" / "fuzz"
SHARES = {"decode": 4, "response": 4, "answers": 3, "forms": 3, "road": 2, "fields": 2, "tokens": 2, "files": 2}
"""How the executions are spread: more where an execution costs less. One that is not named has a share of 0.25."""
OTHERS = 0.25
MOST_KEPT, LONGEST_KEPT = 60, 200
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_COVERED = re.compile(r"cov: (\d+)")


@dataclass(frozen=True, slots=True)
class Result:
    """What one target came to."""

    target: str
    executions: int
    covered: int
    seconds: float
    trouble: str


def install() -> None:
    """Put atheris where only this finds it. Raises CalledProcessError."""
    if (PLACE / "atheris").is_dir():
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "--target", str(PLACE), "-r", str(LOCK)], check=True)


def fuzz(target: str, executions: int, *, seed: int, keep: bool) -> Result:
    """Run one target; its corpus grows in a temporary folder."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="coatcheck-fuzz-") as name:
        inputs = Path(name)
        for number, data in enumerate(corpus.read(target)):
            (inputs / f"{number}").write_bytes(data)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz.one", target, name),
                *(f"-runs={executions}", f"-seed={seed}", "-max_len=2048", "-len_control=20", "-timeout=20"),
                *("-print_final_stats=1", f"-artifact_prefix={ROOT}/fuzz-{target}-"),
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(PLACE), str(ROOT), str(ROOT / "src")])},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if keep and done.returncode == 0:
            _keep(target, inputs)
    executed, covered = _EXECUTED.search(done.stderr), _COVERED.findall(done.stderr)
    return Result(
        target,
        int(executed[1]) if executed else 0,
        int(covered[-1]) if covered else 0,
        time.monotonic() - began,
        done.stderr[-3000:] if done.returncode or not executed else "",
    )


def _keep(target: str, inputs: Path) -> None:
    """Add short inputs, those of many lengths, to the committed ones."""
    found = [path.read_bytes() for path in inputs.iterdir() if path.stat().st_size <= LONGEST_KEPT]
    before = corpus.read(target)
    fresh = sorted(set(found) - set(before), key=lambda data: (len(data), data))
    room = max(0, MOST_KEPT - len(before))
    corpus.write(target, before + fresh[:: max(1, len(fresh) // room)][:room] if room else before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, print what was done, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="coverage-guided fuzzing")
    parser.add_argument("--executions", type=int, default=10_000_000, help="over all targets")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(TARGETS), help="one target")
    parser.add_argument("--keep", action="store_true", help="add what reaches something new to the corpus")
    options = parser.parse_args(arguments)
    install()
    targets = [options.only] if options.only else sorted(TARGETS, key=lambda name: -SHARES.get(name, OTHERS))
    whole = sum(SHARES.get(name, OTHERS) for name in targets)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [
            pool.submit(
                fuzz,
                name,
                int(options.executions * SHARES.get(name, OTHERS) / whole) + 1,
                seed=options.seed,
                keep=options.keep,
            )
            for name in targets
        ]
        results = []
        for one in running:
            result = one.result()
            results.append(result)
            rate = result.executions / result.seconds
            state = "broken" if result.trouble else "nothing found"
            done = f"{result.executions:12,} executions, {rate:8,.0f}/s, {result.covered:6,} edges"
            print(f"{result.target:14} {done}: {state}")
            if result.trouble:
                print(result.trouble, file=sys.stderr)
    print(f"{'all':14} {sum(result.executions for result in results):12,} executions")
    return 1 if any(result.trouble for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
