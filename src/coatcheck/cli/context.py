"""What every command begins with: the configuration that the global options name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from coatcheck.config import Config


def configuration(context: click.Context) -> Config:
    """Read the configuration, and log from now on as it says. Raises ConfigError."""
    from coatcheck.config import load
    from coatcheck.ops import logs

    config = load(context.obj)
    logs.configure(verbose=context.find_root().params["verbose"], form=config.log.format)
    return config
