"""What every command begins with: the configuration that the global options name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from coatcheck.config import Config


def configuration(context: click.Context) -> Config:
    """Read the configuration. Raises ConfigError."""
    from coatcheck.config import load

    return load(context.obj)
