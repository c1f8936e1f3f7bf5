"""SQL as files that a DBA can read: migrations, and named queries with a line that says what each is for."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

_MIGRATION = re.compile(r"(?P<version>[0-9]{4})_[a-z0-9_]+\.sql")

_SERVES = re.compile(r"^-- serves: ([0-9]{4})$", re.MULTILINE)


@cache
def query(name: str) -> str:
    """Return the text of `queries/<name>.sql`."""
    return (resources.files(__name__) / "queries" / f"{name}.sql").read_text(encoding="utf-8")


@cache
def migrations() -> tuple[tuple[int, str, str], ...]:
    """Return (version, file name, SQL) of every migration, oldest first."""
    files = (resources.files(__name__) / "migrations").iterdir()
    named = ((_MIGRATION.fullmatch(file.name), file) for file in files)
    return tuple(sorted((int(m["version"]), file.name, file.read_text(encoding="utf-8")) for m, file in named if m))


def serves(text: str) -> int | None:
    """Return the oldest schema version whose programs may work on what this migration makes; None: no older one."""
    match = _SERVES.search(text)
    return int(match[1]) if match else None


def newest() -> int:
    """Return the schema version that this release needs."""
    return migrations()[-1][0]
