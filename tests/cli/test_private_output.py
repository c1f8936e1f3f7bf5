"""Where personal data may be printed: see `coatcheck.cli.private`."""

from __future__ import annotations

from pathlib import Path

import pytest

from coatcheck import terminal
from coatcheck.cli.private import private_output
from coatcheck.errors import ConfigError
from coatcheck.terminal import printable


def half_filled(path: Path) -> None:
    with private_output(str(path)) as show:
        show(["half"])
        raise BlockingIOError


def test_a_file_that_cannot_be_filled_goes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(BlockingIOError):
        half_filled(path)
    assert not path.exists()


def test_a_body_is_written_as_it_came(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with private_output(str(path)) as show:
        show(["one", "lone surrogate \udcff"])
    assert path.read_text(encoding="utf-8", errors="surrogatepass") == "one\nlone surrogate \udcff\n"
    with pytest.raises(ConfigError, match="exists"):
        half_filled(path)


def test_a_terminal_obeys_nothing() -> None:
    assert printable("a\tb\n\x1b[31m\x9b\u202e") == "a\tb\n\\x1b[31m\\x9b\\u202e"


def test_nothing_that_is_printed_is_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of keys and ids of messages come from others: in errors, warnings, tables and results."""
    nasty = "a\x1b]0;b\x07\x9bc"
    terminal.out(nasty)
    terminal.note(nasty)
    terminal.warn(nasty)
    terminal.fail(ConfigError(nasty, hint=nasty))
    terminal.table(("head",), [[f"{nasty}\nsecond\tline"]])
    said = "".join(capsys.readouterr())
    assert not {"\x1b", "\x07", "\x9b"} & set(said)
    assert "second\\tline" in said
    assert said.count("\n") == 7
