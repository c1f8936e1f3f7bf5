"""Reads deploy/kubernetes and deploy/aws: YAML, and CloudFormation's functions with what they come to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # comes without types

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
AWS = ROOT / "deploy" / "aws"
Node = dict[str, Any]


def documents(path: Path) -> list[Node]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def document(path: Path) -> Node:
    """Return the one document of a YAML file."""
    (only,) = documents(path)
    return only


def kustomizations() -> dict[Path, Node]:
    """Return every kustomization by its folder."""
    return {path.parent: document(path) for path in sorted(KUBERNETES.rglob("kustomization.yaml"))}


def resource_files() -> list[Path]:
    """Return the files that kustomizations name as resources."""
    named = [folder / name for folder, made in kustomizations().items() for name in made.get("resources", [])]
    return [path for path in named if path.is_file()]


def resources() -> dict[tuple[str, str], Node]:
    """Return every resource by kind and name."""
    return {(each["kind"], each["metadata"]["name"]): each for path in resource_files() for each in documents(path)}


def settings(path: Path) -> dict[str, str]:
    """Return what a file of NAME=value lines says."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


# -- CloudFormation


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml comes without types
    """Reads the short forms of functions as the long ones: `!Ref A` as {"Ref": "A"}."""


def _function(loader: Any, tag: str, node: Any) -> Node:
    construct = {"ScalarNode": loader.construct_scalar, "SequenceNode": loader.construct_sequence}
    arguments = {"MappingNode": loader.construct_mapping} | construct
    kind = type(node).__name__
    value = arguments[kind](node) if kind == "ScalarNode" else arguments[kind](node, deep=True)
    if tag == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {tag if tag in ("Ref", "Condition") else f"Fn::{tag}": value}


_Loader.add_multi_constructor("!", _function)


def template(name: str) -> Node:
    """Return a template of deploy/aws with its functions in their long form."""
    found: Node = yaml.load((AWS / name).read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - is a SafeLoader
    return found


def resolved(node: Any, values: Mapping[str, Any]) -> Any:
    """Return a part of a template with its functions replaced by what they come to.

    `values` has what Ref gives by name ("Queue"), what GetAtt gives by name and attribute ("Queue.Arn"), whether a
    condition holds by its name, and what is exported by its name. Raises KeyError: it has not.
    """
    if isinstance(node, list):
        given = [resolved(each, values) for each in node]
        return [each for each in given if each is not None]
    if not isinstance(node, dict):
        return node
    (function, argument), *more = node.items()
    if not more and function in _FUNCTIONS:
        return _FUNCTIONS[function](argument, values)
    return {name: resolved(each, values) for name, each in node.items()}


_FUNCTIONS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "Ref": lambda name, values: None if name == "AWS::NoValue" else values[name],
    "Fn::GetAtt": lambda names, values: values[".".join(names)],
    "Fn::Sub": lambda text, values: re.sub(r"\$\{([\w:.]+)\}", lambda found: str(values[found[1]]), text),
    "Fn::If": lambda three, values: resolved(three[1] if values[three[0]] else three[2], values),
    "Fn::ImportValue": lambda name, values: values[resolved(name, values)],
}


def statements(policy: Node) -> list[Node]:
    """Return the statements of an IAM policy in one form, in which equal ones are equal: lists, sorted, each once."""

    def listed(value: Any) -> list[Any]:
        return sorted(set(value if isinstance(value, list) else [value]))

    normal = []
    for statement in policy["Statement"]:
        tests = {
            operator: {key: listed(value) for key, value in keys.items()}
            for operator, keys in statement.get("Condition", {}).items()
        }
        normal.append(statement | {"Action": listed(statement["Action"]), "Resource": listed(statement["Resource"])})
        normal[-1]["Condition"] = tests
    return sorted(normal, key=lambda statement: json.dumps(statement, sort_keys=True))
