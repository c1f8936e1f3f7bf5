"""The image without an engine: the Dockerfile's steps are followed, then what compose.yaml runs runs in what they made.

Read-only root, another user, no capability, as the first process of its own: as a container has it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support.compose_file import COMPOSE, read_yaml, words
from tests.support.fix_servers import LoginDatabase, Queue
from tests.support.image_sandbox import ROOT, Image, build, unfit
from tests.support.process import LIMIT_S, children, wait_until

from coatcheck.demo.samples import sample_logins

pytestmark = [pytest.mark.xdist_group("image"), pytest.mark.timeout(400)]  # it is made once, in half a minute
SAMPLES = sample_logins()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """What the Dockerfile makes."""
    if why := unfit():
        pytest.skip(why)
    mine = tmp_path_factory.getbasetemp()
    return build((mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "image")


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read_yaml(COMPOSE)["services"]
    return found


class Containers:
    """The services of compose.yaml that run the image, between this test's queue and database."""

    def __init__(self, image: Image, services: Mapping[str, dict[str, Any]], keys: Path) -> None:
        self.image, self.services, self.keys = image, services, keys
        self.settings: dict[str, str] = {}
        self._started: list[subprocess.Popen[str]] = []

    def environment(self, service: str) -> dict[str, str]:
        given: dict[str, str] = self.services[service]["environment"]
        return self.image.environment | given | self.settings

    def _command(self, service: str, command: list[str]) -> list[str]:
        folders = {"keys": str(self.keys), "./examples": str(ROOT / "examples")}
        mounts = {}
        for mount in self.services[service]["volumes"]:
            source, target, *how = mount.split(":")
            mounts[f"{target}:{'ro' if how else 'rw'}"] = folders[source]
        for place in self.services[service].get("tmpfs", []):
            mounts[f"{place}:rw"] = str(self.keys.parent / "tmp")
        return self.image.container(*command, mounts=mounts)

    def run(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a service to its end, or another command in its place."""
        line = list(command) or words(self.services[service], self.image.said["ENTRYPOINT"])
        return subprocess.run(
            self._command(service, line), env=self.environment(service),
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip

    def start(self, service: str) -> subprocess.Popen[str]:
        """Start a service; its end is that of its first process, by `kill`."""
        line = words(self.services[service], self.image.said["ENTRYPOINT"])
        process = subprocess.Popen(
            self._command(service, line), env=self.environment(service),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._started.append(process)
        return process

    def kill(self, process: subprocess.Popen[str], number: int = signal.SIGKILL) -> str:
        """Send a signal to a container's first process, as an engine does; return what it has printed at its end."""
        for first in children(process.pid):
            os.kill(first, number)
        return process.communicate(timeout=LIMIT_S)[0]

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                self.kill(process)


@pytest.fixture
def containers(
    image: Image,
    services: dict[str, dict[str, Any]],
    tmp_path: Path,
    queue: Queue,
    bare_database: LoginDatabase,
) -> Iterator[Containers]:
    keys, scratch = tmp_path / "keys", tmp_path / "tmp"
    for folder, pattern in ((keys, image.inside("/coatcheck/coatcheck-keys")), (scratch, None)):
        folder.mkdir(mode=0o700)  # a new volume is as the folder of the image that it is laid over
        owner = pattern.stat() if pattern else None
        os.chown(folder, *((owner.st_uid, owner.st_gid) if owner else (10001, 10001)))
    ready = Containers(image, services, keys)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f":{probe.getsockname()[1]}"
    ready.settings = {
        "AWS_ENDPOINT_URL": queue.endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
        "DATABASE_URL": bare_database.dsn,
        "COATCHECK_SOURCE__QUEUE": queue.name,
        "COATCHECK_METRICS__LISTEN": listen,
    }
    yield ready
    ready.close()


def test_the_stack_of_the_compose_file(containers: Containers, image: Image, bare_database: LoginDatabase) -> None:
    for _ in range(2):  # `docker compose up` comes again, too
        done = containers.run("setup")
        assert done.returncode == 0, done.stderr
    health = containers.services["coatcheck"]["healthcheck"]["test"][1:]
    assert health == image.said["HEALTHCHECK"]
    assert containers.run("coatcheck", *health).returncode == 1, "nobody is there yet"

    worker = containers.start("coatcheck")
    wait_until(lambda: containers.run("coatcheck", *health).stdout == "ok\n", "the worker is healthy")
    wait_until(lambda: bare_database.rows() == SAMPLES.good, "what was sent at the setup is loaded, once")
    feeder = containers.start("logins")
    wait_until(lambda: bare_database.rows() >= 2 * SAMPLES.good, "the same logins as new ones are loaded")
    sent = containers.services["logins"]["healthcheck"]["test"][1]
    wait_until(lambda: containers.run("logins", "sh", "-c", sent).returncode == 0, "the feeder is healthy")
    containers.kill(feeder)
    assert " loaded, " in containers.kill(worker, signal.SIGTERM)
    assert worker.returncode == 0
    assert containers.run("coatcheck", *health).stdout.startswith("no answer: ")
    assert containers.run("coatcheck", "cat", "coatcheck-keys/seal-private.pem").stdout.count("ENCRYPTED") == 2


def test_a_container_can_write_nowhere(containers: Containers) -> None:
    for place in ("/", "/tmp", "/coatcheck", "/opt/coatcheck", "/coatcheck/coatcheck-keys"):  # noqa: S108 - looked at
        assert "Read-only" in containers.run("coatcheck", "touch", f"{place}/new").stderr, place
    assert containers.run("setup", "touch", "/coatcheck/coatcheck-keys/new").returncode == 0
    status = containers.run("coatcheck", "cat", "/proc/self/status").stdout
    assert re.search(r"^Uid:\s+10001\s+10001\s+10001\s+10001$", status, re.MULTILINE)
    assert re.search(r"^CapPrm:\s+0+$", status, re.MULTILINE)


def test_what_is_in_the_image(image: Image) -> None:
    place = image.inside("/opt/coatcheck")
    done = subprocess.run(
        image.container("coatcheck", "--version"), env=image.environment, stdout=subprocess.PIPE, text=True, check=True
    )
    assert re.fullmatch(r"coatcheck \d+\.\d+\.\d+\n", done.stdout)
    programs = {path.name for path in (place / "bin").iterdir()}
    assert not programs & {"pip", "hatchling", "cyclonedx-py", "pytest"}
    assert not list(place.rglob("ministack*"))
    bill = json.loads((place / "coatcheck.cdx.json").read_text())
    assert bill["metadata"]["component"]["name"] == "coatcheck"
    listed = {f"{one['name'].lower().replace('_', '-')}=={one['version']}" for one in bill["components"]}
    pins = re.findall(r"(?m)^(\S+==\S+)( ; [^\\]*)?", (ROOT / "requirements" / "runtime-otel.lock").read_text())
    assert listed == {pin for pin, marker in pins if "win32" not in marker}


def test_nothing_is_compiled_at_a_start(image: Image) -> None:
    """A bytecode file whose flags say so is used whatever the times of the files are (PEP 552)."""
    (package,) = image.inside("/opt/coatcheck").glob("lib/python3*/site-packages/coatcheck")
    sources = list(package.rglob("*.py"))
    assert len(sources) > 50
    for source in sources:
        (compiled,) = source.parent.glob(f"__pycache__/{source.stem}.*.pyc")
        assert compiled.read_bytes()[4:8] == b"\x01\0\0\0", compiled
