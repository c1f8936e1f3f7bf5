"""SQS servers that know only the query protocol: one clear error, at the first request."""

from __future__ import annotations

import pytest
from tests.support.fix_sqs import client_of, run
from tests.support.scripted_sqs import Answer, ScriptedSqs

from coatcheck.check import check
from coatcheck.config_load import load
from coatcheck.sources.sqs_client import SqsError

ERROR = (
    b'<ErrorResponse xmlns="http://queue.amazonaws.com/doc/2012-11-05/"><Error><Code>InternalError</Code><Message>'
    b"Operation detection failed. Missing Action in request for query-protocol service CANARY</Message></Error>"
    b"</ErrorResponse>"
)


@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_the_first_request_tells_it_without_another_try(status: int) -> None:
    async def work() -> None:
        async with ScriptedSqs() as server, client_of(server.url) as client:
            server.always("GetQueueUrl", Answer(ERROR, status))
            with pytest.raises(SqsError, match="old query protocol") as caught:
                await client.queue_url("logins")
            assert "ElasticMQ 1.4, LocalStack 3.0" in caught.value.hint
            assert "CANARY" not in repr(vars(caught.value))
            assert len(server.requests) == 1

    run(work())


@pytest.mark.usefixtures("aws_by_environment")
def test_check_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with ScriptedSqs() as server:
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
            monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:1/x")
            server.always("GetQueueUrl", Answer(ERROR, 500))
            found = [finding for finding in await check(load(None)) if finding.component == "queue"]
            assert [(each.level, "old query protocol" in each.what) for each in found] == [("error", True)]

    run(work())
