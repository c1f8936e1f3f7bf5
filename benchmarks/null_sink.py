"""The `coatcheck` command with a sink that answers at once: everything before it runs as in the product.

Only `app.PostgresSink` is another one. Source, road, vault, sealing, batching, leases, acks, the command line and the
supervisor are the product's; at its start a worker still holds keys and schema against a database, as it always does.

`write_command` writes the command as a program of its own, since the benchmarks start a command by its path, and so
does the supervisor with its workers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from coatcheck import app, supervisor
from coatcheck.cli import main as command_line
from coatcheck.pipeline.message import Batch, Outcome

PROGRAM = """\
#!{python}
import sys

sys.path.insert(0, {root!r})
from benchmarks.null_sink import main

main()
"""


class NullSink:
    """Implements ports.Sink: takes every batch for new, and keeps nothing of it."""

    def __init__(self, **_options: object) -> None:
        """Take what PostgresSink takes."""

    async def open(self) -> None:
        """Nothing to connect to."""

    async def write(self, batch: Batch) -> Outcome:
        """Answer as a commit that met no duplicate."""
        return Outcome(loaded=len(batch.rows), quarantined=len(batch.rejected))

    async def close(self) -> None:
        """Nothing to close."""


class _Supervisor(supervisor._Supervisor):  # noqa: SLF001 - it has no setting for what it starts, and needs none
    """Starts this program where the product's starts itself."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]  # handed through
        module = self._command.index("-m")
        self._command[module : module + 2] = [str(Path(sys.argv[0]).absolute())]


def write_command(path: Path) -> Path:
    """Write the command as an executable file and return its path."""
    root = Path(__file__).resolve().parent.parent
    path.write_text(PROGRAM.format(python=sys.executable, root=str(root)))
    path.chmod(0o755)
    return path


def main() -> NoReturn:
    """Run the product's command line with the other sink."""
    # were it called otherwise some day, `scaling` would find rows in the database
    app.PostgresSink = NullSink  # type: ignore[attr-defined,assignment]
    supervisor._Supervisor = _Supervisor  # type: ignore[misc]  # noqa: SLF001 - see there
    command_line()


if __name__ == "__main__":
    main()
