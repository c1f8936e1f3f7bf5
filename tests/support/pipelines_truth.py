"""What ought to be in the databases of the state machine, and what is: held against each other after each step."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.fix_servers import LoginDatabase
from tests.support.pipelines_world import HOME, MASKED, ONE, TABLE, TWO, World, config_of

from coatcheck import custody
from coatcheck.keys import Opener
from coatcheck.keys.local import LocalLoaderKeys, LocalOpenerKeys
from coatcheck.pipeline.columns import Column
from coatcheck.pipeline.mask import masking
from coatcheck.pipeline.message import DataKey, Message, Sealed
from coatcheck.vault import reading
from coatcheck.vault.chain import Checkpoint, verify
from coatcheck.vault.store import vault_context

ERASED = "erased"
QUEUE, ROW, HELD = "queue", "row", "held"
"""Where a message is: not loaded yet, in its table, in quarantine."""
GOOD, REFUSED, BAD = "good", "refused", "bad"
"""Messages that load, that the table's rule refuses while it is there, that never load."""

COLUMNS: dict[str, dict[str, Column]] = {
    pipeline: {column.name: column for column in config_of(pipeline, "", Path()).plan() if column.name in columns}
    for pipeline, columns in MASKED.items()
}


def network(ip: str) -> str:
    return ip.rpartition(".")[0]


@dataclass
class Sent:
    """One message, and where it is. `texts` are the values that its row has, by masked column; ERASED for tombstones.

    `in_flight`: its loader was killed between the commit and the ack, and did not know of an erasure; what that has
    taken comes back with the message.
    """

    number: int
    pipeline: str
    message: Message
    kind: str
    ip: str
    phone: str
    who: str
    place: str = QUEUE
    texts: dict[str, str] = field(default_factory=dict)
    in_flight: bool = False

    def value(self, column: str) -> str:
        """Return what a masked column is made of."""
        return self.phone if column == "phone" else self.ip

    def loaded(self, without: Iterable[str]) -> None:
        """Take note that it has become a row, by a loader whose configuration leaves columns out."""
        self.place = ROW
        self.texts = {name: self.value(name) for name in MASKED[self.pipeline] if name not in without}


@dataclass
class Seen:
    """What a database holds. Texts are by masked column; `current` are the same through the aliases."""

    rows: list[tuple[str, int, dict[str, str], dict[str, str]]]
    views: list[tuple[str, int, dict[str, str]]]
    quarantine: list[tuple[str, str, str]]
    originals: dict[tuple[str, int], str]
    aliases: dict[str, str]
    keys: dict[str, tuple[str, str]]

    def under(self, kid: str) -> list[tuple[str, int, str]]:
        """Return the texts in rows that are under a key, by pipeline, row and column."""
        return [
            (pipeline, number, column)
            for pipeline, number, texts, _ in self.rows
            for column, text in texts.items()
            if kid_of(text) == kid
        ]


def kid_of(text: str) -> str:
    return "" if text.startswith("px1_") else text.split("_")[2]


class Truth:
    """The messages, and which originals may be gone or have to be, by database."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sent: list[Sent] = []
        self.lost: dict[str, set[str]] = {ONE: set(), TWO: set()}
        self.erased: dict[str, set[str]] = {ONE: set(), TWO: set()}
        self.viewed: dict[str, set[tuple[str, str]]] = {ONE: set(), TWO: set()}
        self._opener = Opener(LocalOpenerKeys.load(world.keyring))
        self._opened: dict[bytes, str] = {}
        self._made: dict[tuple[str, str, str, str], str] = {}
        self._heads: dict[str, list[Checkpoint]] = {ONE: [], TWO: []}

    # -- what is known

    def of(self, *pipelines: str) -> list[Sent]:
        """Return the messages of some pipelines."""
        return [one for one in self.sent if one.pipeline in pipelines]

    def at(self, place: str) -> list[Sent]:
        """Return the messages of a database's pipelines."""
        return self.of(*(name for name, home in HOME.items() if home == place))

    def tried(self, pipeline: str, messages: Iterable[Sent]) -> None:
        """Take note that a road has seen these messages: what it seals of them may be stored."""
        self.erased[HOME[pipeline]] -= {one.ip for one in messages}

    def became(self, one: Sent, without: Iterable[str]) -> None:
        """Take note that a message has become a row."""
        one.loaded(without)
        self.came(one, without)

    def came(self, one: Sent, without: Iterable[str]) -> None:
        """Take note that a loader has seen a message to its end: its original is there, if it has a column for it."""
        one.in_flight = False
        if {"ip", "address"} & (MASKED[one.pipeline].keys() - set(without)):
            self.lost[HOME[one.pipeline]].discard(one.ip)

    def excused(self, place: str) -> set[str]:
        """Return the values that may be without original and alias, since their message is in flight."""
        found = [one for one in self.at(place) if one.in_flight]
        return {value for one in found for value in (one.ip, one.phone, network(one.ip))}

    def tombstones(self, messages: Iterable[Sent], columns: Iterable[str]) -> None:
        """Take note that columns of rows are erased."""
        for one in messages:
            one.texts |= dict.fromkeys(one.texts.keys() & set(columns), ERASED)

    def forgotten(self, place: str, ip: str) -> None:
        """Take note that an original is erased."""
        self.erased[place].add(ip)

    # -- what is there

    def look(self, place: str) -> Seen:
        """Read all that matters of a database, and open its vault."""
        database = self.world.databases[place]
        seen = Seen([], [], [], {}, {}, {})
        seen.aliases = dict(database.execute("SELECT old_token, new_token FROM coatcheck.alias"))
        for pipeline in (name for name, home in HOME.items() if home == place):
            seen.rows += _rows(database, pipeline)
            if database.value(f"SELECT to_regclass('{TABLE[pipeline]}_current') IS NOT NULL"):
                seen.views += _view(database, pipeline)
        seen.quarantine = database.execute("SELECT pipeline, message_id, state FROM coatcheck.quarantine")
        keys = database.execute("SELECT kid, state, fingerprint FROM coatcheck.token_key")
        seen.keys = {kid: (state, fingerprint) for kid, state, fingerprint in keys}
        seen.originals = self._originals(database)
        return seen

    def _originals(self, database: LoginDatabase) -> dict[tuple[str, int], str]:
        found = database.execute(
            "SELECT token, epoch, dek_id, nonce, ciphertext, kek, wrapped"
            " FROM coatcheck.vault JOIN coatcheck.data_key USING (dek_id)"
        )
        assert len(found) == database.count("coatcheck.vault"), "a data key is missing"
        originals = {}
        for token, epoch, dek, nonce, text, kek, wrapped in found:
            at = token.encode() + dek.bytes + nonce
            if at not in self._opened:
                sealed, key = Sealed(dek.bytes, nonce, text), DataKey(dek.bytes, kek, wrapped)
                self._opened[at] = self._opener.open(sealed, key, *vault_context(token, epoch)).decode()
            originals[token, epoch] = self._opened[at]
        return originals

    def made(self, keys: LocalLoaderKeys, kid: str, column: Column, value: str) -> str:
        """Return the text of a value in a column under a key of the keyring."""
        at = kid, column.domain, column.scheme, value
        if at not in self._made:
            self._made[at] = str(masking(column, custody.tokenizer(keys, kid))(value))
        return self._made[at]

    # -- held against each other

    def hold(self) -> None:
        """Hold both databases and the keyring against what is known. Raises AssertionError."""
        keys = LocalLoaderKeys.load(self.world.keyring)
        for place in (ONE, TWO):
            seen = self.look(place)
            self._effects(place, seen)
            self._keys(seen, keys)
            self._texts(place, seen, keys)
            self._vault(place, seen, keys)
            self._joins(place, seen)
            self._trail(place)

    def _effects(self, place: str, seen: Seen) -> None:
        """Each message has had one effect, in its own table or under the name of its own pipeline."""
        rows = Counter((pipeline, number) for pipeline, number, _, _ in seen.rows)
        states = Counter(seen.quarantine)
        mine = self.at(place)
        assert rows == Counter((one.pipeline, one.number) for one in mine if one.place == ROW), "rows"
        held = {entry: count for entry, count in states.items() if entry[2] == "held"}
        assert held == {(one.pipeline, one.message.message_id, "held"): 1 for one in mine if one.place == HELD}, "held"
        others = {(pipeline, message) for pipeline, message, state in states if state != "held"}
        assert others <= {(one.pipeline, one.message.message_id) for one in mine if one.place == ROW}, "left quarantine"

    @staticmethod
    def _keys(seen: Seen, keys: LocalLoaderKeys) -> None:
        """Keyring and database agree: what has one id is one key, and what texts are under is in use and at hand."""
        mine = custody.fingerprints(keys)
        known = {kid: fingerprint for kid, (_, fingerprint) in seen.keys.items()}
        assert {kid: known[kid] for kid in mine.keys() & known.keys()} == {
            kid: mine[kid] for kid in mine.keys() & known.keys()
        }
        live = {kid_of(text) for _, _, texts, _ in seen.rows for text in texts.values()} - {""}
        assert live <= set(keys.kids), f"texts under {live - set(keys.kids)}, which no keyring has"
        assert {kid for kid in live if seen.keys[kid][0] != "in use"} == set(), "texts under a retired key"

    def _texts(self, place: str, seen: Seen, keys: LocalLoaderKeys) -> None:
        """Each text is a tombstone where one is due, else that of its row's value, whose original opens."""
        sent = {one.number: one for one in self.sent}
        missing = self.lost[place] | self.excused(place)
        tokens = {token for token, _ in seen.originals}
        tokens |= {seen.aliases[token] for token in tokens & seen.aliases.keys()}  # retokenize brings it
        for pipeline, number, texts, current in seen.rows:
            one = sent[number]
            assert texts.keys() == one.texts.keys(), (pipeline, number)
            for name, text in texts.items():
                column, value = COLUMNS[pipeline][name], one.texts[name]
                if value is ERASED:
                    assert text.startswith(f"px1_{column.domain}_"), f"{pipeline} {number} {name}: not erased"
                    continue
                assert text == self.made(keys, kid_of(text), column, value), f"{pipeline} {number} {name}: {text}"
                if column.vault and one.ip not in missing:
                    assert {text, current[name]} & tokens, f"{pipeline} {number} {name}: no original"

    def _vault(self, place: str, seen: Seen, keys: LocalLoaderKeys) -> None:
        """Each original is that of its token, has a key, and has not been erased."""
        column = COLUMNS["c"]["ip"]
        for (token, _), value in seen.originals.items():
            assert kid_of(token) in keys.kids, f"an original under {kid_of(token)}"
            assert token == self.made(keys, kid_of(token), column, value), "an original of another token"
        assert not self.erased[place] & set(seen.originals.values()), "an original that is erased"

    def _joins(self, place: str, seen: Seen) -> None:
        """Equal values have one text in all tables of a database: through the aliases, and so in the views."""
        excused, views = self.excused(place), {(pipeline, number): texts for pipeline, number, texts in seen.views}
        groups: dict[tuple[str, str], set[str]] = defaultdict(set)
        for pipeline, number, _, current in seen.rows:
            one = self.sent[number]
            for name, text in current.items():
                if (pipeline, name) in self.viewed[place]:
                    shown = views[pipeline, number][name]
                    assert shown == text, f"the view over {TABLE[pipeline]} shows {name} otherwise"
                if one.texts[name] is not ERASED:
                    group = network(one.ip) if name == "net" else one.value(name)
                    groups[COLUMNS[pipeline][name].domain, group].add(text)
        torn = {domain for (domain, value), texts in groups.items() if len(texts) > 1 and value not in excused}
        assert not torn, f"equal values do not join: {torn}"

    def _trail(self, place: str) -> None:
        database = self.world.databases[place]
        database.execute("SELECT")
        assert database._connection is not None
        with closing(reading.entries(database._connection)) as found:
            head = verify(found, self._heads[place]).head
        if head is not None:
            self._heads[place] = [Checkpoint("trail", head.seq, head.hash, head.at_us)]


def _rows(database: LoginDatabase, pipeline: str) -> Iterator[tuple[str, int, dict[str, str], dict[str, str]]]:
    names = list(MASKED[pipeline])
    current = ", ".join(
        f'coalesce((SELECT new_token FROM coatcheck.alias WHERE old_token = {name} COLLATE "C"), {name})'
        for name in names
    )
    found = database.execute(f"SELECT n, ARRAY[{', '.join(names)}], ARRAY[{current}] FROM {TABLE[pipeline]} ORDER BY n")
    for number, texts, through in found:
        yield pipeline, number, _present(names, texts), _present(names, through)


def _view(database: LoginDatabase, pipeline: str) -> Iterator[tuple[str, int, dict[str, str]]]:
    names = list(MASKED[pipeline])
    for number, texts in database.execute(f"SELECT n, ARRAY[{', '.join(names)}] FROM {TABLE[pipeline]}_current"):
        yield pipeline, number, _present(names, texts)


def _present(names: list[str], texts: list[Any]) -> dict[str, str]:
    return {name: text for name, text in zip(names, texts, strict=True) if text is not None}
