"""One target under atheris, in a process of its own: `python -m tests.fuzz.one TARGET [options of libFuzzer]`."""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped,unused-ignore]  # tests/fuzz/requirements.lock has it

with atheris.instrument_imports(include=["coatcheck", "tests.fuzz.targets"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()
