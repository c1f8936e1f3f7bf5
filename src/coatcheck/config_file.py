"""The configuration file: written to start from, and read as it is."""

from __future__ import annotations

import codecs
import json
import tomllib
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from coatcheck.errors import ConfigError


def write_default(path: Path) -> None:
    """Write the login pipeline as a file to start from. Raises ConfigError: the file exists, or cannot be written."""
    text = (resources.files("coatcheck") / "coatcheck.default.toml").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} exists", hint="it is never overwritten; move it away first") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}", hint="name a file in a folder of yours") from None


def in_file(path: Path) -> dict[str, Any]:
    """Return what a configuration file says, unchecked. Raises ConfigError: it cannot be read, or is no TOML."""
    try:
        return tomllib.loads(_text(path, path.read_bytes()))
    except FileNotFoundError:
        raise ConfigError(
            f"there is no configuration file {path}", hint="write one with `coatcheck init`, or leave --config out"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint="name a file that you may read") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no valid TOML", hint=_toml_hint(error)) from None


def _text(path: Path, data: bytes) -> str:
    """Return the text of a file, without the byte order mark that some editors put before it.

    Raises ConfigError for the mark of UTF-16, UnicodeDecodeError for what else is not UTF-8.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError(f"{path} is UTF-16", hint="save it as UTF-8")
    return data.decode("utf-8-sig")


def _toml_hint(error: Exception) -> str:
    if isinstance(error, tomllib.TOMLDecodeError):
        return str(error).lower()
    return "the file must be UTF-8" if isinstance(error, UnicodeDecodeError) else "a number or a nesting knows no end"


def command(given: object) -> object:
    """Return a command as a tuple; from the environment it comes as JSON. Raises ValueError, without what was given."""
    if isinstance(given, str):
        with suppress(ValueError):
            given = json.loads(given)
    if not isinstance(given, list | tuple) or not all(isinstance(word, str) and "\0" not in word for word in given):
        raise ValueError('a list of a program and its arguments: ["/path/to/program", "argument"]')
    if given and not given[0].startswith("/"):  # not by PATH: what is found first there may be somebody else's
        raise ValueError("the program is named by its absolute path")
    return tuple(given)
