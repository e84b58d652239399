"""Every statement that writes jobs, while others write the same rows: as if one had come after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.concurrency.cases import CASES, Case
from tests.concurrency.database import ANALYZE, CROWD, Stage
from tests.concurrency.writers import KEY_SHARE, TOUCH, WRITERS, Writer
from tests.conftest import _execute


@pytest.fixture(scope="module")
def stage(server: str, template: str) -> Iterator[Stage]:
    name = f"{template}_crowd"
    _execute(server, f"create database {name} template {template}")
    dsn = make_conninfo(server, dbname=name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(CROWD)
        connection.execute(ANALYZE)
    stage = Stage(dsn)
    yield stage
    stage.close()
    _execute(server, f"drop database {name} with (force)")


@dataclass(frozen=True)
class Scenario:
    """Who else writes how many of the jobs of a case; as many as each of them has are free."""

    groups: tuple[Writer, ...]
    count: int
    commit: bool = True

    def __str__(self) -> str:
        names = self.groups[0].name if len(self.groups) == 1 else f"{len(self.groups)} writers"
        return f"{names}, {self.count} each{'' if self.commit else ', rolled back'}"


def scenarios(case: Case) -> list[Scenario]:
    """All writers in one transaction, each with jobs of its own; and those by themselves that need it."""
    fitting = [w for w in WRITERS if case.state in w.states and w.name not in case.without]
    together = tuple(w for w in fitting if not w.alone)
    found = [Scenario(together, count) for count in case.sizes if count <= 10]
    found += [Scenario((TOUCH,), count) for count in case.sizes]
    found += [Scenario((writer,), 2) for writer in fitting if writer.alone]
    return [
        *found,
        Scenario((KEY_SHARE,), case.sizes[0]),
        Scenario(together, case.sizes[0], commit=False),
    ]


class Run:
    """One scenario of one case: made, written by others, written by the statement under test, looked at."""

    def __init__(self, stage: Stage, case: Case, scenario: Scenario, how: str) -> None:
        self._stage, self._case, self._scenario = stage, case, scenario
        self._under = stage.under[how]
        self.jobs = stage.make(case.state, (len(scenario.groups) + 1) * scenario.count)
        case.make(stage, self.jobs)
        self._operations = list(case.operations(self.jobs))

    def _write(self) -> None:
        count = self._scenario.count
        for place, writer in enumerate(self._scenario.groups):
            self.jobs.theirs = self.jobs.ids[place * count : (place + 1) * count]
            writer.act(self._stage, self.jobs)

    def _perform(self) -> list[Any]:
        return [self._stage.run(self._under, operation) for operation in self._operations]

    def one_after_the_other(self) -> dict[str, Any]:
        try:
            if self._scenario.commit:
                self._write()
                self._stage.writer.commit()
            return self._stage.told(self.jobs, self._perform())
        finally:
            self._stage.clear(self.jobs)

    def both_at_once(self) -> tuple[dict[str, Any], list[str]]:
        """What is in the end, and what was wrong on the way."""
        wrong = []
        writer, key_share = self._stage.writer, self._scenario.groups == (KEY_SHARE,)
        try:
            self._write()
            with self._stage.beside(self._under, self._operations) as under:
                if under.waited and not self._case.waits:
                    wrong.append("waits for a lock")
                if under.waited and key_share and not self._case.deletes:
                    wrong.append("waits for a key-share lock")
                (writer.commit if self._scenario.commit else writer.rollback)()
                returned = under.result()
            if not under.waited and (not key_share or self._case.deletes):
                again = self._perform()
                returned = again if self._case.anew else merged(returned, again)
            return self._stage.told(self.jobs, returned), wrong
        finally:
            writer.rollback()
            self._stage.clear(self.jobs)


def merged(first: list[Any], second: list[Any]) -> list[Any]:
    """What two calls returned, as one would have."""
    both = []
    for one, other in zip(first, second, strict=True):
        match one, other:
            case dict(), dict():
                both.append(one | other)
            case list(), list():
                both.append([*one, *(each for each in other if each not in one)])
            case tuple(), tuple():
                both.append(tuple(merged(list(one), list(other))))
            case _:
                both.append(other)
    return both


def expected(stage: Stage, case: Case, scenario: Scenario, how: str) -> dict[str, Any]:
    """What is there when one comes after the other; by any plan, so it is found out once."""
    key = (case.name, scenario)
    if key not in stage.known:
        stage.known[key] = Run(stage, case, scenario, how).one_after_the_other()
    return stage.known[key]


def faults(stage: Stage, case: Case, how: str, *, first: bool = False) -> list[str]:
    """What differs from one after the other, as text; nothing when all is well. ``first``: one is enough."""
    found = []
    for scenario in scenarios(case):
        right = expected(stage, case, scenario, how)
        seen, wrong = Run(stage, case, scenario, how).both_at_once()
        wrong += difference(right, seen)
        found += [f"{scenario}: {each}" for each in wrong]
        if found and first:
            break
    return found


def difference(right: dict[str, Any], seen: dict[str, Any]) -> list[str]:
    """The first difference of each kind and how many there are, short."""
    lines = []
    for kind in right:
        ours, theirs = Counter(map(str, right[kind])), Counter(map(str, seen[kind]))
        missing, other = list((ours - theirs).elements()), list((theirs - ours).elements())
        if missing or other:
            lines.append(
                f"{len(missing)} {kind} missing and {len(other)} instead:\n   {missing[:1]}\n   {other[:1]}"
            )
    return [line if len(line) < 1000 else f"{line[:1000]}..." for line in lines]


@pytest.mark.parametrize("how", ["pinned", "plain"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_as_if_one_after_the_other(stage: Stage, case: Case, how: str) -> None:
    assert not (found := faults(stage, case, how)), "\n".join(found)
