"""Mutation testing of the modules that make keys, tokens and seals: `make mutate`.

Each mutant takes the place of its module in a forked process, which runs the tests of that module until one fails. A
mutant that no test notices survives, and needs a sentence in `explained.toml` that says why that is right (it behaves
the same, say). `score.json` is written anew; the run fails under 95 % killed, or with a survivor that nobody explained.
Two runs of the same source give the same result: hypothesis draws the same examples each time.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import pytest
from tests.mutation.mutants import Mutant, mutants

HERE = Path(__file__).parent
SCORE = HERE / "score.json"
ROOT = HERE.parents[1]
KEYS = "tests/unit/keys"
VECTORS = [f"{KEYS}/test_keys_vectors.py", f"{KEYS}/test_keys_tokens.py"]
TESTS = {
    "coatcheck.keys.derive": [*VECTORS, f"{KEYS}/test_keys_siv.py"],
    "coatcheck.keys.forms": [f"{KEYS}/test_keys_forms.py", *VECTORS],
    "coatcheck.keys.tokens": [f"{KEYS}/test_keys_tokens.py", "tests/unit/pipeline/test_mask.py"],
    "coatcheck.keys.siv": [f"{KEYS}/test_keys_siv.py"],
    "coatcheck.keys.ipcrypt": [f"{KEYS}/test_keys_ipcrypt.py"],
    "coatcheck.keys.sealing": [
        f"{KEYS}/test_keys_sealing.py", f"{KEYS}/test_seal_many.py", f"{KEYS}/test_sealing_limits.py",
        f"{KEYS}/test_sealing_ready.py",
    ],
    "coatcheck.keys.seal_pair": [f"{KEYS}/test_keys_local.py", f"{KEYS}/test_keys_rotate.py"],
    "coatcheck.keys.keyring": [f"{KEYS}/test_keyring.py", f"{KEYS}/test_keys_rotate.py"],
    "coatcheck.vault.store": ["tests/unit/vault/test_store.py"],
}  # fmt: skip
LEAST = 0.95
LIMIT_S = 10  # of one test: a mutant that never ends is killed by it
_KILLED = 1
_WARNED = "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis is imported before pytest looks
_ARGUMENTS = (
    "-x", "-q", "--no-header", "-p", "no:xdist", "-W", _WARNED, "-o", f"timeout={LIMIT_S}",
    "-o", "timeout_method=thread",  # ends the process; by a signal a test fails, and hypothesis begins it anew
)  # fmt: skip
_PRELOADED = (
    "boto3",
    "botocore.session",
    "psycopg",
    "pydantic_settings",
    "cryptography.hazmat.primitives.hpke",
    "trustme",
)
"""What tests import in the end; once here is a second less in each child. None of them knows coatcheck."""


class _InPlace(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives a mutated source to whoever imports its module."""

    def __init__(self, module: str, source: str) -> None:
        self._module, self._source = module, source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._module:
            return None
        del path, target
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, self._module, "exec"), module.__dict__)  # noqa: S102 - that is what a mutant is for


def attempt(module: str, source: str) -> int:
    """Start the tests on a mutated source in a child process; return its process id. It ends with 0 if none fails."""
    child = os.fork()
    if child:
        return child
    os.setpgid(0, 0)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    code = _KILLED
    try:
        sys.meta_path.insert(0, _InPlace(module, source))
        hypothesis.settings.register_profile(
            "mutation", max_examples=25, derandomize=True, database=None, deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        hypothesis.settings.load_profile("mutation")
        code = int(pytest.main([*_ARGUMENTS, *TESTS[module]]))
    finally:
        os._exit(code)


def run(module: str, lanes: int) -> tuple[int, list[str]]:
    """Try all mutants of a module; return how many there are, and the names of those that survive."""
    path = ROOT / "src" / Path(*module.split(".")).with_suffix(".py")
    waiting = list(mutants(module, path))
    total, survivors, running = len(waiting), list[str](), dict[int, Mutant]()
    while waiting or running:
        while waiting and len(running) < lanes:
            mutant = waiting.pop(0)
            running[attempt(module, mutant.source)] = mutant
        child, status = os.wait()
        mutant = running.pop(child)
        if status == 0:
            survivors.append(mutant.name)
    return total, sorted(survivors)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the score, say what is wrong; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as forms (default: all)")
    parser.add_argument("--lanes", type=int, default=os.cpu_count() or 1, help="mutants at once (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name in _PRELOADED:
        importlib.import_module(name)
    chosen = [name for name in TESTS if not options.modules or name.rsplit(".", 1)[1] in options.modules]
    explained = tomllib.loads((HERE / "explained.toml").read_text(encoding="utf-8"))
    started = time.monotonic()
    for module in chosen:
        source = (ROOT / "src" / Path(*module.split(".")).with_suffix(".py")).read_text(encoding="utf-8")
        _, status = os.waitpid(attempt(module, source), 0)
        if status:
            print(f"{module}: its tests fail without any change", file=sys.stderr)  # noqa: T201 - the result
            return 2
        total, survivors = run(module, options.lanes)
        score = json.loads(SCORE.read_text(encoding="utf-8")) if SCORE.exists() else {}
        score[module] = {"mutants": total, "killed": total - len(survivors), "survivors": survivors}
        SCORE.write_text(json.dumps(score, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{module:<26} {total - len(survivors):>4} of {total:>4} killed", flush=True)  # noqa: T201 - the result
        for name in survivors:
            if name not in explained:
                print(f"unexplained: {name}", flush=True)  # noqa: T201 - the result
    return verdict(json.loads(SCORE.read_text(encoding="utf-8")), explained, time.monotonic() - started)


def verdict(score: dict[str, Any], explained: dict[str, str], seconds: float) -> int:
    """Say how all modules did when each was last tried; return the exit code."""
    killed, total = (sum(row[key] for row in score.values()) for key in ("killed", "mutants"))
    survivors = [name for row in score.values() for name in row["survivors"]]
    unexplained = [name for name in survivors if name not in explained]
    for name in sorted(set(explained).difference(survivors)):
        print(f"explained, but killed or gone: {name}")  # noqa: T201 - the result
    print(  # noqa: T201 - the result
        f"{killed / total:.1%} of {total} killed, {len(unexplained)} of {len(survivors)} survivors unexplained; "
        f"{seconds:.0f} s"
    )
    return 1 if unexplained or killed < LEAST * total else 0


if __name__ == "__main__":
    sys.exit(main())
