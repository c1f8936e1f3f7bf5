"""The key that signs checkpoints of the audit trail: an Ed25519 pair in two files of a keyring folder.

`audit-private.pem` signs, and belongs where checkpoints are made: neither to a loader nor to the database's host, as
who has it and the database can rewrite the trail unseen. `audit-public.txt` verifies, and belongs to everybody.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coatcheck.errors import ConfigError
from coatcheck.keys.derive import check_name
from coatcheck.keys.files import PUBLIC, SECRET, add_key_files, read_key_file
from coatcheck.keys.keyring import RESTORE
from coatcheck.keys.local import CreatedKeys, clear_warning, passphrase_or_variable, utc
from coatcheck.keys.notes import SignerKey, VerifierKey, read_verifier
from coatcheck.keys.pkcs8 import read_private_of, write_private

AUDIT_PRIVATE, AUDIT_PUBLIC = "audit-private.pem", "audit-public.txt"
OPTION = "keys.audit_key"
_NAME = "coatcheck/audit/"  # before the tenant; key names look like URLs without a scheme
_INIT = "make the pair with `coatcheck audit init-key`, or bring {} from where it is kept"
_LABEL = re.compile(rb"coatcheck audit key ([!-*,-~]{1,200})\+([0-9a-f]{8}) made [0-9TZ:-]{1,30}\n")


def create(
    folder: Path, tenant: str, *, passphrase: str | None = None, clock: Callable[[], float] = time.time
) -> CreatedKeys:
    """Make the pair in `folder`, which may hold a keyring.

    `clock` gives seconds since 1970. The private half is encrypted with `passphrase`, or that of
    COATCHECK_KEYS__PASSPHRASE, or else stored in clear, which is a warning. Raises ConfigError: a bad tenant, a file
    that exists, a folder that cannot be written.
    """
    passphrase = passphrase_or_variable(passphrase)
    signer = SignerKey(_NAME + check_name("tenant", tenant), Ed25519PrivateKey.generate())
    label = f"coatcheck audit key {signer.verifier.label} made {utc(clock)}\n".encode()
    files = {
        AUDIT_PRIVATE: (SECRET, label + write_private(signer.private, passphrase)),
        AUDIT_PUBLIC: (PUBLIC, f"{signer.verifier.to_text()}\n".encode()),
    }
    harm = "sign a rewritten trail; keep it off the hosts that load and off the database's"
    return CreatedKeys(add_key_files(folder, files), clear_warning(folder / AUDIT_PRIVATE, passphrase, harm))


def read_signer(folder: Path, passphrase: str | None = None, *, audit_key: str | None = None) -> SignerKey:
    """Read `audit-private.pem` in `folder`; `audit_key` is the content of that file instead.

    Without `passphrase` that of COATCHECK_KEYS__PASSPHRASE is taken. Raises ConfigError: a file that is missing,
    damaged, another user's or open to others; a wrong or missing passphrase.
    """
    name = str(folder / AUDIT_PRIVATE) if audit_key is None else OPTION
    if audit_key is None:
        pem = read_key_file(folder / AUDIT_PRIVATE, SECRET, absent=_INIT.format(AUDIT_PRIVATE))
    else:
        pem = audit_key.encode(errors="replace")
    kind, given = Ed25519PrivateKey, passphrase_or_variable(passphrase)
    private = read_private_of(kind, pem, given, name=name)  # type: ignore[type-abstract]  # asked for isinstance, never made
    match = _LABEL.match(pem)
    if match is not None:
        signer = SignerKey(match[1].decode(), private)
        if signer.verifier.key_id.hex() == match[2].decode():
            return signer
    raise ConfigError(f"{name} is damaged: its first line does not name the key in it", hint=RESTORE)


def read_public(path: Path) -> VerifierKey:
    """Read the public half. Raises ConfigError: missing, damaged, writable by others."""
    data = read_key_file(path, PUBLIC, absent=_INIT.format(AUDIT_PUBLIC))
    return read_verifier(data.decode(errors="replace"), str(path))


def tenant_of(key: VerifierKey) -> str:
    """Return whose trail a key signs. Raises ConfigError: its name tells of none."""
    if not key.name.startswith(_NAME):
        raise ConfigError(f"the key {key.label} signs no audit trail", hint=_INIT.format(AUDIT_PUBLIC))
    return check_name("tenant", key.name.removeprefix(_NAME))
