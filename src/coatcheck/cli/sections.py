"""A command group whose `--help` lists the commands in named sections, in the order one meets them."""

from __future__ import annotations

from typing import ClassVar

import click


class Sections(click.Group):
    """`sections` maps a title to command names; every visible command must stand in one."""

    sections: ClassVar[dict[str, tuple[str, ...]]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the sections."""
        named = [name for names in self.sections.values() for name in names]
        return [*named, *sorted(set(super().list_commands(ctx)) - set(named))]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list of commands for each section."""
        for title, names in self.sections.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(title):
                formatter.write_dl(
                    [(name, command.get_short_help_str(90)) for name, command in commands if command is not None]
                )
