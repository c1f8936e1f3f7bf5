"""Settings of ours and of the AWS SDK with a blank or a line feed at an end: named, before they fail as something else.

`export AWS_REGION=$(cat file)` strips line feeds; a Kubernetes secret, a Compose file and an editor do not.
"""

from __future__ import annotations

import os

from coatcheck.errors import ConfigError

_REGION = ("AWS_REGION", "AWS_DEFAULT_REGION")
_ENDPOINT = ("AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL")
_PROFILE = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
_ALWAYS = (
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CA_BUNDLE",
    "AWS_ROLE_ARN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
)


def refuse_ends(*, queue: str, region: str | None, endpoint_url: str | None, profile: str | None) -> None:
    """Raise ConfigError for an option, or a variable in its place, that begins or ends with a blank or a line feed."""
    used = {"source.queue": queue, "source.region": region}
    used |= {"source.endpoint_url": endpoint_url, "source.profile": profile}
    for option, names in ((region, _REGION), (endpoint_url, _ENDPOINT), (profile, _PROFILE)):
        if not option:
            used |= {name: os.environ.get(name) for name in names}
    used |= {name: os.environ.get(name) for name in _ALWAYS}
    for name, value in used.items():
        if value and value != value.strip():
            raise ConfigError(
                f"{name} begins or ends with a blank or a line feed",
                hint="set it again without; a file that ends with a line feed is the usual cause",
            )
