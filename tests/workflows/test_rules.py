"""The tables of docs/rules/workflows.md, cell by cell, by every way in."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from typing import Any

import psycopg
import pytest

from pgqueue import App, Dead, Workflow
from pgqueue.testing import inline
from pgqueue.workflow import Node, becomes
from tests.workflows.rules import (
    WAYS_IN,
    WAYS_TO_END,
    Flow,
    became,
    cells,
    done_to,
    ended,
    look,
    parent,
    table,
)
from tests.workflows.support import fail, note

Connection = psycopg.Connection[Any]
POLICIES = ["cancel", "continue", "hold", "only"]
HELD = {"held": "waits"}
BOTH = [
    "What becomes of a job by the end of the one it waits for",
    "What becomes of a job that waits for several",
]


def combinations(ends: str) -> list[tuple[str, ...]]:
    """The ends of parents that words of the page stand for, in every order."""
    words = ends.split(", ")
    found = list(product(*(WAYS_TO_END[word] for word in words)))
    return found + [tuple(reversed(each)) for each in found if len(set(each)) > 1]


async def as_it_is(app: App, conn: Connection, heading: str, way: str) -> dict[Any, str]:
    """What becomes of each child of the table, all of them in one database."""
    flows: dict[tuple[str, str, tuple[str, ...]], Flow] = {}
    for policy, ends in cells(heading):
        for each in combinations(ends):
            flow = flows[policy, ends, each] = Flow()
            after = [parent(app, flow, how) for how in each]
            flow.add(note(app, "child"), after, policy)
            await WAYS_IN[way](app, conn, flow)
            done_to(app, conn, flow)
    await ended(app, conn)
    return {cell: became(conn, flow.ids[-1]) for cell, flow in flows.items()}


def as_written(heading: str) -> dict[Any, str]:
    return {
        (policy, ends, each): HELD.get(says, says)
        for (policy, ends), says in cells(heading).items()
        for each in combinations(ends)
    }


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize("heading", BOTH)
async def test_what_becomes_of_a_job(
    app: App, conn: Connection, ran: list[str], heading: str, way: str
) -> None:
    assert await as_it_is(app, conn, heading, way) == as_written(heading)


def inline_parent(app: App, made: Workflow, end: str) -> Node:
    match end:
        case "dead":
            return made.add(fail(app, "p"))
        case "skipped":
            return made.add(note(app, "p"), after=made.add(note(app, "p")), if_failed="only")
        case "not ended":
            return made.add(note(app, "p"), after=made.add(fail(app, "p")), if_failed="hold")
    return made.add(note(app, "p"))


@pytest.mark.parametrize("heading", BOTH)
def test_what_becomes_of_a_job_that_is_run_inline(app: App, ran: list[str], heading: str) -> None:
    """Nobody cancels or clears jobs there."""
    found, says = {}, {}
    for (policy, ends), what in cells(heading).items():
        words = ends.split(", ")
        if not {"gone", "cancelled"} & set(words):
            made = app.workflow()
            after = [inline_parent(app, made, word) for word in words]
            made.add(note(app, "child"), after=after, if_failed=policy)  # type: ignore[arg-type]
            ran.clear()
            with inline(app), suppress(Dead):
                made.enqueue()
            found[policy, ends], says[policy, ends] = "child" in ran, what == "runs"
    assert found == says


@pytest.mark.parametrize("heading", BOTH)
def test_the_rule_where_there_is_no_database(heading: str) -> None:
    meant: dict[str, Any] = {"dead": "failed", "cancelled": "failed", "gone": "failed"}
    found, says = {}, {}
    for (policy, ends), what in cells(heading).items():
        if "gone" not in ends or policy != "hold":
            words = [meant.get(word, word) for word in ends.split(", ")]
            found[policy, ends], says[policy, ends] = becomes(policy, words), HELD.get(what, what)
    assert found == says


async def test_the_status_of_a_workflow(app: App, conn: Connection, ran: list[str]) -> None:
    found, says = {}, {}
    _, rows = table("The status of a workflow")
    for jobs, status in rows:
        flow = Flow()
        for word in jobs.split(", "):
            if word == "held":
                flow.add(note(app, "held"), [1], "hold")
            else:
                parent(app, flow, WAYS_TO_END[word][0])
        await WAYS_IN["app"](app, conn, flow)
        done_to(app, conn, flow)
        found[jobs], says[jobs] = flow.workflow, status
    await ended(app, conn)
    assert {jobs: app.client.workflow(each).status for jobs, each in found.items()} == says


async def test_the_callbacks_of_a_batch(app: App, conn: Connection, ran: list[str]) -> None:
    head, rows = table("The callbacks of a batch")
    callbacks, found = head[1:-1], {}
    for row in rows:
        flow = Flow()
        for word in row[0].split(", "):
            parent(app, flow, WAYS_TO_END[word][0])
        enqueued = app.batch(
            [each.job for each in flow.made], **{name: note(app, name) for name in callbacks}
        ).enqueue()
        flow.entered(enqueued.id, [job.id for job in enqueued.jobs])
        done_to(app, conn, flow)
        found[row[0]] = flow
    await ended(app, conn)
    assert [
        [jobs, *(became(conn, job) for job in flow.ids[-len(callbacks) :]), app.client.workflow(flow.workflow).status]
        for jobs, flow in found.items()
    ] == rows  # fmt: skip


@pytest.mark.parametrize("again", ["retry", "retry_many", "aretry"])
async def test_what_a_retry_makes_of_a_job(
    app: App, conn: Connection, ran: list[str], again: str
) -> None:
    heading = "What a retry makes of a job"
    flows: dict[Any, Flow] = {}
    for policy, end in cells(heading):
        for how in WAYS_TO_END[end]:
            flow = flows[policy, end, (how,)] = Flow()
            after = parent(app, flow, how)
            flow.add(note(app, "child"), [after], policy)
            await WAYS_IN["app"](app, conn, flow)
            app.client.cancel(flow.ids[-1])
            done_to(app, conn, flow)
    await ended(app, conn)
    found = {}
    for cell, flow in flows.items():
        job = flow.ids[-1]
        if again == "aretry":
            done = await app.aclient.retry(job)
        else:
            done = (
                app.client.retry(job) if again == "retry" else app.client.retry_many([job]) == [job]
            )
        if not done:
            found[cell] = "refused"
            assert became_of(conn, job) == "cancelled"
    await ended(app, conn)
    found |= {cell: became(conn, flow.ids[-1]) for cell, flow in flows.items() if cell not in found}
    assert found == as_written(heading)


def became_of(conn: Connection, job: int) -> str:
    (status,) = conn.execute("select status from pgqueue.jobs where id = %s", (job,)).fetchone()  # type: ignore[misc]
    return str(status)


@pytest.mark.parametrize("again", ["retry", "dead letters", "workflow", "sql"])
async def test_what_a_retry_makes_of_those_that_wait(
    app: App, conn: Connection, again: str
) -> None:
    broken = True

    @app.task(name="shaky", max_retries=0)
    async def shaky() -> None:
        if broken:
            raise Dead("broken")

    @app.task(name="note")
    async def noted(name: str) -> None: ...

    _, rows = table("What a retry makes of the jobs that wait for it")
    flow = Flow()
    flow.add(shaky.call())
    for row in rows:
        flow.add(noted.call("child"), [1], row[0])
    await WAYS_IN["app"](app, conn, flow)
    columns = []
    await ended(app, conn)
    columns.append([became(conn, job) for job in flow.ids[1:]])
    broken = False
    match again:
        case "retry":
            assert app.client.retry(flow.id(1))
        case "dead letters":
            assert app.client.retry_many() == [flow.id(1)]
        case "workflow":
            app.client.retry_workflow(flow.workflow)
        case "sql":
            conn.execute("select pgqueue.retry_workflow(%s)", (flow.workflow,))
    look(conn)
    columns.append([became(conn, job) for job in flow.ids[1:]])
    assert app.client.workflow(flow.workflow).status == "running"
    await ended(app, conn)
    columns.append([became(conn, job) for job in flow.ids[1:]])
    assert app.client.workflow(flow.workflow).status == "succeeded"
    say = {"held": "waits", "as it ended": "runs"}
    assert [list(row) for row in zip(*columns, strict=True)] == [
        [say.get(cell, cell) for cell in row[1:]] for row in rows
    ]
