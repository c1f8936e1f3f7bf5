"""Several pipelines in one file: `[pipelines.NAME]`, and which sections a pipeline may have of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from coatcheck.config import (
    DEFAULT_PIPELINE,
    BatchConfig,
    BreakerConfig,
    Config,
    LedgerConfig,
    SourceConfig,
    TargetConfig,
)
from coatcheck.config_columns import ColumnConfig
from coatcheck.config_section import Section

PIPELINES = "pipelines"
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
"""What a pipeline may be called: the name stands in metrics, logs, hashes and the database."""


class PipelineConfig(Section):
    """The sections that a pipeline may have of its own; an option that it leaves out is that of the top level."""

    source: SourceConfig = Field(default_factory=SourceConfig, description="as [source]")
    target: TargetConfig = Field(default_factory=TargetConfig, description="as [target]")
    batch: BatchConfig = Field(default_factory=BatchConfig, description="as [batch]")
    ledger: LedgerConfig = Field(default_factory=LedgerConfig, description="as [ledger]")
    breaker: BreakerConfig = Field(default_factory=BreakerConfig, description="as [breaker]")
    columns: dict[str, ColumnConfig] = Field(
        default_factory=dict, description="as [columns]; where a pipeline has any, none of the top level's count"
    )


def problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with `[pipelines]` itself: names, sections that a pipeline cannot have, defaults for none."""
    if PIPELINES not in values:
        return
    yield from _no_tables(values)
    pipelines = values[PIPELINES]
    if not isinstance(pipelines, Mapping) or not all(isinstance(own, Mapping) for own in pipelines.values()):
        yield f"{PIPELINES}: each pipeline is a table, as in [pipelines.orders.source]"
        return
    if not pipelines:
        yield f"{PIPELINES}: it names none; leave it out for a single pipeline"
    for name, own in pipelines.items():
        if not NAME.fullmatch(name):
            yield f"{PIPELINES}.{name}: a name is a lower-case letter, then letters, digits and _, 32 in all at most"
        for section in own:
            if section in Config.model_fields and section not in PipelineConfig.model_fields:
                yield f"{PIPELINES}.{name}.{section}: all pipelines share it: move it to [{section}]"
            elif section not in PipelineConfig.model_fields:
                yield f"{PIPELINES}.{name}.{section}: no such option"


def _no_tables(values: Mapping[str, Any]) -> Iterator[str]:
    for section, value in values.items():
        if section in PipelineConfig.model_fields and not isinstance(value, Mapping):
            yield f"{section}: it is a table, as in [{section}]"


def split(values: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], dict[str, Any]]]:
    """Yield (name, the sections of its own, the values of its whole configuration) of each pipeline."""
    shared = {name: value for name, value in values.items() if name != PIPELINES}
    pipelines = values.get(PIPELINES)
    if not isinstance(pipelines, Mapping):
        yield DEFAULT_PIPELINE, {}, shared
        return
    for name, own in pipelines.items():
        if not isinstance(own, Mapping):  # `problems` says so
            continue
        known = {section: own[section] for section in PipelineConfig.model_fields if section in own}
        yield name, known, shared | {section: _over(section, shared, value) for section, value in known.items()}


def _over(section: str, shared: Mapping[str, Any], own: Any) -> Any:
    default = shared.get(section)
    if section == "columns" or not isinstance(default, Mapping) or not isinstance(own, Mapping):
        return own
    return {**default, **own}


def sections_of(pipeline: str, own: Mapping[str, Any]) -> dict[str, str]:
    """Return the sections that a pipeline has of its own with the names under which they stand in a file."""
    return {section: f"{PIPELINES}.{pipeline}.{section}" for section in own}
