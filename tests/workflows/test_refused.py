"""What cannot be a workflow is refused before anything is written; and the same in plain SQL."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgqueue import App, ArgumentsError, ConfigError, Job, Secret
from pgqueue.job import NewJob
from tests.support import drain, statuses
from tests.workflows.support import fail, note


async def test_a_circle_is_refused_with_its_names(app: App, ran: list[str]) -> None:
    flow = app.workflow()
    a, b = flow.add(note(app, "a"), name="first"), flow.add(note(app, "b"), name="second")
    a.wait_for(b)
    enqueued = flow.enqueue()  # the other way round is fine
    await drain(app)
    assert ran == ["b", "a"]
    assert enqueued[a].id > enqueued[b].id
    b.wait_for(a)
    with pytest.raises(ConfigError, match=r"in a circle: (first|second) -> (first|second) -> "):
        flow.enqueue()


def test_a_job_that_would_wait_for_itself(
    app: App, ran: list[str], conn: psycopg.Connection
) -> None:
    flow = app.workflow()
    first = flow.add(note(app, "a"))
    second = flow.add(note(app, "b"), name="second")
    with pytest.raises(ConfigError, match="<Node second> would wait for itself"):
        second.wait_for(first, second)
    with pytest.raises(ConfigError, match="would wait for itself"):
        second.wait_for(second)
    flow.enqueue()
    assert set(statuses(conn).values()) <= {"pending", "blocked"}


async def test_what_would_never_run_is_refused(
    app: App, ran: list[str], conn: psycopg.Connection
) -> None:
    for callback in ("on_success", "on_failure", "on_done", ""):
        with pytest.raises(ConfigError, match="a batch needs at least one job"):
            app.batch([], **({callback: note(app, "callback")} if callback else {}))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a batch needs at least one job"):
        app.batch(iter(()), on_failure=note(app, "alarm"))
    flow = app.workflow()
    alarm = flow.add(note(app, "alarm"), if_failed="only", name="alarm")
    with pytest.raises(ConfigError, match='<Node alarm> has if_failed="only" and waits for no job'):
        flow.enqueue()
    with pytest.raises(ConfigError, match='<Node alarm> has if_failed="only" and waits for no job'):
        await flow.aenqueue()
    assert statuses(conn) == {}
    alarm.wait_for(flow.add(fail(app, "bad")))
    flow.enqueue()
    await drain(app)
    assert ran == ["bad", "alarm"]


async def test_a_result_of_another_workflow_is_not_that_of_its_namesake(
    app: App, ran: list[str], conn: psycopg.Connection
) -> None:
    """Whichever way the job that takes it comes into a workflow, and however deep in an argument it is."""

    @app.task(name="take")
    def take(values: Any, other: Any = None) -> None: ...

    class Take(Job):
        values: Any
        name = "take class"

        def handle(self) -> None: ...

    one, two = app.workflow(), app.workflow()
    theirs, ours = one.add(note(app, "a"), name="same"), two.add(note(app, "b"), name="same")
    wrong = [
        take.call(theirs.result),
        take.call([{"deep": theirs.result}]),
        take.call(ours.result, other=theirs.result),
        take.with_priority(5).call(theirs.result),
        app.dispatch(Take(theirs.result)).call(),
    ]
    for job in wrong:
        for add in (two.add, ours.then):
            with pytest.raises(
                ConfigError, match="takes the result of 'same', which is not in here but in another"
            ):
                add(job)
        with pytest.raises(ConfigError, match="takes the result of 'same', which is not in here"):
            app.chain(note(app, "c"), job)
        with pytest.raises(ConfigError, match="takes the result of 'same', which is not in here"):
            app.batch([job])
        with pytest.raises(ConfigError, match="takes the result of 'same', which is not in here"):
            app.batch([note(app, "c")], on_done=job)
    # One that was refused is not in there.
    taken = two.add(take.call([ours.result]))
    assert len(two.enqueue().jobs) == 2
    assert list(taken.parents) == [ours]


def test_what_is_refused(app: App, ran: list[str], conn: psycopg.Connection) -> None:
    @app.task(name="hidden")
    async def hidden(token: Secret[str], data: Any = None) -> None: ...

    flow, other = app.workflow(), app.workflow()
    node = flow.add(note(app, "a"), name="a")
    with pytest.raises(ConfigError, match="without jobs"):
        other.enqueue()
    with pytest.raises(ConfigError, match="is no job of this workflow"):
        other.add(note(app, "b"), after=node)
    with pytest.raises(ConfigError, match="the result of 'a', which is not in here"):
        other.add(note(app, "b", node.result))
    with pytest.raises(ConfigError, match="'a' is taken"):
        flow.add(note(app, "b"), name="a")
    with pytest.raises(ConfigError, match="cannot be unique"):
        flow.add(NewJob("t", "{}", key=("k", "finished", None, "ignore")))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="if_failed must be"):
        flow.add(note(app, "b"), if_failed="explode")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"is what task\.call\(\.\.\.\) returns"):
        flow.add("note")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="takes the result of another job: add it to"):
        app.enqueue_many([note(app, "b", node.result)])
    with pytest.raises(ArgumentsError, match="is encrypted, so no result"):
        hidden.call(node.result)
    with pytest.raises(ArgumentsError, match=r"'\$result' is how results"):
        hidden.call("x", {"$result": "a"})
    with pytest.raises(ArgumentsError, match=r"'\$result' is how results"):
        app.tasks["note"].signature.encode(
            "note", ("n",), {"value": [node.result, {"$result": "b"}]}
        )
    with pytest.raises(ArgumentsError, match="Expected 'str', got 'int'"):
        app.tasks["note"].signature.encode("note", (5, node.result), {})
    with pytest.raises(ConfigError, match="at most 200"):
        app.workflow("x" * 201)
    assert statuses(conn) == {}


@pytest.mark.parametrize(
    ("jobs", "says"),
    [
        ("[]", "needs a JSON array of one job or more"),
        ("{}", "needs a JSON array of one job or more"),
        ('[{"task": ""}]', "job 1: task must have 1 to 200 characters"),
        ('[{"task": "t"}, {"task": "t", "after": [2]}]', "job 2: after must name jobs before it"),
        (
            '[{"task": "t", "after": [2]}, {"task": "t", "after": [1]}]',
            "job 1: after must name jobs",
        ),
        (
            '[{"task": "t"}, {"task": "t", "after": [null]}]',
            "job 2: after must name jobs before it",
        ),
        (
            '[{"task": "t", "if_failed": "x"}]',
            "job 1: if_failed must be cancel, continue, hold or only",
        ),
        ('[{"task": "t", "unique_key": "x"}]', "job 1: a job of a workflow cannot be unique"),
        (
            '[{"task": "t", "name": "x"}, {"task": "t", "name": "x"}]',
            "job 1: two jobs are named 'x'",
        ),
        ('[{"task": "t", "name": ""}]', "job 1: name must have 1 to 200 characters"),
        ('[{"task": "t", "if_failed": "only"}]', "job 1: if_failed only needs jobs to wait for"),
        (
            '[{"task": "t"}, {"task": "t", "after": [], "if_failed": "only"}]',
            "job 2: if_failed only needs jobs to wait for",
        ),
        (
            '[{"task": "t", "args": {"a": {"$result": "x"}}}]',
            "job 1: it takes the result of 'x', which is no job that it waits for",
        ),
        (
            '[{"task": "t", "name": "x"}, {"task": "t", "name": "y"},'
            ' {"task": "t", "args": {"a": [{"b": {"$result": "x"}}, {"$result": "y"}]}, "after": [1]}]',
            "job 3: it takes the result of 'y', which is no job that it waits for",
        ),
        (
            '[{"task": "t", "args": {"$result": "x"}, "name": "x"}, {"task": "t", "after": [1]}]',
            "job 1: it takes the result of 'x', which is no job that it waits for",
        ),
    ],
)
def test_sql_refuses(conn: psycopg.Connection, jobs: str, says: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=says):
        conn.execute("select pgqueue.enqueue_workflow(%s)", [jobs])
    assert statuses(conn) == {}


async def test_in_plain_sql(app: App, ran: list[str], conn: psycopg.Connection) -> None:
    rows = conn.execute(
        """select * from pgqueue.enqueue_workflow('[
             {"task": "note", "args": {"name": "a", "value": 7}, "name": "first"},
             {"task": "note", "args": {"name": "b", "value": {"$result": "first"}}, "after": [1]}]', 'by hand')"""
    ).fetchall()
    assert [row[1] for row in rows] == [1, 2]
    await drain(app)
    assert ran == ["a", "b"]
    assert conn.execute(
        "select status from pgqueue.workflow_list where name = 'by hand'"
    ).fetchone() == ("succeeded",)
    assert conn.execute(
        "select result from pgqueue.jobs where id = %s", [rows[1][2]]
    ).fetchone() == (9,)
