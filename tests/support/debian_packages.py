"""Installs the Debian packages that some tests use, where this user may (`make setup-debian`).

It never fails a build: it prints `debian packages: ready` or `debian packages: skipped (<why>)` and ends with 0; the
tests that miss one are skipped with a word. Standard library only, because it runs before anything else is there.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = {
    "bubblewrap": "bwrap",
    "pgbouncer": "pgbouncer",
    "postgresql": "/usr/lib/postgresql/*/bin/postgres",
    "prometheus": "promtool",
}
"""Package -> the program it brings. `postgresql` is the version of the distribution: 15 in Debian 12."""

CLUSTERS = Path("/etc/postgresql-common/createcluster.conf")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
LIMIT_S = 180.0
QUIETLY = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # no questions, and no service is started


def missing() -> list[str]:
    """Return the packages whose program is not there."""
    return [
        package
        for package, program in PACKAGES.items()
        if not (glob.glob(program) if "/" in program else shutil.which(program, path=PATH))  # noqa: PTH207 - a whole path
    ]


def without_cluster(settings: str) -> str:
    """Return the settings of postgresql-common, so that its packages bring programs and make no database."""
    others = re.sub(r"(?m)^#?\s*create_main_cluster\b.*\n?", "", settings)
    return f"{others}create_main_cluster = false\n"


def install(packages: list[str]) -> str:
    """Install packages; return why it could not be done, or nothing."""
    apt = shutil.which("apt-get")
    if apt is None:
        return "no apt-get here"
    if os.geteuid() != 0:
        return f"not root; by hand: apt-get install {' '.join(packages)}"
    first = ["postgresql-common"] if "postgresql" in packages else []
    for step in ([], first, packages):
        arguments = ["install", "--yes", "--no-install-recommends", *step] if step else ["update"]
        try:
            if step is packages and first:
                CLUSTERS.write_text(without_cluster(CLUSTERS.read_text()))
            subprocess.run(
                [apt, "--quiet", *arguments],
                check=True, capture_output=True, timeout=LIMIT_S, env=os.environ | QUIETLY,
            )  # fmt: skip
        except (subprocess.SubprocessError, OSError) as error:
            return f"apt-get {arguments[0]}: {type(error).__name__}"
    return ""


def main() -> int:
    """Install what is missing, and say how it went."""
    packages = missing()
    why = install(packages) if packages else ""
    print(f"debian packages: skipped ({why})" if why else "debian packages: ready")  # noqa: T201 - its one result
    return 0


if __name__ == "__main__":
    sys.exit(main())
