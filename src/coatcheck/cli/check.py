"""`coatcheck check`: everything that is wrong or unwise, of every pipeline; what is so for all of them is said once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from coatcheck import terminal
from coatcheck.cli.context import configurations, names_argument

if TYPE_CHECKING:
    from coatcheck.errors import Finding

    Found = Mapping[str, Sequence[Finding]]

_COMPONENTS = ("config", "keys", "queue", "database")


@click.command()
@names_argument
@click.option("--json", "as_json", is_flag=True, help="Print findings as JSON.")
@click.pass_context
def check(context: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Verify configuration, keys, queue, database, schema and privileges; report everything at once.

    Of a file with several pipelines, those that are named, or all.
    """
    from coatcheck.check import check as look
    from coatcheck.loop import run_async

    found = {config.pipeline: run_async(look(config)) for config in configurations(context, names)}
    if as_json:
        terminal.out_json(_as_json(found))
    else:
        _say(found)
    if any(finding.level == "error" for findings in found.values() for finding in findings):
        context.exit(1)


def _as_json(found: Found) -> list[dict[str, object]]:
    """Return the findings; of several pipelines each with its pipeline's name, or null if it is of all of them."""
    from dataclasses import asdict

    if len(found) == 1:
        return [asdict(finding) for findings in found.values() for finding in findings]
    common = _common(found)
    rows: list[dict[str, object]] = [{"pipeline": None} | asdict(finding) for finding in common]
    return rows + [
        {"pipeline": name} | asdict(finding)
        for name, findings in found.items()
        for finding in findings
        if finding not in common
    ]


def _say(found: Found) -> None:
    if len(found) == 1:
        for findings in found.values():
            _say_components(findings, findings, _COMPONENTS)
        return
    common = _common(found)
    alike = [name for name in _COMPONENTS if all(set(_of(name, found[one])) <= set(common) for one in found)]
    terminal.out("all pipelines")
    _say_components(common, common, alike)
    _say_findings(finding for finding in common if finding.component not in alike)
    for pipeline, findings in found.items():
        terminal.out(f"pipeline {pipeline}")
        own = [finding for finding in findings if finding not in common]
        _say_components(findings, own, [name for name in _COMPONENTS if name not in alike])


def _common(found: Found) -> list[Finding]:
    """Return the findings that every pipeline has, in the order of the first."""
    first, *others = found.values()
    return [finding for finding in first if all(finding in other for other in others)]


def _of(component: str, findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.component == component]


def _say_components(every: Sequence[Finding], shown: Sequence[Finding], components: Sequence[str]) -> None:
    """Say which components are well by all findings there are, and show some of these."""
    for component in components:
        if not any(finding.level == "error" for finding in _of(component, every)):
            terminal.out(f"ok      {component}")
        _say_findings(_of(component, shown))


def _say_findings(findings: Iterable[Finding]) -> None:
    for finding in findings:
        terminal.out(f"{finding.level:<7} {finding.component}: {finding.what}")
        if finding.hint:
            terminal.out(f"        hint: {finding.hint}")
