"""Which queue is meant: a name, a URL or an ARN, with the account and the region as far as they are told."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from coatcheck.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo")
_ARN = re.compile(r"arn:(?P<partition>[a-z0-9-]+):sqs:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):(?P<name>[^:]+)")
_LOOSE_ARN = re.compile(r"arn:[^:]*:[^:]*:(?P<region>[^:]*):(?P<account>[^:]*):(?P<name>[^:]+)")
_ACCOUNT = re.compile(r"[0-9]{12}")
_SCHEMES = ("http://", "https://")
_USER = re.compile(r"(?<=://)[^/?#]*@")


@dataclass(frozen=True, slots=True)
class QueueAddress:
    """A queue. What is not told is empty; `url` is set if the queue was given by its URL."""

    name: str
    account: str = ""
    region: str = ""
    partition: str = ""
    url: str = ""


def without_user(text: str, instead: str = "") -> str:
    """Return a text; of a URL without who may log in there, which has `instead` in its place."""
    return _USER.sub(instead, text)


def is_url(queue: str) -> bool:
    """Whether this is a URL, not a name or an ARN."""
    return queue.startswith(_SCHEMES)


def read_address(queue: str, option: str = "source.queue") -> QueueAddress:
    """Read the name, URL or ARN of a queue that `option` gives. Raises ConfigError."""
    if is_url(queue):
        parts = urlsplit(queue)
        found = QueueAddress(parts.path.rstrip("/").rpartition("/")[2], account_of(queue), url=queue)
        if not parts.hostname:
            found = QueueAddress("")
    elif match := _ARN.fullmatch(queue):
        found = QueueAddress(match["name"], match["account"], match["region"], match["partition"])
    else:
        found = QueueAddress(queue)
    if _NAME.fullmatch(found.name):
        return found
    raise ConfigError(
        f"{option} is not the name, the URL or the ARN of an SQS queue",
        hint="a name has up to 80 letters, digits, - and _; a URL looks like "
        "https://sqs.eu-west-1.amazonaws.com/111122223333/name, an ARN like arn:aws:sqs:eu-west-1:111122223333:name",
    )


def named_beside(queue: str, url: str) -> QueueAddress:
    """Read a queue that is named beside another: a bare name means one in the account of that queue's URL."""
    address = read_address(queue, "--from")
    return address if address.account or address.url else replace(address, account=account_of(url))


def told_address(arn: str) -> QueueAddress | None:
    """Read an ARN that an SQS server told (emulators have regions and accounts of their own); None if it is not one."""
    match = _LOOSE_ARN.fullmatch(arn)
    return QueueAddress(match["name"], match["account"], match["region"]) if match else None


def account_of(url: str) -> str:
    """Return the account in a queue's URL, "" where the server has none in its URLs."""
    account = urlsplit(url).path.rstrip("/").rpartition("/")[0].rpartition("/")[2]
    return account if _ACCOUNT.fullmatch(account) else ""
