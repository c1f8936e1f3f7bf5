"""`coatcheck demo`: it shows the whole road, ends soon, and leaves nothing behind."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.support.debian_packages import PATH
from tests.support.process import COATCHECK, LIMIT_S, Command, alive, wait_until

ENOUGH_S = 30.0
"""It takes 5 s; a busy machine may take several times that."""

SECTIONS = (
    "$ coatcheck keys init ",
    "$ coatcheck migrate ",
    "$ coatcheck send logins.jsonl ",
    "$ coatcheck run --drain ",
    "$ psql ",
    "$ coatcheck quarantine list ",
)


@pytest.fixture
def scene() -> Iterator[Command]:
    """The command with a temporary folder that nobody else uses, and an environment that would lead it astray."""
    folder = Path(tempfile.mkdtemp(prefix="demo-", dir="/tmp"))
    folder.chmod(0o755)  # under root PostgreSQL runs as another user
    (folder / "home").mkdir()
    (folder / "tmp").mkdir(mode=0o777)
    (folder / "tmp").chmod(0o777)
    (folder / "home" / "coatcheck.toml").write_text("[source]\nqueue = 'astray'\n")
    astray = {
        "TMPDIR": str(folder / "tmp"),
        "DATABASE_URL": "postgresql://127.0.0.1:1/astray",
        "PGHOST": "127.0.0.2",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_PROFILE": "astray",
        "COATCHECK_SOURCE__QUEUE": "astray",
    }
    command = Command(folder / "home", astray)
    yield command
    command.close()
    for pid in servers(command):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not servers(command), "what a failed test left has ended")
    shutil.rmtree(folder)


def temporary(command: Command) -> Path:
    return Path(command.environment["TMPDIR"])


def servers(command: Command) -> list[int]:
    """Return the processes that have the temporary folder on their command line: guards and servers."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,command="], capture_output=True, text=True, check=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if f"{temporary(command)}/" in line]


def left(command: Command) -> list[str]:
    return [path.name for path in temporary(command).iterdir()]


def test_it_shows_the_road_and_leaves_nothing(scene: Command) -> None:
    before = time.monotonic()
    done = scene("demo")
    assert time.monotonic() - before < ENOUGH_S
    assert done.err == ""
    places = [done.out.index(section) for section in SECTIONS]
    assert places == sorted(places)
    assert "300 received, 285 loaded, 0 duplicates, 15 rejected, 300 acked in " in done.out
    assert "300 received, 0 loaded, 300 duplicates, 0 rejected, 300 acked in " in done.out
    assert "the second run added nothing: 300 of 300 messages were known to the ledger" in done.out
    tokens = re.findall(r"^ (pt1_ip_k1_[0-9a-f]{40}) \| +(\d+) ", done.out, re.MULTILINE)
    counts = [int(count) for _, count in tokens]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 10, "equal addresses have equal tokens"
    assert len({token for token, _ in tokens}) == len(tokens) > 1
    assert servers(scene) == []
    assert left(scene) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_it_leaves_nothing_when_it_is_ended(scene: Command, number: signal.Signals) -> None:
    running = scene.start("demo", "--messages", "2000")
    running.said("coatcheck send")
    assert len(servers(scene)) > 2
    running.signal(number)
    assert running.wait().code != 0
    wait_until(lambda: not servers(scene), "the servers have ended")
    wait_until(lambda: not left(scene), "the folders are gone")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_it_is_interrupted_while_it_loads(scene: Command, number: signal.Signals) -> None:
    """What is stopped halfway has not failed, and is no bug to report."""
    running = scene.start("demo", "--messages", "3000")
    running.said("coatcheck run --drain")
    running.signal(number)
    done = running.wait()
    assert (done.code, done.err.strip()) == (130, "coatcheck: interrupted")
    assert (servers(scene), left(scene)) == ([], [])


def lines(out: str, heading: str) -> list[str]:
    """Return the indented lines below a heading."""
    return [line.strip() for line in out.partition(f"{heading}\n")[2].strip("\n").partition("\n\n")[0].splitlines()]


def shell(command: Command, *script: str) -> str:
    """Run lines in a shell as a user would, who has coatcheck on the path and no settings."""
    done = subprocess.run(
        ["sh", "-ec", "\n".join(script)],
        env={
            "PATH": f"{COATCHECK.parent}:{os.environ['PATH']}",
            "HOME": str(command.folder.parent),
            "PAGER": "cat",
        },
        cwd="/",
        input="SELECT count(*) FROM user_logins;\n",
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), (script, done.stderr)
    return done.stdout


def get(url: str) -> str:
    """Return what an address answers, or nothing."""
    try:
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:  # noqa: S310 - on loopback
            text: str = answer.read().decode()
            return text
    except OSError:
        return ""


def loaded(url: str) -> int:
    """Return how many rows a worker says it has made, by its address for metrics."""
    found = re.search(r'^coatcheck_messages_loaded_total{pipeline="default"} (\S+)$', get(url), re.MULTILINE)
    return int(float(found[1])) if found else 0


def test_keep(scene: Command) -> None:
    running = scene.start("demo", "--keep", "--messages", "50", PATH=f"{scene.environment['PATH']}:{PATH}")
    running.said("Ctrl-C ends all of it")
    psql, _, curl, prometheus = lines(running.out, "a worker goes on, with 10 new logins every 2 s; look around:")
    _, metrics, ready = curl.split()
    first = wait_until(lambda: loaded(metrics), "the new logins are loaded")
    wait_until(lambda: loaded(metrics) > first, "and more of them")
    assert get(ready) == "ok\n"
    assert int(re.findall(r"\d+", shell(scene, psql))[0]) >= 48 + first
    exports = lines(running.out, "and run coatcheck in another terminal:")
    assert exports[-1] == "coatcheck status"
    assert "token key k1" in shell(scene, *exports)
    if shutil.which("prometheus", path=PATH):
        url = prometheus.split()[0]
        query = f"{url}api/v1/query?query=coatcheck_messages_loaded_total"
        wait_until(lambda: '"job":"coatcheck"' in get(query), "Prometheus has seen the worker")
        assert "CoatcheckStuck" in get(f"{url}api/v1/rules")
    else:
        assert prometheus.startswith("apt-get install prometheus ")
    kept = servers(scene)
    assert len(kept) > 2
    running.signal(signal.SIGINT)
    done = running.wait()
    assert (done.code, done.err) == (0, "")
    assert " loaded, 0 duplicates, " in done.out.splitlines()[-1]
    assert (servers(scene), alive(kept), left(scene)) == ([], set(), [])
    assert get(metrics) == ""


def test_keep_leaves_nothing_when_it_is_killed(scene: Command) -> None:
    running = scene.start("demo", "--keep", "--messages", "50", PATH=f"{scene.environment['PATH']}:{PATH}")
    running.said("Ctrl-C ends all of it")
    running.kill()
    wait_until(lambda: not servers(scene), "the servers have ended")
    wait_until(lambda: not left(scene), "the folders are gone")


def test_as_an_ordinary_user(scene: Command) -> None:
    """Root has PostgreSQL run as nobody; anybody else runs it as himself."""
    if os.geteuid() != 0:
        pytest.skip("all these tests run as an ordinary user")
    nobody = pwd.getpwnam("nobody")
    tried = _as(nobody, scene, "--version")
    if tried is None or tried.returncode:
        pytest.skip("an ordinary user cannot read this environment")
    done = _as(nobody, scene, "demo", "--messages", "50")
    assert done is not None
    assert (done.returncode, done.stderr) == (0, "")
    assert "50 received, 48 loaded" in done.stdout
    assert left(scene) == []


def _as(user: pwd.struct_passwd, command: Command, *arguments: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            [COATCHECK, *arguments],
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            cwd="/",
            env=command.environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    except OSError:
        return None
