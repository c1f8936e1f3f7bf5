"""Keys: the only place that touches key bytes. Tokens (one way), sealing, opening, and where keys are kept.

The road gets a `Tokenizer` and a `Sealer`; only reveal gets an `Opener`. Nothing here shows a key or a
value: not in a `repr`, not in an error, and errors are raised without the one that was caught, which may
hold it.
"""

from coatcheck.keys.forms import Form, FormError
from coatcheck.keys.provider import LoaderKeys, OpenerKeys, OpenError
from coatcheck.keys.sealing import Opener, Sealer
from coatcheck.keys.tokens import TOKEN_PATTERN, Tokenizer, sha256_insecure

__all__ = [
    "TOKEN_PATTERN",
    "Form",
    "FormError",
    "LoaderKeys",
    "OpenError",
    "Opener",
    "OpenerKeys",
    "Sealer",
    "Tokenizer",
    "sha256_insecure",
]
