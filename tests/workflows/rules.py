"""The tables of docs/rules/workflows.md, and workflows that try them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from pgqueue import App, Workflow
from pgqueue.job import NewJob
from tests.support import drain
from tests.workflows.support import fail, note

Connection = psycopg.Connection[Any]
PAGE = Path(__file__).parents[2] / "docs/rules/workflows.md"


def table(heading: str) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the first table below a heading of the page, without backticks."""
    below = PAGE.read_text().split(f"\n## {heading}\n", 1)[1]
    lines = below[below.index("\n|") + 1 :].split("\n\n", 1)[0].strip().splitlines()
    head, _, *rows = (
        [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]
        for line in lines
    )
    return head, rows


def cells(heading: str) -> dict[tuple[str, str], str]:
    """What the page says, by the first cell of the row and the head of the column."""
    head, rows = table(heading)
    return {
        (row[0], name): what for row in rows for name, what in zip(head[1:], row[1:], strict=True)
    }


Try = Callable[[App, Connection], Awaitable[None]]


class Cases:
    """What tries each row of a table, by the first cell of the row."""

    def __init__(self, heading: str) -> None:
        self.rows = [row[0] for row in table(heading)[1]]
        self._tries: dict[str, Try] = {}

    def case(self, row: str) -> Callable[[Try], Try]:
        def note(attempt: Try) -> Try:
            self._tries[row] = attempt
            return attempt

        return note

    @property
    def tried(self) -> set[str]:
        return set(self._tries)

    async def run(self, row: str, app: App, conn: Connection) -> None:
        await self._tries[row](app, conn)


@dataclass
class Made:
    """A job of a workflow before it is enqueued: what it is, what it waits for (places from 1), and how it is to end."""

    job: NewJob
    after: Sequence[int] = ()
    if_failed: Any = "cancel"
    end: str = ""


@dataclass
class Flow:
    """Jobs in order, to be enqueued one way or another."""

    made: list[Made] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    workflow: int = 0

    def add(
        self, job: NewJob, after: Sequence[int] = (), if_failed: str = "cancel", end: str = ""
    ) -> int:
        self.made.append(Made(job, after, if_failed, end))
        return len(self.made)

    def entered(self, workflow: int, ids: list[int]) -> None:
        self.workflow, self.ids = workflow, ids

    def id(self, place: int) -> int:
        return self.ids[place - 1]


LATER = 3600.0


def parent(app: App, flow: Flow, how: str) -> int:
    """Add a job that ends in this way; its place."""
    match how:
        case "succeeded" | "succeeded and cleared":
            return flow.add(note(app, "p"), end=how)
        case "dead":
            return flow.add(fail(app, "p"), end=how)
        case "cancelled since another failed":
            return flow.add(note(app, "p"), [parent(app, flow, "dead")])
        case "skipped":
            return flow.add(note(app, "p"), [parent(app, flow, "succeeded")], "only")
        case "skipped with another":
            return flow.add(note(app, "p"), [parent(app, flow, "skipped")])
        case _:  # waits, for what is done to it
            later = NewJob("note", '{"name": "p"}', delay=LATER)
            return flow.add(later, end=how)


# The ends that a word of the page stands for.
WAYS_TO_END = {
    "succeeded": ["succeeded", "succeeded and cleared"],
    "dead": ["dead"],
    "cancelled": ["cancelled by hand", "cancelled since another failed", "expired"],
    "skipped": ["skipped", "skipped with another"],
    "gone": ["cleared", "deleted", "cleared when cancelled"],
    "not ended": ["not ended"],
}


def done_to(app: App, conn: Connection, flow: Flow) -> None:
    """Do to its jobs what ends them, where that is no handler."""
    for place, made in enumerate(flow.made, 1):
        job = flow.id(place)
        match made.end:
            case "cancelled by hand":
                app.client.cancel(job)
            case "expired":
                conn.execute(
                    "update pgqueue.jobs set run_at = now(), expires_at = now() where id = %s",
                    (job,),
                )
            case "cleared":
                assert app.client.clear(job_ids=[job]) == [job]
            case "cleared when cancelled":
                app.client.cancel(job)
                assert app.client.clear(status="cancelled", job_ids=[job]) == [job]
            case "deleted":
                conn.execute("delete from pgqueue.jobs where id = %s", (job,))
            case "succeeded and cleared":
                for status in ("running", "succeeded"):
                    conn.execute(
                        "update pgqueue.jobs set status = %s, finished_at = now() where id = %s",
                        (status, job),
                    )
                assert app.client.clear(status="succeeded", job_ids=[job]) == [job]


def look(conn: Connection) -> None:
    """What a worker does in its rounds: settle all that is waited for and has ended."""
    found = [row[0] for row in conn.execute(
        "select watched from pgqueue.workflow_jobs where watched is not null union"
        " select watched from pgqueue.workflows where watched is not null")]  # fmt: skip
    while found:
        (found,) = conn.execute("select again from pgqueue.settle(%s)", (found,)).fetchone() or (
            [],
        )


async def ended(app: App, conn: Connection) -> None:
    """Run all that is due until nothing moves."""
    for _ in range(3):
        look(conn)
        await drain(app)
    look(conn)


def became(conn: Connection, job: int) -> str:
    """What became of a waiting job, in the words of the page."""
    status, error = conn.execute(
        "select status, last_error from pgqueue.jobs where id = %s", (job,)
    ).fetchone()  # type: ignore[misc]
    if status == "blocked":
        return "waits"
    if status == "cancelled":
        return "skipped" if error.startswith("NotNeeded: ") else "cancelled"
    return "runs" if status == "succeeded" else str(status)


def workflow_of(app: App, flow: Flow) -> tuple[Workflow, list[Any]]:
    made, nodes = app.workflow(), []
    for each in flow.made:
        after = [nodes[place - 1] for place in each.after]
        nodes.append(made.add(each.job, after=after, if_failed=each.if_failed))
    return made, nodes


async def by_app(app: App, conn: Connection, flow: Flow) -> None:
    made, nodes = workflow_of(app, flow)
    enqueued = made.enqueue()
    flow.entered(enqueued.id, [enqueued[node].id for node in nodes])


async def awaited(app: App, conn: Connection, flow: Flow) -> None:
    made, nodes = workflow_of(app, flow)
    enqueued = await made.aenqueue()
    flow.entered(enqueued.id, [enqueued[node].id for node in nodes])


async def on_a_connection(app: App, conn: Connection, flow: Flow) -> None:
    made, nodes = workflow_of(app, flow)
    with psycopg.connect(app.dsn) as mine:
        enqueued = made.enqueue(on=mine)
    flow.entered(enqueued.id, [enqueued[node].id for node in nodes])


async def by_then(app: App, conn: Connection, flow: Flow) -> None:
    """``then`` for the first that it waits for, ``wait_for`` for the others; the latest are added first."""
    made, nodes = app.workflow(), []
    for each in flow.made:
        if each.after:
            node = nodes[each.after[0] - 1].then(each.job, if_failed=each.if_failed)
            node.wait_for(*(nodes[place - 1] for place in each.after[1:]))
        else:
            node = made.add(each.job, if_failed=each.if_failed)
        nodes.append(node)
    enqueued = made.enqueue()
    flow.entered(enqueued.id, [enqueued[node].id for node in nodes])


async def by_sql(app: App, conn: Connection, flow: Flow) -> None:
    jobs = [
        {"task": each.job.task, "args": json.loads(each.job.args), "after": list(each.after),
         "if_failed": each.if_failed, "delay": each.job.delay, "max_retries": each.job.max_retries}
        for each in flow.made
    ]  # fmt: skip
    rows = conn.execute(
        "select workflow_id, job_id from pgqueue.enqueue_workflow(%s)", (json.dumps(jobs),)
    ).fetchall()
    flow.entered(rows[0][0], [row[1] for row in rows])


WAYS_IN: dict[str, Callable[[App, Connection, Flow], Any]] = {
    "app": by_app, "async": awaited, "connection": on_a_connection, "then": by_then, "sql": by_sql,
}  # fmt: skip
