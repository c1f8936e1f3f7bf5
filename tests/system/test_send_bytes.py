"""`send` of bytes that are no text: told by the line's number before anything is sent, and nothing is loaded twice."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.support.fix_servers import Queue, login, logins
from tests.support.process import COATCHECK, LIMIT_S, Command

BROKEN = {
    "Latin-1": b'{"name": "CANARY-M\xfcller"}',
    "cut off": b'{"name": "CANARY-\xf0\x9f\xa7',
    "a surrogate": b'{"name": "CANARY-\xed\xa0\x80"}',
    "UTF-16": '{"name": "CANARY"}'.encode("utf-16"),
    "overlong": b"CANARY-\xc0\xaf",
    "huge": b"CANARY-\xff" + b"x" * 2**20,
}


def a_file(folder: Path, bad: bytes, before: int = 0) -> str:
    lines = [*(body.encode() for body in logins(before)), bad, login(9999).encode()]
    (folder / "bad.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return "bad.jsonl"


@pytest.mark.parametrize(("kind", "options"), [*((kind, ()) for kind in BROKEN), ("Latin-1", ("--as-new",))])
def test_the_line_is_named_and_nothing_is_sent(
    command: Command, queue: Queue, kind: str, options: tuple[str, ...]
) -> None:
    name = a_file(command.folder, BROKEN[kind], before=2500)
    done = command("send", *options, name, code=2)
    assert done.err.splitlines() == [
        "coatcheck: error: line 2501 is no UTF-8 text",
        "coatcheck: hint: nothing has been sent: mend it and send the file again",
    ]
    assert done.out == ""
    assert queue.depth() == (0, 0, 0)


@pytest.mark.parametrize("as_new", [False, True])
def test_from_standard_input_what_came_before_may_have_been_sent(command: Command, queue: Queue, as_new: bool) -> None:  # noqa: FBT001 - one of two ways
    name = a_file(command.folder, BROKEN["Latin-1"], before=25)
    text = (command.folder / name).read_bytes()
    arguments = [str(COATCHECK), "send", "-", *(["--as-new"] if as_new else [])]
    done = subprocess.run(
        arguments,
        input=text,
        cwd=command.folder,
        env=command.environment,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    error, hint = done.stderr.decode().splitlines()
    assert (done.returncode, error) == (2, "coatcheck: error: line 26 is no UTF-8 text")
    assert ("not loaded twice" in hint) is not as_new
    assert ("may have been sent" in hint) is as_new
    assert queue.depth()[0] <= 20


def test_a_mended_file_is_loaded_once(command: Command, queue: Queue) -> None:
    name = a_file(command.folder, BROKEN["Latin-1"], before=30)
    command("send", name, code=2)
    a_file(command.folder, login(8888).encode(), before=30)
    assert command("send", name).out == "sent 32 messages\n"
    assert queue.depth() == (32, 0, 0)
