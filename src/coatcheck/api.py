"""The interface for other programs: tokens as the road gives them, to join with what it has loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from os import PathLike, fspath
from types import MappingProxyType
from typing import Self

from coatcheck import custody
from coatcheck.config import load
from coatcheck.errors import ConfigError
from coatcheck.keys import Form, FormError
from coatcheck.keys import Tokenizer as Tokens
from coatcheck.pipeline.columns import Mask

__all__ = ["FormError", "Tokenizer"]


class Tokenizer:
    """Computes the tokens of a configuration under its active key, by domain.

    The canonical form of a domain is that of its columns, so `token("ip", "::ffff:192.0.2.1")` is the token in the
    table. A domain of mask = "subnet" takes addresses and gives the token of their network. It holds the token root:
    guard the process as you guard a loader. Make a new one after a rotation (`keys rotate`).
    """

    __slots__ = ("_functions", "_kid")

    def __init__(self, tokens: Tokens, forms: dict[str, Form]) -> None:
        self._kid = tokens.kid
        self._functions = MappingProxyType({domain: tokens.for_domain(domain, form) for domain, form in forms.items()})

    @classmethod
    def from_config(cls, path: str | PathLike[str] | None = None) -> Self:
        """Read a configuration and its keyring, as `coatcheck --config PATH` would; environment variables count, too.

        Raises coatcheck.errors.ConfigError: no such file, a wrong option, no key, a key file that others may read;
        UnreachableError: a key service is away.
        """
        config = load(fspath(path) if path is not None else None)
        columns = tuple(column for column in config.plan() if column.mask in (Mask.TOKEN, Mask.SUBNET))
        return cls(custody.tokenizer(custody.loader_keys(config)), dict(custody.forms(columns)))

    def __repr__(self) -> str:
        """Show key id and domains, never the key."""
        return f"Tokenizer(kid={self._kid!r}, domains={self.domains!r})"

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains of the configuration, in the order of its columns."""
        return tuple(self._functions)

    def token(self, domain: str, value: str | int) -> str:
        """Return the token of a value.

        Raises FormError (a ValueError that tells the reject reason, never the value): the value has no canonical form;
        ConfigError: no column has this domain.
        """
        return self._function(domain)(value)

    def token_many(self, domain: str, values: Iterable[str | int]) -> list[str]:
        """Return the tokens of many values, in order: nothing is done but what each value takes. Raises as `token`."""
        return list(map(self._function(domain), values))

    def _function(self, domain: str) -> Callable[[object], str]:
        function = self._functions.get(domain)
        if function is None:
            raise ConfigError(
                f"no column has the domain {domain!r}", hint=f"the configuration has {', '.join(self._functions)}"
            )
        return function
