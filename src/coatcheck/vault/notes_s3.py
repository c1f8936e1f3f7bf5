"""Checkpoints in an S3 bucket with Object Lock: nobody can change or delete one before its time, not even its owner.

Reading asks for s3:ListBucket and s3:GetObject, writing for s3:PutObject and s3:PutObjectRetention.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from coatcheck.errors import CoatcheckError, ConfigError, UnreachableError
from coatcheck.keys.secrets import AwsClient, Fault
from coatcheck.vault.checkpoints import NOTE_LIMIT, is_note_name, note_name, other_note

SCHEME = "s3://"
_TARGET = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[A-Za-z0-9/!_.*'()-]{0,900}))?")
_S3 = "S3"
_EXISTS = "PreconditionFailed"
_CONFLICT = "ConditionalRequestConflict"  # two at once; the next try knows
_DENIED = frozenset({"AccessDenied", "AllAccessDisabled"})
_CREDENTIALS = frozenset({"InvalidAccessKeyId", "InvalidToken", "AccountProblem", "RequestTimeTooSkewed"})
_ELSEWHERE = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
_NO_LOCK = frozenset({"InvalidRequest", "ObjectLockConfigurationNotFoundError"})
_PERMISSIONS = {
    "ListObjectsV2": "s3:ListBucket on {bucket}",
    "GetObject": "s3:GetObject on {objects}",
    "PutObject": "s3:PutObject and s3:PutObjectRetention on {objects}",
}
_BACK = 1024  # how far behind the trail's head the newest note is looked for first


class S3Notes:
    """One object a note, named by its number, under a prefix. Implements checkpoints.Notes. Calls block (secrets).

    `retain_days` is how long a note cannot be deleted. Without `region` that of AwsClient holds; AWS_ENDPOINT_URL(_S3)
    as everywhere. `clock` gives the time of now.
    """

    def __init__(
        self,
        target: str,
        *,
        retain_days: int,
        region: str | None = None,
        profile: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Raises ConfigError: the target is not s3://bucket/prefix."""
        match = _TARGET.fullmatch(target)
        if match is None:
            raise ConfigError(f"{target} names no place in S3", hint="write s3://bucket or s3://bucket/prefix")
        prefix = (match["prefix"] or "").strip("/")
        self._bucket, self._prefix = match["bucket"], f"{prefix}/" if prefix else ""
        self._retain, self._clock = timedelta(days=retain_days), clock
        self._client = AwsClient("s3", region=region, profile=profile)

    def newest(self, head: int) -> tuple[str, bytes] | None:
        """Return the note with the largest number. Raises UnreachableError, ConfigError.

        There may be many thousands, and S3 lists them from the smallest on: so it is asked for those behind a number
        near the trail's head, then for those behind smaller ones.
        """
        back, start = _BACK, head
        while True:
            key = None
            for key in self._keys(start):  # noqa: B007 - the last one
                pass
            if key is not None:
                return self._place(key), self._get(key)
            if start <= 0:
                return None
            start, back = max(head - back, 0), back * 8

    def add(self, seq: int, note: bytes) -> str:
        """Put the note there, locked. Raises UnreachableError, ConfigError, RefusedError."""
        key = self._prefix + note_name(seq)
        answer = self._client.call(
            "PutObject",
            Bucket=self._bucket,
            Key=key,
            Body=note,
            ContentType="text/plain; charset=utf-8",
            IfNoneMatch="*",
            ObjectLockMode="COMPLIANCE",
            ObjectLockRetainUntilDate=self._clock() + self._retain,
        )
        if isinstance(answer, Fault):
            if answer.code != _EXISTS:
                raise self._error(answer, "PutObject")
            if self._get(key) != note:  # the same one: a try before got through, though its answer did not
                raise other_note(self._place(key))
        return self._place(key)

    def close(self) -> None:
        """Close connections; a later call opens them again."""
        self._client.close()

    def _keys(self, start: int) -> Iterator[str]:
        """Yield the keys of notes from number `start` on."""
        request: dict[str, Any] = {"StartAfter": f"{self._prefix}{note_name(start).removesuffix('.note')}"}
        while True:
            page = self._ask("ListObjectsV2", Prefix=self._prefix, **request)
            names = (found["Key"] for found in page.get("Contents", ()))
            yield from (name for name in names if is_note_name(name.removeprefix(self._prefix)))
            if not page.get("IsTruncated"):
                return
            request = {"ContinuationToken": page["NextContinuationToken"]}

    def _get(self, key: str) -> bytes:
        answer = self._ask("GetObject", Key=key)
        with suppress(Exception), answer["Body"] as body:  # botocore, urllib3: each fails in its own way
            data: bytes = body.read(NOTE_LIMIT)
            body.read(1)  # botocore compares the length when it finds the end
            return data
        raise UnreachableError(f"{self._place(key)} cannot be read to its end", hint="is the connection to S3 stable?")

    def _ask(self, operation: str, **request: Any) -> dict[str, Any]:
        answer = self._client.call(operation, Bucket=self._bucket, **request)
        if isinstance(answer, Fault):
            raise self._error(answer, operation)
        return answer

    def _place(self, key: str) -> str:
        return f"{SCHEME}{self._bucket}/{key}"

    def _error(self, fault: Fault, operation: str) -> CoatcheckError:
        if fault.code in _CREDENTIALS:
            return Fault(fault.code, "credentials").error(_S3)
        if fault.code == _CONFLICT:
            return Fault(fault.code, "away").error(_S3)
        if fault.kind != "refused":
            return fault.error(_S3)
        return ConfigError(
            f"S3 refuses {operation} in the bucket {self._bucket} ({fault.code})",
            hint=self._hint(fault.code, operation),
        )

    def _hint(self, code: str, operation: str) -> str:
        if code in _DENIED:
            arn = f"arn:aws:s3:::{self._bucket}"
            return "allow " + _PERMISSIONS[operation].format(bucket=arn, objects=f"{arn}/{self._prefix}*")
        if code in _ELSEWHERE:
            return "the bucket is in another region: set keys.region"
        if code in _NO_LOCK and operation == "PutObject":
            return "the bucket needs Object Lock: aws s3api create-bucket --object-lock-enabled-for-bucket"
        if code == "NoSuchBucket":
            return "check the name, the region and the account"
        return "look the code up in the Amazon S3 API reference, under error responses"
