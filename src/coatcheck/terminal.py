"""Everything that is printed, and the rules it follows.

* Results go to stdout, everything else to stderr.
* Errors are `coatcheck: error: ...` and `coatcheck: hint: ...`, lower case, without a full stop.
* Colour and progress bars on a terminal only; no colour with NO_COLOR (no-color.org).
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coatcheck.errors import CoatcheckError

if TYPE_CHECKING:
    from collections.abc import Callable

    from coatcheck.pipeline.message import Counts


def printable(text: str) -> str:
    """Escape what a terminal would obey rather than show: names and ids come from queue and database."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def out(text: str = "") -> None:
    """Print a line of the result."""
    click.echo(printable(text))


def note(text: str) -> None:
    """Print a line for the human at the terminal."""
    if not _logged("notice", text):
        click.echo(printable(text), err=True)


def warn(text: str) -> None:
    """Print a warning."""
    _say("warning", "yellow", text)


def hint(text: str) -> None:
    """Print what to do about the warning before it."""
    _say("hint", "cyan", text)


def internal_error(error: Exception) -> CoatcheckError:
    """Return what may be said of an error that nobody has foreseen: kind and place; its text may hold a value."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return CoatcheckError(
        f"internal error: {type(error).__name__} at {Path(last.filename).name}:{last.lineno}",
        hint="this is a bug in coatcheck: please report it with this line and the command",
    )


def fail(error: CoatcheckError) -> int:
    """Print an error with its hint, or log both as one JSON record; return its exit code."""
    fields = {"hint": error.hint, "reasons": getattr(error, "reasons", None)}
    told = {name: value for name, value in fields.items() if value}
    if not _logged("error", error.message, exit_code=error.exit_code, **told):
        _say("error", "red", error.message)
        if error.hint:
            _say("hint", "cyan", error.hint)
    return error.exit_code


def _logged(word: str, text: str, **fields: object) -> bool:
    """Log a line instead of printing it, where stderr is JSON; return whether it was logged."""
    import logging  # noqa: PLC0415 - `--help` needs none of it

    from coatcheck.ops import logs  # noqa: PLC0415

    levels = {"error": logging.ERROR, "warning": logging.WARNING}
    return logs.say(levels.get(word, logs.NOTICE), text, **fields)


def _say(word: str, colour: str, text: str) -> None:
    if _logged(word, text):
        return
    click.echo(_coloured(f"coatcheck: {word}: ", colour) + printable(text), err=True)


def _coloured(text: str, colour: str) -> str:
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=colour)


def out_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in aligned columns, numbers to the right."""
    cells = [["" if cell is None else _in_a_cell(str(cell)) for cell in row] for row in rows]
    widths = [max(len(title), *(len(row[i]) for row in cells)) if cells else len(title) for i, title in enumerate(head)]
    right = [bool(cells) and all(row[i].replace(".", "").isdigit() for row in cells) for i in range(len(head))]
    for row in [list(head), *cells]:
        line = "  ".join(
            cell.rjust(width) if side else cell.ljust(width)
            for cell, width, side in zip(row, widths, right, strict=True)
        )
        out(line.rstrip())


def _in_a_cell(text: str) -> str:
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def summary(counts: Counts) -> str:
    """Say in one line what a run did."""
    rate = counts.received / counts.seconds if counts.seconds else 0.0
    suppressed = f"{counts.suppressed:,} suppressed, " if counts.suppressed else ""
    return (
        f"{counts.received:,} received, {counts.loaded:,} loaded, {counts.duplicates:,} duplicates, {suppressed}"
        f"{counts.rejected:,} rejected, {counts.acked:,} acked in {counts.seconds:.1f} s ({rate:,.0f}/s)"
    )


@contextmanager
def progress(title: str, total: int | None = None) -> Iterator[Callable[[int, str], None]]:
    """Show a progress bar on a terminal; the function takes (done so far, text). Nothing when piped."""
    if not sys.stderr.isatty():
        yield lambda _done, _text: None
        return
    from rich.console import Console  # noqa: PLC0415 - rich costs 60 ms; only terminals pay
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, text="")
        yield lambda done, text: bar.update(task, completed=done, text=text)
