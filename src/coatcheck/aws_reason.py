"""Why the AWS SDK refuses something, in its own words, fit to be shown.

botocore's exceptions say what is missing (a package, a profile, a login that has ended). Some of them quote what a
program printed or what a URL holds, so the text is cleaned: no user or password of a URL, no key, no token.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

_MOST = 300
_MASK = "***"
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}")
_LONG = re.compile(r"[A-Za-z0-9+/=_-]{32,}")
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9._]{0,79}")
_CHECK = "check region, endpoint_url, AWS_PROFILE and the files in ~/.aws"
_HINTS = (
    ("MissingDependency", 'install it beside coatcheck: pip install "botocore[crt]"'),
    ("Login", "log in again: aws login"),
    ("SSO", "log in again: aws sso login"),
    ("UnauthorizedSSO", "log in again: aws sso login"),
    ("Token", "log in again: aws sso login"),
    ("Pending", "log in again: aws sso login"),
)


def reason_of(error: BaseException) -> str:
    """Return the class of an error and the useful part of its text: `ProfileNotFound: the config profile ...`.

    An answer of AWS is told by its code. Of what is neither botocore's nor AWS's only the class is told.
    """
    name = type(error).__name__
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # ClientError: its message may quote the request
        code = str(response.get("Error", {}).get("Code", ""))
        operation = str(getattr(error, "operation_name", ""))
        return " ".join([code if _CODE.fullmatch(code) else name, *(["in", operation] if operation else [])])
    if not type(error).__module__.startswith("botocore."):
        return name
    if (getattr(error, "kwargs", None) or {}).get("provider") == "custom-process":
        return f"{name}: credential_process failed"  # the rest is what that program printed
    text = _cleaned(str(error))
    return f"{name}: {text}" if text else name


def hint_of(error: BaseException, otherwise: str = _CHECK) -> str:
    """Return what to do about an error of botocore."""
    name = type(error).__name__
    return next((hint for prefix, hint in _HINTS if name.startswith(prefix)), otherwise)


def _cleaned(text: str) -> str:
    for secret in filter(None, map(os.environ.get, _SECRETS)):
        text = text.replace(secret, _MASK)
    text = _URL.sub(_bare, "".join(each if each.isprintable() else " " for each in text))
    text = _LONG.sub(_masked, _KEY_ID.sub(_MASK, text))
    text = " ".join(text.split()).rstrip(". ")
    return text[:1].lower() + text[1:_MOST]


def _bare(match: re.Match[str]) -> str:
    """Return scheme and host of a URL only: users, paths and queries may hold secrets."""
    try:
        parts = urlsplit(match[0])
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    except ValueError:
        return _MASK


def _masked(match: re.Match[str]) -> str:
    """Return a mask for a long word that looks drawn by chance, as keys and tokens do."""
    word = match[0]
    drawn = any(map(str.isupper, word)) and any(map(str.islower, word)) and any(map(str.isdigit, word))
    return _MASK if drawn else word
