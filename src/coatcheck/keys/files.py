"""Key files: written durably and whole, read only if nobody else could have read or changed them."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coatcheck.errors import ConfigError, RefusedError

SECRET = 0o600
"""Mode of a secret file."""

PUBLIC = 0o644
"""Mode of a file that others may read, but not change."""

LOCK = ".lock"
"""Name of the empty file that is locked while a keyring changes; it stays, as removing it would race."""

_FOLDER = 0o700
_BEGUN = ".coatcheck-new"  # behind the name of a file that is being written
_SIZE_LIMIT = 64 * 1024  # a key file has hundreds of bytes; anything else is the wrong file
_LOCKED_ERRORS = {errno.EWOULDBLOCK, errno.EACCES}  # flock's own; EACCES where it is made of fcntl locks
_LINK_ERRORS = {errno.ELOOP, errno.EMLINK}  # Linux and macOS, BSD


def read_key_file(path: Path, mode: int, *, absent: str) -> bytes:
    """Return the content of a key file whose mode should be `mode` (SECRET or PUBLIC).

    Raises ConfigError if it is missing (with the hint `absent`), a symlink or no regular file, owned by
    neither this user nor root, readable (SECRET) or writable (both) by others, or too large. What is
    checked is what is read.
    """
    try:
        # non-blocking: opening a pipe must not hang before it is refused
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        code = error.errno
    else:
        try:
            _check(path, os.fstat(fd), mode)
            return os.read(fd, _SIZE_LIMIT)
        finally:
            os.close(fd)
    raise _open_failed(path, code, absent)


def _open_failed(path: Path, code: int | None, absent: str) -> ConfigError:
    if code in {errno.ENOENT, errno.ENOTDIR}:
        return ConfigError(f"the key file {path} is missing", hint=absent)
    if code in _LINK_ERRORS:
        return ConfigError(
            f"the key file {path} is a symlink",
            hint="put the file itself there: where a link leads may change unseen",
        )
    name = errno.errorcode.get(code or 0, "unknown error")
    return ConfigError(f"the key file {path} cannot be read ({name})", hint="run as the file's owner")


def _check(path: Path, status: os.stat_result, mode: int) -> None:
    quoted = shlex.quote(str(path))
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"the key file {path} is no regular file", hint="put the file itself there")
    if status.st_uid not in {os.geteuid(), 0}:
        raise ConfigError(
            f"the key file {path} belongs to neither this user nor root",
            hint=f"run as its owner, or: chown {os.geteuid()} {quoted}",
        )
    loose = stat.S_IMODE(status.st_mode) & ~mode & 0o077
    if loose:
        done = "written" if loose & 0o022 else "read"
        raise ConfigError(f"the key file {path} can be {done} by others", hint=f"chmod {mode:o} {quoted}")
    if status.st_size >= _SIZE_LIMIT:
        raise ConfigError(f"the key file {path} is too large for one", hint="put the right file there")


def write_key_folder(folder: Path, files: dict[str, tuple[int, bytes]]) -> tuple[Path, ...]:
    """Write `files` (name -> mode and content) into a new or empty folder (mode 0700); return their paths.

    They are on the disk on return; if one cannot be written, none is left. Never overwrites. Raises
    ConfigError.
    """
    return _write_all(folder, files, _make_folder)


def add_key_files(folder: Path, files: dict[str, tuple[int, bytes]]) -> tuple[Path, ...]:
    """As write_key_folder, but into a folder that may hold other files already. Raises ConfigError."""
    for path in (folder / name for name in files):
        if os.path.lexists(path):
            raise ConfigError(
                f"the key file {path} exists", hint="keys are never overwritten: use the one that is there"
            )
    return _write_all(folder, files, lambda folder: folder.mkdir(mode=_FOLDER, parents=True, exist_ok=True))


def _write_all(folder: Path, files: dict[str, tuple[int, bytes]], make: Callable[[Path], None]) -> tuple[Path, ...]:
    written: list[Path] = []
    try:
        make(folder)
        for name, (mode, data) in files.items():
            _write_new(folder / name, mode, data, written)
        sync_folder(folder)
        sync_folder(folder.parent)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "unknown error")
        for path in written:
            with suppress(OSError):
                path.unlink()
        raise ConfigError(f"the keyring {folder} cannot be written ({name})", hint="choose another folder") from None
    return tuple(written)


def _make_folder(folder: Path) -> None:
    with suppress(FileExistsError):
        folder.mkdir(mode=_FOLDER, parents=True)
    if any(folder.iterdir()):
        raise ConfigError(
            f"the folder {folder} is not empty",
            hint="keys are never overwritten: choose another folder, or use the keyring that is there",
        )
    folder.chmod(_FOLDER)


def _write_new(path: Path, mode: int, data: bytes, written: list[Path]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    written.append(path)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)  # whatever the umask left of it
        file.write(data)
        file.flush()
        os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """Have what was made or renamed in a folder on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def change(folder: Path) -> Iterator[None]:
    """Keep every other process from changing the keyring `folder` meanwhile.

    Sweeps up what one that was killed left half-written. Raises RefusedError: another process changes it;
    ConfigError: it cannot be changed by this user.
    """
    fd = _lock(folder)
    try:
        for begun in folder.glob(f".*{_BEGUN}"):
            remove_key_file(begun)
        yield
    finally:
        os.close(fd)  # frees the lock


def _lock(folder: Path) -> int:
    fd = -1
    try:
        # A file and not the folder: NFS locks only what is open for writing.
        fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, SECRET)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd
    except OSError as error:
        code = error.errno
    if fd >= 0:
        os.close(fd)
    if code in _LOCKED_ERRORS:
        raise RefusedError(
            f"the keyring {folder} is being changed by another process", hint="wait for it, then look at the keyring"
        )
    raise _change_failed(folder, code)


def replace_key_file(path: Path, mode: int, data: bytes) -> None:
    """Put `data` in the place of a key file, or make it: whoever reads or crashes meets the old or the new one whole.

    It is on the disk on return. Only within `change`. Raises ConfigError; the old file may then be replaced already.
    """
    begun = path.with_name(f".{path.name}{_BEGUN}")
    written: list[Path] = []
    try:
        _write_new(begun, mode, data, written)
        begun.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        for left in written:
            with suppress(OSError):
                left.unlink()
        raise _change_failed(path.parent, error.errno) from None


def remove_key_file(path: Path) -> None:
    """Delete a key file for good. Only within `change`. Raises ConfigError."""
    try:
        path.unlink()
        sync_folder(path.parent)
    except OSError as error:
        raise _change_failed(path.parent, error.errno) from None


def list_key_files(folder: Path) -> list[str]:
    """Return the sorted names of what is in the folder. Raises ConfigError."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "unknown error")
    raise ConfigError(f"the keyring {folder} cannot be read ({code})", hint="run as the files' owner")


def _change_failed(folder: Path, code: int | None) -> ConfigError:
    name = errno.errorcode.get(code or 0, "unknown error")
    return ConfigError(
        f"the keyring {folder} cannot be changed ({name})",
        hint="run as the files' owner, look at it with `coatcheck keys list`, and try again",
    )
