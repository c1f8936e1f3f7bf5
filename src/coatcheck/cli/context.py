"""What every command begins with: the configuration that the global options name."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from coatcheck.errors import CoatcheckError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from coatcheck.config import Config
    from coatcheck.ops.logs import Format

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

    return _read(context, lambda: (load(context.obj, pipeline),))[0]


def shared(context: click.Context, pipeline: str | None = None, *, unattended: bool = False) -> Config:
    """Read the configuration for work on a whole database, and log as it says; `pipeline` is one that uses it.

    A service or a timer runs an `unattended` command: if it logs JSON, its errors are JSON too. Raises ConfigError.
    """
    from coatcheck.config_load import load_shared

    return _read(context, lambda: (load_shared(context.obj, pipeline),), name=False, unattended=unattended)[0]


def of_one_database(context: click.Context) -> tuple[Config, ...]:
    """Read what `shared` reads, and after it the file's other pipelines on that database. Raises ConfigError."""
    from coatcheck.config_load import load_all

    first = shared(context, unattended=True)
    others = (config for config in load_all(context.obj) if config.pipeline != first.pipeline)
    return (first, *(config for config in others if config.conninfo() == first.conninfo()))


def configurations(
    context: click.Context, names: Sequence[str] = (), *, unattended: bool = False
) -> tuple[Config, ...]:
    """Read the configurations of the named pipelines (of all, if none is named), and log as they say.

    `unattended` as for `shared`. Raises ConfigError.
    """
    from coatcheck.config_load import PIPELINE_VARIABLE, load_all, select

    named = names or tuple(filter(None, [os.environ.get(PIPELINE_VARIABLE)]))

    def read() -> tuple[Config, ...]:
        every = load_all(context.obj)
        context.meta[_SEVERAL] = len(every) > 1
        return select(every, named)

    return _read(context, read, unattended=unattended)


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


def _read(
    context: click.Context, read: Callable[[], tuple[Config, ...]], *, name: bool = True, unattended: bool = False
) -> tuple[Config, ...]:
    """Read configurations, and log as the first one says; where there is only one, under its name."""
    from coatcheck.ops import logs

    verbose = context.find_root().params["verbose"]
    try:
        configs = read()
    except ConfigError:
        logs.configure(verbose=verbose, form=_form(context.obj), unattended=unattended)
        raise
    logs.configure(
        verbose=verbose,
        form=configs[0].log.format,
        unattended=unattended,
        pipeline=configs[0].pipeline if name and len(configs) == 1 else "",
        several=has_several(context),
    )
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
