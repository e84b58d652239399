"""Jobs added to a running workflow by one of its jobs: the table of docs/rules/workflows.md, row by row, and every way in."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import psycopg
import pytest

from pgqueue import App, ConfigError, Context, Dead, Status, StepChanged, WorkflowClosed
from pgqueue.operations import workflows
from pgqueue.testing import QueueTester, context, inline
from tests.processes import Workers
from tests.support import drain, eventually, eventually_async, make_due
from tests.workflows.process_tasks import grows
from tests.workflows.rules import Cases

Connection = psycopg.Connection[Any]
RULES = Cases("When a job adds jobs to its workflow")


def test_every_row_has_a_case() -> None:
    assert RULES.tried == set(RULES.rows)


@pytest.mark.parametrize("row", RULES.rows)
async def test_rules(app: App, conn: Connection, row: str) -> None:
    await RULES.run(row, app, conn)


class Jobs:
    """Tasks that note that they ran, in order, and what they got."""

    def __init__(self, app: App) -> None:
        self.ran: list[str] = []
        self.got: list[Any] = []

        @app.task(name="work", max_retries=0)
        async def work(name: str, fails: bool = False) -> str:
            self.ran.append(name)
            if fails:
                raise Dead("told to")
            return name.upper()

        @app.task(name="take", max_retries=0)
        async def take(name: str, value: Any) -> None:
            self.ran.append(name)
            self.got.append(value)

        self.work, self.take = work, take


def became(app: App, workflow: int) -> dict[str, str]:
    return {job.name or job.task: job.status.value for job in app.client.workflow_jobs(workflow)}


@RULES.case("it waits for none")
async def _(app: App, conn: Connection) -> None:
    jobs = Jobs(app)

    @app.task(name="adds")
    async def adds(ctx: Context) -> None:
        flow = app.workflow_of(ctx)
        flow.add(jobs.work.call("new"), name="new")
        added = await flow.aenqueue()
        assert added.id == ctx.workflow_id
        assert [handle.task for handle in added.jobs] == ["work"]
        jobs.ran.append("adder")

    @app.task(name="adds here")
    def adds_here(ctx: Context) -> None:
        flow = app.workflow_of(ctx)
        flow.add(jobs.work.call("new"), name="new")
        assert flow.enqueue().id == ctx.workflow_id
        jobs.ran.append("adder")

    for task in (adds, adds_here):
        jobs.ran.clear()
        run = app.chain(task.call()).enqueue()
        await drain(app)
        assert sorted(jobs.ran) == ["adder", "new"]
        assert became(app, run.id) == {task.name: "succeeded", "new": "succeeded"}
        assert app.client.workflow(run.id).status == "succeeded"


@RULES.case("it waits for the job that adds it")
async def _(app: App, conn: Connection) -> None:
    jobs = Jobs(app)

    @app.task(name="adds", max_retries=0)
    async def adds(ctx: Context, fails: bool) -> None:
        flow = app.workflow_of(ctx)
        flow.add(jobs.work.call("new"), name="new", after=flow.this)
        flow.this.then(jobs.work.call("alarm"), name="alarm", if_failed="only")
        await flow.aenqueue()
        jobs.ran.append("adder")
        if fails:
            raise ValueError

    well, badly = (app.chain(adds.call(fails)).enqueue().id for fails in (False, True))
    await drain(app)
    assert became(app, well) == {"adds": "succeeded", "new": "succeeded", "alarm": "cancelled"}
    assert app.client.workflow(well).status == "succeeded"
    assert became(app, badly) == {"adds": "dead", "new": "cancelled", "alarm": "succeeded"}
    assert app.client.workflow(badly).status == "dead"


@RULES.case("it waits for jobs that have ended, or have not")
async def _(app: App, conn: Connection) -> None:
    jobs = Jobs(app)

    @app.task(name="adds", max_retries=0)
    async def adds(ctx: Context) -> None:
        flow = app.workflow_of(ctx)
        flow.add(
            jobs.take.call("after", flow.named("first").result),
            name="after",
            after=flow.named("last"),
        )
        flow.add(jobs.work.call("lost"), name="lost", after=flow.named("bad"))
        flow.add(jobs.work.call("alarm"), name="alarm", after=flow.named("bad"), if_failed="only")
        flow.add(jobs.work.call("held"), name="held", after=flow.named("bad"), if_failed="hold")
        flow.add(
            jobs.work.call("anyway"), name="anyway", after=flow.named("bad"), if_failed="continue"
        )
        flow.add(jobs.work.call("needless"), name="needless", after=flow.named("needed not"))
        await flow.aenqueue()

    flow = app.workflow()
    first = flow.add(jobs.work.call("first"), name="first")
    bad = flow.add(jobs.work.call("bad", True), name="bad")
    needed_not = flow.add(
        jobs.work.call("needed not"), name="needed not", after=first, if_failed="only"
    )
    adder = flow.add(
        adds.call(), name="adder", after=[first, bad, needed_not], if_failed="continue"
    )
    flow.add(jobs.work.call("last"), name="last", after=adder)
    run = flow.enqueue()
    await drain(app)
    assert became(app, run.id) == {
        "first": "succeeded", "bad": "dead", "needed not": "cancelled", "adder": "succeeded", "last": "succeeded",
        "after": "succeeded", "lost": "cancelled", "alarm": "succeeded", "held": "blocked", "anyway": "succeeded",
        "needless": "cancelled",
    }  # fmt: skip
    assert jobs.got == ["FIRST"]
    errors = {job.name: job.last_error or "" for job in app.client.workflow_jobs(run.id)}
    assert errors["lost"].startswith("ParentFailed")
    assert errors["needless"].startswith("NotNeeded")
    assert app.client.workflow(run.id).status == "running"


@RULES.case("it waits for others that are added")
async def _(app: App, conn: Connection) -> None:
    jobs = Jobs(app)

    @app.task(name="adds", max_retries=0)
    async def adds(ctx: Context) -> None:
        flow = app.workflow_of(ctx)
        parts = [flow.add(jobs.work.call(f"part {n}")) for n in range(3)]
        last = flow.add(jobs.take.call("all", [part.result for part in parts]))
        await flow.aenqueue()
        flow.add(jobs.work.call("end"), after=last)
        await flow.aenqueue(name="more")

    run = app.chain(adds.call()).enqueue()
    await drain(app)
    assert jobs.ran[3:] == ["all", "end"]
    assert jobs.got == [["PART 0", "PART 1", "PART 2"]]
    assert app.client.workflow(run.id).status == "succeeded"


@RULES.case("the job that adds it fails after that, and is retried")
async def _(app: App, conn: Connection) -> None:
    jobs, runs = Jobs(app), [0]

    @app.task(name="adds", max_retries=3, backoff=0)
    async def adds(ctx: Context) -> None:
        runs[0] += 1
        flow = app.workflow_of(ctx)
        for n in range(2):
            flow.add(jobs.work.call(f"new {n}"))
        await flow.aenqueue()
        if runs[0] < 3:
            raise ValueError

    @app.task(name="adds here", max_retries=3, backoff=0)
    def adds_here(ctx: Context) -> None:
        runs[0] += 1
        flow = app.workflow_of(ctx)
        for n in range(2):
            flow.add(jobs.work.call(f"new {n}"))
        flow.enqueue()
        if runs[0] < 3:
            raise ValueError

    for task in (adds, adds_here):
        runs[0] = 0
        jobs.ran.clear()
        run = app.chain(task.call()).enqueue()
        await drain(app)
        assert runs == [3]
        assert sorted(jobs.ran) == ["new 0", "new 1"]
        assert app.client.workflow(run.id).jobs == 3


@RULES.case("it is added in a transaction that is rolled back")
async def _(app: App, conn: Connection) -> None:
    jobs, runs = Jobs(app), [0]

    @app.task(name="adds", max_retries=1, backoff=0)
    async def adds(ctx: Context) -> None:
        runs[0] += 1
        async with ctx.transaction() as connection:
            flow = app.workflow_of(ctx)
            flow.add(jobs.work.call("new"))
            await flow.aenqueue(on=connection)
            if runs == [1]:
                raise ValueError

    @app.task(name="adds here", max_retries=1, backoff=0)
    def adds_here(ctx: Context) -> None:
        runs[0] += 1
        with ctx.transaction() as connection:
            flow = app.workflow_of(ctx)
            flow.add(jobs.work.call("new"))
            flow.enqueue(on=connection)
            if runs == [1]:
                raise ValueError

    for task in (adds, adds_here):
        runs[0] = 0
        jobs.ran.clear()
        run = app.chain(task.call()).enqueue()
        await drain(app)
        assert (runs, jobs.ran) == ([2], ["new"])
        assert app.client.workflow(run.id).status == "succeeded"
        assert app.client.workflow(run.id).jobs == 2


@RULES.case("the workflow, or the job that adds it, was cancelled")
async def _(app: App, conn: Connection) -> None:
    jobs, raised = Jobs(app), []

    @app.task(name="adds", max_retries=0)
    async def adds(ctx: Context, whole: bool) -> None:
        cancel = app.aclient.cancel_workflow if whole else app.aclient.cancel
        assert await cancel(ctx.workflow_id if whole else ctx.id)  # type: ignore[arg-type]
        flow = app.workflow_of(ctx)
        flow.add(jobs.work.call("new"))
        try:
            await flow.aenqueue()
        except WorkflowClosed as error:
            raised.append(str(error))
            raise

    runs = [app.chain(adds.call(whole)).enqueue().id for whole in (True, False)]
    await drain(app)
    for run in runs:
        assert became(app, run) == {"adds": "cancelled"}
        assert app.client.workflow(run).status == "cancelled"
    assert all("is cancelled, so it adds no jobs to workflow" in each for each in raised)
    assert jobs.ran == []


@RULES.case("the job that adds it is no longer its worker's")
async def _(app: App, conn: Connection) -> None:
    jobs = Jobs(app)

    @app.task(name="adds", max_retries=0)
    async def adds(ctx: Context) -> None:
        flow = app.workflow_of(ctx)
        flow.add(jobs.work.call("new"))
        conn.execute(
            "update pgqueue.jobs set status = 'cancelled', claim_id = null, worker_id = null"
        )
        await flow.aenqueue()

    run = app.chain(adds.call()).enqueue()
    await drain(app)
    assert app.client.workflow(run.id).jobs == 1


@RULES.case("it waits for a job of another workflow, or of none")
async def _(app: App, conn: Connection) -> None:
    jobs, raised = Jobs(app), []
    other = app.chain(jobs.work.call("other")).enqueue().jobs[0].id
    alone = jobs.work.enqueue("alone").id

    @app.task(name="adds", max_retries=0)
    async def adds(ctx: Context) -> None:
        for name, add in (
            ("a", lambda flow: flow.add(jobs.work.call("new"), after=flow.job(other))),
            ("b", lambda flow: flow.add(jobs.work.call("new"), after=flow.job(alone))),
            ("c", lambda flow: flow.add(jobs.work.call("new"), after=flow.named("nobody"))),
            ("d", lambda flow: flow.add(jobs.work.call("new"), name="adder")),
        ):
            flow = app.workflow_of(ctx)
            add(flow)
            with pytest.raises(ConfigError) as error:
                await flow.aenqueue(name=name)
            raised.append(str(error.value))

    flow = app.workflow()
    flow.add(adds.call(), name="adder")
    run = flow.enqueue().id
    await drain(app)
    assert app.client.workflow(run).jobs == 1
    assert app.client.workflow(run).status == "succeeded", app.client.workflow_jobs(run)
    assert raised == [
        f"job 1: after_jobs has job {other}, which is not in workflow {run}",
        f"job 1: after_jobs has job {alone}, which is not in workflow {run}",
        f"job 1: after_names has 'nobody', which is no job of workflow {run}",
        f"job 1: workflow {run} has a job named 'adder' already",
    ]


@RULES.case("the job is in no workflow")
async def _(app: App, conn: Connection) -> None:
    @app.task(name="adds", max_retries=0)
    async def adds(ctx: Context) -> None:
        app.workflow_of(ctx)

    job = adds.enqueue()
    await drain(app)
    assert "ConfigError: job 1 is in no workflow" in str(app.client.job(job.id).last_error)


@RULES.case("the code adds another number of jobs in a retry")
async def _(app: App, conn: Connection) -> None:
    jobs, runs = Jobs(app), [0]

    @app.task(name="adds", max_retries=3, backoff=0)
    async def adds(ctx: Context) -> None:
        runs[0] += 1
        flow = app.workflow_of(ctx)
        for n in range(runs[0]):
            flow.add(jobs.work.call(f"new {n}"))
        await flow.aenqueue()
        raise ValueError

    run = app.chain(adds.call()).enqueue()
    await drain(app)
    job = app.client.job(run.jobs[0].id)
    assert job.status is Status.DEAD
    assert (
        f"{StepChanged.__name__}: step 'add jobs' of job {job.id} added 1 jobs, and adds 2"
        in str(job.last_error)
    )
    assert jobs.ran == ["new 0"]


# Besides the table.


async def test_a_workflow_that_grows_and_grows_ends_when_all_have(
    app: App, conn: Connection
) -> None:
    """Each generation is added by the one before, and after those that were there from the start have ended."""
    ran: list[int] = []

    @app.task(name="grow", max_retries=0)
    async def grow(ctx: Context, left: int) -> None:
        ran.append(left)
        if left:
            flow = app.workflow_of(ctx)
            for _ in range(2):
                flow.add(grow.call(left - 1), after=flow.this)
            await flow.aenqueue()

    flow = app.workflow()
    nodes = [flow.add(grow.call(0)) for _ in range(3)]
    flow.add(grow.call(4), after=nodes)
    run = flow.enqueue()
    await drain(app)
    eventually(lambda: app.client.workflow(run.id).status == "succeeded")
    assert len(ran) == 3 + 1 + 2 + 4 + 8 + 16
    assert app.client.workflow(run.id).jobs == len(ran)


async def test_who_cancels_sees_what_is_being_added(app: App, conn: Connection) -> None:
    """A cancel that waits for the row of the job that adds cancels what it adds, too."""
    adding, go = asyncio.Event(), asyncio.Event()

    @app.task(name="work")
    async def work() -> None: ...

    @app.task(name="adds", max_retries=0)
    async def adds(ctx: Context) -> None:
        async def add(connection: Any) -> None:
            flow = app.workflow_of(ctx)
            flow.add(work.with_delay("1h").call())
            await flow.aenqueue(on=connection)
            adding.set()
            await go.wait()

        await ctx.transaction_step("add", add)

    run = app.chain(adds.call()).enqueue().id
    worker = asyncio.create_task(drain(app))
    await adding.wait()
    cancel = asyncio.create_task(app.aclient.cancel_workflow(run))
    await eventually_async(
        lambda: (
            conn.execute(
                "select count(*) = 1 from pg_stat_activity where datname = current_database()"
                " and wait_event_type = 'Lock' and query like '%cancel_workflow%'"
            ).fetchone()
            == (True,)
        )
    )
    go.set()
    assert await cancel == 2
    await worker
    assert became(app, run)["work"] == "cancelled"
    assert app.client.workflow(run).status in ("cancelled", "running")


async def test_hundreds_in_one_statement_and_pruned_with_the_rest(
    app: App, conn: Connection
) -> None:
    jobs = Jobs(app)

    @app.task(name="adds")
    async def adds(ctx: Context) -> None:
        flow = app.workflow_of(ctx)
        parts = [flow.add(jobs.work.call(str(n))) for n in range(300)]
        flow.add(jobs.work.call("all"), after=parts)
        await flow.aenqueue()

    run = app.chain(adds.call()).enqueue().id
    await drain(app)
    assert jobs.ran[-1] == "all"
    assert len(jobs.ran) == 301
    assert app.client.workflow(run).status == "succeeded"
    while app.client._run(workflows.prune(Status.SUCCEEDED, age=0), None):
        pass
    assert conn.execute("select count(*) from pgqueue.jobs").fetchone() == (0,)
    assert conn.execute("select count(*) from pgqueue.dependencies").fetchone() == (0,)


async def test_of_plain_sql(app: App, conn: Connection) -> None:
    jobs = Jobs(app)

    @app.task(name="adds")
    def adds(ctx: Context) -> None:
        with ctx.transaction() as connection:
            connection.execute(
                "select * from pgqueue.add_to_workflow(%s, %s, %s)",
                (ctx.id, ctx.claim_id, json.dumps([
                    {"task": "work", "args": {"name": "one"}, "after_jobs": [ctx.id], "name": "one"},
                    {"task": "take", "args": {"name": "two", "value": {"$result": "one"}}, "after": [1],
                     "after_names": ["adder"]},
                ])),
            )  # fmt: skip

    flow = app.workflow()
    flow.add(adds.call(), name="adder")
    run = flow.enqueue().id
    await drain(app)
    assert (jobs.ran, jobs.got) == (["one", "two"], ["ONE"])
    assert app.client.workflow(run).status == "succeeded"


def test_enqueueing_knows_no_jobs_that_are_there(app: App, conn: Connection) -> None:
    for more in ('"after_jobs": [1]', '"after_names": ["a"]'):
        with pytest.raises(psycopg.Error, match="are for jobs that are added to a workflow"):
            conn.execute(f'select pgqueue.enqueue_workflow(\'[{{"task": "t", {more}}}]\')'.encode())


async def test_the_result_of_a_job_by_its_id_is_refused(app: App, conn: Connection) -> None:
    said: list[str] = []

    @app.task(name="adds", max_retries=0)
    async def adds(ctx: Context) -> None:
        with pytest.raises(ConfigError, match="is taken by its name"):
            print(app.workflow_of(ctx).this.result)
        with pytest.raises(ConfigError, match="is no job of this workflow"):
            app.workflow_of(ctx).add(adds.call(), after=app.workflow_of(ctx).this)
        with pytest.raises(ConfigError, match="a workflow without jobs"):
            await app.workflow_of(ctx).aenqueue()
        said.append("all")

    app.chain(adds.call()).enqueue()
    await drain(app)
    assert said == ["all"]


def test_the_testing_kit(app: App, conn: Connection) -> None:
    ran: list[str] = []

    @app.task(name="work")
    def work() -> None:
        ran.append("work")

    @app.task(name="adds")
    def adds(ctx: Context) -> None:
        flow = app.workflow_of(ctx)
        flow.add(work.call(), after=flow.this)
        flow.enqueue()

    with conn.transaction(force_rollback=True), QueueTester(app, conn, join=True) as tester:
        app.chain(adds.call()).enqueue()
        tester.drain()
        assert ran == ["work"]
    with inline(app), pytest.raises(ConfigError, match="QueueTester"):
        app.chain(adds.call()).enqueue()
    with pytest.raises(ConfigError, match="QueueTester"):
        app.workflow_of(context())


async def test_in_a_process(app: App, conn: Connection) -> None:
    run = app.workflow("of a process")
    run.add(grows.call(3))
    workflow = run.enqueue(on=conn).id
    workers = Workers(app.dsn, "tests.workflows.process_tasks:app")
    try:
        workers.start("--concurrency", "2")
        await eventually_async(lambda: app.client.workflow(workflow).status == "succeeded")
    finally:
        await asyncio.to_thread(workers.end)
    assert app.client.workflow(workflow).jobs == 4


async def test_make_due_is_enough_for_those_that_wait_in_a_backoff(
    app: App, conn: Connection
) -> None:
    """A job that was added before a suspension is not added again after it."""
    jobs = Jobs(app)

    @app.task(name="adds", max_retries=0)
    async def adds(ctx: Context) -> None:
        flow = app.workflow_of(ctx)
        flow.add(jobs.work.call("new"))
        await flow.aenqueue()
        await ctx.sleep("1h")

    run = app.chain(adds.call()).enqueue().id
    await drain(app)
    conn.execute("update pgqueue.steps set wakes_at = clock_timestamp() where kind = 'sleep'")
    make_due(conn)
    await drain(app)
    assert jobs.ran == ["new"]
    assert app.client.workflow(run).status == "succeeded"


async def test_in_an_async_handler_jobs_are_added_by_aenqueue(app: App) -> None:
    said: list[str] = []

    @app.task(name="adds")
    async def adds(ctx: Context) -> None:
        flow = app.workflow_of(ctx)
        flow.add(adds.call())
        with pytest.raises(ConfigError) as refused:
            flow.enqueue()
        said.append(str(refused.value))

    app.chain(adds.call()).enqueue()
    await drain(app)
    assert said == ["in an async handler jobs are added by: await flow.aenqueue()"]
