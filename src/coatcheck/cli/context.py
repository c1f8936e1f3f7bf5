"""What every command begins with: the configuration that the global options name."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from coatcheck.errors import ConfigError

if TYPE_CHECKING:
    from coatcheck.config import Config
    from coatcheck.ops.logs import Format


def configuration(context: click.Context, *, unattended: bool = False) -> Config:
    """Read the configuration, and log from now on as it says. Raises ConfigError.

    A service or a timer runs an `unattended` command: if it logs JSON, its errors are JSON too.
    """
    from coatcheck.config import load
    from coatcheck.ops import logs

    verbose = context.find_root().params["verbose"]
    try:
        config = load(context.obj)
    except ConfigError:
        logs.configure(verbose=verbose, form=_form(context.obj), unattended=unattended)
        raise
    logs.configure(verbose=verbose, form=config.log.format, unattended=unattended)
    return config


def _form(option: str | None) -> Format:
    """Return the log format that a wrong configuration asks for, so that its error is logged in this format."""
    from coatcheck.config import PREFIX, find_file
    from coatcheck.config_file import in_file

    found: object = None
    with suppress(ConfigError):
        path = find_file(option)
        section = in_file(path).get("log") if path else None
        found = section.get("format") if isinstance(section, dict) else None
    for name, value in os.environ.items():
        found = value if name.upper() == f"{PREFIX}LOG__FORMAT" else found
    return "json" if found == "json" else "text"
