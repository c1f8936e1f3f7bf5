"""What somebody with one role may try against the work of the others: each was tried once, and worked."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from tests.support.fix_desk import TICKET, People, Person, approved, ask, devices, events, opened, texts
from tests.support.fix_servers import LoginDatabase
from tests.support.vaults import COLUMNS, TABLE, configuration, event, load, token

from coatcheck import app, custody, desk, erasure, rotation
from coatcheck.config import Config
from coatcheck.errors import ConfigError, RefusedError
from coatcheck.keys import rotate
from coatcheck.sinks.postgres.quarantine import Selection
from coatcheck.sql.connection import connect
from coatcheck.vault.erase import Erased
from coatcheck.vault.register import add_seal

WHY = erasure.Why("DSAR", TICKET)


def long_days(session: psycopg.Connection[Any]) -> None:
    """Have a zone whose clock goes back by fourteen days this very day: yesterday is in its future."""
    for first in range(1, 366):
        zone = f"AAA-167BBB167,J{first}/0,J{(first + 180) % 365 + 1}/0"
        session.execute(f"SET TimeZone = '{zone}'".encode())
        if session.execute("SELECT now() - interval '1 day' > now()").fetchone() == (True,):
            return
    raise AssertionError("there is no such zone today")


# --- time zones -------------------------------------------------------------------------------------------------------


def test_a_data_key_in_use_outlives_an_epoch_in_any_zone(desk_database: LoginDatabase, people: People) -> None:
    desk_database.execute(
        "INSERT INTO coatcheck.vault SELECT token, 20251, dek_id, nonce, ciphertext FROM coatcheck.vault LIMIT 1;"
        "DELETE FROM coatcheck.vault WHERE epoch <> 20251; DELETE FROM coatcheck.quarantine"
    )
    with people.new("eraser").connect() as session:
        long_days(session)
        begun = session.execute("SELECT erasure_id FROM coatcheck.erase_begin('epoch', 'DSAR', %s, '{}')", [TICKET])
        found = session.execute(
            "SELECT entries, data_keys, young FROM coatcheck.erase_epoch(%s, 20251)", begun.fetchone()
        ).fetchone()
    assert found == (1, 0, 1)


@pytest.mark.parametrize("zone", ["AAA-167", "AAA167"])
def test_the_ledger_remembers_its_days_in_any_zone(desk_database: LoginDatabase, people: People, zone: str) -> None:
    desk_database.execute("DELETE FROM coatcheck.ledger")
    desk_database.execute(
        "INSERT INTO coatcheck.ledger SELECT gen_random_uuid(), (now() AT TIME ZONE 'UTC')::date - 25, 7"
    )
    with people.new("loader").connect() as session:
        session.execute(f"SET TimeZone = '{zone}'".encode())
        assert session.execute("SELECT coatcheck.prune(30)").fetchone() == (0,)
    assert desk_database.count("coatcheck.ledger") == 1


# --- the quarantine ---------------------------------------------------------------------------------------------------


def test_a_body_that_was_loaded_is_not_kept(
    desk_database: LoginDatabase, desk_config: Config, people: People, asker: Person
) -> None:
    """It would come back after the erasure of the person it is about."""
    operator = people.new("operator")
    body = event(1, device="x" * 300)
    narrow = configuration(
        desk_database, people.keyring, {"who": {"from": "who", "type": "varchar(5)"}, "device": COLUMNS["device"]}
    )
    load(narrow, body)
    assert app.quarantine_retry(operator.config, Selection(reason="too_long")).loaded == 1
    [(state, text, nonce)] = desk_database.execute(
        "SELECT state, ciphertext, nonce FROM coatcheck.quarantine WHERE reason = 'too_long'"
    )
    assert (state, text, nonce) == ("loaded", None, None)
    for change in ("state = 'held'", "resolved_by = 'somebody'", "reason = 'other'", "ciphertext = ''"):
        with operator.connect() as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute(f"UPDATE coatcheck.quarantine SET {change}".encode())
    with pytest.raises(RefusedError, match="not held any more"):
        ask(asker, ["quarantine:2"])
    assert desk_config.target.table == TABLE


def test_a_retry_ends_what_it_opened_only(people: People, desk_database: LoginDatabase, desk_config: Config) -> None:
    one, other = people.new("operator"), people.new("operator")
    load(desk_config, "no json either")
    with one.connect() as session, other.connect() as foreign:
        opening = session.execute("SELECT request_id FROM coatcheck.retry_open('{1}', NULL)").fetchone()
        assert opening is not None
        for somebody, item in ((session, 2), (foreign, 1)):
            for call in ("retry_loaded(%s, %s)", "retry_rejected(%s, %s, 'x', 'y')"):
                with pytest.raises(psycopg.Error) as caught:
                    somebody.execute(f"SELECT coatcheck.{call}".encode(), [opening[0], item])
                assert caught.value.sqlstate == "CC003"
    assert desk_database.value("SELECT count(*) FROM coatcheck.quarantine WHERE state = 'held'") == 2


# --- keys and epochs --------------------------------------------------------------------------------------------------


def test_a_loader_brings_no_further_token_key(
    people: People, desk_database: LoginDatabase, desk_config: Config
) -> None:
    """It would stand in the way of the next rotation, under another fingerprint."""
    loader = people.new("loader")
    with loader.connect() as session:
        session.execute("SELECT coatcheck.register_keys('{k2,k1}', '{x,y}', '{device}', '{text/v1}')")
        for statement in (
            "INSERT INTO coatcheck.token_key (kid, fingerprint) VALUES ('k2', 'x')",
            "INSERT INTO coatcheck.form VALUES ('new', 'k1', 'ip/v1')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(statement.encode())
    assert desk_database.execute("SELECT kid FROM coatcheck.token_key") == [("k1",)]
    rotate.rotate(people.keyring)  # a keyring that was rotated where there is no database
    with pytest.raises(ConfigError, match="does not know the token key k2"):
        load(loader.config, event(1))
    rotation.retokenize(people.new("rotator").config)
    assert load(loader.config, event(1)).loaded == 1
    assert desk_config.target.table == TABLE


@pytest.mark.parametrize(
    "epochs", ["{1990}", "{20500}", "{20265}", "{202613}", "{202600}", "{2000001}", "{-2026}", "{NULL}"]
)
def test_partitions_are_for_epochs_of_about_now(people: People, epochs: str) -> None:
    with people.new("loader").connect() as session, pytest.raises(psycopg.errors.RaiseException):
        session.execute("SELECT coatcheck.make_epochs(%s)", [epochs])


def test_a_rotation_passes_by_what_was_planted(
    people: People, desk_database: LoginDatabase, desk_config: Config
) -> None:
    """Entries for a key that is not here stay, and are told of; all others get their new tokens."""
    with people.new("loader").connect() as session:
        session.execute(
            "INSERT INTO coatcheck.data_key (dek_id, kek, wrapped)"
            " VALUES ('00000000-0000-4000-8000-000000000001', 'local:0123456789abcdef', 'x')"
        )
        for epoch in (20301, 20302):
            session.execute(
                "INSERT INTO coatcheck.vault (token, epoch, dek_id, nonce, ciphertext)"
                " VALUES (%s, %s, '00000000-0000-4000-8000-000000000001', %s, %s)",
                [devices(desk_config)[0], epoch, b"n" * 12, b"c" * 64],
            )
    rotation.rotate(desk_config)
    done = rotation.retokenize(desk_config)
    assert (done.foreign, done.mismatched, done.left) == (2, 0, {"tag": 60})
    assert desk_database.value("SELECT count(*) FROM coatcheck.vault WHERE token LIKE 'pt1\\_device\\_k2\\_%'") == 60


def test_a_rotation_with_the_wrong_private_key_tells(people: People, desk_config: Config) -> None:
    rotation.rotate(desk_config)
    rotated = custody.rotate_seal(desk_config)
    with connect(custody.dsn(desk_config)) as connection:
        add_seal(connection, f"local:{rotated.key_id}")
    for path in people.keyring.glob("seal-private.*.pem"):
        path.unlink()
    done = rotation.retokenize(desk_config)
    assert (done.entries, done.foreign) == (0, 120)


# --- aliases and erasure ----------------------------------------------------------------------------------------------


def plant_links(loader: Person, victims: list[str], successor: str) -> None:
    with loader.connect() as session:
        for victim in victims:
            session.execute("INSERT INTO coatcheck.alias VALUES (%s, %s)", [victim, successor])


def test_planted_links_do_not_widen_an_erasure(people: People, desk_config: Config) -> None:
    successor = devices(desk_config)[0].replace("_k1_", "_k2_")
    plant_links(people.new("loader"), devices(desk_config, 20), successor)
    done = erasure.erase_tokens(people.new("eraser").config, devices(desk_config, 1, 19), WHY).erased
    assert isinstance(done, Erased)
    assert done.texts == 1


def test_links_of_improbable_number_stop_it(people: People, desk_database: LoginDatabase, desk_config: Config) -> None:
    rotation.rotate(desk_config)
    successor = token(desk_config, "device", "device-0", "k2")
    plant_links(people.new("loader"), [token(desk_config, "device", f"device-{n}", "k1") for n in range(60)], successor)
    victim = token(desk_config, "device", "device-7", "k1")
    with pytest.raises(RefusedError, match="is linked to 60 others"):
        erasure.erase_tokens(people.new("eraser").config, [victim], WHY)
    assert desk_database.value(f"SELECT count(*) FROM {TABLE} WHERE device = %s", victim) == 1


@pytest.mark.parametrize(
    "link",
    [
        ("pt1_device_k1_" + "0" * 40, "pt1_ip_k2_" + "0" * 40),
        ("pt1_device_k1_" + "0" * 40, "ps1_device_k2_" + "0" * 40),
        ("pt1_device_k1_" + "0" * 40, "pt1_device_k1_" + "1" * 40),
        ("10.0.0.1", "10.0.0.2"),
    ],
)
def test_a_link_is_between_keys_of_one_domain(people: People, link: tuple[str, str]) -> None:
    with people.new("loader").connect() as session, pytest.raises(psycopg.errors.CheckViolation):
        session.execute("INSERT INTO coatcheck.alias VALUES (%s, %s)", list(link))


def test_an_eraser_does_not_wipe_out_what_he_has_looked_at(
    people: People, desk_database: LoginDatabase, approver: Person
) -> None:
    both = people.new("revealer", "eraser")
    assert texts(opened(both, approved(both, approver, ["quarantine:1"]))) == {"quarantine:1": "no json"}
    with both.connect() as session:
        begun = session.execute("SELECT erasure_id FROM coatcheck.erase_begin('token', 'DSAR', %s, '{}')", [TICKET])
        number = begun.fetchall()[0][0]
        with pytest.raises(psycopg.Error) as caught:
            session.execute("SELECT coatcheck.erase_tokens(%s, '{quarantine:1}')", [number])
        assert caught.value.sqlstate == "CC002"
    assert desk_database.value("SELECT item FROM coatcheck.reveal_item") == "quarantine:1"
    assert desk_database.value("SELECT salt IS NOT NULL FROM coatcheck.reveal_request")


def test_an_erasure_is_begun_by_who_erases_and_once(people: People, desk_database: LoginDatabase) -> None:
    one, other = people.new("eraser"), people.new("eraser")
    with one.connect() as session, other.connect() as foreign:
        begun = session.execute("SELECT erasure_id FROM coatcheck.erase_begin('token', 'DSAR', %s, '{}')", [TICKET])
        number = begun.fetchall()[0][0]
        for somebody, numbers in ((foreign, (number,)), (session, (number + 1, 0, None))):
            for wrong in numbers:
                with pytest.raises(psycopg.Error) as caught:
                    somebody.execute("SELECT coatcheck.erase_tokens(%s, '{}')", [wrong])
                assert caught.value.sqlstate == "CC005"
        session.execute("SELECT coatcheck.erase_tokens(%s, '{}')", [number])
        session.execute("SELECT coatcheck.erase_end(%s, '{}')", [number])
        for call in ("erase_tokens(%s, '{}')", "erase_end(%s, '{}')", "erase_epoch(%s, 20251)"):
            with pytest.raises(psycopg.Error) as caught:
                session.execute(f"SELECT coatcheck.{call}".encode(), [number])
            assert caught.value.sqlstate == "CC005"
    assert [event for _, event in events(desk_database)] == ["erasure begun", "tokens erased", "erasure ended"]


def test_figures_hold_no_value(people: People, desk_database: LoginDatabase) -> None:
    figures = {
        "how": 1, "reason": 5, "ip": 3232235777, "phone": 4917112345, "tokens": 12, "texts": 10**16, "late": 1.5,
        "column": "user_id", "domain": "10.0.0.1", "entries": "7",
    }  # fmt: skip
    with people.new("eraser").connect() as session:
        session.execute("SELECT coatcheck.erase_begin('token', 'DSAR', %s, %s)", [TICKET, json.dumps(figures)])
    assert desk_database.value("SELECT detail::jsonb FROM coatcheck.audit") == {
        "how": "token", "reason": "DSAR", "ticket": TICKET, "tokens": 12, "column": "user_id",
    }  # fmt: skip


# --- the trail --------------------------------------------------------------------------------------------------------


def test_entries_of_the_trail_are_short(people: People, desk_database: LoginDatabase) -> None:
    with people.new("rotator").connect() as session, pytest.raises(psycopg.Error) as caught:
        session.execute("SELECT coatcheck.key_event('rotation asked', repeat('x', 5000))")
    assert caught.value.sqlstate == "CC002"
    assert events(desk_database) == []


@pytest.mark.parametrize("counts", [(2, 0, 0, 0), (0, 0, 0, 0), (-1, 1, 1, 0), (None, 1, 0, 0)])
def test_a_report_adds_up_and_comes_once(
    people: People, desk_config: Config, asker: Person, approver: Person, counts: tuple[int | None, ...]
) -> None:
    number = approved(asker, approver, devices(desk_config))
    with asker.connect() as session:
        session.execute("SELECT coatcheck.reveal_open(%s)", [number])
        session.execute("SELECT coatcheck.reveal_settle(%s)", [number])
        session.execute("SELECT * FROM coatcheck.reveal_fetch(%s)", [number])
        report = "SELECT coatcheck.reveal_shown(%s, %s, %s, %s, %s)"
        with pytest.raises(psycopg.Error) as caught:
            session.execute(report, [number, *counts])
        assert caught.value.sqlstate == "CC003"
        session.execute(report, [number, 1, 0, 0, 0])
        with pytest.raises(psycopg.Error):
            session.execute(report, [number, 1, 0, 0, 0])
    assert people.keyring.exists()


@pytest.mark.parametrize("pattern", ["(?i)inc-[0-9]+", "***=INC", "[", "INC-(", "a{999}"])
def test_a_pattern_that_no_ticket_can_have_is_refused(desk_config: Config, asker: Person, pattern: str) -> None:
    desk.set_policy(desk_config, "reasons", "{TAX}")
    with pytest.raises(RefusedError, match="does not take this value"):
        desk.set_policy(desk_config, "ticket_pattern", pattern)
    ask(asker, devices(desk_config), reason="TAX")
