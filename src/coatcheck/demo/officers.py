"""The end of the demo: one original comes back, by two people and on the record."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable

from coatcheck import desk, terminal, trail
from coatcheck.config import Config
from coatcheck.demo.samples import Samples
from coatcheck.demo.servers import PostgresServer
from coatcheck.errors import CoatcheckError, RefusedError
from coatcheck.sql import query
from coatcheck.vault.reveal import Original

Step = Callable[[str, str], None]


def reveal_one(postgres: PostgresServer, config_of: Callable[[str], Config], samples: Samples, step: Step) -> None:
    """Reveal the address that most logins share; `config_of` gives the configuration for a connection string."""
    step('psql -c "CREATE ROLE olga LOGIN IN ROLE coatcheck_revealer"', "Olga may ask for originals")
    step('psql -c "CREATE ROLE lars LOGIN IN ROLE coatcheck_approver"', "Lars may approve what others ask for")
    password = secrets.token_hex(16)
    postgres.psql("-c", query("demo_officers").format(password=password))
    olga, lars = (config_of(postgres.dsn_of(name, password)) for name in ("olga", "lars"))
    token = postgres.psql("-At", "-c", query("demo_most_shared")).strip()
    step(f"coatcheck reveal request {token} --reason FRAUD --ticket INC-1234", "Olga asks whose address that is")
    asked = desk.request(olga, [token], reason="FRAUD", ticket="INC-1234")
    terminal.out(f"request {asked.request_id}")
    step(f"coatcheck reveal open {asked.request_id}", "not yet")
    terminal.out(_refused(lambda: desk.reveal(olga, asked.request_id, lambda _: None)))
    step(f"coatcheck reveal approve {asked.request_id}", "Lars, who is somebody else, approves")
    desk.approve(lars, asked.request_id)
    terminal.out(f"approved request {asked.request_id}")
    step(
        f"coatcheck reveal open {asked.request_id}",
        "Olga again: opened on the record, held against its token, shown once",
    )
    [original] = desk.reveal(olga, asked.request_id, _show)
    _prove(original, samples)
    step("coatcheck audit list", "the trail, a hash chain: who, what, why, how many; never a value")
    whole = config_of(postgres.dsn)
    for entry in trail.entries(whole):
        terminal.out(f"{entry.seq}  {entry.actor}  {entry.event:<22}  {_in_short(entry.detail)}")
    step("coatcheck audit verify", "any change to it is found")
    terminal.out(f"ok  {trail.verify(lambda: whole, None, (), None).count} entries, unbroken")


def _in_short(detail: str) -> str:
    told = {name: value for name, value in json.loads(detail).items() if value and name != "digest"}
    return ", ".join(f"{name} {value}" for name, value in told.items())


def _show(originals: list[Original]) -> None:
    for original in originals:
        terminal.out(f"{original.item}  {original.text}")


def _refused(action: Callable[[], object]) -> str:
    try:
        action()
    except RefusedError as error:
        return f"coatcheck: error: {error.message}"
    raise CoatcheckError("the demo opened what nobody had approved", hint="please report this as a bug")


def _prove(original: Original, samples: Samples) -> None:
    if original.problem or not any(f'"{original.text}"' in body for body in samples.bodies):
        raise CoatcheckError("the demo did not get the original back", hint="please report this as a bug")
