"""Dockerfile and compose.yaml by what knows them (hadolint, the compose specification), and against the project."""

from __future__ import annotations

import fnmatch
import re
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
from tests.support.compose_file import COMPOSE, ROOT, commands, read_yaml, tool
from tests.support.image_sandbox import instructions

from coatcheck.cli.commands import cli
from coatcheck.config import Config

DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()
EXERCISE = {"localstack", "postgres"}
"""The exercise's servers; their images start as root, and give that up themselves or not at all."""
OPTIONS = {
    f"COATCHECK_{section}__{name}".upper()
    for section, field in Config.model_fields.items()
    for name in getattr(field.annotation, "model_fields", {})
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = read_yaml(COMPOSE)
    return read


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def hadolint(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("hadolint"), "-"], input=text, capture_output=True, text=True, check=False)


def test_hadolint_has_nothing_to_say() -> None:
    done = hadolint(DOCKERFILE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    spoiled = hadolint(re.sub(r"(?m)^FROM python:\S+", "FROM python", DOCKERFILE))
    assert spoiled.returncode == 1
    assert "DL3006" in spoiled.stdout


def by_the_specification(path: Path) -> int:
    line: list[str | Path] = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", path]
    return subprocess.run(line, capture_output=True, check=False).returncode


def test_the_compose_file_is_one_by_the_specification(tmp_path: Path) -> None:
    assert by_the_specification(COMPOSE) == 0
    spoiled = tmp_path / "compose.yaml"
    spoiled.write_text(COMPOSE.read_text().replace("healthcheck:", "healthchecks:", 1))
    assert by_the_specification(spoiled) == 1


def test_what_is_pulled_is_pinned(services: dict[str, dict[str, Any]]) -> None:
    pulled = [service["image"] for service in services.values() if "build" not in service]
    bases = [rest.split()[0] for name, rest in instructions(DOCKERFILE) if name == "FROM"]
    for image in [*pulled, *bases]:
        assert re.search(r":v?\d+\.\d+(\.\d+)?[\w.-]*(@sha256:[0-9a-f]{64})?$", image), image
    assert len(set(bases)) == 1, "an environment runs on the Python that it was made with"
    assert "localstack/localstack:4.14.0" in pulled, "later ones want an account"


def test_what_is_mounted_exists(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for mount in service.get("volumes", []):
            source, target, *how = mount.split(":")
            if source.startswith("."):
                assert (ROOT / source).exists(), (name, mount)
                assert how == ["ro"], (name, mount)
            else:
                assert source in compose["volumes"], (name, mount)
            assert target.startswith("/")


def test_every_service_tells_how_it_is(services: dict[str, dict[str, Any]]) -> None:
    """One that ends has somebody who waits for its end."""
    waited_for = {
        (name, wait["condition"])
        for service in services.values()
        for name, wait in service.get("depends_on", {}).items()
    }
    for name, service in services.items():
        if (name, "service_completed_successfully") in waited_for:
            assert service["restart"] == "no"
        else:
            assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
    assert {name for name, _ in waited_for} <= services.keys()


def test_nothing_may_more_than_it_needs(services: dict[str, dict[str, Any]]) -> None:
    for name in services.keys() - EXERCISE:
        service = services[name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    for service in services.values():
        assert not service.get("privileged")
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    users = [rest for name, rest in instructions(DOCKERFILE) if name == "USER"]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", users[-1]), "Kubernetes' runAsNonRoot wants a number"
    assert "COATCHECK_KEYS__PASSPHRASE" not in services["coatcheck"]["environment"], "a loader cannot open"


def test_every_command_is_one(services: dict[str, dict[str, Any]]) -> None:
    seen = set()
    for service in services.values():
        if "build" not in service:
            continue
        for arguments in commands(service):
            here = [word.replace("/examples/", f"{ROOT}/examples/") for word in arguments]
            command: click.Command = cli
            context = click.Context(cli, info_name="coatcheck", help_option_names=["-h", "--help"])  # commands keep it
            while isinstance(command, click.Group):
                name, found, here = command.resolve_command(context, here)
                assert found is not None
                command, context = found, click.Context(found, info_name=name, parent=context)
            command.make_context(command.name, here, parent=context.parent).close()
            seen.add(" ".join(arguments[:2]))
    assert {"keys init", "migrate", "run", "send --create-queue"} <= seen


def test_every_variable_is_an_option(services: dict[str, dict[str, Any]]) -> None:
    text = DOCKERFILE + COMPOSE.read_text() + (ROOT / "deploy" / "docker" / "healthcheck.py").read_text()
    named = set(re.findall(r"COATCHECK_[A-Z_]+", text))
    assert len(named) > 1
    assert named <= OPTIONS
    assert "sslmode=disable" in services["coatcheck"]["environment"]["DATABASE_URL"]


def test_a_worker_has_the_time_it_takes_to_stop(services: dict[str, dict[str, Any]]) -> None:
    giving_back_s = 14.0  # by the description of [run] drain_seconds
    assert float(services["coatcheck"]["stop_grace_period"].rstrip("s")) > Config().run.drain_seconds + giving_back_s


def test_prometheus_and_grafana_find_each_other(services: dict[str, dict[str, Any]]) -> None:
    prometheus = read_yaml(ROOT / "deploy" / "prometheus" / "prometheus.yml")
    (job,) = prometheus["scrape_configs"]
    ((host, port),) = (target.split(":") for one in job["static_configs"] for target in one["targets"])
    assert f"127.0.0.1:{port}:{port}" in services[host]["ports"]
    assert f":{port}" in dict(instructions(DOCKERFILE))["ENV"], "the image's worker listens there"
    (source,) = read_yaml(ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    assert f"127.0.0.1:{port}:{port}" in services[host]["ports"]
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    (provider,) = read_yaml(ROOT / "deploy/grafana/provisioning/dashboards/coatcheck.yml")["providers"]
    grafana = services["grafana"]
    mounted = {mount.split(":")[1]: mount.split(":")[0] for mount in grafana["volumes"]}
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(provider["options"]["path"])
    assert ROOT / mounted[home] == ROOT / "deploy" / "grafana" / "coatcheck.json"


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    let_in = {line[1:] for line in IGNORED if line.startswith("!")}
    copied = {
        source
        for name, rest in instructions(DOCKERFILE)
        if name == "COPY" and "--from" not in rest
        for source in [word for word in rest.split() if not word.startswith("--")][:-1]
    }
    assert copied == let_in
    assert IGNORED[1] == "*"
    assert any(fnmatch.fnmatch("src/coatcheck/__pycache__", line) for line in IGNORED)
