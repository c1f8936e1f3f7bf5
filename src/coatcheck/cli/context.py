"""What every command begins with: the configuration that the global options name."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from coatcheck.errors import CoatcheckError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from coatcheck.config import Config

_SEVERAL = "coatcheck.several"

pipeline_option = click.option(
    "--pipeline", metavar="NAME", help="Which pipeline of the file (COATCHECK_PIPELINE; default: the only one)."
)
each_pipeline_option = click.option(
    "--pipeline", metavar="NAME", help="Only this pipeline of the file (COATCHECK_PIPELINE; default: all)."
)
names_argument = click.argument("names", nargs=-1, metavar="[PIPELINE]...")


def configuration(context: click.Context, pipeline: str | None = None) -> Config:
    """Read the configuration of one pipeline, and log from now on as it says. Raises ConfigError."""
    from coatcheck.config_load import load

    config = load(context.obj, pipeline)
    _log_as(context, config, pipeline=config.pipeline)
    return config


def shared(context: click.Context, pipeline: str | None = None) -> Config:
    """Read the configuration for work on a whole database, and log as it says; `pipeline` is one that uses it.

    Raises ConfigError.
    """
    from coatcheck.config_load import load_shared

    config = load_shared(context.obj, pipeline)
    _log_as(context, config)
    return config


def configurations(context: click.Context, names: Sequence[str] = ()) -> tuple[Config, ...]:
    """Read the configurations of the named pipelines (of all, if none is named), and log as they say.

    Raises ConfigError.
    """
    from coatcheck.config_load import PIPELINE_VARIABLE, load_all, select

    named = names or tuple(filter(None, [os.environ.get(PIPELINE_VARIABLE)]))
    every = load_all(context.obj)
    configs = select(every, named)
    context.meta[_SEVERAL] = len(every) > 1
    _log_as(context, configs[0], pipeline=configs[0].pipeline if len(configs) == 1 else "")
    return configs


def has_several(context: click.Context) -> bool:
    """Tell whether the file, whose `configurations` have been read, has several pipelines."""
    return bool(context.meta.get(_SEVERAL))


@contextmanager
def naming(config: Config, *, several: bool) -> Iterator[None]:
    """Have an error of the block say which pipeline it is about, where there are several."""
    try:
        yield
    except CoatcheckError as error:
        if several:
            error.message = f"pipeline {config.pipeline}: {error.message}"
        raise


def _log_as(context: click.Context, config: Config, *, pipeline: str = "") -> None:
    from coatcheck.ops import logs

    verbose = context.find_root().params["verbose"]
    logs.configure(verbose=verbose, form=config.log.format, pipeline=pipeline, several=has_several(context))
