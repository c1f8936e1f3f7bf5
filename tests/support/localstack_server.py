"""LocalStack 4.13 in host mode: no container, one loopback port, everything it writes in the server's own folder."""

from __future__ import annotations

import http.client
import signal

from tests.support import localstack_env

from coatcheck.demo.guarded import LOOPBACK, START_LIMIT, Server


def available() -> str | None:
    """Return why the tests on LocalStack must be skipped, or None."""
    return None if localstack_env.installed() else "LocalStack is not installed (make setup-localstack)"


class LocalStackServer(Server):
    """SQS by LocalStack; queue URLs have the form of its early versions, endpoint/account/name."""

    label = "LocalStack"
    stop_signal = signal.SIGKILL  # it has nothing to save, takes 3 s to end by itself, and on Python 3.11 hangs

    def __init__(self, *, services: str = "sqs") -> None:
        super().__init__()
        self._services = services

    @property
    def url(self) -> str:
        """The endpoint for every service."""
        return f"http://{LOOPBACK}:{self.port}"

    def _command(self, port: int) -> list[str]:  # noqa: ARG002 - it takes the port from its environment
        return [str(localstack_env.PYTHON), "-m", "localstack.runtime.main"]

    def _environment(self, port: int) -> dict[str, str]:
        return super()._environment(port) | {
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",  # its word of being ready is read from its output
            "GATEWAY_LISTEN": f"{LOOPBACK}:{port}",
            "GATEWAY_SERVER": "hypercorn",  # twisted, the default, listens on every interface
            "LOCALSTACK_HOST": f"{LOOPBACK}:{port}",  # stands in queue URLs; the default is a public DNS name
            "SQS_ENDPOINT_STRATEGY": "off",  # endpoint/account/name
            "DNS_ADDRESS": "0",  # no DNS server
            "FILESYSTEM_ROOT": str(self.folder / "root"),
            "OVERRIDE_IN_DOCKER": "0",  # in a container it would take /var/lib/localstack for its own
            "SERVICES": self._services,
            "STRICT_SERVICE_LOADING": "1",  # and no other service
            "EAGER_SERVICE_LOADING": "1",  # not at the first request
            "DISABLE_EVENTS": "1",  # no telemetry
            "SKIP_SSL_CERT_DOWNLOAD": "1",
            "DOCKER_HOST": f"unix://{self.folder}/none",
            "LS_LOG": "warning",
        }

    def _answers(self, port: int) -> bool:
        return "\nReady.\n" in self._words() and _lists_queues(port)


def _lists_queues(port: int) -> bool:
    """Make the first request, for which it loads what it knows of AWS: that takes 3 s, which no test should wait."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=START_LIMIT)
    headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "AmazonSQS.ListQueues"}
    try:
        connection.request("POST", "/", "{}", headers)
        return connection.getresponse().status == http.client.OK
    except ConnectionError:
        return False
    finally:
        connection.close()
