"""The interface for other programs: tokens as the road gives them, to join with what it has loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from os import PathLike, fspath
from typing import Self

from coatcheck import custody
from coatcheck.config_load import load_all
from coatcheck.errors import ConfigError
from coatcheck.keys import FormError, OpenError
from coatcheck.keys.siv import SEALED_PATTERN
from coatcheck.pipeline.columns import Mask
from coatcheck.pipeline.mask import masking

__all__ = ["FormError", "OpenError", "Tokenizer"]


class Tokenizer:
    """Computes the tokens of a configuration under its active key, by domain.

    The canonical form of a domain is that of its columns, so `token("ip", "::ffff:192.0.2.1")` is the token in the
    table. A domain of mask = "subnet" takes addresses and gives the token of their network. It holds the token root:
    guard the process as you guard a loader. Make a new one after a rotation (`keys rotate`).
    """

    __slots__ = ("_kid", "_open", "_tokens")

    def __init__(
        self,
        kid: str,
        tokens: Mapping[str, Callable[[object], object]],
        openers: Mapping[tuple[str, str], Callable[[str], str]],
    ) -> None:
        self._kid, self._tokens, self._open = kid, tokens, openers

    @classmethod
    def from_config(cls, path: str | PathLike[str] | None = None) -> Self:
        """Read a configuration and its keyring, as `coatcheck --config PATH` would; environment variables count, too.

        Raises coatcheck.errors.ConfigError: no such file, a wrong option, no key, a key file that others may read;
        UnreachableError: a key service is away.
        """
        configs = load_all(fspath(path) if path is not None else None)
        keys = custody.loader_keys(configs[0])
        plan = tuple(column for config in configs for column in config.plan())
        forms = custody.forms(plan)
        active = custody.tokenizer(keys)
        sealed = {column.domain for column in plan if column.mask is Mask.SEAL}
        return cls(
            keys.kid,
            {c.domain: masking(c, active) for c in plan if c.mask in (Mask.TOKEN, Mask.SUBNET)},
            {
                (domain, kid): custody.tokenizer(keys, kid).open_for(domain, forms[domain])
                for domain in sorted(sealed)
                for kid in keys.kids
            },
        )

    def __repr__(self) -> str:
        """Show key id and domains, never the key."""
        return f"Tokenizer(kid={self._kid!r}, domains={self.domains!r})"

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains that have tokens, in the order of their columns."""
        return tuple(self._tokens)

    def token(self, domain: str, value: str | int) -> str:
        """Return the token of a value.

        Raises FormError (a ValueError that tells the reject reason, never the value): the value has no canonical form;
        ConfigError: no column has tokens of this domain.
        """
        return str(self._function(domain)(value))

    def token_many(self, domain: str, values: Iterable[str | int]) -> list[str]:
        """Return the tokens of many values, in order: nothing is done but what each value takes. Raises as `token`."""
        return list(map(self._function(domain), values))  # type: ignore[arg-type]  # tokens are text

    def open(self, sealed: str) -> str:
        """Return the canonical text of a sealed one (a column with mask = "seal"), under any key of the keyring.

        Raises OpenError: it is no such text, or was sealed under another key. Tokens do not open: their originals are
        in the vault.
        """
        match = SEALED_PATTERN.fullmatch(sealed)
        function = self._open.get((match[1], match[2])) if match else None
        if function is None:
            raise OpenError
        return function(sealed)

    def _function(self, domain: str) -> Callable[[object], object]:
        function = self._tokens.get(domain)
        if function is None:
            raise ConfigError(
                f"no column has the domain {domain!r}", hint=f"the configuration has {', '.join(self._tokens)}"
            )
        return function
