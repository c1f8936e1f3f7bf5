"""The desk: originals come back on request, approval and record only, whatever somebody tries. See 0003_desk.sql."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.support.fix_desk import (
    NOT_OPEN,
    TICKET,
    People,
    Person,
    approved,
    ask,
    clock,
    devices,
    events,
    fetch,
    opened,
    refused_to_fetch,
    texts,
)
from tests.support.fix_postgres import LIMIT
from tests.support.fix_servers import LoginDatabase
from tests.support.vaults import COLUMNS, MASKED, PLAIN, TABLE, Loader, configuration, event, load, originals, token

from coatcheck import app, custody, desk, rotation, trail
from coatcheck.config import Config
from coatcheck.errors import CoatcheckError, ConfigError, RefusedError, UnreachableError
from coatcheck.keys import Sealer
from coatcheck.keys.local import create
from coatcheck.sinks.postgres.quarantine import Selection
from coatcheck.vault.epochs import Epochs
from coatcheck.vault.reveal import Original
from coatcheck.vault.store import vault_context

NOW = Epochs("quarter").now


@pytest.fixture
def database(desk_database: LoginDatabase) -> LoginDatabase:
    return desk_database


@pytest.fixture
def config(desk_config: Config) -> Config:
    return desk_config


@pytest.fixture
def keyring(desk_keys: Path) -> Path:
    return desk_keys


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_an_original_comes_back_by_two_people_and_on_record(
    database: LoginDatabase, config: Config, asker: Person, approver: Person
) -> None:
    wanted = devices(config, 3)
    number = ask(asker, wanted)
    assert desk.approve(approver.config, number) == 0
    assert texts(opened(asker, number)) == {token: f"device-{place}" for place, token in enumerate(wanted)}
    assert events(database) == [
        (asker.name, "reveal requested"),
        (approver.name, "reveal approved"),
        (asker.name, "reveal opened"),
        (asker.name, "reveal shown"),
    ]
    details = str(database.execute("SELECT detail FROM coatcheck.audit"))
    assert '"shown": 3' in details
    assert TICKET in details
    assert "device-" not in details
    assert wanted[0] not in details
    assert trail.verify(lambda: config, None, (), None).count == 4


def test_a_quarantined_body_comes_back_the_same_way(database: LoginDatabase, asker: Person, approver: Person) -> None:
    [item] = [f"quarantine:{n}" for (n,) in database.execute("SELECT quarantine_id FROM coatcheck.quarantine")]
    assert texts(opened(asker, approved(asker, approver, [item]))) == {item: "no json"}


def test_what_was_asked_for_is_bound_to_the_trail(database: LoginDatabase, config: Config, asker: Person) -> None:
    """The digest is that of salt and items: a request cannot be given other items afterwards, unseen."""
    ask(asker, devices(config, 2))
    said = database.value("SELECT detail::jsonb ->> 'digest' FROM coatcheck.audit")
    recount = (
        "SELECT encode(sha256(salt || coatcheck.framed(array_agg(item ORDER BY item))), 'hex')"
        " FROM coatcheck.reveal_request JOIN coatcheck.reveal_item USING (request_id) GROUP BY salt"
    )
    assert database.value(recount) == said
    database.execute("UPDATE coatcheck.reveal_item SET item = %s WHERE item = %s", *devices(config, 2, 1)[::-1])
    assert database.value(recount) != said


def test_above_fifty_it_takes_two_approvers(config: Config, asker: Person, approver: Person, people: People) -> None:
    number = ask(asker, devices(config, 51))
    assert desk.approve(approver.config, number) == 1
    with pytest.raises(RefusedError, match="waits for 1 more"):
        opened(asker, number)
    with pytest.raises(RefusedError, match="approved this request already"):
        desk.approve(approver.config, number)
    assert desk.approve(people.new("approver").config, number) == 0
    assert len(texts(opened(asker, number))) == 51
    assert desk.request(asker.config, devices(config, 50), reason="FRAUD", ticket=TICKET).approvals == 1


def test_one_person_is_a_policy_that_the_trail_tells(database: LoginDatabase, config: Config, asker: Person) -> None:
    desk.set_policy(config, "one_person", "true")
    assert len(texts(opened(asker, ask(asker, devices(config, 2))))) == 2
    assert database.value("SELECT detail::jsonb -> 'one_person' FROM coatcheck.audit WHERE event = 'reveal requested'")
    assert ("postgres", "policy changed") in events(database)


def test_who_only_asks_reviews_nothing_and_denies_nobody(config: Config, asker: Person, people: People) -> None:
    other = people.new("revealer")
    glass = ask(asker, devices(config), break_glass=True)
    plain = ask(asker, devices(config))
    for number in (glass, plain):
        with pytest.raises(RefusedError, match="another person's"):
            desk.deny(other.config, number)
    with pytest.raises(RefusedError, match="was not reviewed yet"):
        ask(asker, devices(config), break_glass=True)


def test_another_name_is_not_another_person(
    database: LoginDatabase, config: Config, people: People, approver: Person
) -> None:
    both = people.new("revealer", "approver")
    desk.set_policy(config, "daily_items", "60")
    number, other = ask(both, devices(config)), ask(people.new("revealer"), devices(config, 51))
    desk.approve(both.config, other)
    again = "SELECT refusal FROM coatcheck.reveal_request(%s, 'FRAUD', %s)"
    with both.connect() as session:
        database.execute(f"ALTER ROLE {both.name} RENAME TO renamed")
        try:
            for mine, word in ((number, "self"), (other, "twice")):
                found = session.execute("SELECT refusal FROM coatcheck.reveal_approve(%s)", [mine]).fetchone()
                assert found == (word,)
            assert session.execute(again, [devices(config, 60), TICKET]).fetchone() == ("quota",)
        finally:
            database.execute(f"ALTER ROLE renamed RENAME TO {both.name}")
    database.execute(f"ALTER ROLE {both.name} PASSWORD 'known'")
    desk.approve(approver.config, number)
    assert len(opened(both, number)) == 1


def test_a_policy_that_became_stricter_counts(config: Config, asker: Person) -> None:
    desk.set_policy(config, "one_person", "true")
    alone, many = ask(asker, devices(config)), ask(asker, devices(config, 3))
    glass = ask(asker, devices(config), break_glass=True)
    desk.set_policy(config, "most_items", "2")
    with pytest.raises(RefusedError, match="stricter"):
        opened(asker, many)
    desk.set_policy(config, "one_person", "false")
    desk.set_policy(config, "break_glass", "false")
    with pytest.raises(RefusedError, match="stricter"):
        opened(asker, alone)
    with pytest.raises(RefusedError, match="forbids to break"):
        opened(asker, glass)


def test_everybody_sees_what_he_may(config: Config, asker: Person, approver: Person, people: People) -> None:
    other, auditor = people.new("revealer"), people.new("auditor")
    number = ask(asker, devices(config, 2))
    for person, sees in ((asker, True), (approver, True), (auditor, True), (other, False)):
        assert [one.request_id for one in desk.requests(person.config, 10)] == ([number] if sees else [])
        if sees:
            assert sorted(desk.items(person.config, number)) == sorted(devices(config, 2))
        else:
            with pytest.raises(ConfigError, match="no request"):
                desk.items(person.config, number)
    [listed] = desk.requests(approver.config, 10)
    assert (listed.state, listed.requested_by, listed.items, listed.approvals) == ("waiting", asker.name, 2, 1)


# --- refusals: told, on the trail, and without effect -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("items", "options", "words"),
    [
        (["quarantine:999"], {}, "1 of them are not held any more"),
        (["quarantine:1", "pt1_ip_k1_" + "0" * 40], {}, "neither all tokens nor all"),
        ([], {}, "neither all tokens nor all"),
        (["pt1_ip_k1_" + format(n, "040x") for n in range(201)], {}, "200 originals at most"),
        (["pt1_ip_k1_" + "0" * 40], {"reason": "FUN"}, "not one of the policy's"),
        (["pt1_ip_k1_" + "0" * 40], {"reason": ""}, "not one of the policy's"),
        (["pt1_ip_k1_" + "0" * 40], {"ticket": "he said so"}, "does not look like one"),
        (["pt1_ip_k1_" + "0" * 40], {"ticket": "INC-1\nX"}, "does not look like one"),
        (["pt1_ip_k1_" + "0" * 40], {"ticket": "INC-1\n"}, "does not look like one"),
        (["pt1_ip_k1_" + format(n, "040x") for n in range(51)], {"break_glass": True}, "broken glass it is 50"),
    ],
)
def test_requests_that_are_refused(
    database: LoginDatabase, asker: Person, items: list[str], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(RefusedError, match=words):
        ask(asker, items, **options)
    assert events(database) == [(asker.name, "reveal request refused")]
    assert database.count("coatcheck.reveal_request") == 0
    details = str(database.execute("SELECT detail FROM coatcheck.audit"))
    assert not any(value in details for value in ("FUN", "he said so", "pt1_"))


@pytest.mark.parametrize("item", ["CANARY-10.9.8.7", "", "quarantine:x", "quarantine:", "px1_ip_k1_" + "0" * 40])
def test_what_is_no_item_stays_in_the_process(database: LoginDatabase, asker: Person, item: str) -> None:
    with pytest.raises(ConfigError, match="item 2 is no token") as caught:
        ask(asker, ["pt1_ip_k1_" + "0" * 40, item])
    assert not item or item not in f"{caught.value.message}{caught.value.hint}"
    assert events(database) == []
    assert not item or item not in database.log()


def test_a_sealed_text_is_told_apart(config: Config, asker: Person) -> None:
    with pytest.raises(ConfigError, match="sealed text"):
        ask(asker, [token(config, "phone", "+49 1")])


def test_nobody_approves_his_own(database: LoginDatabase, config: Config, people: People) -> None:
    both = people.new("revealer", "approver")
    number = ask(both, devices(config))
    with pytest.raises(RefusedError, match="nobody approves what he asked for"):
        desk.approve(both.config, number)
    with both.connect() as session:  # neither in the clothes of a group
        session.execute("SET ROLE coatcheck_approver")
        assert session.execute("SELECT refusal FROM coatcheck.reveal_approve(%s)", [number]).fetchone() == ("self",)
    with pytest.raises(RefusedError, match="waits for 1 more"):
        opened(both, number)
    assert events(database, "reveal approval refused") == [(both.name, "reveal approval refused")] * 2


def test_who_asked_opens_and_nobody_else(config: Config, asker: Person, approver: Person, people: People) -> None:
    number = approved(asker, approver, devices(config))
    other = people.new("revealer", "approver")
    with pytest.raises(RefusedError, match="another person's"):
        opened(other, number)
    opened(asker, number)
    with other.connect() as session:
        assert refused_to_fetch(session, number)


@pytest.mark.parametrize("role", ["analyst", "loader", "operator", "auditor", "eraser", "rotator", "approver"])
def test_others_cannot_even_ask(config: Config, people: People, role: str) -> None:
    person = people.new(role)
    with pytest.raises(CoatcheckError) as caught:
        desk.request(person.config, devices(config), reason="FRAUD", ticket=TICKET)
    assert not isinstance(caught.value, UnreachableError)
    with person.connect() as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        fetch(session, 1)


def test_denied_and_taken_back(database: LoginDatabase, config: Config, asker: Person, approver: Person) -> None:
    number = approved(asker, approver, devices(config))
    desk.deny(approver.config, number)
    for action in (partial(opened, asker), lambda n: desk.approve(approver.config, n)):
        with pytest.raises(RefusedError, match="denied, or taken back"):
            action(number)
    mine = ask(asker, devices(config))
    desk.deny(asker.config, mine)
    assert [one.state for one in desk.requests(asker.config, 10)] == ["denied", "denied"]
    shown = approved(asker, approver, devices(config))
    opened(asker, shown)
    with pytest.raises(RefusedError, match="opened already"):
        desk.deny(approver.config, shown)
    assert len(events(database, "reveal denied")) == 2


def test_whether_the_vault_has_a_token_is_told_on_record_only(
    database: LoginDatabase, config: Config, asker: Person, approver: Person
) -> None:
    """Who has the token root could otherwise find out unseen who has logged in."""
    there, guess = devices(config)[0], token(config, "device", "device-4711")
    shown = {original.item: original.problem for original in opened(asker, approved(asker, approver, [there, guess]))}
    assert shown == {there: "", guess: "gone"}
    assert '"gone": 1' in database.value("SELECT detail FROM coatcheck.audit WHERE event = 'reveal shown'")


def test_a_quota_of_a_day(database: LoginDatabase, config: Config, asker: Person, people: People) -> None:
    desk.set_policy(config, "daily_items", "5")
    ask(asker, devices(config, 3))
    with pytest.raises(RefusedError, match="2 originals are left of today"):
        ask(asker, devices(config, 3, 10))
    ask(asker, devices(config, 2, 10))
    ask(people.new("revealer"), devices(config, 5))
    clock(database, "23 hours 59 minutes")
    with pytest.raises(RefusedError, match="0 originals are left"):
        ask(asker, devices(config))
    clock(database, "24 hours 1 minute")
    ask(asker, devices(config, 5))


def test_two_requests_at_once_do_not_outrun_the_quota(database: LoginDatabase, config: Config, asker: Person) -> None:
    desk.set_policy(config, "daily_items", "5")
    barrier = threading.Barrier(4)

    def one(place: int) -> bool:
        barrier.wait(LIMIT)
        try:
            ask(asker, devices(config, 3, place))
        except RefusedError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(one, range(4))) == [False, False, False, True]
    assert database.count("coatcheck.reveal_request") == 1


# --- what one may try -------------------------------------------------------------------------------------------------


OPEN = "SELECT refusal FROM coatcheck.reveal_open(%s)"


def test_nothing_is_handed_out_before_the_opening_has_committed(
    database: LoginDatabase, config: Config, asker: Person, approver: Person
) -> None:
    """The one-shot function of the textbooks fails here: BEGIN; open; fetch; ROLLBACK leaves no trace."""
    number = approved(asker, approver, devices(config))
    before = events(database)
    with asker.connect() as session:
        with session.transaction(force_rollback=True):
            assert session.execute(OPEN, [number]).fetchone() == (None,)
            assert refused_to_fetch(session, number)
        assert refused_to_fetch(session, number)
        with session.transaction(force_rollback=True):  # a savepoint is the same transaction
            with session.transaction():
                session.execute(OPEN, [number])
            assert refused_to_fetch(session, number)
        with session.transaction(force_rollback=True), session.transaction(force_rollback=True):
            session.execute(OPEN, [number])
        assert refused_to_fetch(session, number)
        with pytest.raises(psycopg.Error) as caught:  # in one statement, or one block
            session.execute(
                "SELECT (SELECT refusal FROM coatcheck.reveal_open(%s)), coatcheck.reveal_settle(%s), f.*"
                " FROM coatcheck.reveal_fetch(%s) AS f",
                [number, number, number],
            )
        assert caught.value.sqlstate == NOT_OPEN
        block = (
            f"DO $$ BEGIN PERFORM coatcheck.reveal_open({number}); PERFORM coatcheck.reveal_settle({number});"
            f" PERFORM coatcheck.reveal_fetch({number}); END $$"
        )
        with pytest.raises(psycopg.Error) as caught:
            session.execute(block.encode())
        assert caught.value.sqlstate == NOT_OPEN
    assert events(database) == before
    assert len(opened(asker, number)) == 1


def test_a_block_that_commits_in_between_leaves_the_opening(
    database: LoginDatabase, config: Config, asker: Person, approver: Person
) -> None:
    number = approved(asker, approver, devices(config))
    block = (
        f"DO $$ BEGIN PERFORM coatcheck.reveal_open({number}); COMMIT;"
        f" PERFORM coatcheck.reveal_settle({number}); PERFORM coatcheck.reveal_fetch({number}); ROLLBACK; END $$"
    )
    with asker.connect() as session:
        session.execute(block.encode())
    assert events(database, "reveal opened") == [(asker.name, "reveal opened")]


def test_an_older_snapshot_sees_no_opening(config: Config, asker: Person, approver: Person) -> None:
    number = approved(asker, approver, devices(config))
    with asker.connect() as session, asker.connect() as other:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        session.execute("SELECT")
        other.execute(OPEN, [number])
        with pytest.raises(psycopg.Error):
            fetch(session, number)
        session.execute("ROLLBACK")


def test_what_was_fetched_is_not_fetched_again(config: Config, asker: Person, approver: Person) -> None:
    number = approved(asker, approver, devices(config))
    with asker.connect() as session:
        session.execute(OPEN, [number])
        with session.transaction(force_rollback=True):
            assert len(fetch(session, number)) == 1
        assert len(fetch(session, number)) == 1, "what was rolled back may be fetched while the opening lasts"
        assert refused_to_fetch(session, number)
    with pytest.raises(RefusedError, match="handed out already"):
        opened(asker, number)


def test_one_of_two_that_fetch_at_once(config: Config, asker: Person, approver: Person) -> None:
    number = approved(asker, approver, devices(config))
    barrier = threading.Barrier(4)

    def one(_: int) -> bool:
        with asker.connect() as session:
            session.execute(OPEN, [number])
            barrier.wait(LIMIT)
            return not refused_to_fetch(session, number)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(one, range(4))) == [False, False, False, True]


def test_an_opening_that_a_crash_could_take_back_opens_nothing(
    database: LoginDatabase, config: Config, asker: Person, approver: Person
) -> None:
    """Whoever commits asynchronously waits until his opening is on the disk."""
    number = approved(asker, approver, devices(config))
    with asker.connect() as session:
        session.execute("SET synchronous_commit = off")
        session.execute(OPEN, [number])
        with pytest.raises(psycopg.Error) as caught:  # not settled
            session.execute("SELECT * FROM coatcheck.reveal_fetch(%s)", [number])
        assert caught.value.sqlstate == NOT_OPEN
        session.execute("SELECT coatcheck.reveal_settle(%s)", [number])
        database.execute("UPDATE coatcheck.reveal_opening SET settled = settled + 16777216::numeric")
        with pytest.raises(psycopg.Error) as caught:
            session.execute("SELECT * FROM coatcheck.reveal_fetch(%s)", [number])
        assert caught.value.sqlstate == "CC006"
    assert len(opened(asker, number)) == 1


def test_a_glass_that_was_objected_to_stays_whole(config: Config, asker: Person, approver: Person) -> None:
    number = ask(asker, devices(config), break_glass=True)
    with asker.connect() as session:
        session.execute(OPEN, [number])
        desk.deny(approver.config, number)
        assert refused_to_fetch(session, number)


@pytest.mark.parametrize("zone", ["AAA-167BBB167,J337/0,J137/0", "AAA167", "AAA-167", "Asia/Tokyo"])
def test_a_day_has_24_hours_in_any_zone(config: Config, asker: Person, zone: str) -> None:
    """POSIX zones may be a week off UTC and change twice a year: a day of theirs can have hundreds of hours."""
    desk.set_policy(config, "daily_items", "2")
    ask(asker, devices(config, 2))
    with asker.connect() as session:
        session.execute(f"SET TimeZone = '{zone}'".encode())
        found = session.execute(
            "SELECT refusal FROM coatcheck.reveal_request(%s, 'FRAUD', %s)", [devices(config), TICKET]
        ).fetchone()
    assert found == ("quota",)


def test_functions_keep_to_one_time_zone(database: LoginDatabase) -> None:
    """Those that look at a clock or a date; the others are named here."""
    found = database.execute(
        "SELECT proname FROM pg_proc WHERE pronamespace = to_regnamespace('coatcheck')"
        " AND NOT coalesce('TimeZone=UTC' = ANY (proconfig), false) ORDER BY 1"
    )
    assert [name for (name,) in found] == [
        "audit_hash", "framed", "me", "reveal_settle", "using_key",
    ]  # fmt: skip


def test_a_report_takes_a_fetch(config: Config, asker: Person, approver: Person) -> None:
    number = approved(asker, approver, devices(config))
    with asker.connect() as session, pytest.raises(psycopg.Error) as caught:
        session.execute("SELECT coatcheck.reveal_shown(%s, 1, 0, 0, 0)", [number])
    assert caught.value.sqlstate == NOT_OPEN


@pytest.mark.parametrize(
    ("offset", "words"),
    [
        ("61 minutes", "has expired"),
        ("-1 minute", "has expired"),
        ("-10 years", "has expired"),
        ("10 years", "expired"),
    ],
)
def test_an_approval_is_for_its_hour_whatever_the_clock_does(  # noqa: PLR0917 - fixtures
    database: LoginDatabase, config: Config, asker: Person, approver: Person, offset: str, words: str
) -> None:
    number = approved(asker, approver, devices(config))
    clock(database, offset)
    with pytest.raises(RefusedError, match=words):
        opened(asker, number)
    waiting = desk.request(asker.config, devices(config), reason="FRAUD", ticket=TICKET).request_id
    clock(database, "0")
    if offset.endswith("years"):
        with pytest.raises(RefusedError, match="expired"):
            desk.approve(approver.config, waiting)


@pytest.mark.parametrize("offset", ["6 minutes", "-1 minute", "10 years"])
def test_an_opening_is_for_minutes(
    database: LoginDatabase, config: Config, asker: Person, approver: Person, offset: str
) -> None:
    number = approved(asker, approver, devices(config))
    with asker.connect() as session:
        session.execute(OPEN, [number])
        clock(database, offset)
        assert refused_to_fetch(session, number)
    with pytest.raises(RefusedError, match="opening is over"):
        opened(asker, number)


def test_an_opening_cannot_be_kept_open_by_opening_it_again(
    database: LoginDatabase, config: Config, asker: Person, approver: Person
) -> None:
    number = approved(asker, approver, devices(config))
    with asker.connect() as session:
        session.execute(OPEN, [number])
        clock(database, "4 minutes")
        assert session.execute(OPEN, [number]).fetchone() == (None,)
        clock(database, "6 minutes")
        assert session.execute(OPEN, [number]).fetchone() == ("closed",)
        assert refused_to_fetch(session, number)


def test_time_zones_change_nothing(config: Config, asker: Person, approver: Person, people: People) -> None:
    tokyo = psycopg.conninfo.make_conninfo(asker.dsn, options="-c timezone=Asia/Tokyo -c datestyle=German,DMY")
    honolulu = psycopg.conninfo.make_conninfo(approver.dsn, options="-c timezone=Pacific/Honolulu")
    number = ask(Person(tokyo, configuration(tokyo, people.keyring)), devices(config, 2))
    desk.approve(configuration(honolulu, people.keyring), number)
    assert len(texts(opened(asker, number))) == 2
    for zone in ("Asia/Tokyo", "UTC"):
        dsn = psycopg.conninfo.make_conninfo(people.database.dsn, options=f"-c timezone={zone}")
        assert trail.verify(partial(configuration, dsn, people.keyring), None, (), None).count == 4


# --- a broken glass ---------------------------------------------------------------------------------------------------


def test_a_broken_glass_is_open_at_once_and_reviewed(
    database: LoginDatabase, config: Config, asker: Person, approver: Person
) -> None:
    number = ask(asker, devices(config, 2), break_glass=True)
    assert len(texts(opened(asker, number))) == 2
    assert f"request {number} breaks the glass: 2 originals" in database.log()
    assert [one.review for one in desk.requests(asker.config, 10)] == ["due"]
    with pytest.raises(RefusedError, match="was not reviewed yet"):
        ask(asker, devices(config), break_glass=True)
    with pytest.raises(CoatcheckError):
        desk.approve(asker.config, number)
    clock(database, "25 hours")
    assert [one.review for one in desk.requests(approver.config, 10)] == ["overdue"]
    assert desk.approve(approver.config, number) == 0
    assert [one.review for one in desk.requests(approver.config, 10)] == ["done"]
    ask(asker, devices(config), break_glass=True)
    assert events(database, "reveal requested, glass broken", "reveal reviewed") == [
        (asker.name, "reveal requested, glass broken"),
        (approver.name, "reveal reviewed"),
        (asker.name, "reveal requested, glass broken"),
    ]


def test_a_review_may_object(config: Config, asker: Person, approver: Person) -> None:
    number = ask(asker, devices(config), break_glass=True)
    with pytest.raises(RefusedError, match="nobody approves"):
        desk.deny(asker.config, number)  # one does not take back what one may have opened
    desk.deny(approver.config, number)
    assert [(one.state, one.review) for one in desk.requests(approver.config, 10)] == [("denied", "objected")]
    with pytest.raises(RefusedError, match="denied"):
        opened(asker, number)


def test_a_policy_without_glass(config: Config, asker: Person) -> None:
    desk.set_policy(config, "break_glass", "false")
    with pytest.raises(RefusedError, match="forbids to break the glass"):
        ask(asker, devices(config), break_glass=True)


# --- the policy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("one_person", "perhaps", "does not take this value"),
        ("daily_items", "-1", "does not take this value"),
        ("daily_items", "many", "does not take this value"),
        ("daily_items", "99999999999999", "does not take this value"),
        ("ticket_pattern", "(", "does not take this value"),
        ("ticket_pattern", "", "does not take this value"),
        ("reasons", "{}", "does not take this value"),
        ("request_minutes", "0", "does not take this value"),
        ("one_row", "false", "has no such option"),
        ("xmin", "1", "has no such option"),
        ("one_person = false, daily_items", "1", "has no such option"),
    ],
)
def test_what_the_policy_does_not_take(
    database: LoginDatabase, config: Config, name: str, value: str, words: str
) -> None:
    before = desk.policy(config)
    with pytest.raises(RefusedError, match=words):
        desk.set_policy(config, name, value)
    assert desk.policy(config) == before
    assert events(database) == []


def test_the_policy_is_the_owners(config: Config, asker: Person, approver: Person) -> None:
    desk.set_policy(config, "reasons", "{TAX,FRAUD}")
    desk.set_policy(config, "ticket_pattern", "T[0-9]+|U[0-9]+")
    for person in (asker, approver):
        assert desk.policy(person.config)["reasons"] == ["TAX", "FRAUD"]
        with pytest.raises(RefusedError, match="may not do that") as caught:
            desk.set_policy(person.config, "one_person", "true")
        assert "coatcheck_owner" in caught.value.hint
    ask(asker, devices(config), reason="TAX", ticket="U7")
    with pytest.raises(RefusedError, match="does not look like"):
        ask(asker, devices(config), reason="TAX", ticket="T7x")


# --- originals are held against their tokens --------------------------------------------------------------------------


def plant(config: Config, loader: Person, name: str, text: str, *, epoch: int) -> None:
    """As a hostile loader: seal another text for a token that is not there yet."""
    keys = custody.loader_keys(config)
    sealer = Sealer(keys)
    sealed = sealer.seal(text.encode(), *vault_context(name, epoch))
    data_key = sealer.data_key(sealed.dek_id)
    with loader.connect() as session:
        session.execute(
            "INSERT INTO coatcheck.data_key (dek_id, kek, wrapped) VALUES (%s, %s, %s)",
            [data_key.dek_id.hex(), data_key.kek, data_key.wrapped],
        )
        session.execute(
            "INSERT INTO coatcheck.vault (token, epoch, dek_id, nonce, ciphertext) VALUES (%s, %s, %s, %s, %s)",
            [name, epoch, sealed.dek_id.hex(), sealed.nonce, sealed.ciphertext],
        )


def test_a_false_original_is_found_out(
    database: LoginDatabase, config: Config, asker: Person, approver: Person, people: People
) -> None:
    loader, wanted = people.new("loader"), token(config, "device", "device-99")
    plant(config, loader, wanted, "device-of-somebody-else", epoch=NOW())
    load(config, event(99))  # comes too late: the first entry stays
    [shown] = opened(asker, approved(asker, approver, [wanted]))
    assert (shown.text, shown.problem) == ("", "planted")
    assert database.value("SELECT detail::jsonb ->> 'planted' FROM coatcheck.audit WHERE event = 'reveal shown'") == "1"
    plant(config, loader, wanted, "device-99", epoch=NOW() - 10)  # a true one of another epoch
    assert texts(opened(asker, approved(asker, approver, [wanted]))) == {wanted: "device-99"}


def test_what_a_loader_plants_beside_an_original_hides_nothing(
    database: LoginDatabase, config: Config, asker: Person, approver: Person, people: People
) -> None:
    """Entries for a key that nobody has, without a data key, or under a form that no version knows."""
    loader, (wanted, other) = people.new("loader"), devices(config, 2)
    unknown = "INSERT INTO coatcheck.vault (token, epoch, dek_id, nonce, ciphertext) VALUES (%s, %s, %s, %s, %s)"
    foreign = "00000000-0000-4000-8000-000000000001"
    with loader.connect() as session:
        for kek in ("local:0123456789abcdef", "aws-kms:arn:aws:kms:eu-west-1:111122223333:key/x", "other:x"):
            with pytest.raises(psycopg.Error), session.transaction():
                session.execute(
                    "INSERT INTO coatcheck.data_key (dek_id, kek, wrapped) VALUES (%s, %s, 'x')",
                    [foreign, kek + "\x1b[2J"],
                )
        session.execute(
            "INSERT INTO coatcheck.data_key (dek_id, kek, wrapped) VALUES (%s, 'local:0123456789abcdef', 'x')",
            [foreign],
        )
        for place, dek in enumerate((foreign, "00000000-0000-4000-8000-000000000002")):
            session.execute(unknown, [wanted, 20301 + place, dek, b"n" * 12, b"c" * 64])
        for epoch in (-1, 0, 1969, 2**31 - 1):
            with pytest.raises(psycopg.errors.CheckViolation):
                session.execute(unknown, [wanted, epoch, foreign, b"n" * 12, b"c" * 64])
        with pytest.raises(psycopg.errors.CheckViolation):
            session.execute(unknown, [other, 20301, foreign, b"n" * 12, b"c" * (2**21 + 1)])
    number = approved(asker, approver, [wanted, other])
    assert texts(opened(asker, number)) == {wanted: "device-0", other: "device-1"}
    database.execute("DELETE FROM coatcheck.vault WHERE token = %s AND epoch < 20300", wanted)
    shown = {o.item: o.problem for o in opened(asker, approved(asker, approver, [wanted, other]))}
    assert shown == {wanted: "damaged", other: ""}
    with pytest.raises(ConfigError, match="wrapped for local:0123456789abcdef"):
        opened(asker, approved(asker, approver, [wanted]))


def test_damaged_swapped_and_gone(database: LoginDatabase, config: Config, asker: Person, approver: Person) -> None:
    whole, damaged, first, second, gone = wanted = devices(config, 5)
    number = approved(asker, approver, wanted)
    database.execute(
        "UPDATE coatcheck.vault SET ciphertext = set_byte(ciphertext, 3, get_byte(ciphertext, 3) # 1) WHERE token = %s",
        damaged,
    )
    database.execute(
        "UPDATE coatcheck.vault AS v SET ciphertext = o.ciphertext, nonce = o.nonce, dek_id = o.dek_id"
        " FROM coatcheck.vault AS o WHERE v.token IN (%s, %s) AND o.token IN (%s, %s) AND o.token <> v.token",
        first, second, first, second,
    )  # fmt: skip
    database.execute("DELETE FROM coatcheck.vault WHERE token = %s", gone)
    shown = {original.item: (original.text, original.problem) for original in opened(asker, number)}
    assert shown == {
        whole: ("device-0", ""), damaged: ("", "damaged"), first: ("", "damaged"), second: ("", "damaged"),
        gone: ("", "gone"),
    }  # fmt: skip
    detail = database.value("SELECT detail::jsonb - 'request' FROM coatcheck.audit WHERE event = 'reveal shown'")
    assert detail == {"shown": 1, "planted": 0, "damaged": 3, "gone": 1}


def test_what_cannot_be_shown_was_not_handed_out(
    database: LoginDatabase, config: Config, asker: Person, approver: Person
) -> None:
    number = approved(asker, approver, devices(config))

    def full(_: list[Original]) -> None:
        raise BlockingIOError

    with pytest.raises(BlockingIOError):
        desk.reveal(asker.config, number, full)
    assert events(database, "reveal opened", "reveal shown") == [(asker.name, "reveal opened")]
    assert len(opened(asker, number)) == 1


def test_keys_that_are_missing_are_told_before_the_opening(  # noqa: PLR0917 - fixtures
    database: LoginDatabase, config: Config, asker: Person, approver: Person, keyring: Path, tmp_path: Path
) -> None:
    number = approved(asker, approver, devices(config))
    other = tmp_path / "other"
    create(other, "tenant")
    (keyring / "seal-private.pem").rename(tmp_path / "elsewhere.pem")
    with pytest.raises(ConfigError, match="seal-private"):
        opened(asker, number)
    (tmp_path / "elsewhere.pem").rename(keyring / "seal-private.pem")
    rotation.rotate(config)
    load(config, event(500))
    new = approved(asker, approver, devices(config, first=500))
    with pytest.raises(ConfigError, match="k1 of this keyring is another key than the k1 that this database knows"):
        desk.reveal(configuration(asker.dsn, other), new, lambda _: None)
    assert events(database, "reveal opened", "reveal opening refused") == []
    assert texts(opened(asker, number)) | texts(opened(asker, new)) == {
        devices_of(config, "k1", 0): "device-0",
        devices_of(config, "k2", 500): "device-500",
    }


def devices_of(config: Config, kid: str, number: int) -> str:
    return token(config, "device", f"device-{number}", kid)


def test_a_form_that_was_frozen_for_an_older_key_counts(
    database: LoginDatabase, config: Config, asker: Person, approver: Person, keyring: Path
) -> None:
    """After a rotation to a coarser form the old tokens are those of the old form."""
    load(config, event(7, device="DEVICE-7"))
    old = token(config, "device", "DEVICE-7")
    rotation.rotate(config)
    columns = COLUMNS | {"device": COLUMNS["device"] | {"casefold": True}}
    folded = configuration(database, keyring, columns)
    load(folded, event(8))
    number = approved(asker, approver, [old])
    shown: list[Original] = []
    desk.reveal(configuration(asker.dsn, keyring, columns), number, shown.extend)
    assert texts(shown) == {old: "DEVICE-7"}
    found = desk.find(
        configuration(asker.dsn, keyring, columns), "DEVICE-7", domain="device", reason="DSAR", ticket=TICKET
    )
    assert found == {"k2": token(folded, "device", "device-7", "k2"), "k1": old}


# --- the token of a known value ---------------------------------------------------------------------------------------


def test_find_tells_the_token_and_the_trail_nothing_of_the_value(
    database: LoginDatabase, config: Config, asker: Person
) -> None:
    load(config, event(1, ip="10.99.88.77", address="CANARY"))
    found = desk.find(asker.config, "::ffff:10.99.88.77", domain="ip", reason="DSAR", ticket=TICKET)
    assert database.execute(f"SELECT count(*) FROM {TABLE} WHERE ip = %s", found["k1"]) == [(1,)]
    assert events(database) == [(asker.name, "token looked up")]
    trace = str(database.execute("SELECT * FROM coatcheck.audit")) + database.log()
    assert not any(value in trace for value in ("10.99.88.77", found["k1"]))


@pytest.mark.parametrize(
    ("value", "options", "words"),
    [
        ("CANARY", {}, "no token in the domain ip: not_an_ip"),
        ("", {}, "no token in the domain ip: empty_value"),
        ("10.0.0.1", {"domain": "CANARY"}, "no column has tokens of this domain"),
        ("10.0.0.1", {"reason": "CANARY"}, "not one of the policy's"),
        ("10.0.0.1", {"ticket": "CANARY"}, "does not look like one"),
    ],
)
def test_find_refuses(database: LoginDatabase, asker: Person, value: str, options: dict[str, str], words: str) -> None:
    arguments = {"domain": "ip", "reason": "DSAR", "ticket": TICKET} | options
    with pytest.raises(CoatcheckError, match=words) as caught:
        desk.find(asker.config, value, **arguments)
    trace = str(database.execute("SELECT * FROM coatcheck.audit")) + database.log()
    assert "CANARY" not in f"{caught.value.message}{caught.value.hint}{trace}"


# --- quarantine -------------------------------------------------------------------------------------------------------


def test_a_retry_is_on_record_and_takes_an_operator(
    database: LoginDatabase, config: Config, people: People, asker: Person
) -> None:
    operator = people.new("operator")
    load(config, "no json either")
    assert app.quarantine_retry(operator.config, Selection()).rejected == {"not_json": 2}
    assert events(database) == [(operator.name, "quarantine retry opened")]
    with pytest.raises(ConfigError, match="42501"):
        app.quarantine_retry(asker.config, Selection())


def test_a_retry_cannot_be_rolled_back_or_borrowed(database: LoginDatabase, config: Config, people: People) -> None:
    assert config
    operator, other = people.new("operator"), people.new("operator", "revealer")
    pages = "SELECT * FROM coatcheck.retry_fetch(%s, 0, 100)"
    with operator.connect() as session:
        with session.transaction(force_rollback=True):
            [(number,)] = session.execute("SELECT request_id FROM coatcheck.retry_open(NULL, NULL)").fetchall()
            with pytest.raises(psycopg.Error) as caught, session.transaction():
                session.execute(pages, [number])
            assert caught.value.sqlstate == NOT_OPEN
        [(number,)] = session.execute("SELECT request_id FROM coatcheck.retry_open(NULL, NULL)").fetchall()
        session.execute("SELECT coatcheck.reveal_settle(%s)", [number])
        assert len(session.execute(pages, [number]).fetchall()) == 1
    with other.connect() as session:
        for statement in (pages, "SELECT * FROM coatcheck.reveal_fetch(%s)"):
            with pytest.raises(psycopg.Error) as caught:
                session.execute(statement, [number])
            assert caught.value.sqlstate == NOT_OPEN
        for statement in ("reveal_open", "reveal_deny"):
            assert "no request" in str(session.execute(f"SELECT coatcheck.{statement}(%s)", [number]).fetchone())
    assert len(events(database, "quarantine retry opened")) == 1


def test_a_discard_is_on_record(database: LoginDatabase, people: People) -> None:
    operator = people.new("operator")
    assert app.quarantine_discard(operator.config, Selection()) == 1
    assert events(database) == [(operator.name, "quarantine discarded")]


# --- erased while somebody asks, stored again by who is running -------------------------------------------------------


def test_a_running_loader_stores_again_what_was_erased(database: LoginDatabase, config: Config, keyring: Path) -> None:
    with Loader(config) as loader:
        loader.load(event(1))
        number = database.value("SELECT erasure_id FROM coatcheck.erase_begin('token', 'DSAR', 'INC-1', '{}')")
        database.execute("SELECT coatcheck.erase_tokens(%s, %s)", number, devices(config, first=1))
        loader.load(event(2))  # tells of the erasure
        loader.load(event(1))
    assert (devices(config, first=1)[0], NOW()) in originals(database, keyring)


# --- what a thief gets ------------------------------------------------------------------------------------------------


def test_a_dump_and_the_loaders_files_give_no_original(  # noqa: PLR0917 - fixtures
    database: LoginDatabase, config: Config, asker: Person, approver: Person, keyring: Path, tmp_path: Path
) -> None:
    """With all that the database holds, and what a loader has on its disk, after originals were revealed."""
    values = {f"device-{number}" for number in range(60)} | {"no json", "10.0.3.3"}
    opened(asker, approved(asker, approver, [*devices(config, 5), token(config, "ip", "10.0.3.3")]))
    database.execute(f"ALTER TABLE {TABLE} {', '.join(f'DROP COLUMN {plain}' for plain in PLAIN.values())}")
    dump = pg_dump(database)
    assert devices(config)[0] in dump, "it is the dump"
    text = dump + "".join(_unescaped(dump))
    assert not [value for value in values if value in text]

    loader = tmp_path / "loader"
    loader.mkdir(mode=0o700)
    for name in ("token-root.json", "seal-public.json"):
        shutil.copy(keyring / name, loader / name)
    stolen = configuration(database, loader)
    assert custody.loader_keys(stolen).kids == ("k1",)
    with pytest.raises(ConfigError, match="seal-private"):
        custody.opener(stolen)
    other = tmp_path / "other"
    create(other, "tenant")
    shutil.copy(other / "seal-private.pem", loader / "seal-private.pem")
    with pytest.raises(CoatcheckError):
        originals(database, loader)


def pg_dump(database: LoginDatabase) -> str:
    program = database.server._programs / "pg_dump"
    return subprocess.run([program, "-d", database.dsn], capture_output=True, check=True, text=True).stdout


def _unescaped(dump: str) -> Iterator[str]:
    """What the dump's bytes spell: a value that was stored as bytes would hide in hex."""
    for found in re.findall(r"\\\\x([0-9a-f]+)", dump):
        yield bytes.fromhex(found).decode("latin-1")


def test_no_value_is_left_anywhere(
    database: LoginDatabase,
    config: Config,
    people: People,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A full run with a reveal, a look-up, refusals and a retry: the values are where they were asked for only."""
    asker, approver, operator = people.new("revealer"), people.new("approver"), people.new("operator")
    columns = {name: column for name, column in COLUMNS.items() if name in MASKED}
    canaries = ("CANARY-device", "10.203.204.205", "CANARY-phone", "CANARY-tag")
    body = event(0, device=canaries[0], ip=canaries[1], phone=canaries[2], tag=canaries[3])
    masked = configuration(database, people.keyring, columns)
    load(masked, body, '{"device": "CANARY-device"')
    wanted = [token(config, "device", canaries[0]), token(config, "ip", canaries[1])]
    shown = opened(asker, approved(asker, approver, wanted))
    assert sorted(texts(shown).values()) == sorted(canaries[:2])
    body_shown = texts(opened(asker, approved(asker, approver, ["quarantine:2"])))
    assert body_shown == {"quarantine:2": '{"device": "CANARY-device"'}
    desk.find(asker.config, canaries[0], domain="device", reason="DSAR", ticket=TICKET)
    app.quarantine_retry(operator.config, Selection())
    with suppress(CoatcheckError):
        ask(asker, [canaries[1]])
    dump = pg_dump(database)
    said = "".join(capfd.readouterr())
    places = {"dump": dump + "".join(_unescaped(dump)), "log": database.log(), "ours": caplog.text, "output": said}
    places["repr"] = repr(shown)
    assert [(place, value) for place, text in places.items() for value in canaries if value in text] == []
