"""How the keys of a local keyring change: token roots and seal pairs, each in steps that may be cut short.

Every file is replaced whole. Two processes never change a keyring at once: the second is refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from coatcheck.errors import ConfigError, RefusedError
from coatcheck.keys.files import PUBLIC, SECRET, change, read_key_file, remove_key_file, replace_key_file
from coatcheck.keys.keyring import to_json
from coatcheck.keys.local import (
    TOKEN_ROOT,
    KeyRow,
    clear_warnings,
    new_root,
    passphrase_or_variable,
    read_older,
    read_roots,
    root_row,
    utc,
)
from coatcheck.keys.pkcs8 import read_private
from coatcheck.keys.seal_pair import (
    SEAL_PRIVATE,
    SEAL_PUBLIC,
    SealPublic,
    kept_files,
    kept_name,
    labelled,
    pair_id,
    read_label,
    read_public,
    seal_public,
)

_HERE = f"rotate where {SEAL_PRIVATE} is kept, then bring the new {SEAL_PUBLIC} to the hosts that load"


@dataclass(frozen=True, slots=True)
class RotatedSeal:
    """What `rotate_seal` did: the pair now in use, the one before, the files written, what to tell the user."""

    key_id: str
    old_id: str
    files: tuple[Path, ...]
    warnings: tuple[str, ...]


def rotate(folder: Path, *, clock: Callable[[], float] = time.time) -> KeyRow:
    """Add a token root as the active one, and return its row; the one before stays until it is retired.

    A crash leaves the old file or the new one. Loaders that run go on with the old key until they read anew.
    Raises RefusedError: the last rotation is not over, or another process is at it; ConfigError: as loading,
    or the file cannot be written.
    """
    path = folder / TOKEN_ROOT
    read_roots(path)  # before there is a lock file: this may be no keyring
    with change(folder):
        keyring = read_roots(path)
        root = new_root(keyring.next_kid(), utc(clock))
        replace_key_file(path, SECRET, keyring.rotated(root).to_json())
    return root_row(root, path, active=True)


def retire(folder: Path, kid: str) -> None:
    """Remove the token root `kid` for good. The caller has proven that none of its tokens is left.

    Raises RefusedError: it is the active one, or another process is at it; ConfigError: no such key, and as
    `rotate`.
    """
    path = folder / TOKEN_ROOT
    read_roots(path)
    with change(folder):
        replace_key_file(path, SECRET, read_roots(path).retired(kid).to_json())


def rotate_seal(folder: Path, *, passphrase: str | None = None, clock: Callable[[], float] = time.time) -> RotatedSeal:
    """Put a new seal pair in the place of the one in use; the old private half stays as seal-private.<id>.pem.

    Or finish a rotation that was cut short. Both private halves are encrypted with `passphrase`, or that of
    COATCHECK_KEYS__PASSPHRASE; it has to open the old one. Until hosts that load have the new public half they
    seal under the old one. Raises RefusedError: another process is at it; ConfigError: the private half is not
    here or does not open, or a file cannot be written.
    """
    passphrase = passphrase_or_variable(passphrase)
    read_public(folder / SEAL_PUBLIC)  # before there is a lock file: this may be no keyring
    with change(folder):
        seal, main, made = _turn(folder, passphrase, utc(clock))
        replace_key_file(folder / SEAL_PUBLIC, PUBLIC, to_json(seal_public(main, seal.tenant, made)))
    files = tuple(folder / name for name in (SEAL_PUBLIC, SEAL_PRIVATE, kept_name(seal.id)))
    return RotatedSeal(pair_id(main), seal.id, files, clear_warnings(folder, passphrase))


def _turn(folder: Path, passphrase: str | None, now: str) -> tuple[SealPublic, X25519PrivateKey, str]:
    """Keep the old private half, put a new one in its place; return the old public, the new private, when it was made.

    The order is what makes a crash harmless. Old private half kept: nothing changed yet. New one in place:
    sealing goes on under the old public half, which the kept one opens. The public half comes last, so nothing
    is ever sealed under a pair whose private half is not on the disk.
    """
    seal, main, made = _read_main(folder, passphrase)
    if pair_id(main) == seal.id:  # else the last rotation was cut short before the public half: it goes on
        replace_key_file(folder / kept_name(seal.id), SECRET, labelled(main, passphrase, seal.created))
        main, made = X25519PrivateKey.generate(), now
    replace_key_file(folder / SEAL_PRIVATE, SECRET, labelled(main, passphrase, made or now))
    return seal, main, made or now


def _read_main(folder: Path, passphrase: str | None) -> tuple[SealPublic, X25519PrivateKey, str]:
    """Return the public half in use, the key in seal-private.pem, and when that says it was made, if it does.

    Raises ConfigError: as loading; neither that key nor a kept one opens what is sealed under the public half.
    """
    path, seal = folder / SEAL_PRIVATE, read_public(folder / SEAL_PUBLIC)
    pem = read_key_file(path, SECRET, absent=_HERE)
    main = read_private(pem, passphrase, name=str(path))
    if pair_id(main) != seal.id and seal.id not in map(pair_id, read_older(folder, passphrase, set())):
        raise ConfigError(
            f"{SEAL_PRIVATE} and {SEAL_PUBLIC} in {folder} are no pair", hint="bring files of one keyring"
        )
    return seal, main, (read_label(pem) or ("", ""))[1]


def retire_seal(folder: Path, key_id: str) -> None:
    """Delete the private half of an older seal pair for good. The caller has rewrapped all its data keys.

    What is sealed under it is lost: hosts that load must have the new public half, and have been started anew.
    Raises RefusedError: the pair is in use, or another process is at it; ConfigError: no such key is kept, and
    as loading.
    """
    check_retire_seal(folder, key_id)
    with change(folder):
        remove_key_file(check_retire_seal(folder, key_id))


def check_retire_seal(folder: Path, seal_id: str) -> Path:
    """Return the file of an older private half. Raises as `retire_seal`, and changes nothing."""
    if seal_id == read_public(folder / SEAL_PUBLIC).id:
        raise RefusedError(f"{seal_id} is the seal key in use", hint="rotate first: `coatcheck keys rotate-seal`")
    path = kept_files(folder).get(seal_id)
    if path is None:
        raise ConfigError(
            f'the keyring {folder} keeps no older seal key "{seal_id}"',
            hint="see `coatcheck keys list` for those that it keeps",
        )
    read_key_file(path, SECRET, absent=_HERE)  # for its checks only
    return path
