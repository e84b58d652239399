"""Values of every kind for every parameter of the clients: an error of ours that names it, never one of the driver."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgqueue import (
    App,
    Change,
    ConfigError,
    Filter,
    Handle,
    JobNotFound,
    PgQueueError,
    WorkflowNotFound,
)
from pgqueue.client import AsyncClient, Client
from tests.cli.support import Cli

BEYOND = 2**63
WHOLE = [BEYOND, 2**70, -(2**70), 2**31, -1, 0]
NO_WHOLE = [True, 1.5, float("nan"), "5", b"5", [], object()]
TEXTS = ["", "a\0b", "\ud800", "x" * 300, "\n"]
NO_TEXT = [5, 1.5, b"x", [], ["x"], object()]
NO_LIST = [5, "5", object(), [None], [True], ["5"], [1.5], [[1]]]

# By annotation: those that may be taken or refused, and those that must be refused.
HOSTILE: dict[str, tuple[list[Any], list[Any]]] = {
    "int": (WHOLE, [*NO_WHOLE, None]),
    "int | None": (WHOLE, NO_WHOLE),
    "Sequence[int]": ([[BEYOND], [-1, 0], []], [*NO_LIST, None]),
    "Sequence[int] | None": ([[BEYOND], [-1, 0], []], NO_LIST),
    "str": (TEXTS, [*NO_TEXT, None]),
    "str | None": (TEXTS, NO_TEXT),
    "Status | str": ([], [*TEXTS, *NO_TEXT, None]),
    "Status | str | None": ([], [*TEXTS, *NO_TEXT]),
    "Status | None": ([], [*TEXTS, *NO_TEXT]),
    "Filter": ([], [5, "mail", {}, None, object(), Filter(queue=5), Filter(task=5), Filter(error=5),
                    Filter(task="a\0b"), Filter(since=object()), Filter(since=-1)]),  # type: ignore[arg-type]
    "Change": ([], [5, None, {}, Change(priority=2**40), Change(queue=5), Change(delay="x"), Change(run_at=5)]),  # type: ignore[arg-type]
    "CatchUp": ([], [*TEXTS, *NO_TEXT, None]),
    "Overlap": ([], [*TEXTS, *NO_TEXT, None]),
    "NewJob": ([], [5, None, "x", object()]),
    "Mapping[str, Any] | None": ([{}, {"a": "x"}], [5, "x", [1], object(), {1: 2}]),
    "str | float | None": ([], [*TEXTS, b"x", [], object(), -1, 0, 2**70, float("nan"), True]),
    "Duration | None": ([], [*TEXTS, b"x", [], object(), -1, 2**70, float("nan"), True]),
    "BackoffLike | None": ([], [*TEXTS, b"x", [], object(), -1, 2**70, float("nan"), True]),
}  # fmt: skip
# What is given for the parameters that have no default, while another is tried.
USUAL: dict[str, Any] = {
    "job_id": 1, "job_ids": [1], "workflow_id": 1, "name": "nightly", "queue": "mail", "task": "t", "where": Filter(),
    "to": Change(priority=1), "expression": "@daily", "statuses": "dead",
}  # fmt: skip
# What an error may call it, where that is not its own name: a filter's is that of a field of it.
CALLED = {
    "where": ["Filter", "queue", "task", "error", "since"],
    "to": ["Change", "priority", "queue", "delay", "run_at"],
    "expression": ["cron", "schedule"],
    "tz": ["tz", "time zone"],
    "statuses": ["status"],
    "job_ids": ["job_id"],
}
# Internal to the package, or their parameters are those of others: tried below.
ELSEWHERE = {"insert", "notify", "replace_args", "replace_schedule_args", "set_queue"}


def methods(kind: type) -> Iterator[str]:
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_") and name not in ELSEWHERE:
            assert set(inspect.signature(method).parameters) > {"self"}
            yield name


def tries(
    method: Callable[..., Any],
) -> Iterator[tuple[str, Any, bool, tuple[Any, ...], dict[str, Any]]]:
    """Each parameter with each of its values, whether it must be refused, and the arguments of the call."""
    parameters = inspect.signature(method).parameters
    for tried in parameters.values():
        if tried.name in ("self", "on"):
            continue
        perhaps, refused = HOSTILE[str(tried.annotation)]
        for value in [*perhaps, *refused]:
            args: list[Any] = []
            kwargs: dict[str, Any] = {}
            for each in parameters.values():
                given = value if each is tried else USUAL.get(each.name)
                if each.name in ("self", "on") or (
                    each is not tried and each.default is not each.empty
                ):
                    continue
                if each.kind is each.KEYWORD_ONLY:
                    kwargs[each.name] = given
                elif each is not tried and each.kind is each.VAR_POSITIONAL:
                    args.append(1 if each.annotation == "int" else given)
                elif tried.kind is not tried.VAR_POSITIONAL and each.default is not each.empty:
                    kwargs[each.name] = given
                else:
                    args.append(given)
            yield tried.name, value, any(value is one for one in refused), tuple(args), kwargs


def fault(name: str, value: Any, refused: bool, error: BaseException | None) -> str | None:
    """What is wrong with how it went."""
    if error is None:
        return "taken" if refused else None
    if not isinstance(error, PgQueueError):
        return f"{type(error).__module__}.{type(error).__name__}: {error}"
    if isinstance(error, ConfigError) and not any(
        word in str(error) for word in CALLED.get(name, [name])
    ):
        return f"does not name it: {error}"
    return None


def short(value: Any) -> str:
    return repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "..."


@pytest.fixture
def scheduled(app: App) -> App:
    @app.task(name="t")
    def task() -> None: ...

    job = task.call()
    USUAL["job"] = job
    app.client.add_schedule("nightly", "@daily", job)
    app.enqueue_many([job] * 3)
    app.client.cancel(1)
    return app


def test_the_client(scheduled: App) -> None:
    faults = []
    for name in methods(Client):
        method = getattr(scheduled.client, name)
        for parameter, value, refused, args, kwargs in tries(getattr(Client, name)):
            error: BaseException | None = None
            try:
                method(*args, **kwargs)
            except Exception as raised:
                error = raised
            if (wrong := fault(parameter, value, refused, error)) is not None:
                faults.append(f"{name}({parameter}={short(value)}): {wrong}")
    assert not faults, "\n" + "\n".join(faults)


async def test_the_async_client(scheduled: App) -> None:
    faults = []
    for name in methods(AsyncClient):
        method = getattr(scheduled.aclient, name)
        for parameter, value, refused, args, kwargs in tries(getattr(AsyncClient, name)):
            error: BaseException | None = None
            try:
                await method(*args, **kwargs)
            except Exception as raised:
                error = raised
            if (wrong := fault(parameter, value, refused, error)) is not None:
                faults.append(f"{name}({parameter}={short(value)}): {wrong}")
    assert not faults, "\n" + "\n".join(faults)


def test_ids_that_no_job_can_have(app: App) -> None:
    for job_id in (0, -1, BEYOND, 2**70, 10**5000):
        with pytest.raises(JobNotFound, match="no job"):
            app.client.job(job_id)
        with pytest.raises(WorkflowNotFound, match="no workflow"):
            app.client.workflow(job_id)
        with pytest.raises(JobNotFound, match="no job"):
            app.handle(job_id, "t")
        assert app.client.retry(job_id) is False
        assert (
            app.client.retry_many([job_id])
            == app.client.change([job_id], to=Change(priority=1))
            == []
        )
        assert app.client.cancel(job_id) == {}
        assert app.client.attempts(job_id) == app.client.steps(job_id) == []


async def test_ids_that_no_job_can_have_awaited(app: App) -> None:
    for job_id in (0, -1, BEYOND, 2**70):
        with pytest.raises(JobNotFound, match="no job"):
            await app.aclient.job(job_id)
        with pytest.raises(WorkflowNotFound, match="no workflow"):
            await app.aclient.workflow(job_id)
        with pytest.raises(JobNotFound, match="no job"):
            await Handle(job_id, "t", "existing", app).aresult(0)
        with pytest.raises(JobNotFound, match="no job"):
            Handle(job_id, "t", "existing", app).result()
        assert await app.aclient.retry_many([job_id]) == []
        assert await app.aclient.cancel(job_id) == {}


@pytest.mark.parametrize(
    "job_id", [True, 1.5, "5", None, [], object()], ids=lambda each: type(each).__name__
)
def test_handles_of_no_id(app: App, job_id: Any) -> None:
    with pytest.raises(ConfigError, match="job_id must be a whole number"):
        app.handle(job_id, "t")


@pytest.mark.parametrize("task", [None, 5, "", "a\0b", object()])
def test_handles_of_no_task(app: App, task: Any) -> None:
    with pytest.raises(ConfigError, match="task"):
        app.handle(1, task)


@pytest.mark.parametrize(
    "act",
    [
        lambda app, job: app.enqueue_many(None),
        lambda app, job: app.enqueue_many(5),
        lambda app, job: app.enqueue_many("jobs"),
        lambda app, job: app.enqueue_many([job, None]),
        lambda app, job: app.enqueue_many(job),
        lambda app, job: app.dispatch(job),
        lambda app, job: app.dispatch(None),
        lambda app, job: app.workflow(5),
        lambda app, job: app.workflow("a\0b"),
        lambda app, job: app.chain(None),
        lambda app, job: app.chain([job]),
        lambda app, job: app.batch(None),
        lambda app, job: app.batch(5),
        lambda app, job: app.batch([job], on_success=5),
        lambda app, job: app.workflow().add(job, name=5),
        lambda app, job: app.workflow().add(job, name="a\0b"),
        lambda app, job: app.workflow().add(job, name="\ud800"),
        lambda app, job: app.workflow().add(job, after=5),
        lambda app, job: app.workflow().add(job, after=[5]),
        lambda app, job: app.workflow().add(job, after=job),
        lambda app, job: app.workflow().add(job, if_failed=[]),
        lambda app, job: app.emit(5),
        lambda app, job: app.emit("a\0b"),
        lambda app, job: app.emit("\ud800"),
        lambda app, job: app.emit("e", object()),
        lambda app, job: app.emit("e", float("nan")),
        lambda app, job: app.emit("e", "\ud800"),
        lambda app, job: app.handle(1, "t").result("soon"),
        lambda app, job: app.handle(1, "t").result(-1),
        lambda app, job: app.task(name="u")(5),
        lambda app, job: app.job(5),
        lambda app, job: app.job(int),
        lambda app, job: app.use(dsn=5),
        lambda app, job: app.use(schema=5),
        lambda app, job: app.use(schema="a\0b"),
        lambda app, job: app.cron(5, job),
        lambda app, job: app.cron("@daily", None),
        lambda app, job: app.cron("@daily", job, tz=5),
        lambda app, job: app.every(None, job),
        lambda app, job: app.every(5, 5),
        lambda app, job: app.around_run(5),
        lambda app, job: app.around_enqueue(5),
        lambda app, job: app.on_success(5)(print),
        lambda app, job: app.resource(5),
        lambda app, job: app.client.set_queue("mail", limit=2**40),
        lambda app, job: app.client.set_queue("mail", burst=2**40),
        lambda app, job: app.client.set_queue("mail", max_pending=2**40),
        lambda app, job: app.client.set_queue("mail", priority=2**40),
        lambda app, job: app.client.set_queue("mail", timeout=0),
        lambda app, job: app.client.set_queue(5),
        lambda app, job: app.client.job(1, on=5),
        lambda app, job: app.client.jobs(on="connection"),
        lambda app, job: app.enqueue_many([job], on=5),
    ],
)  # fmt: skip
def test_what_an_app_is_told(app: App, act: Callable[[App, Any], Any]) -> None:
    @app.task(name="t")
    def task() -> None: ...

    with pytest.raises(PgQueueError):
        act(app, task.call())


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["jobs", "--before=-1"], "before must be a whole number"),
        (["workflows", "--before=-1"], "before must be a whole number"),
        (["limit", "mail", "--limit", str(2**40)], "limit must be a whole number"),
        (["limit", "mail", "--rate", "5/s", "--burst", str(2**40)], "burst must be a whole number"),
        (["queue", "mail", "--limit", str(2**40)], "limit must be a whole number"),
        (["queue", "mail", "--max-pending", str(2**40)], "from 1 to 100,000,000"),
        (["change", "1", "--priority", str(2**70)], "priority must be a whole number"),
        (["cron", "runs", "x\n"], "schedule name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_command_line(dsn: str, command: list[str], says: str) -> None:
    done = Cli(dsn)(*command, code=2)
    assert says in done.stderr
