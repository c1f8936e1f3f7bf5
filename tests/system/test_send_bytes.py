"""`send` of bytes that are no text: told by the line's number before anything is sent, and nothing is loaded twice."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.support.fix_servers import LoginDatabase, Queue, login, logins
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


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_a_byte_order_mark_does_not_cost_the_first_line(
    command: Command, login_database: LoginDatabase, ends: bytes
) -> None:
    """Editors and spreadsheets on Windows write one. Files joined together have it before a later line too."""
    lines = [f"\ufeff{login(1)}".encode(), login(2).encode(), f"\ufeff{login(3)}".encode()]
    (command.folder / "marked.jsonl").write_bytes(ends.join(lines) + ends)
    (command.folder / "plain.jsonl").write_bytes(ends.join([login(1).encode(), lines[1]]) + ends)
    assert command("send", "marked.jsonl").out == "sent 3 messages\n"
    assert command("send", "plain.jsonl").out == "sent 2 messages\n"
    counts = command.drain()
    assert (counts["loaded"], counts["rejected"], counts["duplicates"]) == (3, 0, 2)
    assert login_database.figures() == (3, 3, 0)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("standard_input", [False, True])
def test_a_file_in_utf_16_is_told(command: Command, queue: Queue, encoding: str, *, standard_input: bool) -> None:
    data = f"\ufeff{login(1)}\nCANARY\n".encode(encoding)
    (command.folder / "wide.jsonl").write_bytes(data)
    done = subprocess.run(
        [str(COATCHECK), "send", "-" if standard_input else "wide.jsonl"],
        input=data,
        cwd=command.folder,
        env=command.environment,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    error, hint = done.stderr.decode().splitlines()
    assert (done.returncode, error) == (2, "coatcheck: error: the file is UTF-16, and SQS takes UTF-8")
    assert hint.startswith("coatcheck: hint: save it as UTF-8")
    assert queue.depth() == (0, 0, 0)


@pytest.mark.parametrize("key", ["message_id", "content", "field:user_id"])
def test_a_marked_body_is_loaded_by_every_kind_of_key(
    command: Command, queue: Queue, login_database: LoginDatabase, key: str
) -> None:
    """The content key is that of the body as it came: a marked body and a plain one are two."""
    queue.send([f"\ufeff{login(1)}", f"\ufeff{login(1)}", login(1)])
    command.set(LEDGER__KEY=key)
    counts = command.drain()
    loaded = {"message_id": 3, "content": 2, "field:user_id": 1}[key]
    assert (counts["loaded"], counts["rejected"], counts["duplicates"]) == (loaded, 0, 3 - loaded)
    assert login_database.rows() == loaded
