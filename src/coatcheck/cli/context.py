"""What every command begins with: the configuration that the global options name."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from coatcheck.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coatcheck.config import Config
    from coatcheck.ops.logs import Format

pipeline_option = click.option(
    "--pipeline", metavar="NAME", help="Which pipeline of the file (COATCHECK_PIPELINE; default: the only one)."
)


def configuration(context: click.Context, pipeline: str | None = None, *, unattended: bool = False) -> Config:
    """Read the configuration of one pipeline, and log from now on as it says. Raises ConfigError.

    A service or a timer runs an `unattended` command: if it logs JSON, its errors are JSON too.
    """
    from coatcheck.config_load import load

    return _read(context, lambda: (load(context.obj, pipeline),), unattended=unattended)[0]


def shared(context: click.Context, *, unattended: bool = False) -> Config:
    """Read the configuration for work on a whole database, and log as it says. Raises ConfigError."""
    from coatcheck.config_load import load_shared

    return _read(context, lambda: (load_shared(context.obj),), unattended=unattended)[0]


def configurations(
    context: click.Context, names: Sequence[str] = (), *, unattended: bool = False
) -> tuple[Config, ...]:
    """Read the configurations of the named pipelines (of all, if none is named), and log as they say.

    Raises ConfigError.
    """
    from coatcheck.config_load import PIPELINE_VARIABLE, load_all, select

    named = names or tuple(filter(None, [os.environ.get(PIPELINE_VARIABLE)]))
    return _read(context, lambda: select(load_all(context.obj), named), unattended=unattended)


def _read(context: click.Context, read: Callable[[], tuple[Config, ...]], *, unattended: bool) -> tuple[Config, ...]:
    from coatcheck.ops import logs

    verbose = context.find_root().params["verbose"]
    try:
        configs = read()
    except ConfigError:
        logs.configure(verbose=verbose, form=_form(context.obj), unattended=unattended)
        raise
    logs.configure(verbose=verbose, form=configs[0].log.format, unattended=unattended)
    return configs


def _form(option: str | None) -> Format:
    """Return the log format that a wrong configuration asks for, so that its error is logged in this format."""
    from coatcheck.config_file import in_file
    from coatcheck.config_load import PREFIX, find_file

    found: object = None
    with suppress(ConfigError):
        path = find_file(option)
        section = in_file(path).get("log") if path else None
        found = section.get("format") if isinstance(section, dict) else None
    for name, value in os.environ.items():
        found = value if name.upper() == f"{PREFIX}LOG__FORMAT" else found
    return "json" if found == "json" else "text"
