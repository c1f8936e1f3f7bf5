"""Debian's Prometheus as one more embedded server: it scrapes one worker and evaluates the project's alerts."""

from __future__ import annotations

import http.client
import json
import shutil
from pathlib import Path

from coatcheck.demo.guarded import LOOPBACK, Server

SCRAPED_EVERY = "2s"
"""Who watches a demo does not wait the usual quarter of a minute."""


class PrometheusServer(Server):
    """Prometheus with its data in `folder`; `program` is its path, `target` the worker's host:port."""

    label = "Prometheus"

    def __init__(self, program: str, target: str) -> None:
        super().__init__()
        self._program = program
        self._target = target

    @property
    def url(self) -> str:
        """Its web pages and its API."""
        return f"http://{LOOPBACK}:{self.port}"

    def _prepare(self) -> None:
        shutil.copyfile(Path(__file__).with_name("alerts.yml"), self.folder / "alerts.yml")
        job = {"job_name": "coatcheck", "static_configs": [{"targets": [self._target]}]}
        settings = {
            "global": {"scrape_interval": SCRAPED_EVERY, "evaluation_interval": SCRAPED_EVERY},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [job],
        }
        self._settings.write_text(json.dumps(settings))  # JSON is YAML

    @property
    def _settings(self) -> Path:
        return self.folder / "prometheus.yml"

    def _command(self, port: int) -> list[str]:
        return [
            self._program,
            f"--config.file={self._settings}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={LOOPBACK}:{port}",
        ]

    def _answers(self, port: int) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=1)
        try:
            connection.request("GET", "/api/v1/status/flags")  # names the folder; 503 until it is ready
            response = connection.getresponse()
            return str(self._settings) in response.read().decode(errors="replace")
        except OSError:
            return False
        finally:
            connection.close()


def find_prometheus() -> str | None:
    """Return the path of the program, or None where it is not installed."""
    return shutil.which("prometheus")
