"""AWS Lambda's runtime API with one function behind it: AWS's own runtime interface client, and the packed zip file.

AWS Lambda developer guide, "Using the Lambda runtime API": the client asks for the next invocation, runs the handler,
and posts its answer or its error.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.fix_servers import Queue
from tests.support.tool_environment import environment

LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an invocation: the handler's answer, or the error that the client reported."""

    value: Any = None
    error: dict[str, Any] = field(default_factory=dict)
    raw: str = ""


class Function:
    """A deployed function. Invocations come one at a time, as in one execution environment."""

    def __init__(self, folder: Path, logs: Path, variables: dict[str, str]) -> None:
        self._invocations: queue.SimpleQueue[tuple[str, str, float]] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._serve())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._log = (logs / f"lambda-{self._server.server_port}.log").open("wb+")
        client = next((environment("lambda").parent / "lib").glob("python*/site-packages"))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", "coatcheck.aws_lambda.handler"],
            cwd=folder,
            env=variables
            | {
                "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
                "LAMBDA_TASK_ROOT": str(folder),
                "PYTHONPATH": os.pathsep.join([str(folder), str(client)]),
                "AWS_LAMBDA_FUNCTION_NAME": "coatcheck",
                "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            },
            stdout=self._log,
            stderr=self._log,
        )

    def invoke(self, event: object, *, seconds: float = 30.0) -> Answer:
        """Send an event with so much time for it; return what came of it."""
        self.send(event, seconds=seconds)
        return self._answers.get(timeout=LIMIT_S)

    def send(self, event: object, *, seconds: float = 30.0) -> None:
        """Send an event and wait for nothing."""
        self._invocations.put((f"request-{time.monotonic_ns()}", json.dumps(event), seconds))

    def log(self) -> str:
        """Return what the function has written so far, as CloudWatch Logs would show it."""
        self._log.seek(0)
        return self._log.read().decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._server.shutdown()
        self._server.server_close()
        self._log.close()

    def _serve(self) -> type[BaseHTTPRequestHandler]:
        invocations, answers = self._invocations, self._answers

        class Api(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                request, event, seconds = invocations.get()
                self.send_response(200)
                self.send_header("Lambda-Runtime-Aws-Request-Id", request)
                self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + seconds) * 1000)))
                self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:us-east-1:1:function:coatcheck")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(event.encode())))
                self.end_headers()
                self.wfile.write(event.encode())

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"])).decode()
                answers.put(
                    Answer(json.loads(raw), raw=raw)
                    if self.path.endswith("/response")
                    else Answer(None, json.loads(raw), raw)
                )
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Api


@contextmanager
def deployed(folder: Path, logs: Path, variables: dict[str, str]) -> Iterator[Function]:
    """Run a function out of an unpacked zip file in `folder`; what it writes goes to a file in `logs`."""
    function = Function(folder, logs, variables)
    try:
        yield function
    finally:
        function.close()


def event_of(messages: list[dict[str, Any]], arn: str) -> dict[str, Any]:
    """Return the event that an event source mapping makes of what it has received."""
    return {"Records": [_record(message, arn) for message in messages]}


def _record(message: dict[str, Any], arn: str) -> dict[str, Any]:
    custom = message.get("MessageAttributes", {})
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": {
            name: {
                "stringValue": value.get("StringValue"),
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": value["DataType"],
            }
            for name, value in custom.items()
        },
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": arn,
        "awsRegion": "us-east-1",
    }


class Mapping:
    """An event source mapping with ReportBatchItemFailures: it receives, invokes, and deletes what did not fail."""

    def __init__(self, queue: Queue, function: Function) -> None:
        self._queue, self._function = queue, function

    def poll(self, most: int = 10, *, seconds: float = 30.0) -> tuple[Answer, int]:
        """Move up to `most` messages; return the answer, and how many were deleted."""
        messages: list[dict[str, Any]] = []
        while len(messages) < most and (found := self._queue.receive()):
            messages += found
        answer = self._function.invoke(event_of(messages, self._queue.arn), seconds=seconds)
        if answer.error:
            return answer, 0
        again = {failure["itemIdentifier"] for failure in answer.value["batchItemFailures"]}
        done = [message for message in messages if message["MessageId"] not in again]
        for message in done:
            self._queue.call("DeleteMessage", QueueUrl=self._queue.url, ReceiptHandle=message["ReceiptHandle"])
        return answer, len(done)
