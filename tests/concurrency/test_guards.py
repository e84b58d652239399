"""That the suite is complete, and that it sees a guard that is gone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest

from pgqueue.sql import Statement, load
from tests.concurrency.cases import ALONE, CASES, INSERT, LOOKS, Case
from tests.concurrency.database import Stage
from tests.concurrency.test_writers import expected, faults, scenarios, stage
from tests.concurrency.writing import LOCK, called, functions, writing_functions, writing_statements

__all__ = ["stage"]

# Functions for other clients than ours, of which our statements call the inner part.
FOR_SQL = {"enqueue": "enqueue_jobs", "retry_job": "retry_jobs"}


def test_every_statement_that_writes_jobs_has_a_case(conn: psycopg.Connection) -> None:
    sources = functions(conn)
    names = writing_functions(sources)
    assert {"claim_limited", "settle", "place_job", "check_claim", "deliver_events"} <= names
    writing = writing_statements(load(), names)
    assert {"trade", "fail", "heartbeat", "settle", "save_step", "copy_jobs"} <= writing
    having = {case.statement for case in CASES}
    assert writing - having - INSERT - ALONE - LOOKS == set(), "give each a case in cases.py"
    assert having | INSERT | ALONE | LOOKS <= writing, "these do not write jobs"
    reached = set().union(*(called(load()[name].numbered, sources) for name in having | INSERT))
    assert names - reached - set(FOR_SQL) == set(), "no case calls these functions"
    assert {FOR_SQL[name] for name in FOR_SQL} <= having


def test_those_that_only_insert_do_no_more(conn: psycopg.Connection) -> None:
    sources = functions(conn)
    for statement in INSERT:
        text = load()[statement].numbered
        for each in {text, *(sources[name] for name in called(text, sources))}:
            assert not re.search(r"(?:update|delete from) pgqueue\.jobs", each), statement


def test_looks_change_nothing() -> None:
    """Under limits the function that claims looks; of that see ``test_refused_claims.py``."""
    for statement in LOOKS:
        assert not re.search(r"(?:update|delete from) pgqueue\.", load()[statement].numbered)


def test_no_update_takes_its_rows_from_a_union(conn: psycopg.Connection) -> None:
    """PostgreSQL loses such rows when it checks them again after the wait for a lock; a CTE or an offset keeps them."""
    texts = {name: statement.numbered for name, statement in load().items()} | functions(conn)
    assert [name for name, text in texts.items() if "union" in _joined(text)] == []
    assert "union" in _joined(
        "update a set b = c.b from (select 1 union select 2) c where a.d = c.d"
    )
    assert "union" not in _joined(
        "update a set b = c.b from (select 1 union select 2 offset 0) c where a.d = c.d"
    )
    assert "union" not in _joined("with c as (select 1 union select 2) update a set b = 1 from c")


def _joined(text: str) -> str:
    """What stands in parentheses behind FROM or USING of the updates and deletes of a text."""
    text = re.sub(r"--[^\n]*", "", text)
    found = []
    for start in re.finditer(
        r"\b(?:update|delete from) [a-z_.]+(?: as)?(?: [a-z])?\s+(?:set|using)\b", text
    ):
        depth = 0
        for place in range(start.end(), len(text)):
            depth += {"(": 1, ")": -1}.get(text[place], 0)
            if depth < 0 or (not depth and re.match(r"\b(?:where|returning)\b|;", text[place:])):
                break
        found.append(re.sub(r"union[^()]*\boffset 0\)", "", text[start.end() : place]))
    return " ".join(found)


@dataclass(frozen=True)
class Mutant:
    """A statement, or a function that it calls, with one guard less."""

    case: Case
    function: str | None
    old: str
    new: str

    def __str__(self) -> str:
        where = self.function or self.case.statement
        change = "nothing" if not self.new else repr(" ".join(self.new.split()))
        return f"{where}: {' '.join(self.old.split())!r} becomes {change}"


def mutants(sources: dict[str, str]) -> Iterator[Mutant]:
    """Each lock clause of jobs gone, made to wait, or so strong that foreign keys hold it up; a union inlined."""
    seen = set()
    trade = next(case for case in CASES if case.statement == "trade")
    yield Mutant(trade, None, "offset 0) t", ") t")
    for case in CASES:
        text = load()[case.statement].numbered
        texts: dict[str | None, str] = {None: text}
        texts |= {name: sources[name] for name in called(text, sources)}
        for function, source in texts.items():
            for lock in LOCK.finditer(source):
                changes = [(lock[0], "")]
                if lock["skip"]:
                    changes.append((lock[0], lock[0].removesuffix(" skip locked")))
                if "no key" in lock[0]:
                    changes.append((lock[0], lock[0].replace("no key ", "")))
                for old, new in changes:
                    key = (function or case.statement, lock.start(), new)
                    if key not in seen:
                        seen.add(key)
                        yield Mutant(case, function, old, new)


@contextmanager
def mutated(stage: Stage, mutant: Mutant) -> Iterator[None]:
    """The guard taken out, and put back."""
    if mutant.function is None:
        before = stage.statements
        statement = before[mutant.case.statement]
        numbered = statement.numbered.replace(mutant.old, mutant.new)
        assert numbered != statement.numbered
        fields = (statement.name, numbered, "", "", statement.parameters, numbered.encode())
        stage.statements = {**before, statement.name: Statement(*fields)}
        yield
        stage.statements = before
        return
    definitions = [row[0] for row in stage.looker.execute(
        "select pg_get_functiondef(p.oid) from pg_proc p"
        " where p.pronamespace = 'pgqueue'::regnamespace and p.proname = %s", [mutant.function])]  # fmt: skip
    for definition in definitions:
        stage.looker.execute(definition.replace(mutant.old, mutant.new).encode())
    yield
    for definition in definitions:
        stage.looker.execute(definition.encode())


def noticed(stage: Stage, mutant: Mutant) -> bool:
    """Does a case find a fault?"""
    sources = functions(stage.looker)
    name = mutant.case.statement
    users = [
        case for case in CASES
        if (case.statement == name if mutant.function is None
            else mutant.function in called(load()[case.statement].numbered, sources))
    ]  # fmt: skip
    for case in users:  # what is right is known before the guard goes
        for scenario in scenarios(case):
            expected(stage, case, scenario, "plain")
    with mutated(stage, mutant):
        return any(
            faults(stage, case, how, first=True) for how in ("pinned", "plain") for case in users
        )


@pytest.mark.parametrize("statement", sorted({case.statement for case in CASES}))
def test_a_guard_that_is_gone_is_seen(stage: Stage, statement: str) -> None:
    found = [m for m in mutants(functions(stage.looker)) if m.case.statement == statement]
    unseen = [str(mutant) for mutant in found if not noticed(stage, mutant)]
    assert not unseen, "\n".join(unseen)


def test_there_are_guards_to_take_out(conn: psycopg.Connection) -> None:
    found = {str(mutant) for mutant in mutants(functions(conn))}
    assert len(found) > 50
    assert "trade: 'offset 0) t' becomes ') t'" in found
