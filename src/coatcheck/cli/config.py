"""The command `config`."""

from __future__ import annotations

import click

from coatcheck import terminal

# imports of what a command needs stand in the command: `--help` answers in 0.1 s


@click.group()
def config() -> None:
    """Look at the configuration."""


@config.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def show(context: click.Context, as_json: bool) -> None:
    """Print the configuration in force, and where each option comes from. Secrets are hidden."""
    from dataclasses import asdict

    from coatcheck import config_shown

    shown = config_shown.options(context.obj)
    if as_json:
        terminal.out_json([asdict(option) for option in shown])
    else:
        for line in config_shown.to_toml(shown):
            terminal.out(line)
