"""The configuration in force, as a file could say it, with where each option comes from; secrets are never shown."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from coatcheck.config import PREFIX, Config, find_file, load
from coatcheck.config_file import in_file

Origin = Literal["default", "file", "environment"]
HIDDEN = "********"
_USER = re.compile(r"(?<=://)[^/?#]*@")


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
    """Yield every option in force; `file` as for `load`. Raises ConfigError: what `load` would refuse."""
    config = load(file)
    path = find_file(file)
    origins = {**_named(in_file(path) if path else {}, "file"), **_named(_in_environment(), "environment")}
    for section, values in _values(config).items():
        for name, value in values.items():
            yield Option(section, name, value, origins.get((section, name), "default"))


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
    """Return a value; of an URL without who may log in there."""
    return _USER.sub(f"{HIDDEN}@", value) if isinstance(value, str) else value


def _is_secret(config: Config, section: str, name: str) -> bool:
    return hasattr(getattr(getattr(config, section), name, None), "get_secret_value")


def _named(given: dict[str, Any], origin: Origin) -> dict[tuple[str, str], Origin]:
    return {(section, name): origin for section, values in given.items() for name in values}


def _in_environment() -> dict[str, Any]:
    """Return section -> options that are set there, one by one or as a JSON object."""
    found: dict[str, Any] = {}
    for variable, value in os.environ.items():
        section, _, name = variable.upper().removeprefix(PREFIX).lower().partition("__")
        if variable.upper().startswith(PREFIX) and section in Config.model_fields:
            option = name.partition("__")[0]
            found.setdefault(section, {}).update({option: value} if option else json.loads(value))
    return found


def _toml(value: Any) -> str:
    """Return a value of JSON as TOML: tables inline, texts and numbers as JSON writes them."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(part)}" for name, part in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
