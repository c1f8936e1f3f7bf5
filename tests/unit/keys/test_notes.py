"""Signed notes against the vectors of their specifications, what is no note, and the audit key's two files."""

from __future__ import annotations

import base64
import pickle
import re
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from coatcheck.errors import ConfigError
from coatcheck.keys.audit_key import AUDIT_PRIVATE, AUDIT_PUBLIC, create, read_public, read_signer, tenant_of
from coatcheck.keys.notes import NoteError, SignerKey, VerifierKey, read_verifier, split_notes
from coatcheck.keys.pkcs8 import read_private_of, write_private

# golang.org/x/mod/sumdb/note, package documentation
GO_VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SIGNER = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
GO_NOTE = f"{GO_TEXT}\n{GO_LINE}".encode()

# RFC 8032, 7.1: seed, public key, message, signature
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe2465"
            "5141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb0"
            "0d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc0"
            "27beceea1ec40a"
        ),
    ),
]


def signer(name: str = "example.com/trail", seed: bytes = bytes(32)) -> SignerKey:
    return SignerKey(name, Ed25519PrivateKey.from_private_bytes(seed))


def _go_key() -> str:
    return GO_SIGNER.removeprefix("PRIVATE+KEY+PeterNeumann+c74f20a3+")


def test_gos_example_is_verified() -> None:
    key = read_verifier(f"{GO_VERIFIER}\n", "x")
    assert (key.name, key.key_id.hex(), key.label) == ("PeterNeumann", "c74f20a3", "PeterNeumann+c74f20a3")
    assert key.to_text() == GO_VERIFIER
    assert key.open(GO_NOTE, "x") == GO_TEXT


def test_gos_example_is_signed() -> None:
    key = signer("PeterNeumann", base64.b64decode(_go_key())[1:])
    assert key.verifier.to_text() == GO_VERIFIER
    assert key.sign(GO_TEXT) == GO_NOTE


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    pem = write_private(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)), "passphrase")
    kind = Ed25519PrivateKey
    key = SignerKey("rfc", read_private_of(kind, pem, "passphrase", name="x"))  # type: ignore[type-abstract]
    assert key.verifier.public.hex() == public
    assert key.signature(bytes.fromhex(message)).hex() == signature
    assert key.verifier.confirms(bytes.fromhex(message), bytes.fromhex(signature))
    assert not key.verifier.confirms(bytes.fromhex(message) + b"x", bytes.fromhex(signature))


@given(st.text(st.characters(min_codepoint=0x20, exclude_categories=["Cs"])).map(lambda text: f"{text}\n"))
def test_what_is_signed_is_opened(text: str) -> None:
    assert signer().verifier.open(signer().sign(text), "x") == text


@given(st.integers(0, len(GO_NOTE) - 1), st.integers(1, 255))
def test_no_byte_of_a_note_can_be_changed(place: int, difference: int) -> None:
    changed = bytearray(GO_NOTE)
    changed[place] ^= difference
    key = read_verifier(GO_VERIFIER, "x")
    with pytest.raises(
        NoteError, match=r"^the place (is no signed note|is not signed by|.*does not fit)|^the signature"
    ):
        key.open(bytes(changed), "the place")


def test_texts_may_have_empty_lines_and_other_signatures() -> None:
    other = signer("other").sign("a\n\n— b\n")
    line = signer().sign("a\n\n— b\n").decode().splitlines()[-1]
    note = other + f"{line}\n".encode()
    assert signer().verifier.open(note, "x") == signer("other").verifier.open(note, "x") == "a\n\n— b\n"


def test_other_keys_are_ignored_though_they_share_name_or_id() -> None:
    key = signer().verifier
    same_name = signer(seed=b"\1" * 32).sign("text\n")
    with pytest.raises(NoteError, match=r"not signed by the key example\.com/trail"):
        key.open(same_name, "x")
    mine = signer().sign("text\n").decode()
    assert key.open((mine + same_name.decode().splitlines()[-1] + "\n").encode(), "x") == "text\n"
    assert key.open((mine + mine.splitlines()[-1].replace("/trail", "/other") + "\n").encode(), "x") == "text\n"


def test_one_bad_signature_of_a_known_key_spoils_the_note() -> None:
    good, bad = signer().sign("text\n").decode(), signer().sign("other\n").decode().splitlines()[-1]
    with pytest.raises(NoteError, match="does not fit"):
        signer().verifier.open(f"{good}{bad}\n".encode(), "x")


LINE = GO_LINE.rstrip("\n")


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n",
        b"text\n",
        GO_TEXT.encode(),
        GO_NOTE[:-1],
        GO_NOTE.replace(b"\n\n", b"\n"),
        GO_NOTE.replace(b"problem is", b"problem\xffis"),
        GO_NOTE.replace(b"problem is", b"problem\tis"),
        GO_NOTE.replace(b"problem is", b"problem\ris"),
        GO_NOTE.replace("— ".encode(), b"- "),
        GO_NOTE.replace("— ".encode(), "—".encode()),
        GO_NOTE.replace(b"PeterNeumann ", b"Peter Neumann "),
        GO_NOTE.replace(b"PeterNeumann ", b"Peter+Neumann "),
        GO_NOTE.replace(b"PeterNeumann ", b" "),
        GO_NOTE.replace(b"nAM=", b"nAM"),
        GO_NOTE.replace(b"nAM=", b"nAM=="),
        f"{GO_TEXT}\n— PeterNeumann x08gow==\n".encode(),
        f"{GO_TEXT}\n{GO_LINE}{GO_LINE}\nx\n".encode(),
        f"{GO_TEXT}\n{GO_LINE * 101}".encode(),
    ],
)  # fmt: skip
def test_what_is_no_note(note: bytes) -> None:
    with pytest.raises(NoteError, match=r"^place is no signed note$") as caught:
        read_verifier(GO_VERIFIER, "x").open(note, "place")
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_sixteen_signatures_are_accepted() -> None:
    others = "".join(signer(f"key{n}").sign("text\n").decode().splitlines()[-1] + "\n" for n in range(99))
    note = signer().sign("text\n") + others.encode()
    assert signer().verifier.open(note, "x") == "text\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PeterNeumann",
        GO_VERIFIER.replace("c74f20a3", "c74f20a4"),
        GO_VERIFIER.replace("c74f20a3", "C74F20A3"),
        GO_VERIFIER.replace("PeterNeumann", "Peter"),
        GO_VERIFIER.replace("+ARpc", "+ARpd"),
        GO_VERIFIER[:-4],
        GO_VERIFIER + "=",
        f" {GO_VERIFIER}",
        f"{GO_VERIFIER}\n{GO_VERIFIER}",
        GO_SIGNER,
    ],
)
def test_what_is_no_public_key(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^file holds no public key of signed notes$"):
        read_verifier(text, "file")


@pytest.mark.parametrize("text", ["", "no end", "a\tb\n", "a\0\n", "a\r\n"])
def test_what_no_note_may_say(text: str) -> None:
    with pytest.raises(ValueError, match="a note's text"):
        signer().sign(text)


def test_notes_one_behind_the_other_fall_apart_again() -> None:
    notes = [signer().sign(f"text\n{number}\n") for number in range(3)]
    assert split_notes(b"".join(notes), "x") == notes
    assert split_notes(b"\n\n".join(notes) + b"\n", "x") == notes
    both = notes[0] + signer("other").sign("text\n0\n").splitlines(keepends=True)[-1]
    assert split_notes(both + notes[1], "x") == [both, notes[1]]


@pytest.mark.parametrize("tail", [b"text\n", b"text\n\n", b"text\n\nno signature\n", "text\n\n— a b".encode(), b"\xff"])
def test_a_note_that_was_cut_off_is_told(tail: bytes) -> None:
    with pytest.raises(NoteError, match=r"^file is no signed note$"):
        split_notes(signer().sign("text\n") + tail, "file")
    with pytest.raises(NoteError):
        split_notes(b"", "file")


def test_splitting_takes_no_longer_than_reading() -> None:
    with pytest.raises(NoteError):
        split_notes(b"\n" * 2_000_000, "file")
    with pytest.raises(NoteError):
        split_notes(b"a\n" * 1_000_000, "file")


# -- the audit key


def made(folder: Path, passphrase: str | None = None) -> SignerKey:
    create(folder, "acme", passphrase=passphrase, clock=lambda: 1_790_000_000.9)
    return read_signer(folder, passphrase)


def test_the_pair_is_written_and_read(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    created = create(folder, "acme", passphrase="correct horse", clock=lambda: 1_790_000_000.9)
    private, public = folder / AUDIT_PRIVATE, folder / AUDIT_PUBLIC
    assert created.files == (private, public)
    assert created.warnings == ()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, private, public)] == [0o700, 0o600, 0o644]
    signer = read_signer(folder, "correct horse")
    assert read_public(public) == signer.verifier
    assert signer.name == "coatcheck/audit/acme"
    assert tenant_of(signer.verifier) == "acme"
    head, begin, *_ = private.read_text().splitlines()
    assert head == f"coatcheck audit key {signer.verifier.label} made 2026-09-21T14:13:20Z"
    assert begin == "-----BEGIN ENCRYPTED PRIVATE KEY-----"
    assert public.read_text() == f"{signer.verifier.to_text()}\n"


def test_in_clear_it_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COATCHECK_KEYS__PASSPHRASE", raising=False)
    [warning] = create(tmp_path, "acme").warnings
    assert re.fullmatch(
        r".*audit-private.pem is stored in clear, as COATCHECK_KEYS__PASSPHRASE is not set: .*", warning
    )
    monkeypatch.setenv("COATCHECK_KEYS__PASSPHRASE", "from outside")
    assert create(tmp_path / "other", "acme").warnings == ()
    assert read_signer(tmp_path / "other").name == "coatcheck/audit/acme"
    with pytest.raises(ConfigError, match="does not open"):
        read_signer(tmp_path / "other", "another")


@pytest.mark.parametrize("name", [AUDIT_PRIVATE, AUDIT_PUBLIC])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"{name} exists"):
        create(tmp_path, "acme")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_other_files_in_the_folder_stay(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    (tmp_path / "token-root.json").write_text("mine")
    create(tmp_path, "acme")
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750
    assert (tmp_path / "token-root.json").read_text() == "mine"


def test_a_bad_tenant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='"a b" is no tenant'):
        create(tmp_path / "keys", "a b")
    assert not (tmp_path / "keys").exists()


def test_the_private_half_as_a_secret(tmp_path: Path) -> None:
    signer = made(tmp_path, "correct horse")
    text = (tmp_path / AUDIT_PRIVATE).read_text()
    same = read_signer(tmp_path / "nowhere", "correct horse", audit_key=text.rstrip("\n"))
    assert same.verifier == signer.verifier
    with pytest.raises(ConfigError, match=r"^keys.audit_key is damaged or holds no Ed25519 key$") as caught:
        read_signer(tmp_path, audit_key="canary-7f3a")
    assert "canary" not in f"{caught.value.message}{caught.value.hint}{caught.value.__context__!r}"


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"audit-private.pem is missing") as caught:
        read_signer(tmp_path)
    assert "`coatcheck audit init-key`" in caught.value.hint
    with pytest.raises(ConfigError, match=r"audit-public.txt is missing"):
        read_public(tmp_path / AUDIT_PUBLIC)
    made(tmp_path)
    path = tmp_path / AUDIT_PRIVATE
    pem = path.read_text()
    for text in (pem.partition("\n")[2], pem.replace("/acme+", "/other+"), pem.replace("audit key", "seal key")):
        path.write_text(text)
        with pytest.raises(ConfigError, match="its first line does not name the key in it"):
            read_signer(tmp_path)
    path.write_bytes(write_private(X25519PrivateKey.generate(), None))
    with pytest.raises(ConfigError, match="holds no Ed25519 key"):
        read_signer(tmp_path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        read_signer(tmp_path)
    (tmp_path / AUDIT_PUBLIC).write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="holds no public key"):
        read_public(tmp_path / AUDIT_PUBLIC)


def test_a_key_of_another_purpose() -> None:
    with pytest.raises(ConfigError, match="signs no audit trail"):
        tenant_of(VerifierKey("PeterNeumann", bytes(32)))


def test_no_key_is_shown(tmp_path: Path) -> None:
    key = made(tmp_path)
    assert repr(key) == "SignerKey(name='coatcheck/audit/acme')"
    with pytest.raises(TypeError):
        pickle.dumps(key)


@pytest.mark.parametrize("name", ["fu\udc8a", "f\ud800", "f\u00e9"])
def test_a_key_whose_name_is_no_text(name: str) -> None:
    """As an argument of the command line that is no UTF-8 comes in. Found by `make fuzz`."""
    good = SignerKey("fuzz", Ed25519PrivateKey.from_private_bytes(bytes(32))).verifier.to_text()
    with pytest.raises(ConfigError) as caught:
        read_verifier(good.replace("fuzz", name), "file")
    assert name not in caught.value.message + caught.value.hint
