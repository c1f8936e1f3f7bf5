"""`coatcheck status`: the state of one pipeline, or of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from coatcheck import terminal
from coatcheck.cli.context import configurations, each_pipeline_option, naming
from coatcheck.errors import CoatcheckError

if TYPE_CHECKING:
    from coatcheck.app import Status
    from coatcheck.config import Config


@click.command()
@each_pipeline_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def status(context: click.Context, pipeline: str | None, as_json: bool) -> None:
    """Show queue depth, in flight, lag, rates, quarantine and keys, of each pipeline of the file.

    A pipeline that cannot be asked does not hide the others; its error ends the command when they have been shown.
    """
    from dataclasses import asdict

    configs = configurations(context, (pipeline,) if pipeline else ())
    found: dict[str, Status] = {}
    failed: list[CoatcheckError] = []
    for name, answer in _ask(configs):
        if isinstance(answer, CoatcheckError):
            failed.append(answer)
        else:
            found[name] = answer
    if as_json and len(configs) > 1:
        terminal.out_json({"pipelines": {name: asdict(one) for name, one in found.items()}})
    else:
        for name, one in found.items():
            _say(one, name if len(configs) > 1 else "", as_json=as_json)
    for error in failed[:-1]:
        terminal.fail(error)
    if failed:
        raise failed[-1]


def _ask(configs: Sequence[Config]) -> Iterator[tuple[str, Status | CoatcheckError]]:
    from coatcheck import app
    from coatcheck.loop import run_async

    for config in configs:
        try:
            with naming(config, several=len(configs) > 1):
                yield config.pipeline, run_async(app.status(config))
        except CoatcheckError as error:
            yield config.pipeline, error


def _say(found: Status, pipeline: str, *, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        terminal.out_json(asdict(found))
        return
    if pipeline:
        terminal.out(f"pipeline {pipeline}")
    queue = found.queue
    lag = "-" if found.lag_s is None else f"{found.lag_s:,.1f} s from send to commit"
    held = ", ".join(f"{reason} {count:,}" for reason, count in sorted(found.quarantined.items()))
    lines = {
        "queue": f"{queue['visible']:,} waiting, {queue['in_flight']:,} in flight, {queue['delayed']:,} delayed",
        "last minute": f"{found.loaded_last_minute:,} loaded, {found.duplicates_last_minute:,} duplicates",
        "newest": found.newest_commit or "nothing loaded yet",
        "lag": lag,
        "quarantine": held or "empty",
        "keys": f"{found.keys['provider']}, tenant {found.keys['tenant']}, token key {found.keys['kid']}",
    }
    for name, text in lines.items():
        terminal.out(f"{name:<12} {text}")
