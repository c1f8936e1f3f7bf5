"""The command line: parse, call `app`, print. No logic.

Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 dependency unreachable, 4 refused by policy, 130 interrupted.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
from contextlib import suppress
from typing import NoReturn

import click

from coatcheck.cli.commands import cli
from coatcheck.errors import INTERRUPTED, CoatcheckError, ConfigError
from coatcheck.terminal import fail, internal_error, note

_BROKEN_PIPE = 141


def main() -> NoReturn:
    """Run the command line and exit. No value of a message ever leaves through an error here."""
    with suppress(ValueError, OSError):  # memory holds keys and originals in clear
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.unraisablehook = lambda raised: _say_kind(raised.exc_type)
    threading.excepthook = lambda raised: _say_kind(raised.exc_type)
    sys.exit(_main())


def _say_kind(kind: type[BaseException] | None) -> None:
    """Say of an error that nobody can catch what it is; its text and its locals may hold a value."""
    note(f"coatcheck: warning: internal error: {kind.__name__ if kind else 'unknown'}, where nobody could catch it")


def _main() -> int:  # noqa: PLR0911 - one line for each way a command can end
    try:
        code = cli.main(prog_name="coatcheck", standalone_mode=False)  # what `context.exit` was given, or None
    except CoatcheckError as error:
        return fail(error)
    except click.exceptions.NoArgsIsHelpError as error:  # a group without a command
        error.show()
        return error.exit_code
    except click.Abort:
        note("coatcheck: interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        return fail(ConfigError(_lower(error.format_message()), hint=_usage(error)))
    except BrokenPipeError:  # `coatcheck status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        note("coatcheck: interrupted")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last stop: its text may hold a value, its place does not
        return fail(internal_error(error))
    return code or 0


def _lower(text: str) -> str:
    return (text[:1].lower() + text[1:]).rstrip(".")


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"see `{context.command_path} --help`" if context else "see `coatcheck --help`"
