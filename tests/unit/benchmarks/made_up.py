"""Made-up results of every experiment: not measured anywhere, but in the form in which they are written."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.envelope import Envelope, write

ROUNDS = range(1, 6)
PEERS = {
    "coatcheck": (16.0, 21_000.0),
    "coatcheck_2": (17.5, 26_500.0),
    "boto3_rows": (420.0, 900.0),
    "boto3_values": (160.0, 2_400.0),
    "boto3_values_2": (165.0, 4_100.0),
    "aio_asyncpg": (118.0, 5_100.0),
    "sqs_consumer": (240.0, 2_900.0),
}


def wrap(name: str, runs: list[dict[str, Any]], **options: Any) -> Envelope:
    machine: dict[str, Any] = {
        "cores": 2,
        "processor": "Made Up 3000",
        "python": "3.11.9",
        "reference_ms": 101.4,
        "postgresql": "18.1",
    }
    return Envelope(name, "2026-01-02 03:04 UTC", "abc1234", machine, options or {"runs": 5}, runs)


def drift(number: int) -> float:
    """Return by how much the machine was faster or slower in a round."""
    return (1.0, 0.97, 1.04, 0.92, 1.01)[number - 1]


def road(workers: int, cpu: float, rate: float, **changes: Any) -> list[dict[str, Any]]:
    setting = {"workers": workers, "latency_ms": 0.0, "vault": "on", "distinct": 0.2, "messages": 300_000}
    return [
        {
            **setting,
            "round": number,
            "cpu_seconds": cpu * 0.3 / drift(number),
            "cpu_us": cpu / drift(number),
            "start_cpu_seconds": 0.6,
            "rate": rate * drift(number),
            "rss_mb": 84.0 + number,
            "requests_per_1000": 201.0,
            "postgres_us": 19.0 / drift(number),
            **changes,
        }
        for number in ROUNDS
    ]


def latencies(kind: str, offered: float | None, middle_ms: float) -> list[dict[str, Any]]:
    runs = []
    for number in ROUNDS:
        scale = middle_ms / drift(number)
        quantiles = {f"q{at:02}_ms": scale * (0.55 + at / 110 + (at / 100) ** 8) for at in range(5, 100, 5)}
        ends = {"p50_ms": scale, "p90_ms": scale * 1.8, "p99_ms": scale * 3.1, "max_ms": scale * 4.4}
        runs.append({"kind": kind, "offered": offered, "round": number, **ends, **quantiles})
    return runs


def growth() -> list[dict[str, Any]]:
    sizes = {(0, 0): 1.0, (10_000_000, 0): 1.06, (50_000_000, 0): 1.17, (0, 10_000_000): 1.34}
    return [
        {
            "ledger_rows": ledger,
            "vault_rows": vault,
            "round": number,
            "cpu_us": 18.0 / drift(number),
            "running_us": 16.0 / drift(number) * (1 + (factor - 1) / 4),
            "postgres_us": 21.0 / drift(number) * factor * (1 + number / 100),
            "rate": 21_000.0 * drift(number) / factor**0.7,
            "wal_bytes": 700.0 * factor,
        }
        for number in ROUNDS
        for (ledger, vault), factor in sizes.items()
    ]


def memory() -> list[dict[str, Any]]:
    flat = [
        {"kind": "flat", "round": 1, "messages": count * 500_000, "rss_mb": 62.0 + 24 * min(count, 2) / 2 + count / 10}
        for count in range(21)
    ]
    return [*flat, {"kind": "large", "round": 1, "messages": 2_000, "rss_mb": 221.0}]


def scaling() -> list[dict[str, Any]]:
    figures = {("saturated", 1): (45_000.0, 0.9), ("saturated", 2): (62_000.0, 0.8)}
    figures |= {("latency", 1): (9_000.0, 0.2), ("latency", 2): (17_500.0, 0.21)}
    return [
        {
            "setting": setting,
            "workers": workers,
            "round": number,
            "rate": rate * drift(number),
            "running_us": 14.0 / drift(number),
            "busy_cores": cores * workers + 0.2,
            "worker_cores": cores,
        }
        for number in ROUNDS
        for (setting, workers), (rate, cores) in figures.items()
    ]


def peers() -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    for number in ROUNDS:
        for latency, slower in ((0.0, 1.0), (20.0, 1.6)):
            for peer, (cpu, rate) in PEERS.items():
                figures = {"running_us": cpu / drift(number), "rate": rate * drift(number) / slower}
                rest = {"postgres_us": 22.0, "rss_total_mb": 90.0, "skipped": None}
                runs.append({"peer": peer, "round": number, "latency_ms": latency, **figures, **rest})
            why = "no wheel for this Python"
            runs.append({"peer": "dlt", "round": number, "latency_ms": latency, "rate": None, "skipped": why})
    return runs


def everything() -> dict[str, Envelope]:
    """Return a result of each experiment."""
    idle = [{"kind": "idle", "round": number, "requests_per_hour": 180.0} for number in ROUNDS]
    ramp = [{"kind": "ramp", "round": number, "to_one_poll_s": 31.0, "ramp_s": 2.0 + number} for number in ROUNDS]
    return {
        "road": wrap("road", road(1, 21.0, 20_500.0) + road(2, 22.5, 24_200.0), messages=300_000),
        "road-latency": wrap("road", road(1, 23.0, 19_000.0, latency_ms=20.0)),
        "road-novault": wrap("road", road(1, 16.0, 25_500.0, vault="off") + road(2, 17.0, 31_000.0, vault="off")),
        "road-new": wrap("road", road(1, 33.0, 14_000.0, distinct=1.0) + road(2, 35.0, 16_000.0, distinct=1.0)),
        "latency": wrap(
            "latency",
            latencies("rate", 100.0, 64.0) + latencies("rate", 1000.0, 92.0) + latencies("lone", None, 45.0),
        ),
        "idle": wrap("idle", idle + ramp),
        "growth": wrap("growth", growth()),
        "memory": wrap("memory", memory()),
        "scaling": wrap("scaling", scaling()),
        "peers": wrap("peers", peers()),
    }


def main() -> int:
    """Write one of them, as an experiment does; or fail as one may."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--exit", type=int, default=0)
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    if not options.silent:
        write(options.json, everything()[options.experiment])
    return int(options.exit)


if __name__ == "__main__":
    sys.exit(main())
