"""What every command begins with: the configuration that the global options name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coatcheck.config import Config

pipeline_option = click.option(
    "--pipeline", metavar="NAME", help="Which pipeline of the file (COATCHECK_PIPELINE; default: the only one)."
)


def configuration(context: click.Context, pipeline: str | None = None) -> Config:
    """Read the configuration of one pipeline, and log from now on as it says. Raises ConfigError."""
    from coatcheck.config_load import load

    return _logging(context, load(context.obj, pipeline))


def shared(context: click.Context) -> Config:
    """Read the configuration for work on a whole database, and log as it says. Raises ConfigError."""
    from coatcheck.config_load import load_shared

    return _logging(context, load_shared(context.obj))


def configurations(context: click.Context, names: Sequence[str] = ()) -> tuple[Config, ...]:
    """Read the configurations of the named pipelines (of all, if none is named), and log as they say.

    Raises ConfigError.
    """
    import os

    from coatcheck.config_load import PIPELINE_VARIABLE, load_all, select

    named = names or tuple(filter(None, [os.environ.get(PIPELINE_VARIABLE)]))
    configs = select(load_all(context.obj), named)
    _logging(context, configs[0])
    return configs


def _logging(context: click.Context, config: Config) -> Config:
    from coatcheck.ops import logs

    logs.configure(verbose=context.find_root().params["verbose"], form=config.log.format)
    return config
