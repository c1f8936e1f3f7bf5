"""`coatcheck reveal`, `find` and `quarantine show` at the command line: where originals may go, and what is told."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.fix_desk import TICKET, People, Person, clock, devices, events
from tests.support.fix_servers import Alone, LoginDatabase
from tests.support.process import Done
from tests.support.vaults import event, load, token

from coatcheck import desk
from coatcheck.config import Config

WHY = ("--reason", "FRAUD", "--ticket", TICKET)
As = Callable[..., Done]

pytestmark = pytest.mark.parametrize("any_server", ["postgres_server"], indirect=True, ids=["newest"])


@pytest.fixture
def as_(alone: Alone, desk_keys: Path) -> As:
    """Run the command as somebody."""

    def run(person: Person | Config, *arguments: str, code: int = 0) -> Done:
        config = person.config if isinstance(person, Person) else person
        columns = json.dumps(
            {
                name: column.model_dump(mode="json", by_alias=True, exclude_defaults=True)
                for name, column in config.columns.items()
            }
        )
        return alone(
            *arguments, code=code, DATABASE_URL=config.conninfo(), COATCHECK_KEYS__PATH=str(desk_keys),
            COATCHECK_TARGET__TABLE=config.target.table, COATCHECK_COLUMNS=columns,
        )  # fmt: skip

    return run


def test_into_a_file_of_ones_own(as_: As, alone: Alone, asker: Person, approver: Person, desk_config: Config) -> None:
    wanted = devices(desk_config, 2)
    done = as_(asker, "reveal", "request", *wanted, *WHY)
    assert (done.out, done.err) == (
        "request 1\n", "next: an approver runs `coatcheck reveal approve 1`, then you `coatcheck reveal open 1`\n"
    )  # fmt: skip
    refused = as_(asker, "reveal", "open", "1", "--output", "file", code=4)
    assert refused.err.splitlines() == [
        "coatcheck: error: the request waits for 1 more approval(s)",
        "coatcheck: hint: have an approver run `coatcheck reveal approve ID`",
    ]
    assert not (alone.folder / "file").exists(), "what was not filled is not left"
    assert as_(approver, "reveal", "approve", "1").out == "approved request 1\n"
    assert as_(asker, "reveal", "open", "1", "--output", "file", "--json").out == "wrote file\n"
    path = alone.folder / "file"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found == [
        {"item": item, "original": f"device-{wanted.index(item)}", "problem": ""} for item in sorted(wanted)
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("reveal", "open", "1"), 4, "originals are shown on a terminal only"),
        (("reveal", "open", "1", "--output", "there"), 2, "there exists"),
        (("reveal", "open", "1", "--output", "link"), 2, "link exists"),
        (("reveal", "open", "1", "--output", "no/folder"), 2, "cannot write no/folder: No such file"),
        (("quarantine", "show", "1", *WHY), 4, "originals are shown on a terminal only"),
        (("quarantine", "show", "1", *WHY, "--output", "there"), 2, "there exists"),
    ],
)
def test_where_originals_may_not_go_nothing_is_opened(  # noqa: PLR0917 - fixtures
    as_: As, alone: Alone, asker: Person, approver: Person, desk_database: LoginDatabase, desk_config: Config,
    arguments: tuple[str, ...], code: int, words: str,
) -> None:  # fmt: skip
    number = desk.request(asker.config, devices(desk_config), reason="FRAUD", ticket=TICKET).request_id
    desk.approve(approver.config, number)
    before = events(desk_database)
    (alone.folder / "there").write_text("mine")
    (alone.folder / "link").symlink_to("nowhere")
    assert number == 1
    assert words in as_(asker, *arguments, code=code).err
    assert events(desk_database) == before
    assert (alone.folder / "there").read_text() == "mine"


def test_one_person_breaks_a_glass_for_a_body(
    as_: As, alone: Alone, asker: Person, approver: Person, desk_database: LoginDatabase
) -> None:
    done = as_(asker, "quarantine", "show", "1", "--reason", "INCIDENT", "--ticket", TICKET, "--break-glass",
               "--output", "body")  # fmt: skip
    assert (done.out, done.err) == ("wrote body\n", "request 1\n")
    assert (alone.folder / "body").read_text() == "no json\n"
    clock(desk_database, "25 hours")
    [listed] = [json.loads(line) for line in as_(approver, "reveal", "list", "--json").out.splitlines()]
    assert (listed["state"], listed["review"], listed["break_glass"]) == ("shown", "overdue", True)
    assert as_(approver, "reveal", "deny", "1").out == "denied request 1\n"
    assert "objected" in as_(approver, "reveal", "list").out
    done = as_(asker, "reveal", "request", "quarantine:1", *WHY, "--break-glass")
    assert done.err == "next: `coatcheck reveal open 2`; it will be reviewed\n"


def test_what_was_planted_or_is_gone_is_told(
    as_: As, alone: Alone, asker: Person, desk_database: LoginDatabase, desk_config: Config
) -> None:
    desk.set_policy(desk_config, "one_person", "true")
    one, two = devices(desk_config, 2)
    as_(asker, "reveal", "request", one, two, *WHY)
    desk_database.execute("DELETE FROM coatcheck.vault WHERE token = %s", two)
    done = as_(asker, "reveal", "open", "1", "--output", "file")
    assert done.err == "coatcheck: warning: 1 not shown: erased, or loaded, since it was asked for\n"
    assert (alone.folder / "file").read_text() == f"{one}\tdevice-0\n"


def test_a_value_with_a_line_of_its_own_passes_for_no_other_item(
    as_: As, alone: Alone, asker: Person, desk_config: Config
) -> None:
    forged = f"honest\n{devices(desk_config)[0]}\t10.0.0.99"
    load(desk_config, event(70, device=forged))
    desk.set_policy(desk_config, "one_person", "true")
    wanted = token(desk_config, "device", forged)
    as_(asker, "reveal", "request", wanted, *WHY)
    as_(asker, "reveal", "open", "1", "--output", "file")
    shown = (alone.folder / "file").read_text()
    assert shown == wanted + "\t" + forged.replace("\n", "\\n").replace("\t", "\\t") + "\n"


def test_many_tokens_come_from_standard_input(
    as_: As, asker: Person, people: People, desk_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(devices(desk_config, 51)) + "\n"))
    done = as_(asker, "reveal", "request", "-", *WHY)
    assert "2 approvers run `coatcheck reveal approve 1`" in done.err
    lead = people.new("approver")
    assert as_(lead, "reveal", "approve", "1").out == "approved request 1; it waits for 1 more approval(s)\n"
    assert len(as_(lead, "reveal", "list", "1").out.splitlines()) == 51
    row = as_(asker, "reveal", "list").out.splitlines()[1]
    assert "waiting" in row
    assert "1 of 2" in row


def test_look_ups(as_: As, asker: Person, desk_config: Config) -> None:
    wanted = devices(desk_config)[0]
    assert as_(asker, "find", "device-0", "--domain", "device", "--ticket", TICKET).out == f"{wanted}\n"
    told = as_(asker, "find", "device-0", "--domain", "device", "--ticket", TICKET, "--json").out
    assert json.loads(told) == {"k1": wanted}


def test_the_policy_is_shown_and_changed(as_: As, asker: Person, desk_config: Config) -> None:
    assert "daily_items      7\n" in as_(desk_config, "reveal", "policy", "daily_items=7").out
    assert json.loads(as_(asker, "reveal", "policy", "--json").out)["daily_items"] == 7
    assert "a change is OPTION=VALUE" in as_(desk_config, "reveal", "policy", "one_person", code=2).err
    refused = as_(asker, "reveal", "policy", "one_person=true", code=4).err.splitlines()
    assert refused == [
        "coatcheck: error: this database user may not do that",
        "coatcheck: hint: it takes a member: GRANT coatcheck_owner TO ...",
    ]


def test_a_value_in_place_of_a_token_is_not_repeated(as_: As, asker: Person) -> None:
    done = as_(asker, "reveal", "request", "CANARY", *WHY, code=2)
    assert "CANARY" not in done.err + done.out
    assert "item 1 is no token" in done.err
