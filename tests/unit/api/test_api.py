"""The interface for other programs gives the road's own tokens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.builders import a_message

import coatcheck
from coatcheck import FormError, OpenError, Tokenizer, app, custody
from coatcheck.config_file import write_default
from coatcheck.config_load import load
from coatcheck.errors import ConfigError
from coatcheck.keys import Sealer
from coatcheck.keys.local import create
from coatcheck.keys.rotate import rotate
from coatcheck.pipeline.message import Row

CANARY = "canary-7f3a"
MORE = (
    'network = { from = "ip", type = "text", parse = "ip", mask = "subnet", domain = "net" }\n'
    'name = { from = "name", type = "text", mask = "seal", domain = "name", casefold = true }\n'
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "coatcheck.toml"
    write_default(path)
    path.write_text(path.read_text() + MORE)
    create(tmp_path / "coatcheck-keys", "acme")
    return path


def test_it_gives_the_tokens_of_the_road(file: Path) -> None:
    config = load(str(file))
    keys = custody.loader_keys(config)
    body = '{"user_id": "u", "ip": "::ffff:192.0.2.1", "device_id": " 593-47 "}'
    row = app.road(config, keys, Sealer(keys)).travel(a_message(body))
    assert isinstance(row, Row)
    tokenizer = Tokenizer.from_config(file)
    made = tokenizer.token("ip", "192.0.2.1"), tokenizer.token("device", "593-47"), tokenizer.token("net", "192.0.2.99")
    assert made == (row.values[2], row.values[3], row.values[7])
    assert tokenizer.token_many("ip", ["192.0.2.1", "192.0.2.2"])[0] == made[0]
    assert tokenizer.domains == ("ip", "device", "net")


def test_sealed_text_opens_across_a_rotation(file: Path) -> None:
    def sealed() -> str:
        config = load(str(file))
        keys = custody.loader_keys(config)
        body = '{"user_id": "u", "ip": "192.0.2.1", "device_id": "5", "name": " Ann Müller "}'
        row = app.road(config, keys, Sealer(keys)).travel(a_message(body))
        assert isinstance(row, Row)
        return str(row.values[8])

    old = sealed()
    assert Tokenizer.from_config(file).open(old) == "ann müller"
    rotate(file.parent / "coatcheck-keys")
    new = sealed()
    tokenizer = Tokenizer.from_config(file)
    assert old != new
    assert tokenizer.open(old) == tokenizer.open(new) == "ann müller"
    for other in (
        new[:-1],
        new.replace("_k2_", "_k1_"),
        new.replace("_k2_", "_k3_"),
        CANARY,
        tokenizer.token("ip", "::1"),
    ):
        with pytest.raises(OpenError) as caught:
            tokenizer.open(other)
        assert CANARY not in caught.value.message


def test_an_unknown_domain_is_named_with_those_there_are(file: Path) -> None:
    with pytest.raises(ConfigError, match="no column has the domain 'email'") as caught:
        Tokenizer.from_config(file).token("email", CANARY)
    assert caught.value.hint == "the configuration has ip, device, net"


@pytest.mark.parametrize("value", [f"{CANARY}.1", "", "192.0.2.1:80", "::1%eth0", "010.0.0.1", "192.0.2.0/24"])
def test_what_has_no_canonical_form_is_refused_without_its_value(file: Path, value: str) -> None:
    with pytest.raises(FormError) as caught:
        Tokenizer.from_config(str(file)).token_many("ip", [value])
    assert str(caught.value) in ("not_an_ip", "empty_value")
    assert caught.value.__context__ is None


def test_no_key_no_tokens(file: Path) -> None:
    (file.parent / "coatcheck-keys" / "token-root.json").chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        Tokenizer.from_config(file)


def test_repr_shows_names_only(file: Path) -> None:
    assert repr(Tokenizer.from_config(file)) == "Tokenizer(kid='k1', domains=('ip', 'device', 'net'))"


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import coatcheck, sys; assert not {'pydantic', 'cryptography', 'psycopg'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_other_name() -> None:
    with pytest.raises(AttributeError):
        _ = coatcheck.tokens
    assert set(coatcheck.__all__) == {"FormError", "OpenError", "Tokenizer", "__version__"}
