"""Every command and every option explains itself."""

from __future__ import annotations

import re

import click
import pytest
from tests.support.fix_servers import Alone

from coatcheck import __version__
from coatcheck.cli.commands import cli
from coatcheck.cli.reference import commands

COMMANDS = {"coatcheck": cli} | dict(commands())


def test_there_are_the_commands_of_the_design() -> None:
    names = {name.removeprefix("coatcheck ") for name in COMMANDS}
    assert {"demo", "init", "check", "migrate", "run", "send", "status", "keys init", "keys list", "redrive"} <= names
    assert {f"quarantine {name}" for name in ("list", "show", "retry", "discard")} <= names


@pytest.mark.parametrize("name", COMMANDS)
def test_help(alone: Alone, name: str) -> None:
    arguments = name.split()[1:]
    done = alone(*arguments, "--help")
    assert done.err == ""
    usage, _, text = done.out.partition("\n\n")
    assert usage.startswith(f"Usage: {name}")
    assert re.match(r"  [A-Z].*", text), "it says what it does"
    assert alone(*arguments, "-h").out == done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert command.help.strip().endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert parameter.help, parameter.opts
            assert parameter.help.endswith("."), parameter.opts


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if isinstance(command, click.Group)])
def test_a_group_alone_shows_its_help(alone: Alone, name: str) -> None:
    arguments = name.split()[1:]
    done = alone(*arguments, code=2)
    assert done.out == ""
    assert done.err == alone(*arguments, "--help").out


def test_every_command_stands_in_a_section() -> None:
    shown = cli.get_help(click.Context(cli, info_name="coatcheck", terminal_width=100))
    for name in cli.commands:
        assert f"\n  {name} " in shown


def test_version(alone: Alone) -> None:
    assert alone("--version").out == f"coatcheck {__version__}\n"
