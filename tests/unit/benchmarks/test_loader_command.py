"""How the benchmark calls the command: only its own settings reach it, and a failure is told."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from benchmarks.loader import BenchmarkError, Loader

if TYPE_CHECKING:
    from pathlib import Path

OUTCOME = '{"received": 3, "loaded": 3, "duplicates": 0, "rejected": 0, "acked": 3, "seconds": 0.5}'


def loader(folder: Path, code: str, *, timeout: float = 30, **extra: str) -> Loader:
    """A loader whose command is a few lines of Python."""
    command = folder / "command"
    command.write_text(f"#!{sys.executable}\nimport json, os, sys, time\n{code}\n")
    command.chmod(0o755)
    return Loader(command, folder, extra=extra, timeout=timeout)


def drain(of: Loader) -> int:
    return of.drain(dsn="postgresql://db", endpoint="http://sqs", workers=2)[1].loaded


def test_the_outcome_is_read(tmp_path: Path) -> None:
    assert drain(loader(tmp_path, f"print('{OUTCOME}')")) == 3


def test_the_command_line_and_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "PGHOST", "COATCHECK_CONFIG", "https_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "of the machine")
    code = f"open('seen', 'w').write(json.dumps([sys.argv[1:], dict(os.environ)]))\nprint('{OUTCOME}')"
    drain(loader(tmp_path, code, COATCHECK_SOURCE__RECEIVERS="8"))
    arguments, environment = json.loads((tmp_path / "seen").read_text())
    assert arguments == ["run", "--drain", "--json", "--workers", "2"]
    assert environment["DATABASE_URL"] == "postgresql://db"
    assert environment["AWS_ENDPOINT_URL"] == "http://sqs"
    assert environment["COATCHECK_SOURCE__QUEUE"] == "login-queue"
    assert environment["COATCHECK_SOURCE__RECEIVERS"] == "8"
    assert environment["COATCHECK_KEYS__PATH"].startswith(str(tmp_path))
    assert "of the machine" not in environment.values()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("sys.exit('no such queue')", "ended with 1: no such queue"),
        ("print('loading')", "printed no outcome"),
        ("print('{\"received\": 3}')", "printed no outcome"),
    ],
)
def test_a_failed_run_is_told(tmp_path: Path, code: str, told: str) -> None:
    with pytest.raises(BenchmarkError, match=told):
        drain(loader(tmp_path, code))


def test_a_run_that_does_not_end_is_told(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="did not end within 1 s"):
        drain(loader(tmp_path, "time.sleep(60)", timeout=1))


def test_a_failed_preparation_is_told(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="coatcheck keys init ended with 1: they exist"):
        loader(tmp_path, "sys.exit('they exist')").make_keys()
    with pytest.raises(BenchmarkError, match="coatcheck migrate ended with 3"):
        loader(tmp_path, "sys.exit(3)").migrate("postgresql://db")
