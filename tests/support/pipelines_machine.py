"""The state machine: three pipelines in two databases with one keyring, and everything that is done to them.

After each step the databases and the keyring are held against what ought to be there (`pipelines_truth`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.support.pipelines_truth import (
    BAD,
    COLUMNS,
    ERASED,
    GOOD,
    HELD,
    QUEUE,
    REFUSED,
    ROW,
    Seen,
    Sent,
    Truth,
    kid_of,
    network,
)
from tests.support.pipelines_world import (
    HOME,
    OLD_EPOCHS,
    ONE,
    REMOVABLE,
    TABLE,
    TWO,
    Crash,
    Host,
    Shape,
    Templates,
    World,
    body,
    message,
    world,
)

from coatcheck import app, custody, erasure, maintenance, rotation
from coatcheck.config import Config
from coatcheck.erasure import Why
from coatcheck.errors import ConfigError, RefusedError
from coatcheck.keys.databases import read as databases
from coatcheck.sinks.postgres import sink as sink_module
from coatcheck.sinks.postgres.quarantine import Selection
from coatcheck.sql import register
from coatcheck.sql.connection import connect
from coatcheck.vault import retokenize as retokenize_module
from coatcheck.vault.retokenize import Retokenized

PHASES = (Phase.generate, Phase.shrink)
WHY = Why("DSAR", "INC-1")
IPS = ("10.0.0.1", "10.0.0.2", "10.0.1.1")
PHONES = ("+49 1", "+49 2")
WHOS = ("ada", "bob")
COMMON = IPS[0]
"""Few values, and one that is common, so that what is done to it meets it again."""

pipelines = st.sampled_from(sorted(HOME))
places = st.sampled_from([ONE, TWO])
slots = st.sampled_from([0, 0, 0, 1])
fresh = st.tuples(
    st.sampled_from([GOOD, GOOD, GOOD, REFUSED, BAD]),
    st.sampled_from([COMMON, COMMON, *IPS]),
    st.sampled_from(PHONES),
    st.sampled_from(WHOS),
)
again = st.lists(st.integers(0, 200), max_size=3)
"""Which earlier messages come once more; counted round."""
batches = st.lists(fresh, min_size=1, max_size=4)
epochs = st.sampled_from([None, None, None, None, *OLD_EPOCHS])
picks = st.integers(0, 200)


class Pipelines(RuleBasedStateMachine):
    """What may be done, by whom and in which order ever."""

    def __init__(self, base: Templates, folder: Path) -> None:
        super().__init__()
        self.world: World = world(base, folder)
        self.truth = Truth(self.world)

        self.steps = -1

    def teardown(self) -> None:
        self.world.close()

    @invariant()
    def holds(self) -> None:
        self.truth.hold()
        self.steps += 1

    # -- loading

    def _batch(self, pipeline: str, new: Sequence[tuple[str, str, str, str]], earlier: Sequence[int]) -> list[Sent]:
        known = self.truth.of(pipeline)
        batch = [known[at % len(known)] for at in earlier] if known else []
        for kind, ip, phone, who in new:
            number = len(self.truth.sent)
            size: object = {GOOD: 1, REFUSED: 500, BAD: "x"}[kind]
            text = body(number, ip=ip, phone=phone, who=who, size=size)
            if kind == BAD and number % 2:
                text = text[:-1]
            one = Sent(number, pipeline, message(text), kind, ip, phone, who)
            self.truth.sent.append(one)
            batch.append(one)
        return batch

    def _had_effect(self, host: Host, batch: Sequence[Sent]) -> None:
        for one in batch:
            if one.place == QUEUE and not self._loads(one):
                one.place = HELD
            elif one.place == QUEUE:
                self.truth.became(one, host.shape.without)
            elif one.place == ROW:
                self.truth.came(one, host.shape.without)

    def _loads(self, one: Sent) -> bool:
        return one.kind == GOOD or (one.kind == REFUSED and one.pipeline not in self.world.constrained)

    def _take(self, pipeline: str, slot: int, batch: list[Sent], work: Callable[[Host], None]) -> None:
        """Have a loader take a batch; one whose key is retired is refused, and is started again by who sees to it."""
        host = self.world.loader(pipeline, slot)
        self.truth.tried(pipeline, batch)
        database = self.world.database(pipeline)
        try:
            work(host)
        except ConfigError as error:
            if "CC001" not in error.message:
                raise
            state = database.value("SELECT state FROM coatcheck.token_key WHERE kid = %s", host.kid)
            assert state == "retired"
            self.world.stop(pipeline, slot)
        except Crash:
            self.world.stop(pipeline, slot)
            self._settle(host, batch)
        else:
            self._had_effect(host, batch)

    def _settle(self, host: Host, batch: Sequence[Sent]) -> None:
        """Find out whether a batch was committed before the crash: as a whole, or not at all."""
        waited = [one for one in batch if one.place == QUEUE]
        if not waited:
            return
        pipeline = waited[0].pipeline
        database = self.world.database(pipeline)
        rows = {number for (number,) in database.execute(f"SELECT n FROM {TABLE[pipeline]}")}
        held = {text for (text,) in database.execute("SELECT message_id FROM coatcheck.quarantine")}
        there = {one.number for one in waited if one.number in rows or one.message.message_id in held}
        if not any(one.kind == REFUSED and not self._loads(one) for one in waited):
            assert there in (set(), {one.number for one in waited}), "a part of a batch"
        unaware = host.vault._erasures < database.value("SELECT erasures FROM coatcheck.erased")
        for one in waited:
            if one.number in there:
                self._had_effect(host, [one])
                one.in_flight = unaware and one.place == ROW

    @rule(pipeline=pipelines, slot=slots, new=batches, earlier=again, epoch=epochs)
    def load(
        self, *, pipeline: str, slot: int, new: list[tuple[str, str, str, str]], earlier: list[int], epoch: int | None
    ) -> None:
        batch = self._batch(pipeline, new, earlier)

        def work(host: Host) -> None:
            back = host.at(epoch)
            host.take([one.message for one in batch])
            back()

        self._take(pipeline, slot, batch, work)

    @rule(pipeline=pipelines, slot=slots, earlier=st.lists(picks, min_size=1, max_size=6))
    def redeliver(self, *, pipeline: str, slot: int, earlier: list[int]) -> None:
        if batch := self._batch(pipeline, [], earlier):
            self._take(pipeline, slot, batch, lambda host: _taken(host.take([one.message for one in batch])))

    @rule(pipeline=pipelines, slot=slots, new=batches, earlier=again, crash=st.booleans())
    def load_and_lose_the_answer(
        self, *, pipeline: str, slot: int, new: list[tuple[str, str, str, str]], earlier: list[int], crash: bool
    ) -> None:
        batch = self._batch(pipeline, new, earlier)
        self._take(pipeline, slot, batch, lambda host: host.answer_lost([one.message for one in batch], crash=crash))

    @rule(pipeline=pipelines, slot=slots, new=batches, earlier=again, crash=st.booleans())
    def load_and_be_killed(
        self, *, pipeline: str, slot: int, new: list[tuple[str, str, str, str]], earlier: list[int], crash: bool
    ) -> None:
        batch = self._batch(pipeline, new, earlier)
        database, table = self.world.database(pipeline), TABLE[pipeline]
        self._take(
            pipeline, slot, batch, lambda host: host.cut([one.message for one in batch], database, table, crash=crash)
        )

    @rule(pipeline=pipelines, slot=slots)
    def restart(self, *, pipeline: str, slot: int) -> None:
        self.world.stop(pipeline, slot)
        self.world.loader(pipeline, slot)

    # -- quarantine

    @rule(pipeline=pipelines, on=st.booleans())
    def change_the_rule_of_a_table(self, *, pipeline: str, on: bool) -> None:
        """Drop it, or bring it back where no row breaks it: such a row can be changed by nobody."""
        change = "ADD CONSTRAINT small CHECK (size < 100)" if on else "DROP CONSTRAINT small"
        broken = any(one.kind == REFUSED and one.place == ROW for one in self.truth.of(pipeline))
        if on != (pipeline in self.world.constrained) and not (on and broken):
            self.world.database(pipeline).execute(f"ALTER TABLE {TABLE[pipeline]} {change}")
            self.world.constrained ^= {pipeline}

    @rule(pipeline=pipelines, everything=st.booleans(), stop_after=st.sampled_from([1, 99, 99]))
    def retry(self, *, pipeline: str, everything: bool, stop_after: int) -> None:
        """Retry all of one pipeline, or name all there is in its database; killed in between, or not."""
        database, steps = self.world.database(pipeline), _killed_after(stop_after)
        ids = tuple(one for (one,) in database.execute("SELECT quarantine_id FROM coatcheck.quarantine"))
        held = [one for one in self.truth.of(pipeline) if one.place == HELD]
        self.truth.tried(pipeline, held)
        try:
            app.quarantine_retry(
                self.world.config(pipeline), Selection() if everything else Selection(ids), progress=lambda: steps(None)
            )
        except Crash:
            loaded = database.execute("SELECT message_id FROM coatcheck.quarantine WHERE state = 'loaded'")
            done = [one for one in held if (one.message.message_id,) in loaded]
            assert all(map(self._loads, done))
        else:
            done = [one for one in held if self._loads(one)]
        for one in done:
            self.truth.became(one, self.world.shapes[pipeline].without)

    # -- keys

    @rule(pipeline=pipelines)
    def rotate(self, *, pipeline: str) -> None:
        config, before = self.world.config(pipeline), self._kids()
        if len(before) > 1:
            with pytest.raises((RefusedError, ConfigError), match=r"is not over|does not know the token key"):
                rotation.rotate(config)
            assert self._kids() == before
            return
        self._rotate(pipeline)
        assert self._kids()[1:] == before

    def _rotate(self, pipeline: str) -> None:
        """Rotate by a database, which makes its views: over the columns that are registered now."""
        config, place = self.world.config(pipeline), HOME[pipeline]
        rotation.rotate(config)
        names = {TABLE[name]: name for name in HOME}
        with connect(custody.dsn(config)) as connection:
            tables = register.tables(connection)
        self.truth.viewed[place] = {(names[table.name], column) for table in tables for column in table.names}

    @rule(pipeline=pipelines, steps=st.sampled_from([1, 2, 3, 5, 8, 99]))
    def retokenize(self, *, pipeline: str, steps: int) -> None:
        with _expected(self._why_no_retokenize(pipeline)):
            try:
                done = rotation.retokenize(self.world.config(pipeline), _killed_after(steps))
            except Crash:
                return
            self._is_complete(pipeline, done)

    def _why_no_retokenize(self, pipeline: str) -> str | None:
        kids = self._kids()
        if len(kids) == 1:
            return "is the only token key"
        return "is retired already" if self._state(pipeline, kids[1]) == "retired" else None

    def _is_complete(self, pipeline: str, done: Retokenized) -> None:
        """What is left under the old key is of originals that are gone, and of networks without another original."""
        assert (done.mismatched, done.foreign) == (0, 0)
        seen = self.truth.look(HOME[pipeline])
        old = self._kids()[1]
        left = seen.under(old)
        assert len(left) == sum(done.left.values())
        there = set(seen.originals.values())
        networks = {network(ip) for (token, _), ip in seen.originals.items() if kid_of(token) == old}
        for name, number, column in left:
            ip = self.truth.sent[number].ip
            assert column != "phone"
            assert (network(ip) not in networks) if column == "net" else (ip not in there), (name, number, column)

    @rule(pipeline=pipelines, which=st.sampled_from(["old", "old", "old", "active", "unknown"]))
    def retire(self, *, pipeline: str, which: str) -> None:
        kids = self._kids()
        if which != "old" or len(kids) == 1:
            kid, told = (kids[0], "is the active key") if which == "active" else ("k99", "is not in the keyring")
            before = self.truth.look(HOME[pipeline])
            with pytest.raises((RefusedError, ConfigError), match=told):
                rotation.retire(self.world.config(pipeline), kid)
            assert self.truth.look(HOME[pipeline]) == before
            return
        self._retire(pipeline, kids)

    def _retire(self, pipeline: str, kids: tuple[str, ...]) -> None:
        before = self.truth.look(HOME[pipeline])
        try:
            done = rotation.retire(self.world.config(pipeline), kids[1])
        except RefusedError:
            assert before.under(kids[1]) or _only_under(before, kids[1])
            after = self.truth.look(HOME[pipeline])
            before.keys |= {kid: key for kid, key in after.keys.items() if kid not in before.keys}
            assert after == before, "it may take note of keys, and change nothing"
            assert self._kids() == kids
            return
        assert not before.under(kids[1])
        noted = {one.id: one for one in databases(self.world.keyring).databases}
        waiting = [one for one in noted.values() if kids[1] not in one.retired]
        assert len(done.others) == len(waiting)
        assert self._kids() == (kids if waiting else kids[:1])

    @rule(pipeline=pipelines)
    def finish_a_rotation(self, *, pipeline: str) -> None:
        """Every loader is started again, what is left is taken along: then the key goes, in each database."""
        if len(self._kids()) == 1:
            return
        for place in (HOME[pipeline], *({ONE, TWO} - {HOME[pipeline]})):
            kids = self._kids()
            if len(kids) == 1:
                return
            mine = next(name for name, home in HOME.items() if home == place)
            for name in (name for name, home in HOME.items() if home == place):
                self.world.stop(name)
            if self._state(mine, kids[1]) != "retired":
                done = rotation.retokenize(self.world.config(mine))
                self._is_complete(mine, done)
                if done.left:
                    continue
            self._retire(mine, kids)
            assert self._state(mine, kids[1]) in ("retired", None)

    @precondition(lambda self: len(custody.loader_keys(self.world.config("c")).kids) == 1)
    @rule(pipeline=pipelines, slot=slots, by=pipelines)
    def rotate_while_a_host_starts_with_the_old_keyring(self, *, pipeline: str, slot: int, by: str) -> None:
        """The host's database is known to the keyring that the rotation looks at."""
        self.world.loader(pipeline, slot)
        copy = self.world.copy_keyring()
        self._rotate(by)
        self.world.start_with(pipeline, slot, copy)

    def _kids(self) -> tuple[str, ...]:
        return custody.loader_keys(self.world.config("c")).kids

    def _state(self, pipeline: str, kid: str) -> str | None:
        found = self.world.database(pipeline).execute("SELECT state FROM coatcheck.token_key WHERE kid = %s", kid)
        return found[0][0] if found else None

    # -- erasure

    @rule(pipeline=pipelines, value=st.sampled_from([COMMON, COMMON, *IPS, *PHONES]))
    def erase_a_value(self, *, pipeline: str, value: str) -> None:
        domain = "ip" if value in IPS else "phone"
        self._erased(pipeline, domain, value, lambda config: erasure.erase_value(config, domain, value, WHY))
        if domain == "ip":
            self.truth.forgotten(HOME[pipeline], value)

    def _erased(self, pipeline: str, domain: str, value: str, work: Callable[[Config], object]) -> None:
        """Erase a value; where no column has its domain any more, no row has a text of it."""
        config, place = self.world.config(pipeline), HOME[pipeline]
        with connect(custody.dsn(config)) as connection:
            known = any(column.domain == domain for column in register.all_columns(register.tables(connection)))
        with _expected(None if known else "no column has tokens"):
            work(config)
        for one in self.truth.at(place):
            columns = [name for name, column in COLUMNS[one.pipeline].items() if column.domain == domain]
            mine = [name for name in columns if one.texts.get(name) is not None and _is(one, name, value)]
            assert known or not mine
            self.truth.tombstones([one], mine)

    @rule(place=places, pick=picks, by=pipelines)
    def erase_a_token(self, *, place: str, pick: int, by: str) -> None:
        """By a text as it stands in a table, of any kind."""
        seen = self.truth.look(place)
        texts = [
            (pipeline, number, name, text)
            for pipeline, number, columns, _ in seen.rows
            for name, text in columns.items()
            if kid_of(text)
        ]
        if not texts or HOME[by] != place:
            return
        pipeline, number, name, text = texts[pick % len(texts)]
        one, domain = self.truth.sent[number], COLUMNS[pipeline][name].domain
        value = network(one.ip) if name == "net" else one.value(name)
        self._erased(by, domain, value, lambda config: erasure.erase_tokens(config, [text], WHY))
        if domain == "ip":
            self.truth.forgotten(place, value)

    @rule(pipeline=pipelines, who=st.sampled_from(WHOS), stop=st.booleans())
    def erase_a_subject(self, *, pipeline: str, who: str, stop: bool) -> None:
        """All that is masked in the rows of one; originals that no other row has. Killed and done again, or not."""
        config, place = self.world.config(pipeline), HOME[pipeline]
        if stop:
            with _expected_crash():
                erasure.erase_subject(config, "who", who, WHY, _killed_after(1))
        erasure.erase_subject(config, "who", who, WHY)
        theirs = [one for one in self.truth.of(pipeline) if one.who == who and one.place == ROW]
        ips = {one.ip for one in theirs if _has_token(one)}
        self.truth.tombstones(theirs, COLUMNS[pipeline])
        for ip in ips:
            if not any(one.ip == ip and _has_token(one) for one in self.truth.at(place)):
                self.truth.forgotten(place, ip)

    @rule(pipeline=pipelines, epoch=st.sampled_from([*OLD_EPOCHS, None]))
    def let_epochs_go(self, *, pipeline: str, epoch: int | None) -> None:
        """Erase one that is over, or do what is due, which is what no pipeline keeps."""
        place = HOME[pipeline]
        before = self.truth.look(place)
        if epoch is not None:
            erasure.erase_epoch(self.world.config(pipeline), epoch, WHY)
            self._let_go(place, before, {epoch})
            return
        done = maintenance.maintain(self.world.config(pipeline), WHY)
        kept = [shape for name, shape in self.world.shapes.items() if HOME[name] == place and not shape.keep_epochs]
        old = {epoch for _, epoch in before.originals if epoch in OLD_EPOCHS}
        erased = set(done.epochs_erased)
        assert not erased if kept else erased >= old
        self._let_go(place, before, erased)

    def _let_go(self, place: str, before: Seen, gone: set[int]) -> None:
        there = {ip for (_, epoch), ip in before.originals.items() if epoch not in gone}
        self.truth.lost[place] |= set(before.originals.values()) - there

    # -- configurations

    @rule(pipeline=pipelines, pick=picks, keep=st.sampled_from([0, 1]))
    def migrate(self, *, pipeline: str, pick: int, keep: int) -> None:
        """As it is, or with a column left out or put back.

        Loaders that run fill a column that is left out until they are started again: before the next time, at most.
        """
        names = REMOVABLE[pipeline]
        shape = Shape(frozenset({name for at, name in enumerate(names) if pick % 4 == at + 1}), keep)
        if shape.without & self.world.shapes[pipeline].without:
            self.world.stop(pipeline)
        self.world.shapes[pipeline] = shape
        app.migrate(self.world.config(pipeline))


def _taken(_: object) -> None:
    """Drop what a loader counts."""


def _is(one: Sent, name: str, value: str) -> bool:
    if one.texts[name] is ERASED:
        return False
    return (network(one.ip) if name == "net" else one.value(name)) == value


def _has_token(one: Sent) -> bool:
    """Tell whether a row has the token of its address."""
    texts = {COLUMNS[one.pipeline][name].domain: text for name, text in one.texts.items()}
    return texts.get("ip", ERASED) is not ERASED


def _only_under(seen: Seen, kid: str) -> bool:
    return any(kid_of(token) == kid for token, _ in seen.originals)


def _killed_after(steps: int) -> Callable[[Any], None]:
    """Return a progress callback that ends the job after so many steps."""
    count = itertools.count(1)

    def progress(_: object) -> None:
        if next(count) >= steps:
            raise Crash

    return progress


@contextmanager
def _expected(told: str | None) -> Iterator[None]:
    """Expect a refusal with these words, or none."""
    if told is None:
        yield
    else:
        with pytest.raises((RefusedError, ConfigError), match=told):
            yield


@contextmanager
def _expected_crash() -> Iterator[None]:
    with suppress(Crash):
        yield


def run(base: Templates, folder: Path, *, shard: int, examples: int, steps: int) -> list[int]:
    """Run so many examples of so many steps, the same each time, and other ones in each shard.

    Return the number of steps of each.
    """
    made: list[Pipelines] = []

    def machine() -> Pipelines:
        made.append(Pipelines(base, folder))
        return made[-1]

    seed(shard)(machine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sink_module, "_BACKOFF_FIRST_S", 0.001)
        patch.setattr(sink_module, "_BACKOFF_MOST_S", 0.01)
        patch.setattr(retokenize_module, "_PAGE", 2)
        run_state_machine_as_test(
            machine,  # type: ignore[arg-type]  # a function that makes one will do
            _min_steps=steps,  # otherwise one in eight ends early
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                print_blob=True,
                report_multiple_bugs=False,
                phases=PHASES,
                suppress_health_check=list(HealthCheck),
            ),
        )
    return [one.steps for one in made]
