"""Credentials stay fresh: read again each minute, found anew when refused, searched for once however many ask."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import namedtuple
from collections.abc import Callable

import pytest
from botocore.exceptions import UnauthorizedSSOTokenError

from coatcheck.errors import ConfigError
from coatcheck.sources.aws import KEYS_MAX_AGE, Credentials, Keys
from coatcheck.sources.aws_credentials import MalformedKeysError

Frozen = namedtuple("Frozen", "access_key secret_key token")  # noqa: PYI024 - what botocore returns is one of these


class Found:
    """Stands for a botocore credentials object: `answers` are given one after the other, the last one for ever."""

    method = "test"

    def __init__(self, *answers: Frozen | Exception, before: Callable[[], object] = lambda: None) -> None:
        self.answers = list(answers)
        self.before = before
        self.reads = 0

    def get_frozen_credentials(self) -> Frozen:
        self.before()
        self.reads += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


OLD, NEW = Frozen("old", "secret", None), Frozen("new", "secret", "token")


def test_keys_are_read_again_after_a_minute_and_stay_the_same_object_when_unchanged() -> None:
    async def run() -> None:
        clock, found = Clock(), Found(OLD, OLD, NEW)
        credentials = Credentials(lambda: pytest.fail("nothing to search for"), found=found, clock=clock)
        first = await credentials.current()
        assert first == Keys("old", "secret")
        for _ in range(5):
            assert await credentials.current() is first
        assert found.reads == 1
        clock.now += KEYS_MAX_AGE
        assert await credentials.current() is first
        clock.now += KEYS_MAX_AGE
        assert await credentials.current() == Keys("new", "secret", "token")
        assert found.reads == 3

    asyncio.run(run())


def test_a_failed_re_reading_keeps_the_keys_for_another_minute() -> None:
    async def run() -> None:
        clock, found = Clock(), Found(OLD, OSError("IMDS is away"), NEW)
        credentials = Credentials(lambda: found, clock=clock)
        first = await credentials.current()
        clock.now += KEYS_MAX_AGE
        assert await credentials.current() is first
        assert await credentials.current() is first
        assert found.reads == 2
        clock.now += KEYS_MAX_AGE
        assert (await credentials.current()).access_key == "new"

    asyncio.run(run())


def test_invalidated_credentials_are_searched_anew_once_for_all_who_ask() -> None:
    searches: list[Found] = []

    def search() -> Found:
        searches.append(Found(OLD if len(searches) == 0 else NEW))
        return searches[-1]

    async def run() -> None:
        credentials = Credentials(search)
        refused = await credentials.current()
        for _ in range(20):
            credentials.invalidate(refused)
        got = await asyncio.gather(*(credentials.current() for _ in range(20)))
        assert {keys.access_key for keys in got} == {"new"}
        credentials.invalidate(refused)  # a request that was still under way with the old keys
        assert await credentials.current() is got[0]
        assert len(searches) == 2
        credentials.invalidate()
        await credentials.current()
        assert len(searches) == 3

    asyncio.run(run())


def test_while_one_task_reads_again_the_others_go_on_with_the_keys_at_hand() -> None:
    reading, go_on = threading.Event(), threading.Event()

    async def run() -> None:
        clock = Clock()
        found = Found(OLD, NEW)
        credentials = Credentials(lambda: found, clock=clock)
        first = await credentials.current()

        def block() -> None:
            reading.set()
            assert go_on.wait(10)

        found.before = block
        clock.now += KEYS_MAX_AGE
        slow = asyncio.create_task(credentials.current())
        assert await asyncio.to_thread(reading.wait, 10)
        assert await credentials.current() is first
        go_on.set()
        assert (await slow).access_key == "new"
        assert (await credentials.current()).access_key == "new"

    asyncio.run(run())


def test_a_search_that_hangs_does_not_hold_the_shutdown() -> None:
    go_on = threading.Event()

    def search() -> None:
        go_on.wait(20)

    async def run() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Credentials(search).current(), 0.1)

    started = time.monotonic()
    try:
        asyncio.run(run())
        assert time.monotonic() - started < 5
    finally:
        go_on.set()


@pytest.mark.parametrize("found", [None, Found(Frozen("", "", None)), Found(OSError("CANARY"))])
def test_nothing_to_sign_with_is_a_configuration_error_that_shows_nothing(found: Found | None) -> None:
    with pytest.raises(ConfigError) as caught:
        asyncio.run(Credentials(lambda: found).current())
    assert "AWS_PROFILE" in caught.value.hint
    assert "CANARY" not in f"{caught.value!r} {caught.value.hint}"


@pytest.mark.parametrize(
    ("frozen", "named"),
    [
        (Frozen("AKIACANARY\n", "CANARY", None), "aws_access_key_id from test begins or ends"),
        (Frozen(" AKIACANARY", "CANARY", None), "aws_access_key_id from test begins or ends"),
        (Frozen("AKIA CANARY", "CANARY", None), "aws_access_key_id from test holds a character"),
        (Frozen("AKIACANARY", "CANARY\r\n", None), "aws_secret_access_key from test begins or ends"),
        (Frozen("AKIACANARY", "CANARY\x00", None), "aws_secret_access_key from test holds a character"),
        (Frozen("AKIACANARY", "CANARY", "CANARY\n"), "aws_session_token from test begins or ends"),
        (Frozen("AKIACANARY", "CANARY", "CAN\nARY"), "aws_session_token from test holds a character"),
    ],
)
def test_malformed_keys_are_named_and_never_shown(frozen: Frozen, named: str) -> None:
    async def run() -> None:
        with pytest.raises(MalformedKeysError) as caught:
            await Credentials(lambda: None, found=Found(frozen)).current()
        assert named in caught.value.message
        assert "CANARY" not in f"{caught.value!r} {caught.value.hint} {caught.value.__context__!r}"

    asyncio.run(run())


def test_malformed_keys_do_not_replace_those_at_hand() -> None:
    async def run() -> None:
        clock = Clock()
        credentials = Credentials(lambda: None, found=Found(OLD, Frozen("new\n", "s", None), NEW), clock=clock)
        first = await credentials.current()
        clock.now += KEYS_MAX_AGE
        assert await credentials.current() is first
        clock.now += KEYS_MAX_AGE
        assert (await credentials.current()).access_key == "new"

    asyncio.run(run())


def test_the_reason_of_the_sdk_is_told() -> None:
    def load() -> object:
        raise UnauthorizedSSOTokenError

    async def run() -> None:
        with pytest.raises(ConfigError) as caught:
            await Credentials(load).current()
        assert "UnauthorizedSSOTokenError: the SSO session associated" in caught.value.message
        assert "aws sso login" in caught.value.hint

    asyncio.run(run())
