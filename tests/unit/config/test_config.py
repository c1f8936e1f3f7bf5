"""The configuration: defaults, precedence, and errors that name the option and never the value."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from coatcheck.config import Config
from coatcheck.config_columns import ColumnConfig
from coatcheck.config_file import write_default
from coatcheck.config_load import find_file, load
from coatcheck.errors import ConfigError
from coatcheck.pipeline.columns import Column, ColumnType, Kind, Mask, Parse

CANARY = "canary-7f3a"
SECTIONS = sorted(Config.model_fields)

DESIGN = """
[source]
queue = "login-queue"

[target]
table = "user_logins"

[columns]
user_id          = { from = "user_id",     type = "varchar(128)", required = true }
device_type      = { from = "device_type", type = "varchar(32)" }
masked_ip        = { from = "ip",          type = "varchar(256)", required = true, parse = "ip",   mask = "token", domain = "ip" }
masked_device_id = { from = "device_id",   type = "varchar(256)", required = true, parse = "text", mask = "token", domain = "device" }
locale           = { from = "locale",      type = "varchar(32)" }
app_version      = { from = "app_version", type = "integer", parse = "version" }
create_date      = { from = "create_date", type = "date", default = "sent_at" }
"""  # noqa: E501 - the design's own words (section 5)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, and an environment without a word for coatcheck."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.upper().startswith("COATCHECK_") or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    return tmp_path


def read(text: str) -> Config:
    Path("c.toml").write_text(text, encoding="utf-8")
    return load("c.toml")


def refused(text: str | None = None) -> str:
    """Return message and hint of the error of a file (or of the environment alone)."""
    with pytest.raises(ConfigError) as caught:
        load() if text is None else read(text)
    error = caught.value
    assert error.exit_code == 2
    assert CANARY not in f"{error.message}{error.hint}{error}{error!r}"
    assert error.__suppress_context__ or error.__context__ is None
    return f"{error.message} | {error.hint}"


def toml(value: Any) -> str:
    """Write a value as TOML (JSON is, but for tables and null)."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def a_column(**options: Any) -> str:
    return f"[columns]\nc = {toml({'from': 'f', 'type': 'text'} | options)}\n"


# -- defaults


def test_with_no_file_the_designs_login_pipeline_runs() -> None:
    assert load() == Config() == read(DESIGN)
    assert [column.name for column in Config().plan()] == [
        "user_id", "device_type", "masked_ip", "masked_device_id", "locale", "app_version", "create_date",
    ]  # fmt: skip
    text256 = ColumnType(Kind.VARCHAR, 256)
    assert Config().plan()[2:] == (
        Column("masked_ip", ("ip",), text256, required=True, parse=Parse.IP, mask=Mask.TOKEN, domain="ip", vault=True),
        replace(
            Column("masked_device_id", ("device_id",), text256, True, parse=Parse.TEXT, mask=Mask.TOKEN),
            domain="device",
            vault=True,
        ),
        Column("locale", ("locale",), ColumnType(Kind.VARCHAR, 32)),
        Column("app_version", ("app_version",), ColumnType(Kind.INTEGER), parse=Parse.VERSION),
        Column("create_date", ("create_date",), ColumnType(Kind.DATE), default_sent_at=True),
    )


def test_the_designs_figures_are_the_defaults() -> None:
    config = load()
    assert (config.source.wait_seconds, config.batch.messages, config.batch.seconds) == (20, 1000, 0.1)
    assert (config.ledger.key, config.keys.provider, config.masking.allow_sha256_insecure) == (
        "message_id",
        "local",
        False,
    )


def test_an_empty_file_is_the_built_in_pipeline() -> None:
    assert read("").plan() == Config().plan()


def models() -> list[type[BaseModel]]:
    sections = [field.annotation for field in Config.model_fields.values()]
    return [
        ColumnConfig,
        Config,
        *(model for model in sections if isinstance(model, type) and issubclass(model, BaseModel)),
    ]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_byte_order_mark_before_the_file_is_not_part_of_it(folder: Path, ends: str) -> None:
    (folder / "c.toml").write_bytes(f'\ufeff[source]{ends}queue = "here"{ends}'.encode())
    assert load("c.toml").source.queue == "here"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_utf_16_is_told(folder: Path, encoding: str) -> None:
    (folder / "c.toml").write_bytes('\ufeff[source]\nqueue = "CANARY"\n'.encode(encoding))
    with pytest.raises(ConfigError) as caught:
        load("c.toml")
    assert (caught.value.message, caught.value.hint) == ("c.toml is UTF-16", "save it as UTF-8")


def test_every_option_has_a_description() -> None:
    assert all(field.description for model in models() for field in model.model_fields.values())


def test_a_configuration_does_not_change() -> None:
    config = load()
    with pytest.raises(ValueError, match="frozen"):
        config.source.queue = "other"  # type: ignore[misc]  # that is the point
    with pytest.raises(ValueError, match="frozen"):
        config.source = config.source  # type: ignore[misc]  # that is the point


# -- file, environment, and which comes first


def test_the_environment_outranks_the_file_option_by_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_SOURCE__QUEUE", "from-environment")
    monkeypatch.setenv("COATCHECK_BATCH__MESSAGES", "7")
    monkeypatch.setenv("COATCHECK_TARGET__PREPARE", "true")
    config = read('[source]\nqueue = "from-file"\nwait_seconds = 3\n[batch]\nmessages = 5\nseconds = 0.5\n')
    assert (config.source.queue, config.source.wait_seconds) == ("from-environment", 3)
    assert (config.batch.messages, config.batch.seconds, config.target.prepare) == (7, 0.5, True)


def test_containers_need_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_COLUMNS", json.dumps({"n": {"from": "a.b", "type": "bigint", "required": True}}))
    monkeypatch.setenv("COATCHECK_TARGET", '{"table": "t", "connections": 3}')
    monkeypatch.setenv("COATCHECK_TARGET__CONNECTIONS", "4")
    config = load()
    assert config.plan() == (Column("n", ("a", "b"), ColumnType(Kind.BIGINT), required=True),)
    assert (config.target.table, config.target.connections) == ("t", 4)


def test_one_option_of_a_files_column_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_COLUMNS__LOCALE__TYPE", "varchar(64)")
    plan = {column.name: column for column in read(DESIGN).plan()}
    assert plan["locale"].type == ColumnType(Kind.VARCHAR, 64)
    assert len(plan) == 7


def test_which_file_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_file(None) is None
    (folder / "coatcheck.toml").write_text('[source]\nqueue = "here"\n')
    assert find_file(None) == Path("coatcheck.toml")
    assert load().source.queue == "here"
    (folder / "other.toml").write_text('[source]\nqueue = "other"\n')
    monkeypatch.setenv("COATCHECK_CONFIG", "other.toml")
    assert load().source.queue == "other"
    (folder / "third.toml").write_text('[source]\nqueue = "third"\n')
    assert load("third.toml").source.queue == "third"


@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_named_file_must_be_there(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "variable":
        monkeypatch.setenv("COATCHECK_CONFIG", "nowhere.toml")
    with pytest.raises(ConfigError, match=r"there is no configuration file nowhere\.toml") as caught:
        load("nowhere.toml" if by == "option" else None)
    assert "coatcheck init" in caught.value.hint


def test_a_folder_is_no_file(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load(str(folder))


def test_a_relative_keys_path_starts_at_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().keys.path == Path("coatcheck-keys")
    (folder / "etc").mkdir()
    (folder / "etc" / "c.toml").write_text('[keys]\npath = "my/keys"\n')
    assert load("etc/c.toml").keys.path == Path("etc/my/keys")
    assert load(str(folder / "etc" / "c.toml")).keys.path == folder / "etc" / "my" / "keys"
    (folder / "etc" / "none.toml").write_text("")
    assert load("etc/none.toml").keys.path == Path("etc/coatcheck-keys")
    (folder / "etc" / "absolute.toml").write_text('[keys]\npath = "/run/keys"\n')
    assert load("etc/absolute.toml").keys.path == Path("/run/keys")
    monkeypatch.setenv("COATCHECK_KEYS__PATH", "/from/environment")
    assert load("etc/c.toml").keys.path == Path("/from/environment")


def test_where_the_database_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().conninfo() == ""
    monkeypatch.setenv("DATABASE_URL", "postgresql://from/url")
    assert load().conninfo() == "postgresql://from/url"
    monkeypatch.setenv("COATCHECK_TARGET__DSN", "postgresql://from/option")
    assert load().conninfo() == "postgresql://from/option"


# -- the file to start from


def test_the_default_file_is_the_built_in_pipeline(folder: Path) -> None:
    write_default(folder / "coatcheck.toml")
    config = load()
    assert config.plan() == Config().plan()
    assert config == Config()
    parsed = tomllib.loads((folder / "coatcheck.toml").read_text(encoding="utf-8"))
    assert parsed["columns"] == tomllib.loads(DESIGN)["columns"]


def test_the_default_file_never_overwrites(folder: Path) -> None:
    path = folder / "coatcheck.toml"
    path.write_text("# mine\n")
    with pytest.raises(ConfigError, match="exists") as caught:
        write_default(path)
    assert "never overwritten" in caught.value.hint
    assert path.read_text() == "# mine\n"
    link = folder / "link.toml"
    link.symlink_to(folder / "dangling.toml")
    with pytest.raises(ConfigError, match="exists"):
        write_default(link)
    assert not (folder / "dangling.toml").exists()


def test_the_default_file_in_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        write_default(folder / "no" / "coatcheck.toml")


# -- secrets


def test_secrets_do_not_show() -> None:
    config = read(f'[target]\ndsn = "postgresql://u:{CANARY}@h/d"\n[keys]\npassphrase = "{CANARY}"\n')
    assert CANARY in config.conninfo()
    shown = f"{config!r}{config}{config.target!r}{config.keys}{config.model_dump()}{config.model_dump_json()}"
    assert CANARY not in shown
    assert "**********" in repr(config.target)


# -- errors: the option's name, never its value

OPTIONS = [
    (section, option)
    for section in SECTIONS
    if section != "columns"
    for option in getattr(Config.model_fields[section].annotation, "model_fields", {})
]


@pytest.mark.parametrize(("section", "option"), OPTIONS)
@pytest.mark.parametrize("value", [[CANARY], {CANARY: CANARY}, [[{"x": CANARY}]]], ids=["list", "table", "nested"])
def test_a_wrong_type_names_the_option(section: str, option: str, value: Any) -> None:
    assert f"{section}.{option}" in refused(f"[{section}]\n{option} = {toml(value)}\n")


FREE = {"queue", "region", "profile", "endpoint_url", "ca_bundle", "dsn", "table", "path", "passphrase",
        "token_root", "private_key", "audit_key", "token_key", "vault_key", "checkpoint_to",
        "otlp_headers"}  # fmt: skip


@pytest.mark.parametrize(("section", "option"), [pair for pair in OPTIONS if pair[1] not in FREE])
def test_a_wrong_text_names_the_option(section: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"{section}.{option}" in refused(f"[{section}]\n{option} = {toml(CANARY)}\n")
    monkeypatch.setenv(f"COATCHECK_{section}__{option}".upper(), CANARY)
    assert f"{section}.{option}" in refused()


COLUMN_OPTIONS = [field.alias or name for name, field in ColumnConfig.model_fields.items()]


@pytest.mark.parametrize("option", COLUMN_OPTIONS)
@pytest.mark.parametrize("value", [[CANARY], {"x": CANARY}], ids=["list", "table"])
def test_a_wrong_type_names_the_columns_option(option: str, value: Any) -> None:
    assert f"columns.c.{option}" in refused(a_column(**{option: value}))


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", [CANARY, 5, [CANARY]], ids=["text", "number", "list"])
def test_a_section_must_be_a_table(section: str, value: Any) -> None:
    assert section in refused(f"{section} = {toml(value)}\n")


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_from_the_environment_must_be_json(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (CANARY, f'{{"x": "{CANARY}"', ""):
        monkeypatch.setenv(f"COATCHECK_{section}".upper(), value)
        assert f"COATCHECK_{section.upper()}" in refused()
    for value in (f'["{CANARY}"]', f'"{CANARY}"'):
        monkeypatch.setenv(f"COATCHECK_{section}".upper(), value)
        assert section in refused()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f'quue = "{CANARY}"', "quue"),
        (f'[sources]\nqueue = "{CANARY}"', "sources"),
        (f'[source]\nquue = "{CANARY}"', "source.quue"),
        (f'[columns]\nc = {{ from = "f", type = "text", tyype = "{CANARY}" }}', "columns.c.tyype"),
        (f'[keys]\nsecret = "{CANARY}"', "keys.secret"),
        (f'_env_file = "{CANARY}"', "_env_file"),
        (f'_env_prefix = "{CANARY}"', "_env_prefix"),
        ("_cli_parse_args = true", "_cli_parse_args"),
        (f'__pydantic_self__ = "{CANARY}"', "__pydantic_self__"),
        (f'self = "{CANARY}"', "self"),
    ],
)
def test_an_unknown_option_is_refused_by_name(text: str, name: str) -> None:
    assert f"{name}: no such option" in refused(text)


@pytest.mark.parametrize(
    "name",
    [
        "COATCHECK_",
        "COATCHECK_QUEUE",
        "COATCHECK_SOURCE_QUEUE",
        "COATCHECK_SOURCES__QUEUE",
        "COATCHECK_SOURCE_",
        "coatcheck_queue",
    ],
)
def test_an_unknown_variable_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, CANARY)
    text = refused()
    assert f"unknown environment variable {name}" in text
    assert "COATCHECK_SECTION__OPTION" in text
    assert f"unknown environment variable {name}" in refused(DESIGN)


@pytest.mark.parametrize("name", ["COATCHECK_SOURCE__QUUE", "COATCHECK_COLUMNS__LOCALE__TYYPE"])
def test_an_unknown_option_in_a_variable_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, CANARY)
    option = ".".join(name.removeprefix("COATCHECK_").lower().split("__"))
    assert f"{option}: no such option" in refused(DESIGN)


def test_the_case_of_a_variable_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("coatcheck_source__queue", "lower")
    assert load().source.queue == "lower"


def test_everything_that_is_wrong_is_said_at_once() -> None:
    text = refused(f'[source]\nwait_seconds = 21\nqueue = ""\n[batch]\nmessages = "{CANARY}"\n[nonsense]\nx = 1\n')
    for name in ("source.wait_seconds", "source.queue", "batch.messages", "nonsense", "c.toml"):
        assert name in text


TOML = {
    "no toml": f"queue {CANARY}",
    "no value": f"[source]\nqueue = {CANARY}",
    "unterminated": f'[source]\nqueue = "{CANARY}',
    "twice": f'[source]\nqueue = "{CANARY}"\nqueue = "{CANARY}"',
    "bad escape": f'[source]\nqueue = "{CANARY}\\q"',
    "bad date": "[source]\nqueue = 2024-13-45",
    "huge number": "x = " + "9" * 5000,
    "deep nesting": "x = " + "[" * 50_000,
}


@pytest.mark.parametrize("text", TOML.values(), ids=TOML)
def test_a_file_that_is_no_toml_is_refused(text: str) -> None:
    assert refused(text).startswith("c.toml is no valid TOML | ")


def test_where_the_toml_is_wrong_stands_in_the_hint() -> None:
    assert "line 2" in refused(TOML["no value"])


def test_a_file_that_is_no_utf8_is_refused() -> None:
    Path("c.toml").write_bytes(b"# \xff" + CANARY.encode())
    with pytest.raises(ConfigError, match="no valid TOML") as caught:
        load("c.toml")
    assert caught.value.hint == "the file must be UTF-8"


# -- bounds

BOUNDS: list[tuple[str, list[Any], list[Any]]] = [
    ("source.queue", ["q", "https://sqs.eu-west-1.amazonaws.com/1/q"], [""]),
    ("source.wait_seconds", [1, 20], [0, 21, 1.5]),
    ("source.receivers", [1, 256], [0, 257]),
    ("source.max_in_flight", [10, 120_000], [9, 120_001]),
    ("source.max_in_flight_bytes", [2**20, 2**40], [2**20 - 1]),
    ("target.connections", [1, 32], [0, 33]),
    ("target.table", ["t", "s.t", "_T$1", "a" * 63, f"{'s' * 63}.{'t' * 63}"],
     ["", "1t", "a b", "a.b.c", "t;", 'a"b', "a" * 64, "t\n", ".t", "t.", "ä"]),
    ("batch.messages", [1, 20_000], [0, 20_001]),
    ("batch.seconds", [0, 60, 0.001], [-0.1, 60.1]),
    ("batch.bytes", [2**20], [2**20 - 1]),
    ("breaker.ratio", [0.01, 1], [0, 1.01]),
    ("breaker.window", [10], [9]),
    ("breaker.run", [1], [0]),
    ("run.drain_seconds", [0, 600], [-1]),
    ("run.give_up_seconds", [0, 600], [-1]),
    ("ledger.key", ["message_id", "content", "field:a", "field:a.b", "field:a?", "field:a.b?", "field:?a"],
     ["", "message", "field:", "field", "contents", "field:a\n", "field:?", "field:??", "field:a??", "field:\n?"]),
    ("keys.provider", ["local"], ["kms", ""]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "good", "bad"), BOUNDS, ids=[bound[0] for bound in BOUNDS])
def test_bounds(name: str, good: list[Any], bad: list[Any]) -> None:
    section, option = name.split(".")
    for value in good:
        config = read(f"[{section}]\n{option} = {toml(value)}\n")
        assert getattr(getattr(config, section), option) == value
    for value in bad:
        assert name in refused(f"[{section}]\n{option} = {toml(value)}\n")


@pytest.mark.parametrize(
    "text", ["breaker.ratio = nan", "batch.seconds = nan", "batch.seconds = inf", "run.drain_seconds = nan"]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    assert text.split(maxsplit=1)[0] in refused(text)


# -- columns

GOOD_COLUMNS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"type": " VARCHAR(10) "}, {"type": ColumnType(Kind.VARCHAR, 10)}),
    ({"type": "varchar(10485760)"}, {"type": ColumnType(Kind.VARCHAR, 10_485_760)}),
    ({"from": "a.b.c"}, {"path": ("a", "b", "c")}),
    ({"domain": "d"}, {"mask": Mask.TOKEN, "domain": "d", "vault": True}),
    ({"domain": "d", "vault": False}, {"mask": Mask.TOKEN, "domain": "d"}),
    ({"domain": "d", "mask": "seal"}, {"mask": Mask.SEAL, "domain": "d"}),
    ({"domain": "d", "mask": "subnet", "parse": "ip"}, {"mask": Mask.SUBNET, "domain": "d", "parse": Parse.IP}),
    ({"domain": "d", "mask": "ipcrypt-pfx", "parse": "ip"},
     {"mask": Mask.IPCRYPT_PFX, "domain": "d", "parse": Parse.IP}),
    ({"domain": "d", "mask": "token", "type": "varchar(69)"},
     {"mask": Mask.TOKEN, "domain": "d", "vault": True, "type": ColumnType(Kind.VARCHAR, 69)}),
    ({"domain": "d", "casefold": True, "strip_chars": "-: ."},
     {"mask": Mask.TOKEN, "domain": "d", "vault": True, "casefold": True, "strip_chars": "-: ."}),
    ({"mask": "redact", "type": "varchar(10)"}, {"mask": Mask.REDACT, "type": ColumnType(Kind.VARCHAR, 10)}),
    ({"mask": "keep", "parse": "ip"}, {"parse": Parse.IP}),
    ({"default": "none"}, {"default": "none"}),
    ({"default": "sent_at"}, {"default": "sent_at"}),
    ({"type": "date", "default": "sent_at"}, {"type": ColumnType(Kind.DATE), "default_sent_at": True}),
    ({"type": "timestamptz", "default": "sent_at"}, {"type": ColumnType(Kind.TIMESTAMPTZ), "default_sent_at": True}),
    ({"type": "integer", "default": 0}, {"type": ColumnType(Kind.INTEGER), "default": 0}),
    ({"type": "integer", "default": -(2**31)}, {"type": ColumnType(Kind.INTEGER), "default": -(2**31)}),
    ({"type": "bigint", "default": 2**63 - 1}, {"type": ColumnType(Kind.BIGINT), "default": 2**63 - 1}),
    ({"type": "numeric(10, 2)"}, {"type": ColumnType(Kind.NUMERIC, 10, 2)}),
    ({"type": "numeric", "default": 1.5}, {"type": ColumnType(Kind.NUMERIC), "default": 1.5}),
    ({"type": "date", "default": "2026-01-01"}, {"type": ColumnType(Kind.DATE), "default": "2026-01-01"}),
    ({"type": "boolean", "default": False}, {"type": ColumnType(Kind.BOOLEAN), "default": False}),
    ({"type": "bigint", "parse": "version"}, {"type": ColumnType(Kind.BIGINT), "parse": Parse.VERSION}),
    ({"type": "date", "parse": "timestamp"}, {"type": ColumnType(Kind.DATE), "parse": Parse.TIMESTAMP}),
]  # fmt: skip


@pytest.mark.parametrize(("options", "expected"), GOOD_COLUMNS, ids=[str(options) for options, _ in GOOD_COLUMNS])
def test_good_columns(options: dict[str, Any], expected: dict[str, Any]) -> None:
    (column,) = read(a_column(**options)).plan()
    wanted = replace(Column("c", ("f",), ColumnType(Kind.TEXT)), **expected)
    assert column == wanted
    assert type(column.default) is type(wanted.default)


BAD_COLUMNS: list[tuple[dict[str, Any], str]] = [
    ({"from": ""}, "columns.c.from"),
    ({"type": "varchar"}, "c: varchar takes a length"),
    ({"type": "text(5)"}, "c: only varchar and numeric take a length"),
    ({"type": "varchar(5,2)"}, "c: varchar takes a length"),
    ({"type": "numeric(5,6)"}, "c: varchar takes 10485760 characters at most, numeric 1000 digits"),
    ({"type": "numeric(1001)"}, "c: varchar takes 10485760 characters at most, numeric 1000 digits"),
    ({"type": "varchar(0)"}, "c: unknown type"),
    ({"type": "varchar(10485761)"}, "c: varchar takes 10485760 characters at most"),
    ({"type": "varchar(-1)"}, "c: unknown type"),
    ({"type": CANARY}, "c: unknown type"),
    ({"type": "float"}, "c: unknown type"),
    ({"type": "integer[]"}, "c: unknown type"),
    ({"parse": CANARY}, "columns.c.parse"),
    ({"mask": CANARY}, "columns.c.mask"),
    ({"domain": "Upper"}, "columns.c.domain"),
    ({"domain": "a" * 17}, "columns.c.domain"),
    ({"domain": ""}, "columns.c.domain"),
    ({"domain": f"{CANARY}\n"}, "columns.c.domain"),
    ({"mask": "token"}, 'c: mask = "token" needs a domain'),
    ({"mask": "seal"}, 'c: mask = "seal" needs a domain'),
    ({"mask": "seal", "domain": "d", "vault": True}, 'c: vault = true goes with mask = "token" only'),
    ({"vault": True}, 'c: vault = true goes with mask = "token" only'),
    ({"mask": "subnet", "domain": "d"}, 'c: mask = "subnet" goes with parse = "ip"'),
    ({"mask": "ipcrypt-pfx", "domain": "d"}, 'c: mask = "ipcrypt-pfx" goes with parse = "ip"'),
    ({"mask": "subnet", "domain": "d", "parse": "ip", "casefold": True}, "c: casefold and strip_chars go with"),
    ({"mask": "seal", "domain": "d", "type": "varchar(92)"}, "c: the mask needs varchar(93) or longer"),
    ({"mask": "keep", "domain": "d"}, "c: a domain goes with mask = token, seal, subnet, ipcrypt-pfx only"),
    ({"mask": "redact", "domain": "d"}, "c: a domain goes with mask = token, seal, subnet, ipcrypt-pfx only"),
    ({"mask": "drop", "domain": "d"}, "c: a domain goes with mask = token, seal, subnet, ipcrypt-pfx only"),
    ({"required": True, "default": CANARY}, "c: a required column cannot have a default"),
    ({"required": True, "type": "date", "default": "sent_at"}, "c: a required column cannot have a default"),
    ({"domain": "d", "type": "integer"}, "c: a masked column holds text"),
    ({"domain": "d", "type": "jsonb"}, "c: a masked column holds text"),
    ({"mask": "redact", "type": "date"}, "c: a masked column holds text"),
    ({"domain": "d", "type": "varchar(68)"}, "c: the mask needs varchar(69) or longer"),
    ({"mask": "redact", "type": "varchar(9)"}, "c: the mask needs varchar(10) or longer"),
    ({"mask": "sha256-insecure", "type": "varchar(63)"}, "c: the mask needs varchar(64) or longer"),
    ({"domain": "d", "parse": "version"}, 'c: a masked column takes parse = "ip" or "text" only'),
    ({"mask": "redact", "parse": "timestamp"}, 'c: a masked column takes parse = "ip" or "text" only'),
    ({"domain": "d", "default": CANARY}, "c: a masked column cannot have a default"),
    ({"parse": "version"}, 'c: parse = "version" gives bigint or integer'),
    ({"parse": "timestamp"}, 'c: parse = "timestamp" gives date or timestamptz'),
    ({"parse": "ip", "type": "integer"}, 'c: parse = "ip" gives text or varchar'),
    ({"parse": "text", "type": "jsonb"}, 'c: parse = "text" gives text or varchar'),
    ({"default": 5}, "c: the default does not fit the type"),
    ({"type": "varchar(3)", "default": CANARY}, "c: the default does not fit the type"),
    ({"type": "integer", "default": CANARY}, "c: the default does not fit the type"),
    ({"type": "integer", "default": True}, "c: the default does not fit the type"),
    ({"type": "integer", "default": 2**31}, "c: the default does not fit the type"),
    ({"type": "bigint", "default": 2**63}, "c: the default does not fit the type"),
    ({"type": "boolean", "default": 1}, "c: the default does not fit the type"),
    ({"default": 1.5}, "c: the default does not fit the type"),
    ({"domain": "d", "strip_chars": "abc"}, "columns.c.strip_chars"),
    ({"domain": "d", "strip_chars": "\t"}, "columns.c.strip_chars"),
    ({"domain": "d", "strip_chars": "-" * 33}, "columns.c.strip_chars"),
    ({"casefold": True}, "c: casefold and strip_chars"),
    ({"strip_chars": "-"}, "c: casefold and strip_chars"),
    ({"mask": "redact", "casefold": True}, "c: casefold and strip_chars"),
    ({"domain": "d", "parse": "ip", "casefold": True}, "c: casefold and strip_chars"),
]


@pytest.mark.parametrize(("options", "named"), BAD_COLUMNS, ids=[f"{options}"[:60] for options, _ in BAD_COLUMNS])
def test_bad_columns(options: dict[str, Any], named: str) -> None:
    text = refused(a_column(**{"from": CANARY} | options))
    assert named in text
    assert "columns" in text


@pytest.mark.parametrize("name", ["", "a b", "1a", "a-b", "ä", "a" * 64, 'a"b', "a.b", "a;"])
def test_bad_column_names(name: str) -> None:
    text = refused(f'[columns]\n{json.dumps(name)} = {{ from = "{CANARY}", type = "text" }}\n')
    assert "is no column name" in text


@pytest.mark.parametrize("name", ["a", "_", "A1_b", "a" * 63])
def test_good_column_names(name: str) -> None:
    assert read(f'[columns]\n{name} = {{ from = "f", type = "text" }}\n').plan()[0].name == name


def test_there_must_be_something_to_store() -> None:
    assert "columns" in refused("[columns]\n")
    assert "every column is dropped" in refused(a_column(mask="drop"))


def test_the_weak_mask_needs_its_word() -> None:
    weak = a_column(mask="sha256-insecure", type="varchar(64)")
    assert "allow_sha256_insecure = true" in refused(weak)
    assert "allow_sha256_insecure = true" in refused(weak + "[masking]\nallow_sha256_insecure = false\n")
    (column,) = read(weak + "[masking]\nallow_sha256_insecure = true\n").plan()
    assert column.mask is Mask.SHA256_INSECURE


def test_columns_keep_their_order() -> None:
    names = ["z", "a", "m", "b"]
    text = "[columns]\n" + "".join(f'{name} = {{ from = "{name}", type = "text" }}\n' for name in names)
    assert [column.name for column in read(text).plan()] == names


# -- the grammar of types


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.VARCHAR])
def test_a_type_is_its_own_sql(kind: Kind) -> None:
    type_ = ColumnType.from_text(kind)
    assert (type_, type_.sql) == (ColumnType(kind), str(kind))
    assert type_.textual is (kind is Kind.TEXT)


def test_varchar_carries_its_length() -> None:
    type_ = ColumnType.from_text("varchar(128)")
    assert (type_.sql, type_.length, type_.textual) == ("varchar(128)", 128, True)


def test_no_error_is_raised_from_one_that_holds_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback prints the cause and the context of an error, unless it is told not to."""
    monkeypatch.setenv("COATCHECK_SOURCE__WAIT_SECONDS", CANARY)
    with pytest.raises(ConfigError) as caught:
        load()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


# -- what goes together


def test_columns_of_one_domain_have_one_form() -> None:
    def two(**options: Any) -> str:
        plain, other = ({"from": "f", "type": "text", "domain": "d"} | more for more in ({}, options))
        return f"[columns]\nc = {toml(plain)}\ne = {toml(other)}\n"

    assert "columns: e: the domain d has another canonical form in another column" in refused(two(casefold=True))
    assert "columns: e: the domain d has another" in refused(two(mask="subnet", parse="ip"))
    assert len(read(two(mask="seal")).plan()) == 2


def test_kms_needs_two_different_keys() -> None:
    assert 'provider = "aws-kms" needs token_key and vault_key' in refused('[keys]\nprovider = "aws-kms"\n')
    one = '[keys]\nprovider = "aws-kms"\ntoken_key = "alias/x"\nvault_key = "alias/x"\n'
    assert "token_key and vault_key must differ" in refused(one)


@pytest.mark.parametrize("name", ["COATCHECK_SERVICE_HOST", "COATCHECK_PORT", "COATCHECK_PORT_80_TCP_ADDR"])
def test_what_kubernetes_tells_of_a_service_of_our_name_is_no_option(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "x")
    assert load() == Config()
