"""Follows the Dockerfile without an engine: its steps run in a sandbox (bubblewrap) over this machine's programs.

The base image is stood in for by this machine, read-only, with the Python that runs the tests. Needs root, as an
engine does: the image's user is another one.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("/build", "/opt/coatcheck", "/coatcheck")
"""What the Dockerfile makes; all else is the base image's."""

_CACHE = ROOT / ".venvs" / "cache"
_OURS = ("/cache", "/dev", "/opt", "/proc", "/python", "/sys", "/tmp")  # noqa: S108 - the sandbox has its own
_NETWORK = ("PIP_", "UV_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE")
_BASE = {"PATH": "/usr/local/bin:/python:/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH": "/usr/local/lib"}
_LIMIT_S = 150.0


def unfit() -> str:
    """Return why there can be no sandbox here, or nothing."""
    if os.geteuid() != 0:
        return "only root may follow a Dockerfile"
    missing = [name for name in ("bwrap", "setpriv") if shutil.which(name) is None]
    if missing:
        return f"no {missing[0]} here (make setup-debian)"
    tried = subprocess.run(
        [*_walls(), "--remount-ro", "/", *_as("10001:10001"), "python", "-c", "import ssl"],
        env=_BASE, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"no sandbox here: {tried.stderr.strip()[-200:]}" if tried.returncode else ""


def instructions(text: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions, each with the rest of its line, continuations joined."""
    lines = re.sub(r"\\\n\s*", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


@dataclass
class Image:
    """What came of a Dockerfile: the folders it made below `root`, and how its containers are run."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    folder: str = "/"
    said: dict[str, list[str]] = field(default_factory=dict)
    """The instructions ENTRYPOINT, CMD and HEALTHCHECK, as words."""

    def inside(self, path: str) -> Path:
        """Return where on this machine a path of the image is."""
        whole = os.path.normpath(f"{self.folder}/{path}" if not path.startswith("/") else path)
        assert whole.startswith(PLACES), f"{whole} is none of {PLACES}"
        return self.root / whole[1:]

    def follow(self, name: str, rest: str) -> None:
        """Do what an instruction says."""
        match name:
            case "FROM":
                self.environment = dict(_BASE)
                self.user, self.folder = "0:0", "/"
            case "ENV":
                for pair in shlex.split(rest):
                    key, _, value = pair.partition("=")
                    self.environment[key] = string.Template(value).substitute(self.environment)
            case "WORKDIR":
                self.folder = rest
                self.inside(rest).mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(shlex.split(rest))
            case "RUN":
                self._run(rest)
            case "USER":
                self.user = rest
            case "ENTRYPOINT" | "CMD" | "HEALTHCHECK":
                self.said[name] = json.loads(rest[rest.index("[") :])
            case _:
                assert name in {"LABEL", "EXPOSE", "STOPSIGNAL"}, f"{name} is not known here"

    def _copy(self, words: list[str]) -> None:
        *sources, target = [word for word in words if not word.startswith("--")]
        if "--from=build" in words:
            assert sources == [target]  # both stages share the folders
            return
        into = target.endswith("/")
        for source in sources:
            there = self.inside(f"{target}{Path(source).name}" if into else target)
            there.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, there, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, there)

    def _run(self, line: str) -> None:
        environment = {name: value for name, value in self.environment.items() if "NO_CACHE" not in name}
        environment |= {name: value for name, value in os.environ.items() if name.upper().startswith(_NETWORK)}
        environment |= {"HOME": str(Path.home()), "PIP_CACHE_DIR": "/cache/pip", "UV_CACHE_DIR": "/cache/uv"}
        _CACHE.mkdir(parents=True, exist_ok=True)
        walls = [*_walls(), "--tmpfs", "/tmp", "--bind", str(_CACHE), "/cache"]  # noqa: S108 - the sandbox's
        for place in PLACES:
            self.inside(place).mkdir(parents=True, exist_ok=True)
            walls += ["--bind", str(self.inside(place)), place]
        done = subprocess.run(
            [*walls, "--chdir", self.folder, "sh", "-c", line],
            env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"

    def container(self, *words: str, mounts: Mapping[str, str] | None = None) -> list[str]:
        """Return the command that runs words in a container: read-only root, the image's user, no capability.

        `mounts` says what is laid where: "/place:ro" or "/place:rw" -> a folder of this machine.
        """
        walls = _walls()
        for place in ("/opt/coatcheck", "/coatcheck"):
            walls += ["--ro-bind", str(self.inside(place)), place]
        for place, mine in (mounts or {}).items():
            where, _, how = place.partition(":")
            walls += ["--ro-bind" if how == "ro" else "--bind", mine, where]
        return [*walls, "--remount-ro", "/", "--chdir", self.folder, *_as(self.user), *words]


def _walls() -> list[str]:
    """Return bwrap with the root of this machine, all of it read-only, and its Python where others may read it."""
    words = ["bwrap", "--die-with-parent", "--unshare-pid", "--as-pid-1", "--unshare-ipc", "--cap-add", "ALL"]
    for parent in ("/opt", "/python", "/tmp"):  # noqa: S108 - the sandbox's; made by the way they would be 0700
        words += ["--perms", "0755", "--dir", parent]
    for place in [*sorted(Path("/").iterdir()), *Path("/opt").iterdir()]:
        if place.is_symlink():
            words += ["--symlink", str(place.readlink()), str(place)]
        elif place.is_dir() and str(place) not in (*PLACES, *_OURS):
            words += ["--ro-bind", str(place), str(place)]
    words += ["--proc", "/proc", "--dev", "/dev"]
    if sys.base_prefix == "/usr":  # Debian has no `python`, which the base image has
        return [*words, "--symlink", f"/usr/bin/python3.{sys.version_info[1]}", "/python/python"]
    return [*words, "--ro-bind", sys.base_prefix, "/usr/local"]


def _as(user: str) -> list[str]:
    uid, _, gid = user.partition(":")
    return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--bounding-set=-all", "--no-new-privs"]


def build(root: Path) -> Image:
    """Follow the Dockerfile of the project, unless another process has done so in `root`, or does so now.

    Raises AssertionError: a step fails.
    """
    root.mkdir(exist_ok=True)
    done = root / "image.json"
    with (root / "turn").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        if done.exists():
            return Image(root, **json.loads(done.read_text()))
        image = Image(root)
        for name, rest in instructions((ROOT / "Dockerfile").read_text()):
            image.follow(name, rest)
        shutil.rmtree(root / "build")  # the first stage
        done.write_text(json.dumps({name: value for name, value in vars(image).items() if name != "root"}))
        return image
