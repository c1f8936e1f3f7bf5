"""coatcheck: JSON messages from Amazon SQS into PostgreSQL, personal data checked at the door.

For other programs there is `Tokenizer`, which gives the tokens that the road gives:

    from coatcheck import Tokenizer
    token = Tokenizer.from_config("coatcheck.toml").token("ip", "192.0.2.1")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coatcheck.version import __version__

if TYPE_CHECKING:
    from coatcheck.api import FormError, OpenError, Tokenizer

__all__ = ["FormError", "OpenError", "Tokenizer", "__version__"]


def __getattr__(name: str) -> object:
    """Import the interface when it is used: the command line starts without it (PEP 562)."""
    if name not in __all__:
        raise AttributeError(name)
    from coatcheck import api  # noqa: PLC0415 - see above

    return getattr(api, name)
