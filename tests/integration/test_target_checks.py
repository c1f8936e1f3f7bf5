"""The checks of masked columns let in what their patterns say, and nothing else: on every version of PostgreSQL."""

from __future__ import annotations

import random
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from tests.support.builders import a_column, a_tokenizer
from tests.support.fix_servers import LoginDatabase

from coatcheck.keys.forms import Form
from coatcheck.pipeline.columns import Mask
from coatcheck.sinks.postgres.target import checks

DOMAINS = ("ip", "a1b2c3d4e5f6g7h8", "x")
PATTERNS = {
    Mask.TOKEN: "^p[tx]1_{domain}_[0-9a-z]{{2,7}}_[0-9a-f]{{40}}$",
    Mask.SUBNET: "^p[tx]1_{domain}_[0-9a-z]{{2,7}}_[0-9a-f]{{40}}$",
    Mask.SEAL: "^p[sx]1_{domain}_[0-9a-z]{{2,7}}_[A-Za-z0-9_-]{{40,}}$",
}
"""What the columns are to hold, in the words of a regular expression that counts."""

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789_-AZGgptsx1\n\tä. "


def texts(domain: str) -> Iterator[str]:
    """Tokens and sealed texts, good ones and what is a step or two beside them."""
    rng = random.Random(domain)  # noqa: S311 - test data that must repeat
    tokenizer = a_tokenizer()
    good = [tokenizer.token(domain, "Ann", Form()), tokenizer.seal_for(domain, Form())("Ann")]
    for scheme in ("pt1", "ps1", "px1", "pz1"):
        for kid in range(9):
            for size in (0, 1, 39, 40, 41, 42, 43, 44, 80):
                good += [f"{scheme}_{domain}_{'k' * kid}_{'a' * size}", f"{scheme}_{domain}_{'k' * kid}_{'_' * size}"]
                good.append(f"{scheme}_{domain}_{'k' * kid}_{'-Z' * (size // 2)}{'0' * (size % 2)}")
    yield from good
    for text in good:
        for _ in range(12):
            place, letter = rng.randrange(len(text) + 1), rng.choice(ALPHABET)
            kind = rng.randrange(3)
            yield text[:place] + letter * (kind < 2) + text[place + (kind > 0) :]
    yield from ("", "\n", "192.0.2.1", good[0] + "\n", good[0].upper(), good[0] + good[0], f"x{good[0]}", f" {good[0]}")


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("mask", PATTERNS)
def test_a_check_is_its_pattern(any_database: LoginDatabase, mask: Mask, domain: str) -> None:
    column = a_column("varchar(300)", name='odd "name', mask=mask, domain=domain)
    ((name, clause),) = checks([column])
    assert name == 'odd "name_masked'
    tried = [*texts(domain)]
    with psycopg.connect(any_database.dsn) as connection:
        condition = clause.as_string(connection).removeprefix("CHECK ")
        query = sql.SQL("SELECT {}::text, " + condition + ", {} ~ %s FROM unnest(%s::varchar[]) AS t ({})")
        found = connection.execute(
            query.format(*[sql.Identifier(column.name)] * 3), (PATTERNS[mask].format(domain=domain), tried)
        ).fetchall()
    assert [text for text, held, matches in found if held is not matches] == []
    assert 10 < sum(held for _, held, _ in found) < len(found) - 10
