"""Which databases use a keyring: noted in its folder, so that no key goes while one of them still needs it.

The file holds ids, places and key ids; nothing in it is secret.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from coatcheck.keys.files import PUBLIC, change, read_key_file, replace_key_file
from coatcheck.keys.keyring import RESTORE, VERSION, read_document, to_json

DATABASES = "databases.json"


class Database(msgspec.Struct, frozen=True):
    """A database by the id that it gives itself, where it was last seen, and the ids of the keys it has let go.

    They are token keys and seal keys; ids of the two do not look alike.
    """

    id: str
    place: str
    retired: list[str] = []


class Databases(msgspec.Struct, frozen=True):
    """The content of databases.json."""

    version: int
    databases: list[Database]

    def others(self, database_id: str, key_id: str) -> list[Database]:
        """Return the databases beside this one that have not let a key go."""
        return [one for one in self.databases if one.id != database_id and key_id not in one.retired]


def read(folder: Path) -> Databases:
    """Return the databases that are noted in a keyring's folder. Raises ConfigError: the file is damaged."""
    path = folder / DATABASES
    if not path.exists():
        return Databases(VERSION, [])
    return read_document(read_key_file(path, PUBLIC, absent=RESTORE), Databases, str(path))


def note(folder: Path, database_id: str, place: str) -> None:
    """Note that a database uses the keyring. Raises ConfigError, RefusedError: another process changes the keyring."""
    if not any((one.id, one.place) == (database_id, place) for one in read(folder).databases):
        _change_one(folder, database_id, lambda known: msgspec.structs.replace(known, place=place))


def retired(folder: Path, database_id: str, key_id: str) -> None:
    """Note that a database has let a key go. Raises as `note`."""

    def with_key(known: Database) -> Database:
        return msgspec.structs.replace(known, retired=sorted({*known.retired, key_id}))

    _change_one(folder, database_id, with_key)


def forget(folder: Path, database_id: str) -> bool:
    """Forget a database that is gone; tell whether it was noted. Raises as `note`."""
    if database_id not in {one.id for one in read(folder).databases}:
        return False
    _change(folder, lambda found: {id_: one for id_, one in found.items() if id_ != database_id})
    return True


def _change_one(folder: Path, database_id: str, to: Callable[[Database], Database]) -> None:
    _change(folder, lambda found: found | {database_id: to(found.get(database_id) or Database(database_id, ""))})


def _change(folder: Path, to: Callable[[dict[str, Database]], dict[str, Database]]) -> None:
    with change(folder):
        found = {one.id: one for one in read(folder).databases}
        replace_key_file(folder / DATABASES, PUBLIC, to_json(Databases(VERSION, list(to(found).values()))))
