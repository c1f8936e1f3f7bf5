"""A look at a local keyring for `coatcheck check`: all that is wrong or unwise at once."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coatcheck.errors import CoatcheckError, Finding
from coatcheck.keys.files import SECRET, read_key_file
from coatcheck.keys.local import TOKEN_ROOT, LocalLoaderKeys, read_roots
from coatcheck.keys.seal_pair import SEAL_PRIVATE, SEAL_PUBLIC, kept_files, read_public

_CLEAR = b"-----BEGIN PRIVATE KEY-----"


def inspect(folder: Path, *, token_root: str | None = None) -> list[Finding]:
    """Look at each file of a keyring folder; `token_root` is the content of token-root.json instead of the file."""
    findings: list[Finding] = []
    looks: list[Callable[[], object]] = [lambda: read_public(folder / SEAL_PUBLIC)]
    if token_root is None:
        looks.append(lambda: read_roots(folder / TOKEN_ROOT))
    for look in looks:
        with _as_finding(findings):
            look()
    if not findings:
        with _as_finding(findings):
            LocalLoaderKeys.load(folder, token_root=token_root)
    for path in (folder / SEAL_PRIVATE, *kept_files(folder).values()) if folder.is_dir() else ():
        if os.path.lexists(path):
            with _as_finding(findings):
                findings += _private(path)
    return findings + _folder(folder)


def _private(path: Path) -> list[Finding]:
    if _CLEAR not in read_key_file(path, SECRET, absent=""):
        return []
    what = f"{path} lies here in clear: whoever takes this host can open every sealed value"
    return [
        Finding("keys", "advice", what, "keep it where originals are opened, with a passphrase, not where is loaded")
    ]


def _folder(folder: Path) -> list[Finding]:
    try:
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError:
        return []  # the files in it are missing, which is said already
    if not mode & 0o022:
        return []
    what = f"others may put files into the keyring folder {folder}"
    return [Finding("keys", "error", what, f"chmod 700 {shlex.quote(str(folder))}")]


@contextmanager
def _as_finding(findings: list[Finding]) -> Iterator[None]:
    try:
        yield
    except CoatcheckError as error:
        findings.append(Finding("keys", "error", error.message, error.hint))
