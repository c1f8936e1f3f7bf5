"""compose.yaml, read: its services with what they inherit, and the coatcheck commands in it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

from tests.support.tool_environment import environment

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "compose.yaml"
_AS_JSON = "import json, sys, ruamel.yaml as y; json.dump(y.YAML(typ='safe').load(sys.stdin), sys.stdout)"


def tool(name: str) -> Path:
    """Return a program of the environment `containers`: hadolint, check-jsonschema, python."""
    return environment("containers") / name


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds."""
    text = subprocess.run([tool("python"), "-c", _AS_JSON], input=path.read_bytes(), capture_output=True, check=True)
    return json.loads(text.stdout)


def words(service: dict[str, Any], entrypoint: list[str]) -> list[str]:
    """Return what a service's container runs; `entrypoint` is the image's."""
    found: list[str] = [*service.get("entrypoint", entrypoint), *service.get("command", [])]
    return found


def commands(service: dict[str, Any]) -> list[list[str]]:
    """Return the coatcheck commands of a service, those of its shell lines among them, each without its first word."""
    script = " ".join(words(service, ["coatcheck"]))
    return [shlex.split(line) for line in re.findall(r"\bcoatcheck ((?:keys )?[a-z]+\b[^\n;|&]*)", script)]
