"""What the machine and the producers do: full disks for the log, poison in the queue."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.faults.lab import Lab
from tests.support.fix_servers import login
from tests.support.process import COATCHECK, LIMIT_S, wait_until

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_disk_of_the_log_is_full(lab: Lab, workers: str) -> None:
    """Whatever it would say is lost; no message is."""
    lab.send(200, 20)
    with FULL.open("wb") as full:
        process = subprocess.Popen(
            [COATCHECK, "run", "--workers", workers],
            cwd=lab.command.folder,
            env=lab.command.environment,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=full,
        )
    try:
        lab.more(50)
        lab.wire.cut()  # something to complain about
        lab.send(200, 20)
        lab.more(440)
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(LIMIT_S)
    verdict = lab.finish()
    assert verdict.kept, verdict


def poison(word: str) -> dict[str, tuple[str, str]]:
    """Return messages that are none, by name: the body, and the reason for which it is rejected."""
    fields = json.loads(login(1, device_id=word))

    def changed(**changes: object) -> str:
        return json.dumps(fields | changes)

    deep = "[" * 100_000 + "]" * 100_000
    return {
        "a NUL": (changed(device_id=f"{word}\0"), "invalid_text"),
        "a NUL in an address": (changed(ip="10.0.0.1\0"), "not_an_ip"),
        "half a surrogate pair": (changed(user_id=f"{word}\ud800"), "invalid_text"),
        "deep nesting": (changed(note=1)[:-1] + f', "deep": {deep}}}', "too_deep"),
        "deep nesting alone": (deep, "too_deep"),
        "a list": (json.dumps([word]), "not_an_object"),
        "a word": (json.dumps(word), "not_an_object"),
        "no JSON": (f"{{'{word}'}}", "not_json"),
        "half of a message": (changed()[:-20], "not_json"),
        "something after it": (changed() + changed(), "not_json"),
        "compressed": ("H4sIAAAAAAAA/6tWKkktLlGyUlAqLU4tUqoFAFzmCEEWAAAA" + word, "not_json"),
        "NaN": (changed().replace('"DE"', "NaN").replace("null", "NaN"), "not_json"),
        "wrapped by SNS": (json.dumps({"Type": "Notification", "Message": changed()}), "missing_field"),
        "a pointer to S3": (json.dumps(["software.amazon.payloadoffloading.PayloadS3Pointer", {}]), "not_an_object"),
        "a message of another kind": (json.dumps({"type": "heartbeat", "word": word}), "missing_field"),
        "a number where a text goes": (changed(user_id=7), "wrong_type"),
        "an object where a text goes": (changed(device_id={word: word}), "wrong_type"),
        "a text without end": (changed(user_id=word * 100), "too_long"),
        "no address": (changed(ip=word), "not_an_ip"),
        "no version": (changed(app_version=word), "not_a_version"),
        "a version beyond its column": (changed(app_version="9999999999.1"), "not_a_version"),
        "an empty device": (changed(device_id=""), "empty_value"),
        "combining marks": (changed(device_id="a" + "\u0301" * 100), "invalid_text"),
    }


def odd(first: int) -> list[str]:
    """Return messages that are odd and yet rows, from a number of a user on."""
    huge = f"{10**400}"
    bodies = [
        login(first, note="x" * (900 << 10)),
        login(first + 1)[:-1] + f', "huge": {huge}, "tiny": 1e-999, "more": 1e999}}',
        login(first + 2)[:-1] + f', "user_id": "user-{first + 2}"}}',
        " \n\t" + login(first + 3) + "\r\n",
        login(first + 4, ip="::ffff:10.0.0.1"),
        login(first + 5, extra={"a": [1, {"b": None}]}),
    ]
    return [body.replace('"user_id"', '"\\u0075ser_id"') if place == 5 else body for place, body in enumerate(bodies)]


def test_poison(lab: Lab) -> None:
    """Each ends in quarantine for its own reason, once; its neighbours in the same batch are rows."""
    bad = poison(lab.word)
    lab.send(30)
    bodies = [body for body, _ in bad.values()]
    strange = odd(30)
    for body in (*bodies, *strange):
        lab.queue.call("SendMessage", QueueUrl=lab.queue.url, MessageBody=body)
    lab.lines[0].bad += len(bad)
    lab.lines[0].good += len(strange)
    lab.send(30)
    running = lab.command.start("run")
    wait_until(lambda: lab.done() == lab.good + lab.bad or running.ended(), "all is done")
    assert not running.ended(), running.err
    running.signal(15)
    assert running.wait().code == 0
    reasons = sorted(reason for (reason,) in lab.database.execute("SELECT reason FROM coatcheck.quarantine"))
    assert reasons == sorted(reason for _, reason in bad.values())
    verdict = lab.finish()
    assert verdict.kept, verdict


def test_rows_that_postgresql_refuses_inside_good_batches(lab: Lab) -> None:
    lab.database.execute("ALTER TABLE user_logins ADD CHECK (user_id !~ '^user-[0-9]*7$')")
    lab.send(400)
    running = lab.command.start("run")
    wait_until(lambda: lab.done() == 400 or running.ended(), "all is done")
    running.signal(15)
    assert running.wait().code == 0
    assert lab.database.figures() == (360, 400, 40)
    assert lab.database.repeated() == 0
    assert lab.queue.depth() == (0, 0, 0)
    assert not list(lab.leaks())
