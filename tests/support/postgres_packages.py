"""Installs one version of PostgreSQL where Debian and Ubuntu put it: /usr/lib/postgresql (`make setup-postgres`).

    sudo python3 -m tests.support.postgres_packages 16

A version that the distribution does not have comes from the PostgreSQL project's own packages. No cluster is made and
nothing is started: the tests run servers of their own (`PG_BIN`). Unlike `debian_packages` it fails if it cannot: who
asks for a version means it. Standard library only, because it runs before anything else is there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.debian_packages import CLUSTERS, QUIETLY, without_cluster

PLACE = Path("/usr/lib/postgresql")
ADD_PROJECT = "/usr/share/postgresql-common/pgdg/apt.postgresql.org.sh"
"""Debian's own script that adds the project's packages, their key included."""
INSTALL = ("apt-get", "--quiet", "install", "--yes", "--no-install-recommends")
LIMIT_S = 300.0

Run = Callable[[Sequence[str]], bool]


def run(command: Sequence[str]) -> bool:
    """Run a command, whose output is shown; tell whether it did what it should."""
    return subprocess.run(command, check=False, timeout=LIMIT_S, env=os.environ | QUIETLY).returncode == 0


def install(version: str, *, do: Run = run, clusters: Path = CLUSTERS) -> bool:
    """Install a version; tell whether that was done. `do` runs a command."""
    if not (do(["apt-get", "--quiet", "update"]) and do([*INSTALL, "postgresql-common", "ca-certificates"])):
        return False
    clusters.write_text(without_cluster(clusters.read_text()))
    package = f"postgresql-{version}"
    if not do(["apt-cache", "show", "--quiet", package]) and not do([ADD_PROJECT, "-y"]):
        return False
    return do([*INSTALL, package])


def main(arguments: Sequence[str]) -> int:
    """Install the version that is named, unless it is there."""
    [version] = arguments
    ready = (PLACE / version / "bin" / "postgres").exists() or install(version)
    print(f"postgresql {version}: {'ready' if ready else 'cannot be installed'}")  # noqa: T201 - its one result
    return 0 if ready else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
