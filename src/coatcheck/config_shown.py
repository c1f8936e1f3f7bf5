"""The configuration in force, as a file could say it, with where each option comes from; secrets are never shown."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from coatcheck.config import Config
from coatcheck.config_file import in_file
from coatcheck.config_load import PREFIX, find_file, load_all
from coatcheck.config_pipelines import PIPELINES, PipelineConfig
from coatcheck.sources.queue_address import without_user

Origin = Literal["default", "file", "environment"]
HIDDEN = "********"


@dataclass(frozen=True, slots=True)
class Option:
    """One option in force; `value` is JSON's, HIDDEN for a secret, None for what is not set."""

    section: str
    name: str
    value: Any
    origin: Origin

    def line(self) -> str:
        """Return the option as a line of TOML, a comment if it is not set."""
        text = f"{self.name} = {_toml(self.value)}" if self.value is not None else f"# {self.name} is not set"
        return text if self.origin == "default" else f"{text}  # {self.origin}"


def options(file: str | None = None) -> Iterator[Option]:
    """Yield every option in force; `file` as for `load_all`. Raises ConfigError: what `load_all` would refuse."""
    configs = load_all(file)
    path = find_file(file)
    in_path, in_environment = in_file(path) if path else {}, _in_environment()
    named = {config.pipeline: f"{PIPELINES}.{config.pipeline}." for config in configs}
    alone = PIPELINES not in in_path and PIPELINES not in in_environment
    for place, config in enumerate(configs):
        own = {} if alone else {**_of(in_path, config, "file"), **_of(in_environment, config, "environment")}
        origins = {**_named(in_path, "file"), **_named(in_environment, "environment"), **own}
        for section, values in _values(config).items():
            mine = section in PipelineConfig.model_fields and not alone
            if place and not mine:
                continue
            for name, value in values.items():
                title = f"{named[config.pipeline]}{section}" if mine else section
                yield Option(title, name, value, origins.get((section, name), "default"))


def _of(given: Mapping[str, Any], config: Config, origin: Origin) -> dict[tuple[str, str], Origin]:
    return _named(given.get(PIPELINES, {}).get(config.pipeline, {}), origin)


def to_toml(shown: Iterator[Option]) -> Iterator[str]:
    """Yield the lines of a configuration file that says the same, but for secrets."""
    section = ""
    for option in shown:
        if option.section != section:
            if section:
                yield ""
            yield f"[{option.section}]"
            section = option.section
        yield option.line()


def _values(config: Config) -> dict[str, dict[str, Any]]:
    dumped: dict[str, dict[str, Any]] = config.model_dump(mode="json", by_alias=True)
    for name, column in dumped["columns"].items():
        usual = {"required": False, "casefold": False, "strip_chars": ""}
        dumped["columns"][name] = {
            option: value for option, value in column.items() if value is not None and usual.get(option) != value
        }
    return {
        section: {
            name: HIDDEN if _is_secret(config, section, name) else _without_user(value)
            for name, value in values.items()
        }
        for section, values in dumped.items()
    }


def _without_user(value: Any) -> Any:
    """Return a value; of a URL without who may log in there."""
    return without_user(value, f"{HIDDEN}@") if isinstance(value, str) else value


def _is_secret(config: Config, section: str, name: str) -> bool:
    return hasattr(getattr(getattr(config, section), name, None), "get_secret_value")


def _named(given: Mapping[str, Any], origin: Origin) -> dict[tuple[str, str], Origin]:
    return {(section, name): origin for section, values in given.items() for name in values if section != PIPELINES}


def _in_environment() -> dict[str, Any]:
    """Return section -> options that are set there, one by one or as a JSON object."""
    found: dict[str, Any] = {}
    for variable, value in os.environ.items():
        section, *names = variable.upper().removeprefix(PREFIX).lower().split("__")
        if not variable.upper().startswith(PREFIX) or section not in {*Config.model_fields, PIPELINES}:
            continue
        depth = 3 if section == PIPELINES else 1  # where options stand: pipelines.NAME.SECTION.OPTION
        at = found.setdefault(section, {})
        for name in names[: depth - 1]:
            at = at.setdefault(name, {})
        at.update({names[depth - 1]: value} if len(names) >= depth else json.loads(value))
    return found


def _toml(value: Any) -> str:
    """Return a value of JSON as TOML: tables inline, texts and numbers as JSON writes them."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(part)}" for name, part in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
