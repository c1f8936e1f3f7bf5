"""Reads the configuration: a TOML file, and the environment, which outranks it; one `Config` for each pipeline.

A file without `[pipelines]` is one pipeline, named `default`. In a file with `[pipelines.NAME]` the top-level sections
hold what all pipelines share and the defaults of what each may set by itself. With no file at all, the built-in login
pipeline runs. This module reads settings; it opens no connection and touches no key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError, create_model
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from coatcheck.config import DEFAULT_PIPELINE, Config, SourceConfig
from coatcheck.config_file import in_file
from coatcheck.config_pipelines import PIPELINES, PipelineConfig, problems, sections_of, split
from coatcheck.errors import ConfigError

DEFAULT_FILE = "coatcheck.toml"
PREFIX = "COATCHECK_"
PIPELINE_VARIABLE = f"{PREFIX}PIPELINE"
"""Names the pipeline of the file that a command is for, as --pipeline does."""

_SECTIONS = {*Config.model_fields, PIPELINES}
_VARIABLES = {f"{PREFIX}{name.upper()}" for name in _SECTIONS}
_FORM = f"{PREFIX}SECTION__OPTION"
_KUBERNETES = re.compile(r"_(SERVICE|PORT)(_|$)")
"""What a pod finds in its environment for a service of the name coatcheck."""
_QUEUE = re.compile(
    r"(?:arn:[^:]*:sqs:(?P<arn_region>[^:]*):(?P<arn_account>[^:]*):"
    r"|https?://(?:sqs[.](?P<region>[a-z0-9-]+)[.])?[^/]*/(?:.*/)??(?:(?P<account>[0-9]{12})/)?)?(?P<name>[^/:]+)/?"
)


class _Variables(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid")


_Environment: type[BaseSettings] = create_model(
    "_Environment",
    __base__=_Variables,
    **{name: (field.annotation, field) for name, field in Config.model_fields.items()},  # type: ignore[call-overload]
    pipelines=(dict[str, PipelineConfig], {}),
)
"""Says how variables become values: only its fields are used, by the source below."""


def find_file(option: str | None) -> Path | None:
    """Return the configuration file: the option, COATCHECK_CONFIG, ./coatcheck.toml if it exists, or None."""
    named = option or os.environ.get(f"{PREFIX}CONFIG")
    if named:
        return Path(named)
    default = Path(DEFAULT_FILE)
    return default if default.exists() else None


def load_all(option: str | None = None) -> tuple[Config, ...]:
    """Read the configuration of every pipeline, in the order of the file; `option` is the file named by --config.

    Raises ConfigError that lists everything that is wrong at once, by option name, never by value.
    """
    path = find_file(option)
    values = raw(path)
    wrong, configs = list(problems(values)), []
    for pipeline, own, given in split(values):
        try:
            configs.append(Config(**given).named(pipeline))
        except ValidationError as error:
            wrong += _told(error, sections_of(pipeline, own))
    if not wrong:
        wrong += _apart(configs)
    if wrong:
        where = str(path) if path else "the environment"
        raise ConfigError(
            f"the configuration in {where} is wrong: {'; '.join(dict.fromkeys(wrong))}",
            hint="docs/reference/configuration.md lists every option; `coatcheck init` writes a working file",
        ) from None
    return tuple(_beside(config, path) for config in configs)


def load(option: str | None = None, pipeline: str | None = None) -> Config:
    """Read the configuration of one pipeline: the one named, or named by COATCHECK_PIPELINE, or the only one.

    Raises ConfigError: as `load_all`; there is no such pipeline; there are several, and none is named.
    """
    configs = load_all(option)
    name = pipeline or os.environ.get(PIPELINE_VARIABLE)
    if name:
        return select(configs, (name,))[0]
    if len(configs) > 1:
        names = ", ".join(config.pipeline for config in configs)
        raise ConfigError(
            f"the configuration has several pipelines: {names}",
            hint=f"name the one that is meant: --pipeline NAME, or {PIPELINE_VARIABLE}",
        )
    return configs[0]


def load_shared(option: str | None = None, pipeline: str | None = None) -> Config:
    """Read the configuration for work on a whole database: any pipeline of the file serves where all share one.

    Raises ConfigError: as `load_all`; the pipelines use several databases, and none is named.
    """
    if pipeline or os.environ.get(PIPELINE_VARIABLE):
        return load(option, pipeline)
    configs = load_all(option)
    if len({config.conninfo() for config in configs}) > 1:
        raise ConfigError(
            "the configuration has several pipelines on several databases",
            hint=f"name one that uses the database that is meant: {PIPELINE_VARIABLE}="
            f"{configs[0].pipeline}, for example",
        )
    return configs[0]


def select(configs: Sequence[Config], names: Sequence[str]) -> tuple[Config, ...]:
    """Return the configurations of the named pipelines, in the order of the file; of all, if no name is given.

    Raises ConfigError: there is no pipeline of that name.
    """
    there = [config.pipeline for config in configs]
    if unknown := [name for name in names if name not in there]:
        raise ConfigError(
            f"the configuration has no pipeline {', '.join(unknown)}",
            hint=f"it has {', '.join(there)}: see `coatcheck config show`",
        )
    return tuple(config for config in configs if not names or config.pipeline in names)


def raw(path: Path | None) -> dict[str, Any]:
    """Return what file and environment say together, unchecked. Raises ConfigError: one cannot be read."""
    values = in_file(path) if path else {}
    _refuse_unknown_variables()
    try:
        variables = EnvSettingsSource(_Environment)()
        _refuse_unknown_pipelines(values, variables)
        return _merged(values, variables)
    except SettingsError:
        tables = ", ".join(name for name in sorted(os.environ) if _is_table(name.upper()))
        raise ConfigError(f"{tables}: no JSON object", hint=f"or set single options as {_FORM}") from None


def _is_table(variable: str) -> bool:
    """Tell whether a variable stands for a whole section or pipeline, and so holds a JSON object."""
    return variable in _VARIABLES or (variable.startswith(f"{PREFIX}PIPELINES__") and variable.count("__") < 3)  # noqa: PLR2004 - pipelines, NAME, SECTION


def _refuse_unknown_pipelines(in_file: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
    """Refuse a pipeline that only variables have, beside those of a file: it is a slip of the pen."""
    known, named = in_file.get(PIPELINES), variables.get(PIPELINES)
    if isinstance(known, Mapping) and isinstance(named, Mapping) and (unknown := sorted(named.keys() - known.keys())):
        raise ConfigError(
            f"{', '.join(f'{PREFIX}PIPELINES__{name.upper()}' for name in unknown)}: the file has no such pipeline",
            hint=f"it has {', '.join(known)}",
        )


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with what `above` says in its place, table by table."""
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _beside(config: Config, path: Path | None) -> Config:
    """Let a relative keyring folder begin at the configuration file."""
    if path is None or config.keys.path.is_absolute():
        return config
    keys = config.keys.model_copy(update={"path": path.parent / config.keys.path})
    return config.model_copy(update={"keys": keys})


def _refuse_unknown_variables() -> None:
    known = _VARIABLES | {f"{PREFIX}CONFIG", PIPELINE_VARIABLE}
    for name in sorted(os.environ):  # pydantic-settings reads them in any case
        if name.upper().startswith(PREFIX) and name.upper().split("__")[0] not in known:
            if _KUBERNETES.search(name):
                continue
            raise ConfigError(
                f"unknown environment variable {name}",
                hint=f"sections are {', '.join(sorted(_SECTIONS))}; write {_FORM}",
            )


def _told(error: ValidationError, sections: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong by option name; `sections` says where a pipeline's own sections stand."""
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        section, *rest = (str(part) for part in problem["loc"]) if problem["loc"] else ("",)
        name = ".".join([sections.get(section, section), *rest])
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = "no such option"
        yield f"{name}: {text}" if name else text


def _may_be_one(one: SourceConfig, other: SourceConfig) -> bool:
    """Tell whether two sources may be one queue, as far as name, URL or ARN tell."""
    a, b = (_QUEUE.fullmatch(source.queue) for source in (one, other))
    if not a or not b:
        return one.queue == other.queue
    regions = {a["arn_region"] or a["region"] or one.region, b["arn_region"] or b["region"] or other.region}
    accounts = {a["arn_account"] or a["account"], b["arn_account"] or b["account"]}
    same_account = len(accounts) == 1 if None not in accounts else one.profile == other.profile
    same_region = len(regions) == 1 or None in regions
    return bool(a["name"] == b["name"]) and same_account and same_region and one.endpoint_url == other.endpoint_url


def _apart(configs: Sequence[Config]) -> Iterator[str]:
    """Yield where pipelines of one file contradict each other."""
    forms: dict[str, tuple[str, tuple[object, ...]]] = {}
    for place, config in enumerate(configs):
        same = next((other for other in configs[:place] if _may_be_one(other.source, config.source)), None)
        if same:
            yield (
                f"pipelines.{config.pipeline}.source.queue: the pipeline {same.pipeline} reads the same queue, so each "
                "message would go to one of the two by chance; if they are two, give both by their ARN"
            )
        for domain, form in config.forms().items():
            first, known = forms.setdefault(domain, (config.pipeline, form))
            if known != form:
                yield (
                    f"pipelines.{config.pipeline}.columns: the domain {domain} has another canonical form in the "
                    f"pipeline {first} (parse, casefold, strip_chars, subnet): they would never join; give one a "
                    "domain of its own"
                )


__all__ = [
    "DEFAULT_FILE",
    "DEFAULT_PIPELINE",
    "PIPELINE_VARIABLE",
    "PREFIX",
    "find_file",
    "load",
    "load_all",
    "load_shared",
    "raw",
    "select",
]
