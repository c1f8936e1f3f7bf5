"""What keys cost, on one core: tokens through the public interface, and whole records as the road makes them.

    python -m benchmarks.crypto --seconds 1.0 --runs 5

A record is two tokens (an IPv4 address, a device id) and two sealed originals, without decoding, validation or
database. The last line says whether the floors are met; so does the exit code.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from statistics import median

from benchmarks.measure import reference_loop_ms

from coatcheck import Tokenizer
from coatcheck.config_file import write_default
from coatcheck.keys import Sealer
from coatcheck.keys.local import LocalLoaderKeys, create
from coatcheck.vault.store import framed_contexts

VALUES = 10_000
FLOORS = {"tokens of IPv4 addresses": 400_000, "records with 2 tokens and 2 sealed values": 200_000}


def addresses() -> list[str]:
    """Return distinct addresses of 240.0.0.0/4, which belongs to nobody."""
    return [str(IPv4Address(0xF000_0000 + number * 26_543)) for number in range(VALUES)]


def devices() -> list[str]:
    """Return distinct made-up device ids."""
    return [f"{n // 10**6:03d}-{n // 10**4 % 100:02d}-{n % 10**4:04d}" for n in range(0, VALUES * 7919, 7919)]


def rate(work: Callable[[], object], seconds: float) -> float:
    """Return how many values a second `work`, which does VALUES of them, gets through."""
    done, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        work()
        done += VALUES
    return done / spent


def measure(folder: Path, seconds: float) -> dict[str, float]:
    """Return values a second by what is measured."""
    write_default(folder / "coatcheck.toml")
    create(folder / "coatcheck-keys")
    tokenizer = Tokenizer.from_config(folder / "coatcheck.toml")
    sealer = Sealer(LocalLoaderKeys.load(folder / "coatcheck-keys"), max_values=2**30)
    ips, ids = addresses(), devices()

    def records() -> None:
        for domain, values in (("ip", ips), ("device", ids)):
            tokens = tokenizer.token_many(domain, values)
            sealer.seal_many([value.encode() for value in values], framed_contexts(tokens, 20264))

    return {
        "tokens of IPv4 addresses": rate(lambda: tokenizer.token_many("ip", ips), seconds),
        "tokens of device ids": rate(lambda: tokenizer.token_many("device", ids), seconds),
        "records with 2 tokens and 2 sealed values": rate(records, seconds),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the medians with their spread, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crypto", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--no-gate", action="store_true", help="exit 0 even if a floor is missed")
    options = parser.parse_args(arguments)
    runs = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory(prefix="coatcheck-crypto-") as folder:
            runs.append(measure(Path(folder), options.seconds))
    missed = []
    print("| one core | a second, median (min-max) | floor |\n|---|---|---|")
    for name in runs[0]:
        rates = [run[name] for run in runs]
        floor = FLOORS.get(name, 0)
        print(
            f"| {name} | {median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f}) | {f'{floor:,}' if floor else ''} |"
        )
        if median(rates) < floor:
            missed.append(name)
    print(f"\nreference loop: {reference_loop_ms():.0f} ms")
    print(f"missed: {', '.join(missed)}" if missed else "the floors are met")
    return 1 if missed and not options.no_gate else 0


if __name__ == "__main__":
    sys.exit(main())
