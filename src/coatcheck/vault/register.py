"""The database's record of keys: which token keys are in use, which seal keys, and the canonical form of each domain.

Without it another spelling of values in the configuration, or a keyring from a backup, would give other tokens for the
same values without a word, and duplicates would fall apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

from coatcheck.errors import ConfigError
from coatcheck.keys import Form
from coatcheck.keys.forms import parse_form
from coatcheck.sql import query
from coatcheck.sql.connection import translated

_BRING = "bring the keyring that the loaders of this database use: `coatcheck keys list` shows what a keyring has"
_NUMBER = re.compile(r"k([0-9]{1,6})")


@dataclass(frozen=True, slots=True)
class KeyringId:
    """What tells a keyring: fingerprints of its token keys by key id, the active one first, and its seal key.

    `kek` names the key that wraps data keys; None where that says nothing about the keyring (AWS KMS).
    """

    fingerprints: Mapping[str, str]
    kek: str | None = None

    @property
    def active(self) -> str:
        """The id of the active token key."""
        return next(iter(self.fingerprints))


class _Known(NamedTuple):
    kid: str
    fingerprint: str
    retired: bool


def register(
    connection: psycopg.Connection[Any], keyring: KeyringId, forms: Mapping[str, str]
) -> dict[str, str] | None:
    """Take note of a keyring and of each domain's form id; return those of the key that retires, None if none does.

    Raises ConfigError: the keyring is not that of this database (as `hold`); a domain's form was another when the key
    was first used, or tells apart what the form under the key that retires takes for one.
    """
    active = keyring.active
    with translated("read the register of token keys"), connection.transaction():  # what is refused leaves no trace
        known = _known(connection)
        if known:  # before anything is written
            _refuse_other_keys(known, keyring, fresh=True)
        keys = keyring.fingerprints
        connection.execute(
            query("key_register"),
            {
                "kids": list(keys), "fingerprints": list(keys.values()), "kid": active,
                "domains": list(forms), "form_ids": list(forms.values()),
            },
        )  # fmt: skip
        known = _known(connection)
        _refuse_other_keys(known, keyring)
        if keyring.kek is not None:
            _look_up_seal(connection, "seal_register", keyring.kek)
        _hold_against(frozen_forms(connection, active), forms, active)
        in_use = {key.kid for key in known if not key.retired}
        old = [kid for kid in keyring.fingerprints if kid != active and kid in in_use]
        if not old:
            return None
        before = frozen_forms(connection, old[0])
        _refuse_finer(before, forms)
        return before


def hold(connection: psycopg.Connection[Any], keyring: KeyringId, *, every: bool = True) -> None:
    """Hold a keyring against the database, and change nothing. A database that has seen no keyring takes any.

    With `every`, the keyring must have every token key that texts may be under; without, it may lack one that a
    rotation has added since. Raises ConfigError: it is another keyring, is out of date, or its seal key is unknown
    here; UnreachableError.
    """
    with translated("read the register of token keys"):
        known = _known(connection)
    if known:
        _refuse_other_keys(known, keyring, every=every)
    seal_keys: dict[str, bool] = {}
    with translated("read the register of seal keys"), suppress(psycopg.errors.InsufficientPrivilege):
        seal_keys = dict(
            connection.execute(query("seal_states")).fetchall()
        )  # a loader asks at its start, by a function
    hold_seal(seal_keys, keyring.kek)


def hold_seal(seals: Mapping[str, bool], kek: str | None) -> None:
    """Raise ConfigError unless a seal key is in use here. `seals` tells of each known one whether it is retired."""
    if kek is None or not seals:
        return
    if kek not in seals:
        raise _unknown_seal(kek)
    if seals[kek]:
        raise ConfigError(
            f"the seal key {kek} is retired in this database", hint="bring the seal-public.json that is in use"
        )


def seals(connection: psycopg.Connection[Any]) -> dict[str, bool]:
    """Return of each seal key that the database knows whether it is retired. Raises UnreachableError, ConfigError."""
    with translated("read the register of seal keys"):
        return dict(connection.execute(query("seal_states")).fetchall())


def add_seal(connection: psycopg.Connection[Any], kek: str) -> None:
    """Take note of a seal key, as a rotator. Raises ConfigError: this user may not; it is retired here."""
    with translated("take note of the seal key"):
        _look_up_seal(connection, "seal_add", kek)


def refuse_without_rights(connection: psycopg.Connection[Any]) -> None:
    """Raise ConfigError unless this user may carry out a rotation: keys in files change before the database does."""
    with translated("look at the rights of this user"):
        found = connection.execute(query("may_rotate")).fetchone()
    if not (found and found[0]):
        raise ConfigError("this user may not rotate keys", hint="let the owner say: GRANT coatcheck_rotator TO ...")


def has_tokens(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Return the fingerprints of the token keys that texts in this database may be under, by key id."""
    with translated("read the register of token keys"):
        return {key.kid: key.fingerprint for key in _known(connection) if not key.retired}


def frozen_forms(connection: psycopg.Connection[Any], kid: str) -> dict[str, str]:
    """Return the form id of each domain as it was frozen for a key."""
    return dict(connection.execute(query("key_forms"), {"kid": kid}).fetchall())


def forms_of_keys(
    connection: psycopg.Connection[Any], kids: Iterable[str], domain: str, otherwise: Form
) -> dict[str, Form]:
    """Return the canonical form of a domain under each key: as it was frozen, or `otherwise`.

    Raises UnreachableError, ConfigError.
    """
    with translated("read the canonical forms"):
        frozen = {kid: frozen_forms(connection, kid).get(domain) for kid in kids}
    return {kid: parse_form(form_id) if form_id else otherwise for kid, form_id in frozen.items()}


def other_forms(connection: psycopg.Connection[Any], kid: str, forms: Mapping[str, str]) -> None:
    """Raise ConfigError if a domain's form is not the one that was frozen for a key. Changes nothing."""
    with translated("read the canonical forms"):
        frozen = frozen_forms(connection, kid)
    _hold_against(frozen, forms, kid)


def _known(connection: psycopg.Connection[Any]) -> list[_Known]:
    return [_Known(*row) for row in connection.execute(query("key_states")).fetchall()]


def _refuse_other_keys(
    known: Iterable[_Known], keyring: KeyringId, *, every: bool = False, fresh: bool = False
) -> None:
    """Raise ConfigError unless a keyring is the database's. With `fresh` its active key need not be known yet."""
    there, mine, active = {key.kid: key for key in known}, keyring.fingerprints, keyring.active
    for kid, fingerprint in mine.items():
        if kid in there and there[kid].fingerprint != fingerprint:
            raise ConfigError(
                f"{kid} of this keyring is another key than the {kid} that this database knows",
                hint="bring the keyring that the database was loaded with: another one gives other tokens for the "
                "same values",
            )
    if active in there and there[active].retired:
        raise ConfigError(
            f"the token key {active} is retired in this database",
            hint="this keyring is out of date: bring the one in use",
        )
    lacking = [kid for kid, key in there.items() if not key.retired and kid not in mine]
    if not every:  # one that a rotation has added since does no harm: what is masked meanwhile is taken along
        lacking = [kid for kid in lacking if _number(kid) < _number(active)]
    if lacking:
        raise ConfigError(f"this keyring lacks {', '.join(lacking)}, under which this database has tokens", hint=_BRING)
    if active not in there and not (fresh and mine.keys() & there.keys()):
        raise ConfigError(
            f"this database does not know the token key {active}",
            hint="the keyring was rotated with another database: let a rotator run `coatcheck keys retokenize` with "
            "the configuration of this one before its loaders start",
        )


def _number(kid: str) -> int:
    match = _NUMBER.fullmatch(kid)
    return int(match[1]) if match else 0


def _look_up_seal(connection: psycopg.Connection[Any], name: str, kek: str) -> None:
    found = connection.execute(query(name), {"kek": kek}).fetchone()
    state = found[0] if found else None
    if state is None:
        raise _unknown_seal(kek)
    hold_seal({kek: state == "retired"}, kek)


def _unknown_seal(kek: str) -> ConfigError:
    return ConfigError(
        f"this database does not know the seal key {kek}: nobody here could open what it seals",
        hint="bring the seal-public.json that the loaders use; a new one comes with `coatcheck keys rotate-seal`, and "
        "`coatcheck keys rewrap` finishes that",
    )


def _hold_against(frozen: Mapping[str, str], forms: Mapping[str, str], kid: str) -> None:
    for domain, form_id in forms.items():
        if frozen.get(domain, form_id) != form_id:
            raise ConfigError(
                f'the canonical form of domain {domain} is "{frozen[domain]}" under {kid}, [columns] says "{form_id}"',
                hint="its tokens would change unseen: undo parse, casefold and strip_chars, or begin a new key with "
                "`coatcheck keys rotate`",
            )


def _refuse_finer(before: Mapping[str, str], forms: Mapping[str, str]) -> None:
    """Raise ConfigError if a form would turn one old token into several: its group would be torn in the rotation."""
    for domain in before.keys() & forms.keys():
        old, new = parse_form(before[domain]), parse_form(forms[domain])
        if old.kind != new.kind or old.casefold > new.casefold or not set(old.strip_chars) <= set(new.strip_chars):
            raise ConfigError(
                f'the canonical form of domain {domain} goes from "{before[domain]}" to "{forms[domain]}", which tells '
                "apart what was one token",
                hint="a rotation may only join values (casefold, more strip_chars); for a finer form take a new domain",
            )
