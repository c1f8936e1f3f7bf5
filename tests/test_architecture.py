"""The layer table of ARCHITECTURE.md, enforced: who may import whom, where drivers live, and how large things grow."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "coatcheck"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("aws_reason", "errors", "loop", "version", "config_section", "pipeline", "pipeline.message", "pipeline.columns"),
    ("config_columns", "config_file", "config_telemetry", "keys.*", "ops.*", "sql.*", "pipeline.ports"),
    ("config",),
    ("config_pipelines",),
    ("config_load",),
    (
        "pipeline.decode",
        "pipeline.document",
        "pipeline.validate",
        "pipeline.mask",
        "pipeline.keying",
        "pipeline.columnwise",
        "pipeline.road",
        "pipeline.breaker",
    ),
    ("pipeline.writer",),
    ("pipeline.runner", "sources.*", "sinks.*", "vault.*"),
    ("config_advice", "config_shown", "custody"),
    ("telemetry", "keyring"),
    ("api", "app", "desk", "erasure", "rotation", "trail"),
    ("check", "maintenance"),
    ("worker", "supervisor", "terminal"),
    ("aws_lambda",),
    ("demo.*",),
    ("cli.*",),
    ("coatcheck", "__main__"),
)
"""Lower layers first; a module imports its own package's modules, and layers below its own."""

PURE = (
    "pipeline.decode",
    "pipeline.document",
    "pipeline.validate",
    "pipeline.mask",
    "pipeline.keying",
    "pipeline.columnwise",
    "pipeline.road",
    "pipeline.breaker",
)
IMPURE = {"os", "time", "random", "logging", "socket", "asyncio", "pathlib", "subprocess"}
HOMES = {
    "psycopg": ("sinks.postgres", "sql", "vault"),
    "pyreqwest": ("sources.sqs_client", "sources.sqs_proxied", "sources.sqs_wire"),
    "httptools": ("sources.sqs_direct",),
    "botocore": ("sources.aws", "keys.aws_kms", "keys.secrets"),
    "cryptography": ("keys", "sql.certificate"),
    "click": ("cli", "terminal"),
    "rich": ("terminal",),
    "pydantic": (
        "config",
        "config_columns",
        "config_load",
        "config_pipelines",
        "config_section",
        "config_telemetry",
        "cli.reference",
    ),
    "pydantic_settings": ("config", "config_load"),
    "uvloop": ("loop",),
    "opentelemetry": ("ops.otlp", "ops.otlp_metrics", "ops.otlp_spans"),
    "requests": ("ops.otlp",),
    "boto3": (),
}
"""Where a third-party library may be imported."""

SERVERS = ("demo.guarded", "demo.guard", "demo.servers", "demo.prometheus", "demo.samples")
TOGETHER = ("pipeline.road", "worker")  # in the layers of these, modules may use each other (there is no cycle)
MODULE_LINES, FUNCTION_LINES, FUNCTION_MEDIAN, FUNCTION_P90 = 400, 60, 10, 30


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = list(path.relative_to(SOURCE).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts) or "coatcheck"] = path
    return found


MODULES = modules()


def layer(name: str) -> int:
    for number, row in enumerate(LAYERS):
        for entry in row:
            if name == entry or (entry.endswith(".*") and f"{name}.".startswith(entry[:-1])):
                return number
    raise AssertionError(f"{name} has no row in LAYERS")


def package(name: str) -> str:
    """The room a module belongs to: its package, but for the pipeline, where every module stands for itself."""
    head = name.split(".", maxsplit=1)[0]
    return name if head == "pipeline" else ".".join(name.split(".")[: 2 if head == "sinks" else 1])


def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(name: str) -> Iterator[str]:
    """Every module that `name` imports anywhere, inner ones as their name below coatcheck."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            base = node.module or ""
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full.removeprefix("coatcheck.") in MODULES else base


def inner(name: str) -> Iterator[str]:
    for imported in imports(name):
        if imported == "coatcheck" or imported.startswith("coatcheck."):
            yield imported.removeprefix("coatcheck.")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_lower_layers_and_its_own_package_only(name: str) -> None:
    for other in inner(name):
        same = package(other) == package(name)
        assert (
            layer(other) < layer(name) or same or (layer(other) == layer(name) and layer(name) in map(layer, TOGETHER))
        ), f"{name} must not import {other}"


def test_no_cycle() -> None:
    graph = {name: set(inner(name)) - {name} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name in done:
            return
        for other in graph[name]:
            visit(other, (*path, name))
        done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", MODULES)
def test_every_driver_has_one_home(name: str) -> None:
    for imported in imports(name):
        top = imported.split(".")[0]
        homes = HOMES.get(top)
        if homes is not None:
            assert any(name == home or name.startswith(f"{home}.") for home in homes), f"{name} must not import {top}"


@pytest.mark.parametrize("name", PURE)
def test_pure_stages_know_no_clock_network_environment_or_log(name: str) -> None:
    assert not {imported.split(".")[0] for imported in imports(name)} & IMPURE


def test_the_road_never_sees_an_opener() -> None:
    for name in MODULES:
        if name.startswith(("pipeline", "sources", "sinks")):
            assert "Opener" not in MODULES[name].read_text(encoding="utf-8"), name


def test_the_embedded_servers_stand_alone() -> None:
    """Tests and benchmarks use them; they must not drag the application along."""
    for name in SERVERS:
        assert set(inner(name)) <= {"errors", "pipeline.message", *SERVERS}, name


def functions() -> Iterator[tuple[str, int]]:
    for name in MODULES:
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


def test_modules_stay_small() -> None:
    large = {
        name: count for name, path in MODULES.items() if (count := len(path.read_text().splitlines())) > MODULE_LINES
    }
    assert not large


def test_functions_stay_small() -> None:
    sizes = dict(functions())
    assert not {name: size for name, size in sizes.items() if size > FUNCTION_LINES}
    ordered = sorted(size for _, size in functions())
    assert statistics.median(ordered) <= FUNCTION_MEDIAN
    assert ordered[len(ordered) * 9 // 10] <= FUNCTION_P90


@pytest.mark.parametrize("name", MODULES)
def test_every_module_and_public_name_has_a_docstring(name: str) -> None:
    module = tree(name)
    assert ast.get_docstring(module), f"{name} has no docstring"
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"


def test_no_forbidden_names() -> None:
    for name in MODULES:
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.ClassDef):
                assert not node.name.endswith(("Manager", "Helper", "Util", "Utils", "Base")), f"{name}.{node.name}"


def test_the_table_stands_in_the_architecture_page() -> None:
    text = (SOURCE.parent.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for row in LAYERS[:-1]:
        for entry in row:
            if entry not in ("coatcheck", "ops", "pipeline"):
                tail = entry.removesuffix(".*")
                assert tail in text or f".{tail.split('.')[-1]}`" in text, f"ARCHITECTURE.md does not name {entry}"
