"""The worker of deploy/kubernetes without Kubernetes: its command, configuration, secrets and probes as in the pod.

Volumes are laid out as the kubelet does: files are links into a folder that is swapped whole, what has a subPath is a
file by itself, and both are for owner and group to read.
"""

from __future__ import annotations

import http.client
import signal
import socket
import time
from pathlib import Path

from tests.support.fix_servers import BAD, LoginDatabase, Queue, logins
from tests.support.manifests import KUBERNETES, Node, document
from tests.support.process import Command, wait_until

SENT = 40
POD: Node = document(KUBERNETES / "base" / "deployment.yaml")["spec"]["template"]["spec"]
CONTAINER: Node = POD["containers"][0]


def mount(folder: Path, files: dict[str, str], mode: int) -> None:
    """Lay out a volume of a secret or a ConfigMap."""
    swapped = folder / "..2026_11_30"
    swapped.mkdir(parents=True)
    (folder / "..data").symlink_to(swapped.name)
    for name, content in files.items():
        (swapped / name).write_text(content)
        (swapped / name).chmod(mode)
        (folder / name).symlink_to(f"..data/{name}")


def lay_out(root: Path, sources: dict[str, dict[str, str]]) -> None:
    """Mount what the worker mounts, below `root` instead of /, from the content of each volume."""
    for each in CONTAINER["volumeMounts"]:
        place, files = root / each["mountPath"].lstrip("/"), sources[each["name"]]
        mode = 0o644 if each["name"] == "config" else 0o440
        if "subPath" in each:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(files[each["subPath"]])
            place.chmod(mode)
        else:
            mount(place, files, mode)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int, probe: str) -> bool:
    """Tell whether a probe of the worker is content."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=CONTAINER[probe].get("timeoutSeconds", 1))
    try:
        connection.request("GET", CONTAINER[probe]["httpGet"]["path"])
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def written(root: Path) -> dict[Path, int]:
    """Return when each file was written, but for the keyring's: there it is a Secret, which nobody can write."""
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.parent.name != "keys"}


def test_a_worker_runs_as_in_its_pod(
    tmp_path: Path, queue: Queue, login_database: LoginDatabase, keyring: Path
) -> None:
    root, port = tmp_path / "root", free_port()
    toml = (KUBERNETES / "base" / "coatcheck.toml").read_text().replace("/etc/", f"{root}/etc/")
    names = ("token-root.json", "seal-public.json")
    sources = {
        "config": {"coatcheck.toml": toml},
        "database": {"url": f"{login_database.role('coatcheck_loader')}\n"},
        "keyring": {name: (keyring / name).read_text() for name in names},
    }
    lay_out(root, sources)
    variables = {each["name"]: f"{root}{each['value']}" for each in CONTAINER["env"]}
    command = Command(
        tmp_path,
        variables
        | {
            "AWS_ENDPOINT_URL": queue.endpoint,
            "COATCHECK_SOURCE__QUEUE": queue.url,
            "COATCHECK_METRICS__LISTEN": f"127.0.0.1:{port}",
        },
    )
    before = written(root)
    try:
        queue.send([*logins(SENT), BAD % 1])
        running = command.start(*CONTAINER["args"])
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            wait_until(lambda probe=probe: answers(port, probe), probe)  # type: ignore[misc]
        wait_until(lambda: login_database.rows() == SENT, "all rows")
        started = time.monotonic()
        running.signal(signal.SIGTERM)
        assert running.wait().code == 0
        assert time.monotonic() - started < POD["terminationGracePeriodSeconds"]
    finally:
        command.close()
    assert login_database.count("coatcheck.quarantine") == 1
    assert queue.depth() == (0, 0, 0)
    assert written(root) == before, "it writes nowhere"
