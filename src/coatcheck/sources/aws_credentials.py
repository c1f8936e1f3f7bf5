"""The AWS credentials behind our requests: found by botocore, kept fresh, and looked at before they are used."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coatcheck.aws_reason import hint_of, reason_of
from coatcheck.errors import ConfigError
from coatcheck.loop import in_thread

KEYS_MAX_AGE = 60.0
"""Seconds after which the credentials are read again from botocore, which refreshes them when they end soon."""

_SET = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a role"
_EMULATOR = "the endpoint is not AWS, and emulators take any: AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test"
_FILES = frozenset({"shared-credentials-file", "config-file"})
STATIC = _FILES | {"env"}
"""Where credentials come from that botocore has at hand: to look at them asks nobody."""


class MalformedKeysError(ConfigError):
    """A key or token that cannot be one. It stays so until somebody sets it again."""


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """One set of credentials as it is at one moment. `token` is the session token, empty for long-term keys."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:
        """Show nothing: neither key id nor secret belongs into a log."""
        return "Keys(<redacted>)"


class Credentials:
    """The credentials behind the requests, kept fresh.

    `load` finds them with botocore (it may block for seconds: SSO, STS, IMDS) and returns a botocore credentials
    object, or None when there are none; `found` is one that was found already.
    """

    def __init__(
        self,
        load: Callable[[], Any],
        *,
        found: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._found = found
        self._clock = clock
        self._keys: Keys | None = None
        self._read_again = 0.0
        self._reading = threading.Lock()

    def __repr__(self) -> str:
        """Show the method only."""
        return f"Credentials({self.method})"

    @property
    def method(self) -> str:
        """Where the credentials came from, in botocore's word; `none` before they were found."""
        return str(getattr(self._found, "method", "none"))

    async def current(self) -> Keys:
        """Return the keys to sign with, read again in a thread when a minute old or invalidated.

        While one task reads again, the others go on with the keys at hand. A failed re-reading keeps them too: AWS
        tells when they have ended. Raises ConfigError when there is nothing to sign with.
        """
        keys = self._keys
        if keys is not None:
            now = self._clock()
            if now < self._read_again:
                return keys
            self._read_again = now + KEYS_MAX_AGE
        return await in_thread(lambda: self._read(keys))

    def invalidate(self, refused: Keys | None = None) -> None:
        """Forget the keys: the next `current` looks for credentials again (a rotated file or role is found).

        With `refused`, only if these are still the keys in use: many requests refused at once start one search.
        """
        if refused is None or refused == self._keys:
            self._keys = None
            self._found = None

    def _read(self, old: Keys | None) -> Keys:
        """Read the keys in place of `old`, in a thread; of several callers the first reads for all."""
        with self._reading:
            if self._keys is not None and self._keys is not old:
                return self._keys
            fresh = self._fresh()
            if isinstance(fresh, ConfigError):
                if old is None:
                    raise fresh
                return old
            keys = old if old == fresh and old is not None else fresh  # the same object keeps the signer's cache
            self._keys, self._read_again = keys, self._clock() + KEYS_MAX_AGE
            return keys

    def _fresh(self) -> Keys | ConfigError:
        """Ask botocore; return the keys, or why there are none that could sign."""
        try:
            if self._found is None:
                self._found = self._load()
            frozen = self._found.get_frozen_credentials() if self._found else None
        except Exception as error:  # noqa: BLE001 - each of botocore's providers fails in its own way
            return no_credentials(reason_of(error), hint=hint_of(error, _SET))
        if frozen is None or not frozen.access_key or not frozen.secret_key:
            return no_credentials("none found")
        keys = Keys(frozen.access_key, frozen.secret_key, frozen.token or "")
        return malformed(keys, self.method) or keys


def malformed(keys: Keys, method: str) -> MalformedKeysError | None:
    """Return the error of keys that AWS can never have given out: with a line feed or a blank at an end, or inside.

    It names the variable or setting, never the value. `method` is botocore's word for where they came from.
    """
    parts = (("access_key_id", keys.access_key), ("secret_access_key", keys.secret_key), ("session_token", keys.token))
    for name, value in parts:
        if value != value.strip():
            what = "begins or ends with a blank or a line feed"
        elif not (value.isascii() and value.isprintable()) or (" " in value and name == "access_key_id"):
            what = "holds a character that no AWS key has"
        else:
            continue
        return MalformedKeysError(
            f"the AWS credentials are malformed: {_where(name, method)} {what}",
            hint="set it again without; a file, or a pasted secret, that ends with a line feed is the usual cause",
        )
    return None


def _where(name: str, method: str) -> str:
    if method == "env":
        variable = f"AWS_{name.upper()}"
        return variable if os.environ.get(variable) else "AWS_SECURITY_TOKEN"
    return f"aws_{name} in the file of the AWS profile" if method in _FILES else f"aws_{name} from {method}"


def no_credentials(why: str, *, is_aws: bool = True, hint: str = _SET) -> ConfigError:
    """Return the error of a search for credentials that found none."""
    return ConfigError(f"no AWS credentials ({why})", hint=hint if is_aws else _EMULATOR)
