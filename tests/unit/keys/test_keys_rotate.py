from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from coatcheck.errors import CoatcheckError, ConfigError, RefusedError
from coatcheck.keys import Opener, OpenError, Sealer, files, local, pkcs8
from coatcheck.keys.local import TOKEN_ROOT, LocalLoaderKeys, LocalOpenerKeys, create, list_keys
from coatcheck.keys.rotate import retire, retire_seal, rotate, rotate_seal
from coatcheck.keys.seal_pair import SEAL_PRIVATE, SEAL_PUBLIC
from coatcheck.pipeline.message import DataKey

PASSPHRASE = "canary correct horse é"
JANUARY, FEBRUARY = 1_767_225_600.0, 1_769_904_000.0
DATES = {JANUARY: "2026-01-01T00:00:00Z", FEBRUARY: "2026-02-01T00:00:00Z"}


@pytest.fixture(autouse=True)
def _no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(local.PASSPHRASE_VARIABLE, raising=False)
    monkeypatch.setattr(pkcs8, "_N", 16)  # scrypt's cost is shown elsewhere; here are many files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "my keys"
    create(path, clock=lambda: JANUARY)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {files.LOCK}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder)}


def rows(folder: Path, kind: str) -> list[tuple[str, str, bool]]:
    return [(row.kid, row.created, row.active) for row in list_keys(folder) if row.kind == kind]


def drawn(folder: Path) -> tuple[bytes, DataKey]:
    """Return a new data key of the loader: the key and its stored half."""
    _, key, data_key = LocalLoaderKeys.load(folder).new_data_key()
    return key, data_key


def opens(folder: Path, *pairs: tuple[bytes, DataKey], passphrase: str | None = None) -> bool:
    opener = LocalOpenerKeys.load(folder, passphrase)
    return all(opener.unwrap(data_key) == key for key, data_key in pairs)


# ---- token roots


def test_a_rotation_adds_a_key_and_a_retirement_removes_one(folder: Path) -> None:
    before = LocalLoaderKeys.load(folder)
    row = rotate(folder, clock=lambda: FEBRUARY)
    assert (row.kid, row.kind, row.created, row.active) == ("k2", "token", DATES[FEBRUARY], True)
    assert row in list_keys(folder)
    assert rows(folder, "token") == [("k1", DATES[JANUARY], False), ("k2", DATES[FEBRUARY], True)]
    during = LocalLoaderKeys.load(folder)
    assert (during.kid, during.kids) == ("k2", ("k2", "k1"))
    assert during.token_root("k1") == before.token_root()
    assert during.token_root() not in {before.token_root(), before.ledger_root()}
    retire(folder, "k1")
    after = LocalLoaderKeys.load(folder)
    assert (after.kids, after.token_root()) == (("k2",), during.token_root())
    assert before.ledger_root() == during.ledger_root() == after.ledger_root()
    assert rotate(folder).kid == "k3"


def test_what_a_rotation_writes_is_closed_to_others(folder: Path) -> None:
    umask = os.umask(0)
    try:
        rotate(folder)
        rotated = rotate_seal(folder)
    finally:
        os.umask(umask)
    assert [mode(path) for path in rotated.files] == [0o644, 0o600, 0o600]
    assert [mode(folder / name) for name in (TOKEN_ROOT, files.LOCK)] == [0o600, 0o600]
    assert names(folder) == {TOKEN_ROOT, *(path.name for path in rotated.files)}


def test_one_rotation_at_a_time(folder: Path) -> None:
    rotate(folder)
    before = contents(folder)
    with pytest.raises(RefusedError, match="is not over"):
        rotate(folder)
    with pytest.raises(RefusedError, match="is the active key"):
        retire(folder, "k2")
    with pytest.raises(ConfigError, match='"k3" is not in the keyring'):
        retire(folder, "k3")
    assert contents(folder) == before


CHANGES: list[tuple[str, Callable[[Path], object]]] = [
    (TOKEN_ROOT, rotate),
    (TOKEN_ROOT, lambda folder: retire(folder, "k1")),
    (SEAL_PUBLIC, rotate_seal),
    (SEAL_PRIVATE, rotate_seal),
    (SEAL_PUBLIC, lambda folder: retire_seal(folder, "0" * 16)),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
@pytest.mark.parametrize("spoil", ["open", "link", "missing", "damaged"])
def test_a_change_checks_what_it_changes(folder: Path, name: str, change: Callable[[Path], object], spoil: str) -> None:
    path = folder / name
    if spoil == "open":
        path.chmod(0o666)
    elif spoil == "link":
        path.rename(folder / "real")
        path.symlink_to("real")
    elif spoil == "missing":
        path.unlink()
    else:
        path.write_text("canary")
    before = contents(folder)
    message = {"open": "by others", "link": "is a symlink", "missing": "is missing", "damaged": "is damaged"}[spoil]
    with pytest.raises(ConfigError, match=message) as caught:
        change(folder)
    assert caught.value.hint
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert contents(folder) == before


def test_what_is_no_keyring_gets_no_lock_file(tmp_path: Path) -> None:
    for _, change in CHANGES:
        for path in (tmp_path, tmp_path / "nowhere"):
            with pytest.raises(ConfigError, match="is missing"):
                change(path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(30, "read-only")
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", refuse)
    for change in (rotate, rotate_seal):
        with pytest.raises(ConfigError, match=r"cannot be changed \(EROFS\)") as caught:
            change(folder)
        assert caught.value.hint


def test_a_lock_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / files.LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"cannot be changed \((ELOOP|EMLINK)\)"):
        rotate(folder)
    assert not (tmp_path / "elsewhere").exists()


def test_a_link_where_a_file_is_begun_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (folder / f".{TOKEN_ROOT}{files._BEGUN}").symlink_to(tmp_path / "elsewhere")
    rotate(folder)
    assert not (tmp_path / "elsewhere").exists()
    assert not (folder / TOKEN_ROOT).is_symlink()


# ---- two at once


def test_who_comes_second_is_refused(folder: Path) -> None:
    old = rotate_seal(folder).old_id
    before = contents(folder)
    with (folder / files.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for change in (rotate, rotate_seal, lambda path: retire(path, "k1"), lambda path: retire_seal(path, old)):
            with pytest.raises(RefusedError, match="by another process") as caught:
                change(folder)
            assert caught.value.hint
    assert contents(folder) == before
    rotate(folder)


RACE = """
import sys
from pathlib import Path
from coatcheck.errors import RefusedError
from coatcheck.keys.rotate import rotate
print("ready", flush=True)
sys.stdin.readline()
try:
    print(rotate(Path(sys.argv[1])).kid)
except RefusedError:
    print("refused")
"""


def test_of_two_processes_one_rotates_and_one_is_refused(folder: Path) -> None:
    for number in range(5):
        first = LocalLoaderKeys.load(folder)
        command = [sys.executable, "-c", RACE, str(folder)]
        racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for racer in racers:
            assert racer.stdout
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin
            racer.stdin.write("go\n")
            racer.stdin.flush()
        said = sorted(racer.communicate(timeout=60)[0].strip() for racer in racers)
        assert said == [f"k{number + 2}", "refused"]
        both = LocalLoaderKeys.load(folder)
        assert both.token_root(first.kid) == first.token_root()
        retire(folder, first.kid)


# ---- crashes


class Fault:
    """Makes the n-th call of an `os` function fail, before or after it is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, function: str, number: int, *, late: bool) -> None:
        self.left = number
        real = getattr(os, function)

        def faulty(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not late:
                raise OSError(5, "input/output error")
            done = real(*args, **options)
            if self.left == 0:
                raise OSError(5, "input/output error")
            return done

        monkeypatch.setattr(os, function, faulty)


FAULTS = [("replace", False), ("replace", True), ("fsync", False), ("fsync", True)]


@pytest.mark.parametrize(("function", "late"), FAULTS)
@pytest.mark.parametrize("number", [1, 2])
def test_a_rotation_that_fails_leaves_the_old_file_or_the_new_one(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    number: int,
    late: bool,  # noqa: FBT001 - a case
) -> None:
    first = LocalLoaderKeys.load(folder)
    with monkeypatch.context() as patch:
        fault = Fault(patch, function, number, late=late)
        if function == "replace" and number == 2:
            rotate(folder)  # there is one rename only
            assert fault.left == 1
            return
        with pytest.raises(ConfigError, match=r"cannot be changed \(EIO\)") as caught:
            rotate(folder)
    assert "coatcheck keys list" in caught.value.hint
    keys = LocalLoaderKeys.load(folder)
    replaced = (function, late) == ("replace", True) or (function == "fsync" and number == 2)
    assert keys.kids == (("k2", "k1") if replaced else ("k1",))
    assert keys.token_root("k1") == first.token_root()
    assert names(folder) == {TOKEN_ROOT, SEAL_PUBLIC, SEAL_PRIVATE}


@pytest.mark.parametrize(("function", "late"), FAULTS)
@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_half_a_seal_rotation_loses_nothing_and_is_finished_by_the_next(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    late: bool,  # noqa: FBT001 - a case
    passphrase: str | None,
) -> None:
    for number in range(1, 10):
        folder = tmp_path / f"{number}"
        create(folder, passphrase=passphrase)
        before = drawn(folder)
        with monkeypatch.context() as patch:
            fault = Fault(patch, function, number, late=late)
            try:
                rotate_seal(folder, passphrase=passphrase)
            except ConfigError:
                assert fault.left == 0
            else:
                break
        check_and_finish(folder, before, passphrase)
    assert number == {"replace": 4, "fsync": 7}[function]  # three files, each synced itself and its folder


def check_and_finish(folder: Path, before: tuple[bytes, DataKey], passphrase: str | None) -> None:
    """Nothing is lost in half a rotation, a retirement cannot make it so, and the next rotation finishes it."""
    half = drawn(folder)
    assert opens(folder, before, half, passphrase=passphrase)
    opener = LocalOpenerKeys.load(folder, passphrase)
    assert opener.kek == half[1].kek
    assert opener.unwrap(opener.rewrap(before[1])) == before[0]
    shown = rows(folder, "open")
    assert [kid for kid, _, active in shown if active] == [json.loads((folder / SEAL_PUBLIC).read_text())["id"]]
    for kid, _, active in shown:
        if active:
            with pytest.raises(RefusedError, match="in use"):
                retire_seal(folder, kid)
    begun = opener.kek == before[1].kek
    rotated = rotate_seal(folder, passphrase=passphrase)
    assert half[1].kek == f"local:{rotated.old_id}"
    after = drawn(folder)
    assert after[1].kek == f"local:{rotated.key_id}"
    assert opens(folder, before, half, after, passphrase=passphrase)
    assert len(rows(folder, "open")) == (2 if begun else 3)
    assert {path.name for path in rotated.files} <= names(folder)
    assert not [name for name in names(folder) if name.endswith(files._BEGUN)]


def test_finishing_takes_the_pair_that_was_begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        Fault(patch, "replace", 3, late=False)
        with pytest.raises(ConfigError):
            rotate_seal(folder, clock=lambda: FEBRUARY)
    old, *_ = [kid for kid, _, active in rows(folder, "seal") if active]
    shown = {kid: (created, active) for kid, created, active in rows(folder, "open")}
    begun, *_ = shown.keys() - {old}
    assert shown == {old: (DATES[JANUARY], True), begun: (DATES[FEBRUARY], False)}
    rotated = rotate_seal(folder, clock=lambda: FEBRUARY + 9)
    assert (rotated.key_id, rotated.old_id) == (begun, old)
    assert rows(folder, "seal") == [(begun, DATES[FEBRUARY], True)]
    assert (begun, DATES[FEBRUARY], True) in rows(folder, "open")


def test_every_step_is_on_the_disk_before_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a power failure may leave a renamed file empty, or the renames in another order."""
    done: list[str] = []
    fsync, replace, unlink = os.fsync, os.replace, os.unlink

    def synced(fd: int) -> None:
        fsync(fd)
        done.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")

    def replaced(source: Path, target: Path) -> None:
        replace(source, target)
        done.append(Path(target).name)

    def unlinked(path: Path) -> None:
        unlink(path)
        done.append("unlink")

    for name, function in (("fsync", synced), ("replace", replaced), ("unlink", unlinked)):
        monkeypatch.setattr(os, name, function)
    rotate(folder)
    assert done == ["file", TOKEN_ROOT, "folder"]
    done.clear()
    old = rotate_seal(folder).old_id
    steps = [f"seal-private.{old}.pem", SEAL_PRIVATE, SEAL_PUBLIC]
    assert done == [each for name in steps for each in ("file", name, "folder")]
    done.clear()
    retire_seal(folder, old)
    assert done == ["unlink", "folder"]


KILLED = """
import os, signal, sys
from pathlib import Path
from coatcheck.keys import rotate
function, number, late = sys.argv[3], int(sys.argv[4]), sys.argv[5] == "late"
real, calls = getattr(os, function), 0
def deadly(*args, **options):
    global calls
    calls += 1
    if calls == number and not late:
        os.kill(os.getpid(), signal.SIGKILL)
    done = real(*args, **options)
    if calls == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
setattr(os, function, deadly)
getattr(rotate, sys.argv[2])(Path(sys.argv[1]))
"""


def killed(folder: Path, job: str, function: str, number: int, when: str) -> bool:
    command = [sys.executable, "-c", KILLED, str(folder), job, function, str(number), when]
    code = subprocess.run(command, timeout=60, check=False).returncode
    assert code in {0, -signal.SIGKILL}
    return code != 0


@pytest.mark.parametrize(
    ("function", "number", "when"), [("fsync", 1, "early"), ("replace", 1, "early"), ("replace", 1, "late")]
)
def test_a_rotation_that_is_killed_leaves_the_old_file_or_the_new_one(
    folder: Path, function: str, number: int, when: str
) -> None:
    first = LocalLoaderKeys.load(folder)
    assert killed(folder, "rotate", function, number, when)
    left = names(folder) - {TOKEN_ROOT, SEAL_PUBLIC, SEAL_PRIVATE}
    assert {mode(folder / name) for name in left} <= {0o600}
    keys = LocalLoaderKeys.load(folder)
    assert keys.token_root("k1") == first.token_root()
    if when == "late":
        assert keys.kids == ("k2", "k1")
        retire(folder, "k1")
    else:
        assert left == {f".{TOKEN_ROOT}{files._BEGUN}"}
        assert rotate(folder).kid == "k2"
    assert names(folder) == {TOKEN_ROOT, SEAL_PUBLIC, SEAL_PRIVATE}


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("when", ["early", "late"])
def test_a_seal_rotation_that_is_killed_loses_nothing(folder: Path, number: int, when: str) -> None:
    before = drawn(folder)
    assert killed(folder, "rotate_seal", "replace", number, when)
    check_and_finish(folder, before, None)


# ---- seal pairs


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_data_keys_open_across_two_rotations_and_are_rewrapped(tmp_path: Path, passphrase: str | None) -> None:
    folder = tmp_path / "keys"
    create(folder, passphrase=passphrase)
    sealer = Sealer(LocalLoaderKeys.load(folder))
    sealed = sealer.seal(b"203.0.113.77", b"ip")
    pairs = [drawn(folder)]
    old = []
    for _ in range(2):
        old.append(rotate_seal(folder, passphrase=passphrase).old_id)
        pairs.append(drawn(folder))
    assert len({data_key.kek for _, data_key in pairs}) == 3
    assert opens(folder, *pairs, passphrase=passphrase)
    opener = LocalOpenerKeys.load(folder, passphrase)
    assert opener.kek == pairs[2][1].kek == LocalLoaderKeys.load(folder).describe()["kek"]
    fresh = [(key, opener.rewrap(data_key)) for key, data_key in pairs]
    assert {data_key.kek for _, data_key in fresh} == {opener.kek}
    assert [data_key.dek_id for _, data_key in fresh] == [data_key.dek_id for _, data_key in pairs]
    assert {len(data_key.wrapped) for _, data_key in fresh} == {80}
    assert fresh[2][1] is pairs[2][1]
    body_key = opener.rewrap(sealer.data_key(sealed.dek_id))
    for seal_id in old:
        retire_seal(folder, seal_id)
    assert opens(folder, *fresh, passphrase=passphrase)
    after = LocalOpenerKeys.load(folder, passphrase)
    assert Opener(after).open(sealed, body_key, b"ip") == b"203.0.113.77"
    for _, data_key in pairs[:2]:
        with pytest.raises(ConfigError, match=f"wrapped for {data_key.kek}, this keyring has {after.kek}"):
            after.unwrap(data_key)
    assert names(folder) == {TOKEN_ROOT, SEAL_PUBLIC, SEAL_PRIVATE}


def test_rewrapping_keeps_a_data_key_bound_to_its_id_and_tenant(folder: Path) -> None:
    key, data_key = drawn(folder)
    rotate_seal(folder)
    opener = LocalOpenerKeys.load(folder)
    fresh = opener.rewrap(data_key)
    assert opener.unwrap(fresh) == key
    for wrong in (
        DataKey(bytes(16), fresh.kek, fresh.wrapped),
        DataKey(fresh.dek_id, data_key.kek, fresh.wrapped),
        DataKey(fresh.dek_id, fresh.kek, data_key.wrapped),
    ):
        with pytest.raises(OpenError):
            opener.unwrap(wrong)
    with pytest.raises(OpenError):
        opener.rewrap(DataKey(bytes(16), data_key.kek, data_key.wrapped))
    opener.tenant = "other"
    with pytest.raises(OpenError):
        opener.rewrap(data_key)


def test_a_seal_rotation_says_what_it_did(folder: Path) -> None:
    first, *_ = [kid for kid, _, _ in rows(folder, "seal")]
    rotated = rotate_seal(folder, clock=lambda: FEBRUARY)
    assert rotated.old_id == first
    kept = folder / f"seal-private.{first}.pem"
    assert rotated.files == (folder / SEAL_PUBLIC, folder / SEAL_PRIVATE, kept)
    assert len(rotated.warnings) == 1
    assert "in clear" in rotated.warnings[0]
    assert rows(folder, "seal") == [(rotated.key_id, DATES[FEBRUARY], True)]
    assert sorted(rows(folder, "open"), key=lambda row: row[2]) == [
        (first, DATES[JANUARY], False),
        (rotated.key_id, DATES[FEBRUARY], True),
    ]
    assert {row.path for row in list_keys(folder) if row.kid == first} == {kept}
    assert rows(folder, "token") == [("k1", DATES[JANUARY], True)]


def test_an_older_key_without_a_label_is_listed_by_its_files_name(folder: Path) -> None:
    old = rotate_seal(folder).old_id
    path = folder / f"seal-private.{old}.pem"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert (old, "", False) in rows(folder, "open")


@pytest.mark.parametrize("given", ["argument", "environment"])
def test_a_passphrase_given_later_closes_both_halves(folder: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    pair = drawn(folder)
    if given == "environment":
        monkeypatch.setenv(local.PASSPHRASE_VARIABLE, PASSPHRASE)
        rotated = rotate_seal(folder)
        monkeypatch.delenv(local.PASSPHRASE_VARIABLE)
    else:
        rotated = rotate_seal(folder, passphrase=PASSPHRASE)
    assert rotated.warnings == ()
    for path in rotated.files[1:]:
        assert b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()
    assert opens(folder, pair, drawn(folder), passphrase=PASSPHRASE)


def test_without_the_passphrase_of_the_old_half_nothing_happens(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    create(folder, passphrase=PASSPHRASE)
    before = contents(folder)
    for passphrase, message in ((None, "no passphrase"), ("canary wrong", "does not open")):
        with pytest.raises(ConfigError, match=message) as caught:
            rotate_seal(folder, passphrase=passphrase)
        assert "canary" not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None
    assert contents(folder) == before


def test_a_host_that_only_loads_does_not_rotate_the_seal(folder: Path) -> None:
    (folder / SEAL_PRIVATE).unlink()
    before = contents(folder)
    with pytest.raises(ConfigError, match=f"{SEAL_PRIVATE} is missing") as caught:
        rotate_seal(folder)
    assert "rotate where" in caught.value.hint
    assert contents(folder) == before


def test_halves_of_different_pairs_are_not_rotated(folder: Path) -> None:
    (folder / SEAL_PRIVATE).write_bytes(pkcs8.write_private(X25519PrivateKey.generate(), None))
    before = contents(folder)
    with pytest.raises(ConfigError, match="are no pair"):
        rotate_seal(folder)
    assert contents(folder) == before


def test_a_loader_with_the_public_half_of_before_still_seals_what_opens(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "loader"
    shutil.copytree(folder, elsewhere, ignore=shutil.ignore_patterns(SEAL_PRIVATE))
    rotate_seal(folder)
    assert opens(folder, drawn(elsewhere))
    shutil.copy2(folder / SEAL_PUBLIC, elsewhere / SEAL_PUBLIC)
    assert opens(folder, drawn(elsewhere))


def test_only_an_older_pair_is_retired(folder: Path) -> None:
    rotated = rotate_seal(folder)
    with pytest.raises(RefusedError, match="is the seal key in use"):
        retire_seal(folder, rotated.key_id)
    for other in ("0" * 16, "../../etc", "", "*"):
        with pytest.raises(ConfigError, match="keeps no older seal key") as caught:
            retire_seal(folder, other)
        assert "coatcheck keys list" in caught.value.hint
    retire_seal(folder, rotated.old_id)
    assert [kid for kid, _, _ in rows(folder, "open")] == [rotated.key_id]


def test_an_older_key_is_a_secret_too(folder: Path) -> None:
    path = rotate_seal(folder).files[2]
    old = path.name.split(".")[1]
    path.chmod(0o640)
    for action in (LocalOpenerKeys.load, list_keys, lambda folder: retire_seal(folder, old)):
        with pytest.raises(ConfigError, match="can be read by others") as caught:
            action(folder)
        assert str(path) in caught.value.message
    path.chmod(0o600)
    path.rename(folder / "real")
    path.symlink_to("real")
    with pytest.raises(ConfigError, match="is a symlink"):
        LocalOpenerKeys.load(folder)
    path.unlink()
    path.write_bytes((folder / SEAL_PRIVATE).read_bytes())
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="another key than its name says"):
        local.read_older(folder, None, set())


def test_a_secret_may_hold_the_older_private_halves_behind_the_new_one(folder: Path, tmp_path: Path) -> None:
    pairs = [drawn(folder)]
    rotated = rotate_seal(folder)
    pairs.append(drawn(folder))
    text = "".join(path.read_text() for path in rotated.files[1:])
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy2(folder / SEAL_PUBLIC, bare)
    opener = LocalOpenerKeys.load(bare, private_key=text)
    assert [opener.unwrap(data_key) for _, data_key in pairs] == [key for key, _ in pairs]
    with pytest.raises(ConfigError, match=r"keys\.private_key is damaged"):
        LocalOpenerKeys.load(bare, private_key=text[:-60])


def test_a_private_key_as_text_goes_with_older_ones_in_the_folder(folder: Path) -> None:
    pairs = [drawn(folder)]
    rotate_seal(folder)
    pairs.append(drawn(folder))
    text = (folder / SEAL_PRIVATE).read_text()
    (folder / SEAL_PRIVATE).unlink()
    opener = LocalOpenerKeys.load(folder, private_key=text)
    assert [opener.unwrap(data_key) for _, data_key in pairs] == [key for key, _ in pairs]


def test_no_result_and_no_error_shows_a_key(folder: Path) -> None:
    shown = [repr(rotate(folder)), repr(rotate_seal(folder)), repr(list_keys(folder))]
    for change in (rotate, lambda path: retire(path, "k9"), lambda path: retire_seal(path, "k9")):
        with pytest.raises(CoatcheckError) as caught:
            change(folder)
        shown.append("".join(traceback.format_exception(caught.value)) + caught.value.hint)
    text = "\n".join(shown)
    content = json.loads((folder / TOKEN_ROOT).read_text())
    for secret in (content["ledger"], *(entry["root"] for entry in content["keys"])):
        assert secret not in text
