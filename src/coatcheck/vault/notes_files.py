"""Checkpoints in a folder, one file each, or in one file, one behind the other."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coatcheck.errors import ConfigError
from coatcheck.keys.files import sync_folder
from coatcheck.keys.notes import split_notes
from coatcheck.vault.checkpoints import NOTE_LIMIT, is_note_name, note_name, other_note

_MODE = 0o644
_FILE_LIMIT = 64 * 2**20  # 200,000 notes: two years of one in five minutes


class FolderNotes:
    """One file a note, named by its number. Implements checkpoints.Notes. The folder is made with the first note."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def newest(self, head: int) -> tuple[str, bytes] | None:  # noqa: ARG002 - a folder is listed as a whole
        """Return the note with the largest number. Raises ConfigError: it cannot be read."""
        names = note_names(self._folder)
        if not names:
            return None
        path = self._folder / names[-1]
        return str(path), read(path, NOTE_LIMIT)

    def add(self, seq: int, note: bytes) -> str:
        """Write the note, whole and on the disk. Raises ConfigError: it cannot be written; RefusedError."""
        path = self._folder / note_name(seq)
        begun = self._folder / f".{path.name}.{os.getpid()}"
        with _writing(path):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                _write(begun, os.O_CREAT | os.O_TRUNC, note)
                with suppress(FileExistsError):
                    os.link(begun, path)  # unlike a rename, it does not overwrite
            finally:
                begun.unlink(missing_ok=True)
            sync_folder(self._folder)
        if read(path, NOTE_LIMIT) != note:
            raise other_note(str(path))
        return str(path)


class FileNotes:
    """Notes that are appended to one file. Implements checkpoints.Notes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def newest(self, head: int) -> tuple[str, bytes] | None:  # noqa: ARG002 - a file is read as a whole
        """Return the last note. Raises ConfigError: it cannot be read; NoteError: something in it is no note."""
        data = read(self._path, _FILE_LIMIT) if self._path.exists() else b""
        return (str(self._path), split_notes(data, str(self._path))[-1]) if data else None

    def add(self, seq: int, note: bytes) -> str:  # noqa: ARG002 - the notes are one behind the other
        """Append the note, on the disk. Raises ConfigError: it cannot be written."""
        with _writing(self._path):
            _write(self._path, os.O_CREAT | os.O_APPEND, note)
            sync_folder(self._path.parent)
        return str(self._path)


def note_names(folder: Path) -> list[str]:
    """Return the names of the notes in a folder, by number; none if there is no folder. Raises ConfigError."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if is_note_name(entry.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "unknown error")
    raise ConfigError(f"the checkpoints in {folder} cannot be listed ({code})", hint="name a folder that you may read")


def read_notes(path: Path) -> list[tuple[str, bytes]]:
    """Return all notes in a folder or a file, each with the place it comes from.

    Raises ConfigError: it cannot be read, or there is none; NoteError: something is no note.
    """
    if path.is_dir():
        places = [path / name for name in note_names(path)]
        found = [(str(place), read(place, NOTE_LIMIT)) for place in places]
    else:
        notes = split_notes(read(path, _FILE_LIMIT), str(path))
        found = [(f"{path}, note {number}" if len(notes) > 1 else str(path), n) for number, n in enumerate(notes, 1)]
    if not found:
        raise ConfigError(f"there is no checkpoint in {path}", hint="they are files such as " + note_name(1000))
    return found


def read(path: Path, limit: int) -> bytes:
    """Return the content of a file. Raises ConfigError: it cannot be read, or is larger than any such file."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "unknown error")
    else:
        if len(data) <= limit:
            return data
        code = "too large"
    raise ConfigError(f"the checkpoint {path} cannot be read ({code})", hint="name a file that holds checkpoints")


def _write(path: Path, flags: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | flags, _MODE)
    with os.fdopen(fd, "wb") as file:
        fcntl.flock(fd, fcntl.LOCK_EX)  # two notes that are appended at once stand one behind the other
        file.write(data)
        file.flush()
        os.fsync(fd)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        code = errno.errorcode.get(error.errno or 0, "unknown error")
        raise ConfigError(
            f"the checkpoint {path} cannot be written ({code})", hint="name a place that you may write to with --to"
        ) from None
