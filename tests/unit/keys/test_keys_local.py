from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
import traceback
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from rich.pretty import pretty_repr

from coatcheck.errors import CoatcheckError, ConfigError
from coatcheck.keys import (
    Form,
    LoaderKeys,
    Opener,
    OpenerKeys,
    OpenError,
    Sealer,
    Tokenizer,
    files,
    local,
    pkcs8,
)
from coatcheck.keys.derive import lp
from coatcheck.keys.local import TOKEN_ROOT, LocalLoaderKeys, LocalOpenerKeys, create, list_keys, read_roots
from coatcheck.keys.seal_pair import SEAL_PRIVATE, SEAL_PUBLIC, SUITE, pair_id, seal_public
from coatcheck.pipeline.message import DataKey

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "golden_tokens.json").read_text())
SECRETS = (TOKEN_ROOT, SEAL_PRIVATE)
PASSPHRASE = "canary correct horse é"


@pytest.fixture(autouse=True)
def _no_passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(local.PASSPHRASE_VARIABLE, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "my keys"
    create(path)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def edit(path: Path, **fields: object) -> None:
    content = json.loads(path.read_text())
    content.update(fields)
    path.write_text(json.dumps(content))


def refusal(folder: Path) -> ConfigError:
    """Return the one refusal that loading both halves and listing agree on."""
    with pytest.raises(ConfigError) as caught:
        list_keys(folder)
    for load in (LocalLoaderKeys.load, LocalOpenerKeys.load):
        with suppress(ConfigError):  # a half may also load: not every file is its own
            load(folder)
            continue
        with pytest.raises(ConfigError) as again:
            load(folder)
        assert str(again.value) == str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 2
    return caught.value


def test_a_keyring_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "coatcheck-keys"
    umask = os.umask(0)
    try:
        made = create(folder, "acme", clock=lambda: 1_767_225_600.9)
    finally:
        os.umask(umask)
    assert made.files == (folder / TOKEN_ROOT, folder / SEAL_PUBLIC, folder / SEAL_PRIVATE)
    assert [mode(path) for path in (folder, *made.files)] == [0o700, 0o600, 0o644, 0o600]
    content = json.loads(made.files[0].read_text())
    assert content == {
        "version": 1,
        "tenant": "acme",
        "keys": [{"kid": "k1", "root": content["keys"][0]["root"], "created": "2026-01-01T00:00:00Z"}],
        "active": "k1",
        "ledger": content["ledger"],
    }
    roots = [base64.b64decode(text) for text in (content["keys"][0]["root"], content["ledger"])]
    assert [len(root) for root in roots] == [32, 32]
    assert roots[0] != roots[1]


def test_a_tight_umask_does_not_lock_the_owner_out(tmp_path: Path) -> None:
    umask = os.umask(0o277)
    try:
        made = create(tmp_path / "keys")
    finally:
        os.umask(umask)
    assert [mode(path) for path in made.files] == [0o600, 0o644, 0o600]


def test_two_keyrings_share_nothing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        create(tmp_path / name)
    one, other = (LocalLoaderKeys.load(tmp_path / name) for name in ("a", "b"))
    assert one.token_root() != other.token_root()
    assert one.ledger_root() != other.ledger_root()
    assert one.describe()["kek"] != other.describe()["kek"]


@pytest.mark.parametrize("name", [TOKEN_ROOT, SEAL_PUBLIC, SEAL_PRIVATE, "notes.txt"])
def test_nothing_is_ever_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match="is not empty") as caught:
        create(tmp_path)
    assert "overwritten" in caught.value.hint
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def test_an_empty_folder_will_do_and_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    create(tmp_path)
    assert mode(tmp_path) == 0o700


def test_a_link_that_appears_meanwhile_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, folder = tmp_path / "elsewhere", tmp_path / "keys"
    folder.mkdir()
    (folder / TOKEN_ROOT).symlink_to(target)
    monkeypatch.setattr(files, "_make_folder", lambda _: None)
    with pytest.raises(ConfigError, match=r"cannot be written \(EEXIST\)"):
        create(folder)
    assert not target.exists()


def test_a_keyring_that_cannot_be_finished_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files._write_new

    def full(path: Path, mode: int, data: bytes, written: list[Path]) -> None:
        real(path, mode, data, written)
        if path.name == SEAL_PRIVATE:
            raise OSError(28, "no space left")

    monkeypatch.setattr(files, "_write_new", full)
    with pytest.raises(ConfigError, match="ENOSPC"):
        create(tmp_path / "keys")
    assert list((tmp_path / "keys").iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    with pytest.raises(ConfigError, match="ENOTDIR"):
        create(tmp_path / "keys")


def test_a_bad_tenant_makes_no_keyring(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tenant"):
        create(tmp_path / "keys", "a b")
    assert not (tmp_path / "keys").exists()


def test_both_halves_work_together(folder: Path) -> None:
    loader: LoaderKeys = LocalLoaderKeys.load(folder)
    opener: OpenerKeys = LocalOpenerKeys.load(folder)
    assert (loader.tenant, loader.kid, opener.tenant) == ("default", "k1", "default")
    sealer = Sealer(loader)
    sealed = sealer.seal(b"203.0.113.77", b"ip")
    data_key = sealer.data_key(sealed.dek_id)
    assert Opener(opener).open(sealed, data_key, b"ip") == b"203.0.113.77"
    assert (len(data_key.dek_id), len(data_key.wrapped)) == (16, 32 + 32 + 16)
    assert Tokenizer(loader.token_root(), tenant=loader.tenant, kid=loader.kid).token("ip", "::1", Form("ip"))


def test_each_half_needs_its_own_files_only(folder: Path) -> None:
    (folder / SEAL_PRIVATE).rename(folder / "away")
    assert LocalLoaderKeys.load(folder).new_data_key()
    assert [row.kind for row in list_keys(folder)] == ["token", "seal"]
    (folder / "away").rename(folder / SEAL_PRIVATE)
    (folder / TOKEN_ROOT).unlink()
    assert LocalOpenerKeys.load(folder)
    assert [row.kind for row in list_keys(folder)] == ["seal", "open"]


def test_the_loader_has_nothing_to_open_with(folder: Path) -> None:
    loader = LocalLoaderKeys.load(folder)
    assert not hasattr(loader, "unwrap")
    assert not [name for name in LocalLoaderKeys.__slots__ if isinstance(getattr(loader, name), X25519PrivateKey)]


def test_a_data_key_is_bound_to_its_id_and_tenant(folder: Path) -> None:
    loader, opener = LocalLoaderKeys.load(folder), LocalOpenerKeys.load(folder)
    dek_id, key, data_key = loader.new_data_key()
    assert opener.unwrap(data_key) == key
    for wrong in (
        DataKey(bytes(16), data_key.kek, data_key.wrapped),
        DataKey(dek_id, data_key.kek, data_key.wrapped[:-1] + bytes([data_key.wrapped[-1] ^ 1])),
        DataKey(dek_id, data_key.kek, data_key.wrapped[:31]),
        DataKey(dek_id, data_key.kek, bytes(80)),
        DataKey(dek_id, data_key.kek, b""),
    ):
        with pytest.raises(OpenError, match="a data key does not open") as caught:
            opener.unwrap(wrong)
        assert caught.value.__context__ is None
    opener.tenant = "other"
    with pytest.raises(OpenError):
        opener.unwrap(data_key)


def test_a_data_key_of_another_keyring_is_named(folder: Path, tmp_path: Path) -> None:
    create(tmp_path / "other")
    _, _, data_key = LocalLoaderKeys.load(tmp_path / "other").new_data_key()
    with pytest.raises(ConfigError, match=data_key.kek) as caught:
        LocalOpenerKeys.load(folder).unwrap(data_key)
    assert "private key" in caught.value.hint


def test_the_golden_data_key_unwraps_for_ever() -> None:
    """Changing tests/data/golden_tokens.json is a breaking change: vaults hold data keys like this one."""
    stored = GOLDEN["data_key"]
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(stored["private"]))
    assert private.public_key().public_bytes_raw().hex() == stored["public"]
    opener = LocalOpenerKeys(seal_public(private, stored["tenant"], ""), [private])
    data_key = DataKey(bytes.fromhex(stored["dek_id"]), stored["kek"], bytes.fromhex(stored["wrapped"]))
    assert opener.unwrap(data_key).hex() == stored["key"]


def test_the_wrapping_is_hpke_with_framed_info(folder: Path) -> None:
    dek_id, key, data_key = LocalLoaderKeys.load(folder).new_data_key()
    private = load_pem_private_key((folder / SEAL_PRIVATE).read_bytes(), None)
    assert isinstance(private, X25519PrivateKey)
    info = lp("coatcheck/dek/v1", "default", dek_id)
    assert SUITE.decrypt(data_key.wrapped, private, info=info) == key


def test_old_token_keys_stay_at_hand(folder: Path) -> None:
    path = folder / TOKEN_ROOT
    first = json.loads(path.read_text())["keys"][0]
    second = {"kid": "k2", "root": base64.b64encode(bytes(32)).decode(), "created": "2026-02-01T00:00:00Z"}
    edit(path, keys=[first, second], active="k2")
    keys = LocalLoaderKeys.load(folder)
    assert (keys.kid, keys.token_root(), keys.token_root("k2")) == ("k2", bytes(32), bytes(32))
    assert keys.token_root("k1") == base64.b64decode(first["root"])
    assert keys.kids == ("k2", "k1")
    assert keys.describe()["kids"] == "k2 k1"
    assert [(row.kid, row.active) for row in list_keys(folder) if row.kind == "token"] == [
        ("k1", False),
        ("k2", True),
    ]
    with pytest.raises(ConfigError, match='"k3" is not in the keyring'):
        keys.token_root("k3")


def test_the_file_of_a_key_service_is_refused(folder: Path) -> None:
    edit(folder / TOKEN_ROOT, wrapped_by="arn:aws:kms:eu-west-1:111122223333:key/x", ledger="AAAA")
    with pytest.raises(ConfigError, match="wrapped by a key service") as caught:
        LocalLoaderKeys.load(folder)
    assert caught.value.hint == 'set keys.provider = "aws-kms"'


def test_a_file_of_a_later_version_asks_for_an_upgrade_whatever_is_in_it(folder: Path) -> None:
    for name in (TOKEN_ROOT, SEAL_PUBLIC):
        before = (folder / name).read_text()
        (folder / name).write_text('{"version": 7, "more": []}')
        assert refusal(folder).hint == "upgrade coatcheck"
        (folder / name).write_text(before)


def test_the_list_names_keys_and_shows_none(folder: Path) -> None:
    rows = list_keys(folder)
    public = json.loads((folder / SEAL_PUBLIC).read_text())
    assert [(row.kid, row.kind, row.path.name) for row in rows] == [
        ("k1", "token", TOKEN_ROOT), (public["id"], "seal", SEAL_PUBLIC), (public["id"], "open", SEAL_PRIVATE)
    ]  # fmt: skip
    root = LocalLoaderKeys.load(folder).token_root()
    assert root.hex() not in repr(rows)
    assert base64.b64encode(root).decode() not in repr(rows)
    assert {len(row.fingerprint) for row in rows} == {16}
    assert rows == list_keys(folder)


# ---- the private key and its passphrase


def test_without_a_passphrase_there_is_a_warning(tmp_path: Path) -> None:
    made = create(tmp_path / "keys")
    assert len(made.warnings) == 1
    assert "in clear" in made.warnings[0]
    assert b"BEGIN PRIVATE KEY" in made.files[2].read_bytes()


@pytest.mark.parametrize("given", ["argument", "environment"])
def test_with_a_passphrase_the_private_key_is_encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    folder = tmp_path / "keys"
    if given == "environment":
        monkeypatch.setenv(local.PASSPHRASE_VARIABLE, PASSPHRASE)
        made = create(folder)
        opener = LocalOpenerKeys.load(folder)
        monkeypatch.delenv(local.PASSPHRASE_VARIABLE)
    else:
        made = create(folder, passphrase=PASSPHRASE)
        opener = LocalOpenerKeys.load(folder, PASSPHRASE)
    assert made.warnings == ()
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in made.files[2].read_bytes()
    _, key, data_key = LocalLoaderKeys.load(folder).new_data_key()
    assert opener.unwrap(data_key) == key
    with pytest.raises(ConfigError, match="no passphrase") as caught:
        LocalOpenerKeys.load(folder)
    assert local.PASSPHRASE_VARIABLE in caught.value.hint
    with pytest.raises(ConfigError, match="does not open") as caught:
        LocalOpenerKeys.load(folder, "canary wrong")
    assert "canary" not in caught.value.message + caught.value.hint
    assert caught.value.__context__ is None


def test_a_key_in_clear_opens_whatever_the_passphrase(folder: Path) -> None:
    assert LocalOpenerKeys.load(folder, "not needed")


def test_a_passphrase_may_be_long_or_raw_bytes() -> None:
    key = X25519PrivateKey.generate()
    for passphrase in ("x" * 5000, b"\xff\xfe".decode(errors="surrogateescape")):
        pem = pkcs8.write_private(key, passphrase)
        assert pkcs8.read_private(pem, passphrase, name="k").private_bytes_raw() == key.private_bytes_raw()


def test_a_passphrase_that_is_no_text_is_not_quoted() -> None:
    with pytest.raises(ConfigError, match="the passphrase is no text") as caught:
        pkcs8.write_private(X25519PrivateKey.generate(), "canary\ud800")
    assert caught.value.__context__ is None


def test_the_encrypted_file_is_standard_pkcs8() -> None:
    """Read back by the library's own parser; the costs of scrypt stand in the file: N 16384, r 8, p 5."""
    key = X25519PrivateKey.generate()
    pem = pkcs8.write_private(key, "pw")
    loaded = load_pem_private_key(pem, b"pw")
    assert isinstance(loaded, X25519PrivateKey)
    assert loaded.private_bytes_raw() == key.private_bytes_raw()
    der = base64.b64decode("".join(pem.decode().splitlines()[1:-1]))
    assert bytes.fromhex("02024000" + "020108" + "020105") in der
    assert pem != pkcs8.write_private(key, "pw")


def test_openssl_opens_the_encrypted_file(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("there is no openssl program")
    made = create(tmp_path / "keys", passphrase="pw")
    done = subprocess.run(
        [openssl, "pkey", "-in", made.files[2], "-passin", "pass:pw", "-noout", "-text"],
        capture_output=True,
        check=True,
    )
    assert b"X25519 Private-Key" in done.stdout


def test_a_file_encrypted_by_others_opens_too() -> None:
    key = X25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw"))
    assert pkcs8.read_private(pem, "pw", name="k").private_bytes_raw() == key.private_bytes_raw()


def test_a_key_of_another_kind_is_refused(folder: Path) -> None:
    other = generate_private_key(SECP256R1())
    (folder / SEAL_PRIVATE).write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ConfigError, match="no X25519 key"):
        LocalOpenerKeys.load(folder)


def test_halves_of_different_pairs_are_refused(folder: Path) -> None:
    (folder / SEAL_PRIVATE).write_bytes(pkcs8.write_private(X25519PrivateKey.generate(), None))
    with pytest.raises(ConfigError, match="are no pair"):
        LocalOpenerKeys.load(folder)


# ---- files that are refused


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o610, 0o601, 0o666, 0o777])
def test_a_secret_open_to_others_is_refused(folder: Path, name: str, bits: int) -> None:
    (folder / name).chmod(bits)
    error = refusal(folder)
    assert str(folder / name) in error.message
    assert error.hint == f"chmod 600 '{folder / name}'"
    assert os.system(error.hint) == 0  # noqa: S605 - the hint is a command: it must work, spaces and all
    assert list_keys(folder)


@pytest.mark.parametrize("bits", [0o400, 0o600, 0o700])
def test_a_secret_closed_to_others_is_fine(folder: Path, bits: int) -> None:
    for name in SECRETS:
        (folder / name).chmod(bits)
    assert list_keys(folder)
    assert LocalLoaderKeys.load(folder)
    assert LocalOpenerKeys.load(folder)


@pytest.mark.parametrize("bits", [0o664, 0o646, 0o666])
def test_a_public_key_that_others_can_change_is_refused(folder: Path, bits: int) -> None:
    """Whoever replaces it gets everything that is sealed from then on."""
    (folder / SEAL_PUBLIC).chmod(bits)
    error = refusal(folder)
    assert "written by others" in error.message
    assert error.hint.startswith("chmod 644 ")


@pytest.mark.parametrize(
    ("user", "owner", "fine"), [(0, 0, True), (7, 7, True), (7, 0, True), (7, 8, False), (0, 8, False)]
)
def test_a_file_belongs_to_the_user_or_root(
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    owner: int,
    fine: bool,  # noqa: FBT001 - a case
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    status: Any = SimpleNamespace(st_mode=stat.S_IFREG | 0o600, st_uid=owner, st_size=10)
    if fine:
        files._check(Path("f"), status, files.SECRET)
    else:
        with pytest.raises(ConfigError, match="neither this user nor root") as caught:
            files._check(Path("f"), status, files.SECRET)
        assert f"chown {user} f" in caught.value.hint


@pytest.mark.parametrize("name", [TOKEN_ROOT, SEAL_PUBLIC, SEAL_PRIVATE])
def test_a_symlink_is_refused(folder: Path, name: str) -> None:
    (folder / name).rename(folder / "real")
    (folder / name).symlink_to("real")
    assert "is a symlink" in refusal(folder).message


@pytest.mark.parametrize("kind", ["folder", "pipe", "large"])
@pytest.mark.parametrize("name", [TOKEN_ROOT, SEAL_PUBLIC, SEAL_PRIVATE])
def test_what_is_no_key_file_is_refused(folder: Path, name: str, kind: str) -> None:
    path = folder / name
    path.unlink()
    if kind == "folder":
        path.mkdir(0o700)
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    else:
        path.write_bytes(bytes(1 << 20))
        path.chmod(0o600)
    message = refusal(folder).message
    assert "too large" in message if kind == "large" else "no regular file" in message


@pytest.mark.parametrize("name", [TOKEN_ROOT, SEAL_PUBLIC])
def test_a_missing_file_says_how_to_make_one(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"{name} is missing") as caught:
        LocalLoaderKeys.load(folder)
    assert "coatcheck keys init" in caught.value.hint


def test_a_missing_folder_or_private_key_says_so(folder: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", folder / TOKEN_ROOT):
        with pytest.raises(ConfigError, match="is missing"):
            list_keys(path)
    (folder / SEAL_PRIVATE).unlink()
    with pytest.raises(ConfigError, match="is missing") as caught:
        LocalOpenerKeys.load(folder)
    assert "opening needs it" in caught.value.hint


def test_a_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError, match=r"cannot be read \(EACCES\)") as caught:
        LocalLoaderKeys.load(folder)
    assert "owner" in caught.value.hint


DAMAGE: list[bytes] = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"version":1}', b'"canary"']


@pytest.mark.parametrize("name", [TOKEN_ROOT, SEAL_PUBLIC, SEAL_PRIVATE])
@pytest.mark.parametrize("data", DAMAGE)
def test_a_damaged_file_is_refused_and_not_quoted(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    load = LocalLoaderKeys.load if name == TOKEN_ROOT else LocalOpenerKeys.load
    with pytest.raises(ConfigError, match="damaged") as caught:
        load(folder)
    assert str(folder / name) in caught.value.message
    assert caught.value.hint
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "fields",
    [
        {"active": "k2"},
        {"keys": []},
        {"tenant": "a b"},
        {"keys": [{"kid": "1", "root": base64.b64encode(bytes(32)).decode(), "created": ""}], "active": "1"},
        {"keys": [{"kid": "k1", "root": base64.b64encode(bytes(16)).decode(), "created": ""}]},
        {"keys": [{"kid": "k1", "root": "canary!", "created": ""}]},
        {"keys": [{"kid": "k1", "root": base64.b64encode(bytes(32)).decode(), "created": ""}] * 2},
        {"version": 2},
        {"tenant": "other"},
        {"ledger": base64.b64encode(bytes(31)).decode()},
        {"ledger": "canary!"},
        {"ledger": None},
    ],
)
def test_token_roots_that_make_no_sense_are_refused(folder: Path, fields: dict[str, object]) -> None:
    edit(folder / TOKEN_ROOT, **fields)
    with pytest.raises(ConfigError) as caught:
        LocalLoaderKeys.load(folder)
    assert caught.value.hint
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "0" * 16},
        {"public": base64.b64encode(bytes(32)).decode()},
        {"public": base64.b64encode(bytes(31)).decode()},
        {"suite": "rot13"},
        {"tenant": ""},
        {"version": 2},
    ],
)
def test_a_seal_key_that_makes_no_sense_is_refused(folder: Path, fields: dict[str, object]) -> None:
    edit(folder / SEAL_PUBLIC, **fields)
    for load in (LocalLoaderKeys.load, LocalOpenerKeys.load, list_keys):
        with pytest.raises(ConfigError) as caught:
            load(folder)
        assert caught.value.hint


def test_no_repr_and_no_error_shows_a_key(folder: Path) -> None:
    loader, opener = LocalLoaderKeys.load(folder), LocalOpenerKeys.load(folder)
    tokenizer = Tokenizer(loader.token_root(), tenant="default", kid="k1")
    sealer, opening = Sealer(loader), Opener(opener)
    sealed = sealer.seal(b"canary 203.0.113.77", b"canary context")
    data_key = sealer.data_key(sealed.dek_id)
    roots = read_roots(folder / TOKEN_ROOT)
    shown = [
        repr(thing) + str(thing) for thing in (loader, opener, tokenizer, sealer, opening, sealed, data_key, roots)
    ]
    shown.append(repr(loader.describe()))
    for context in (b"", b"other"):
        with pytest.raises(CoatcheckError) as caught:
            opening.open(sealed, data_key, context)
        shown.append(repr(caught.value) + caught.value.hint)
    root, ledger = loader.token_root(), loader.ledger_root()
    text = "\n".join([*shown, pretty_repr(roots)])
    for secret in (
        "canary",
        repr(root)[2:-1],
        root.hex(),
        base64.b64encode(root).decode(),
        repr(ledger)[2:-1],
        ledger.hex(),
        base64.b64encode(ledger).decode(),
        repr(opener.unwrap(data_key)),
    ):
        assert secret not in text


# ---- the content of a secret in the place of a file


def test_the_token_root_may_come_as_text(folder: Path) -> None:
    keys = LocalLoaderKeys.load(folder)
    text = (folder / TOKEN_ROOT).read_text()
    (folder / TOKEN_ROOT).unlink()
    given = LocalLoaderKeys.load(folder, token_root=text)
    assert (given.token_root(), given.ledger_root()) == (keys.token_root(), keys.ledger_root())


def test_the_private_key_may_come_as_text(folder: Path, tmp_path: Path) -> None:
    create(tmp_path / "closed", passphrase=PASSPHRASE)
    for path, passphrase in ((folder, None), (tmp_path / "closed", PASSPHRASE)):
        text = (path / SEAL_PRIVATE).read_text()
        (path / SEAL_PRIVATE).unlink()
        _, key, data_key = LocalLoaderKeys.load(path).new_data_key()
        assert LocalOpenerKeys.load(path, passphrase, private_key=text).unwrap(data_key) == key


@pytest.mark.parametrize("text", ["", "canary", "{", '{"version": 2}', "\ud800 canary", "[" * 9])
def test_a_text_that_is_no_key_is_named_by_its_option_and_not_quoted(folder: Path, text: str) -> None:
    for option, load in (
        ("keys.token_root", lambda: LocalLoaderKeys.load(folder, token_root=text)),
        ("keys.private_key", lambda: LocalOpenerKeys.load(folder, private_key=text)),
    ):
        with pytest.raises(ConfigError, match=option) as caught:
            load()
        assert str(folder) not in caught.value.message
        assert caught.value.hint
        assert "canary" not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None


def test_a_text_of_another_keyring_is_refused(folder: Path, tmp_path: Path) -> None:
    create(tmp_path / "other", "other")
    root, private = ((tmp_path / "other" / name).read_text() for name in SECRETS)
    with pytest.raises(ConfigError, match=r"keys\.token_root and seal-public\.json .* different tenants"):
        LocalLoaderKeys.load(folder, token_root=root)
    with pytest.raises(ConfigError, match=r"keys\.private_key and seal-public\.json .* are no pair"):
        LocalOpenerKeys.load(folder, private_key=private)
    closed = pkcs8.write_private(X25519PrivateKey.generate(), "pw").decode()
    with pytest.raises(ConfigError, match=r"keys\.private_key is encrypted and there is no passphrase"):
        LocalOpenerKeys.load(folder, private_key=closed)


def test_the_private_key_is_labelled_for_those_who_look(folder: Path) -> None:
    public = json.loads((folder / SEAL_PUBLIC).read_text())
    first = (folder / SEAL_PRIVATE).read_text().splitlines()[0]
    assert first == f"coatcheck seal key {public['id']} made {public['created']}"
    private = pkcs8.read_private((folder / SEAL_PRIVATE).read_bytes(), None, name="k")
    assert pair_id(private) == public["id"]


def test_a_private_key_without_a_label_is_fine(folder: Path) -> None:
    before = list_keys(folder)
    lines = (folder / SEAL_PRIVATE).read_text().splitlines(keepends=True)
    (folder / SEAL_PRIVATE).write_text("".join(lines[1:]))
    assert list_keys(folder) == before
    assert LocalOpenerKeys.load(folder)
