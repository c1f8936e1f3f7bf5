"""Where personal data may be printed: the terminal, or a new file that only its owner can read. Nowhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coatcheck import terminal
from coatcheck.errors import ConfigError, RefusedError


@contextmanager
def private_output(output: str | None) -> Iterator[Callable[[Iterable[str]], None]]:
    """Give the function that prints lines; what it prints is there when it returns, or it raises.

    A file is made at once, so that nothing is opened for a place that cannot take it; if the block fails, it goes.
    Raises RefusedError: standard output is no terminal; ConfigError: the file exists, or cannot be written.
    """
    check_output(output)
    if output is None:
        yield _show
        return
    path = Path(output)
    handle = _create(path)

    def write(lines: Iterable[str]) -> None:
        with os.fdopen(os.dup(handle), "w", encoding="utf-8", errors="surrogatepass") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())

    try:
        yield write
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise
    finally:
        os.close(handle)


def check_output(output: str | None) -> None:
    """Raise RefusedError or ConfigError where nothing may be printed; before anything is asked for."""
    if output is None and not sys.stdout.isatty():
        raise RefusedError(
            "originals are shown on a terminal only", hint="write them to a file of your own: --output FILE"
        )
    if output is not None and os.path.lexists(output):
        raise ConfigError(f"{output} exists", hint="name a file that does not")


def _show(lines: Iterable[str]) -> None:
    for line in lines:
        terminal.out(line)
    sys.stdout.flush()


def _create(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path} exists", hint="name a file that does not") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", hint="name a file in a folder of yours") from None
