"""The jobs about the audit trail: list it, verify it, sign checkpoints of it. Part of the composition root."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from coatcheck import custody
from coatcheck.config import Config
from coatcheck.errors import INTERRUPTED
from coatcheck.keys.audit_key import read_public
from coatcheck.keys.local import CreatedKeys
from coatcheck.loop import in_thread, run_async
from coatcheck.sql.connection import connect
from coatcheck.vault import export, reading
from coatcheck.vault.chain import Checkpoint, Entry, Verified
from coatcheck.vault.chain import verify as verify_chain
from coatcheck.vault.checkpoints import Notes, read_checkpoint
from coatcheck.vault.follower import Follower, Outage, Schedule
from coatcheck.vault.notes_files import FileNotes, FolderNotes, read_notes
from coatcheck.vault.signing import Checkpoints

STDOUT = "-"
"""The target of checkpoints that are printed."""

_S3 = "s3://"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def entries(
    config: Config, *, since: datetime | None = None, events: Sequence[str] = (), limit: int | None = None
) -> Iterator[Entry]:
    """Yield the newest `limit` entries (None: all), newest last. `since` without a time zone is UTC.

    Raises UnreachableError, ConfigError.
    """
    since_us = None if since is None else _us(since)
    with (
        connect(custody.dsn(config)) as connection,
        closing(reading.select(connection, since_us=since_us, events=events, limit=limit)) as found,
    ):
        yield from found


def _us(when: datetime) -> int:
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def lines(found: Iterable[Entry]) -> Iterator[str]:
    """Yield entries as lines of an export."""
    return map(export.to_line, found)


def verify(
    configured: Callable[[], Config], file: IO[bytes] | None, places: Sequence[Path], key: Path | None
) -> Verified:
    """Verify the trail in the database, or offline that in an export, against the checkpoints in files and folders.

    `key` is the file of the public key, else that of the keyring; `configured` reads the configuration, and is called
    only if something of it is needed. Raises BrokenTrailError; CoatcheckError: a line of the export is no entry, a note
    is no checkpoint; ConfigError, UnreachableError.
    """
    checkpoints: list[Checkpoint] = []
    if places:
        verifier = read_public(key) if key else custody.audit_verifier(configured())
        checkpoints = [read_checkpoint(note, verifier, place) for path in places for place, note in read_notes(path)]
    if file is not None:
        return verify_chain(export.read(file, file.name), checkpoints, first=None)
    with connect(custody.dsn(configured())) as connection, closing(reading.entries(connection)) as found:
        return verify_chain(found, checkpoints)


def init_key(config: Config, tenant: str | None) -> CreatedKeys:
    """Make the pair that signs checkpoints, for `tenant` or that of the keyring. Raises ConfigError: it exists."""
    return custody.create_audit_key(config, tenant)


def notes_at(config: Config, target: str, show: Callable[[str], None]) -> Notes:
    """Return where checkpoints are kept: `-` (they are given to `show`), a folder, a file, or s3://bucket/prefix.

    What exists is what it is; of what does not, a folder is what ends with a slash. Raises ConfigError.
    """
    if target == STDOUT:
        return _Shown(show)
    if target.startswith(_S3):
        from coatcheck.vault.notes_s3 import S3Notes  # noqa: PLC0415 - only who uses S3 has to do with it

        keys = config.keys
        return S3Notes(target, retain_days=config.audit.retain_days, region=keys.region, profile=keys.profile)
    path = Path(target)
    return FolderNotes(path) if target.endswith("/") or path.is_dir() else FileNotes(path)


class _Shown:
    """Notes that are shown, and not kept here. Implements checkpoints.Notes."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show

    def newest(self, head: int) -> tuple[str, bytes] | None:  # noqa: ARG002 - the port's signature
        return None

    def add(self, seq: int, note: bytes) -> str:  # noqa: ARG002 - the port's signature
        self._show(note.decode())
        return STDOUT


def checkpoint(config: Config, target: str | None, show: Callable[[str], None]) -> tuple[str | None, int]:
    """Sign a checkpoint into `target` (None: the configured one); return where it is, and the last entry signed.

    Without a place there is nothing new. `show` gets notes that are to be printed. Raises as Checkpoints.make.
    """
    checkpoints = _checkpoints(config, target, show)
    with connect(custody.dsn(config)) as connection:
        place = checkpoints.make(connection)
    return place, checkpoints.last.seq if checkpoints.last else 0


def _checkpoints(config: Config, target: str | None, show: Callable[[str], None]) -> Checkpoints:
    place = target or config.audit.checkpoint_to or STDOUT
    return Checkpoints(custody.audit_signer(config), notes_at(config, place, show))


def follow(
    config: Config,
    target: str | None,
    *,
    show: Callable[[str], None],
    wrote: Callable[[str, int], None],
    warn: Callable[[str], None],
) -> None:
    """Sign checkpoints as they get due, until SIGTERM or SIGINT; a second signal ends it at once (exit code 130).

    While the database or the place is away it tries on, and tells `warn` once a minute. `wrote` gets the place and the
    number of each checkpoint. Raises as Checkpoints.make, but for UnreachableError.
    """
    audit = config.audit
    follower = Follower(
        custody.dsn(config),
        _checkpoints(config, target, show),
        Schedule(audit.checkpoint_entries, audit.checkpoint_minutes * 60, time.monotonic),
        Outage(time.monotonic, warn),
        wrote,
    )
    run_async(_until_stopped(follower.run, patience_s=config.run.drain_seconds))


async def _until_stopped(work: Callable[[threading.Event], None], *, patience_s: float) -> None:
    """Do `work` in a thread until it ends, or a signal asks it to; then it has `patience_s` seconds."""
    stop, asked = threading.Event(), asyncio.Event()

    def signalled() -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)
        stop.set()
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    working = in_thread(lambda: work(stop))
    waiting = asyncio.ensure_future(asked.wait())
    await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    done, _ = await asyncio.wait((working,), timeout=patience_s)
    if done:
        working.result()
