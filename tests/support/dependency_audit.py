"""Looks for known vulnerabilities in what is locked, and writes the bill of materials (`make audit`, `make sbom`).

pip-audit asks PyPI for advisories. Where that cannot be reached, as behind a mirror, it says so and ends with 0; a
vulnerability ends it with 1. With `--sbom FILE` it writes CycloneDX JSON instead, the same bytes for the same lock.
Both tools live in `.venvs/audit`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.tool_environment import environment

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / "requirements" / "runtime.lock"
"""What an installation of coatcheck holds; the same pins as in dev.lock."""
LOCKS = (RUNTIME, *(ROOT / "requirements" / name for name in ("runtime-otel.lock", "dev.lock")))


def told(report: dict[str, Any], name: str) -> tuple[list[str], bool]:
    """Return the lines about one lock, by pip-audit's report of it, and whether nothing is known against it."""
    packages = report["dependencies"]
    asked = [one for one in packages if "vulns" in one]
    lines = [
        f"{name}: {one['name']} {one['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'none'}"
        for one in asked
        for found in one["vulns"]
    ]
    if lines:
        return lines, False
    if not asked:
        return [f"{name}: skipped (the advisories cannot be reached from here)"], True
    unknown = f", {len(packages) - len(asked)} could not be asked for" if len(asked) < len(packages) else ""
    return [f"{name}: nothing known against {len(asked)} packages{unknown}"], True


def audit(tools: Path) -> int:
    """Audit each lock with the programs in `tools`; return the exit code."""
    code = 0
    options = ["--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    for lock in LOCKS:
        command: list[str | Path] = [tools / "pip-audit", "-r", lock, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        try:
            lines, fine = told(json.loads(done.stdout), lock.name)
        except ValueError:  # no report
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            away = any(word in done.stderr for word in ("ConnectionError", "Max retries", "timed out", "resolution"))
            lines, fine = [f"{lock.name}: {'skipped' if away else 'pip-audit failed'} ({last})"], away
        print("\n".join(lines))  # noqa: T201 - what it is asked for
        code = code if fine else 1
    return code


def sbom(tools: Path, target: Path) -> None:
    """Write the bill of materials of an installation. Raises CalledProcessError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    options: list[str | Path] = [
        "--pyproject",
        ROOT / "pyproject.toml",
        "--output-reproducible",
        "--output-file",
        target,
    ]
    quiet = os.environ | {"PYTHONWARNINGS": "ignore"}  # it would like to know which package needs which
    subprocess.run([tools / "cyclonedx-py", "requirements", *options, RUNTIME], check=True, env=quiet)


def main(arguments: Sequence[str] | None = None) -> int:
    """Audit, or write the bill of materials; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.dependency_audit")
    parser.add_argument("--sbom", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    tools = environment("audit")
    if options.sbom is None:
        return audit(tools)
    sbom(tools, options.sbom)
    return 0


if __name__ == "__main__":
    sys.exit(main())
