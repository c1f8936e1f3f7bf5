"""Several pipelines in one file: what they share, what each has of its own, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coatcheck import config_shown
from coatcheck.config import Config
from coatcheck.config_load import load, load_all, load_shared, select
from coatcheck.errors import ConfigError

CANARY = "canary-5e1f0a"
TWO = """
[batch]
messages = 500
seconds = 0.5

[keys]
path = "ring"

[pipelines.logins.source]
queue = "logins"

[pipelines.orders.source]
queue = "orders"

[pipelines.orders.target]
table = "shop.orders"

[pipelines.orders.batch]
messages = 50

[pipelines.orders.columns]
id    = { from = "id", type = "bigint", required = true }
email = { from = "email", type = "varchar(128)", parse = "text", domain = "email" }
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "COATCHECK_PIPELINE", "COATCHECK_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def read(text: str) -> tuple[Config, ...]:
    Path("coatcheck.toml").write_text(text, encoding="utf-8")
    return load_all()


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert CANARY not in f"{caught.value.message}{caught.value.hint}{caught.value!r}"
    return f"{caught.value.message} | {caught.value.hint}"


def test_a_file_without_pipelines_is_one_named_default() -> None:
    assert [config.pipeline for config in read("")] == ["default"]
    assert load() == Config() == load_shared()


def test_each_pipeline_has_its_own_sections_and_the_defaults_of_the_top_level() -> None:
    logins, orders = read(TWO)
    assert (logins.pipeline, orders.pipeline) == ("logins", "orders")
    assert (logins.source.queue, orders.source.queue) == ("logins", "orders")
    assert (logins.target.table, orders.target.table) == ("user_logins", "shop.orders")
    assert (logins.batch.messages, orders.batch.messages) == (500, 50)
    assert (logins.batch.seconds, orders.batch.seconds) == (0.5, 0.5)
    assert logins.keys == orders.keys
    assert [column.name for column in orders.plan()] == ["id", "email"]
    assert logins.plan() == Config().plan()


def test_columns_of_a_pipeline_take_the_place_of_all_columns_of_the_top_level() -> None:
    text = TWO + '\n[columns]\nother = { from = "o", type = "text" }\n'
    logins, orders = read(text)
    assert [column.name for column in logins.plan()] == ["other"]
    assert [column.name for column in orders.plan()] == ["id", "email"]


def test_the_name_stays_with_a_changed_copy() -> None:
    orders = read(TWO)[1]
    assert orders.model_copy(update={"batch": orders.batch}).pipeline == "orders"
    assert orders != orders.named("others")


def test_the_environment_outranks_the_file_for_one_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_PIPELINES__ORDERS__SOURCE__QUEUE", "elsewhere")
    monkeypatch.setenv("COATCHECK_PIPELINES__ORDERS__BATCH__MESSAGES", "7")
    monkeypatch.setenv("COATCHECK_BATCH__SECONDS", "2")
    monkeypatch.setenv("COATCHECK_BATCH__MESSAGES", "9")
    logins, orders = read(TWO)
    assert (orders.source.queue, orders.batch.messages, orders.batch.seconds) == ("elsewhere", 7, 2.0)
    assert (logins.source.queue, logins.batch.messages, logins.batch.seconds) == ("logins", 9, 2.0)


def test_the_environment_alone_makes_pipelines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_PIPELINES__A__SOURCE__QUEUE", "a")
    monkeypatch.setenv("COATCHECK_PIPELINES__B__SOURCE", '{"queue": "b"}')
    column = {"n": {"from": "a.b", "type": "bigint", "required": True}}
    monkeypatch.setenv("COATCHECK_PIPELINES__B__COLUMNS", json.dumps(column))
    monkeypatch.setenv("COATCHECK_PIPELINES__B__TARGET__TABLE", "b")
    first, second = load_all()
    assert (first.pipeline, first.source.queue, second.pipeline, second.source.queue) == ("a", "a", "b", "b")
    assert [column.name for column in second.plan()] == ["n"]


def test_one_pipeline_is_chosen_by_option_or_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    read(TWO)
    assert load(pipeline="orders").pipeline == "orders"
    monkeypatch.setenv("COATCHECK_PIPELINE", "logins")
    assert load().pipeline == "logins"
    assert load(pipeline="orders").pipeline == "orders"


def test_where_there_are_several_one_has_to_be_named() -> None:
    read(TWO)
    with pytest.raises(ConfigError, match="has several pipelines: logins, orders") as caught:
        load()
    assert "--pipeline" in caught.value.hint
    assert load_shared().pipeline == "logins"


def test_work_on_a_database_needs_a_name_where_there_are_several_databases() -> None:
    text = TWO.replace('table = "shop.orders"', f'table = "shop.orders"\ndsn = "postgresql://u:{CANARY}@h/other"')
    read(text)
    with pytest.raises(ConfigError, match="several pipelines") as caught:
        load_shared()
    assert CANARY not in f"{caught.value.message}{caught.value.hint}"
    assert load_shared(pipeline="orders").pipeline == "orders"


def test_an_unknown_pipeline_is_refused_with_the_names_there_are() -> None:
    configs = read(TWO)
    with pytest.raises(ConfigError, match="no pipeline nowhere") as caught:
        select(configs, ["orders", "nowhere"])
    assert "logins, orders" in caught.value.hint
    assert [config.pipeline for config in select(configs, ["orders", "logins"])] == ["logins", "orders"]
    assert select(configs, ()) == configs


@pytest.mark.parametrize("name", ["Orders", "1st", "a-b", "ä", "a" * 33, "a b", "_a", ""])
def test_a_name_is_short_and_plain(name: str) -> None:
    assert "a name is a lower-case letter" in refused(f'[pipelines."{name}".source]\nqueue = "q"\n')


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[pipelines]\n", "pipelines: it names none"),
        ("pipelines = 1\n", "each pipeline is a table"),
        ("pipelines.a = 1\n", "each pipeline is a table"),
        ("[pipelines.a.keys]\npath = 'x'\n", "pipelines.a.keys: all pipelines share it: move it to [keys]"),
        ("[pipelines.a.vault]\nepoch = 'year'\n", "pipelines.a.vault: all pipelines share it"),
        ("[pipelines.a.nonsense]\nx = 1\n", "pipelines.a.nonsense: no such option"),
        (f"[pipelines.a.source]\nwait_seconds = '{CANARY}'\n", "pipelines.a.source.wait_seconds: "),
        ("[pipelines.a.source]\nnonsense = 1\n", "pipelines.a.source.nonsense: no such option"),
        ("[source]\nwait_seconds = 77\n[pipelines.a.target]\ntable = 't'\n", "wrong: source.wait_seconds: "),
        ("[pipelines.a]\nsource = 3\n", "pipelines.a.source: "),
        ("[pipelines.a.columns]\nx = 1\n", "pipelines.a.columns.x: "),
    ],
)
def test_what_is_wrong_with_pipelines_is_named_where_it_stands(text: str, told: str) -> None:
    assert told in refused(text)


def test_two_pipelines_of_one_queue_are_refused() -> None:
    text = "[pipelines.a.target]\ntable = 'a'\n[pipelines.b.target]\ntable = 'b'\n"
    assert "pipelines.b.source.queue: the pipeline a reads the same queue" in refused(text)


ARN = "arn:aws:sqs:eu-west-1:111122223333:logins"
URL = "https://sqs.eu-west-1.amazonaws.com/111122223333/logins"


@pytest.mark.parametrize(
    ("a", "b", "one"),
    [
        (f"queue = '{ARN}'", f"queue = '{URL}'", True),
        (f"queue = '{URL}'", "queue = 'logins'", True),
        (f"queue = '{URL}/'", "queue = 'logins'\nregion = 'eu-west-1'", True),
        ("queue = 'http://127.0.0.1:9/000000000000/logins'", "queue = 'logins'", True),
        (f"queue = '{ARN}'\nprofile = 'a'", f"queue = '{URL}'\nprofile = 'b'", True),
        (f"queue = '{ARN}'", f"queue = '{ARN.replace('1111', '9999')}'", False),
        (f"queue = '{ARN}'", f"queue = '{URL.replace('west', 'central')}'", False),
        ("queue = 'logins'\nregion = 'eu-west-1'", "queue = 'logins'\nregion = 'us-east-1'", False),
        ("queue = 'logins'\nprofile = 'a'", "queue = 'logins'\nprofile = 'b'", False),
        (f"queue = '{ARN}'", f"queue = '{ARN}2'", False),
    ],
)  # fmt: skip
def test_a_queue_is_one_however_it_is_named(a: str, b: str, one: bool) -> None:  # noqa: FBT001 - a parameter of the test
    text = f"[pipelines.a.source]\n{a}\n[pipelines.b.source]\n{b}\n[pipelines.b.target]\ntable = 'b'\n"
    if one:
        assert "pipelines.b.source.queue: the pipeline a reads the same queue" in refused(text)
    else:
        read(text)


def test_a_domain_has_one_form_in_all_pipelines() -> None:
    column = 'columns.e = { from = "e", type = "text", parse = "text", domain = "d"'
    text = (
        f"[pipelines.a]\nsource.queue = 'a'\n{column} }}\n"
        f"[pipelines.b]\nsource.queue = 'b'\n{column}, casefold = true }}\n"
    )
    assert "pipelines.b.columns: the domain d has another canonical form in the pipeline a" in refused(text)


def test_the_configuration_in_force_shows_each_pipeline_and_what_is_shared_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COATCHECK_PIPELINES__ORDERS__BATCH__SECONDS", "3")
    read(TWO)
    options = list(config_shown.options())
    found = {(option.section, option.name): (option.value, option.origin) for option in options}
    assert len(found) == len(options)
    assert found["pipelines.logins.batch", "messages"] == (500, "file")
    assert found["pipelines.orders.batch", "messages"] == (50, "file")
    assert found["pipelines.orders.batch", "seconds"] == (3.0, "environment")
    assert found["pipelines.logins.source", "wait_seconds"] == (20, "default")
    assert ("keys", "path") in found
    assert ("source", "queue") not in found
    text = "\n".join(config_shown.to_toml(iter(options)))
    monkeypatch.delenv("COATCHECK_PIPELINES__ORDERS__BATCH__SECONDS")
    before = load_all()
    assert [config.source for config in read(text)] == [config.source for config in before]
    assert [config.plan() for config in read(text)] == [config.plan() for config in before]


@pytest.mark.parametrize("section", ["source", "target", "batch", "ledger", "breaker", "columns"])
def test_a_default_that_is_no_table_is_told_by_name(section: str) -> None:
    rest = TWO.partition("[keys]")[2]
    assert f"{section}: it is a table, as in [{section}]" in refused(f"{section} = 5\n[keys]{rest}")


@pytest.mark.parametrize("name", ["PIPELINES", "PIPELINES__ORDERS__SOURCE", "SOURCE"])
def test_a_variable_that_is_no_json_object_is_told_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"COATCHECK_{name}", "canary")
    said = refused(TWO)
    assert f"COATCHECK_{name}: no JSON object" in said
    assert "canary" not in said


def test_a_variable_makes_no_pipeline_beside_those_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_PIPELINES__ORDRES__TARGET__TABLE", "canary")
    said = refused(TWO)
    assert "COATCHECK_PIPELINES__ORDRES: the file has no such pipeline" in said
    assert "canary" not in said
