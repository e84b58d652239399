"""What a group of errors says: by the errors in it, not by its being a group."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from pgqueue import App, Cancel, Context, Dead, Retry, Snooze
from pgqueue.control import Suspended
from pgqueue.outcome import Outcome, decide
from pgqueue.testing import QueueTester
from tests.support import drain


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("some", errors)


def judged(error: BaseException, *, retry_on: Any = None) -> tuple[str, float | None, str | None]:
    outcome: Outcome = decide(error, attempt=1, retry_on=retry_on)
    return outcome.kind, outcome.delay, outcome.error_type


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (group(Dead("no")), ("dead", None, "Dead")),
        (group(Cancel("no")), ("cancelled", None, "Cancel")),
        (group(Retry(after=60)), ("retry", 60, "Retry")),
        (group(Snooze(60)), ("snooze", 60, "Snooze")),
        (group(group(group(Dead("no")))), ("dead", None, "Dead")),
        (group(ValueError(), group(Dead("no"))), ("dead", None, "Dead")),
        (group(Cancel(), Dead("no"), Retry()), ("dead", None, "Dead")),
        (group(Retry(), Cancel()), ("cancelled", None, "Cancel")),
        (group(Snooze(60), Retry(after=5)), ("retry", 5, "Retry")),
        (group(Retry(after=5), Retry(), Retry(after=60)), ("retry", 60, "Retry")),
        (group(Snooze(5), Snooze(60)), ("snooze", 60, "Snooze")),
        (group(ValueError(), Retry(after=60)), ("retry", 60, "Retry")),
        (group(ValueError(), Snooze(60)), ("retry", None, "ExceptionGroup")),
        (group(Snooze(60), Suspended(5)), ("snooze", 60, "Snooze")),
        (group(Suspended(60), Suspended(5)), ("suspend", 5, None)),
        (group(Snooze(60), asyncio.CancelledError()), ("snooze", 60, "Snooze")),
        (group(ValueError()), ("retry", None, "ExceptionGroup")),
    ],
    ids=repr,
)
def test_what_steers_a_job(error: BaseException, expected: Any) -> None:
    assert judged(error) == expected


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (group(ConnectionResetError()), "retry"),
        (group(group(ConnectionResetError()), BrokenPipeError()), "retry"),
        (group(ConnectionResetError(), ValueError()), "dead"),
        (group(ValueError()), "dead"),
        (group(ConnectionResetError(), Retry(after=5)), "retry"),
        (group(ConnectionResetError(), asyncio.CancelledError()), "retry"),
        (group(ValueError(), Retry(after=5)), "dead"),
        (group(ValueError(), Snooze(5)), "dead"),
        (group(Snooze(5)), "snooze"),
        (group(Retry(after=5)), "retry"),
    ],
    ids=repr,
)
def test_which_are_worth_a_retry(error: BaseException, kind: str) -> None:
    assert judged(error, retry_on=(ConnectionError,))[0] == kind
    if kind == "dead":
        assert judged(error, retry_on=(ConnectionError, ExceptionGroup))[0] == "retry"


def test_how_deep_it_is_does_not_matter() -> None:
    for inner in (Dead("no"), Suspended(5), ConnectionResetError(), ValueError()):
        error: BaseException = inner
        for _ in range(3000):
            error = group(error)
        assert (
            judged(error, retry_on=(ConnectionError,))[0]
            == judged(group(inner), retry_on=(ConnectionError,))[0]
        )


def test_the_message_names_the_errors() -> None:
    error = group(ValueError("one"), group(KeyError("two")))
    assert (
        decide(error, attempt=1).error
        == "some (2 sub-exceptions); ValueError: one; KeyError: 'two'"
    )


@pytest.mark.parametrize("how", ["dead", "cancelled", "retry", "snooze", "lost"])
@pytest.mark.parametrize("kit", [False, True], ids=["worker", "kit"])
async def test_child_tasks(app: App, conn: psycopg.Connection, how: str, kit: bool) -> None:
    errors: dict[str, BaseException] = {
        "dead": Dead("no"), "cancelled": Cancel("no"), "retry": Retry(after="1h"),
        "snooze": Snooze("1h"), "lost": ConnectionResetError("lost"),
    }  # fmt: skip

    @app.task(name="t", retry_on=(ConnectionError,), max_retries=3, backoff="1h")
    async def t() -> None:
        async def fails() -> None:
            await asyncio.sleep(0)
            raise errors[how]

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fails())
            tasks.create_task(asyncio.Event().wait())

    job = t.enqueue().id
    if kit:
        await asyncio.to_thread(QueueTester(app, conn).drain)
    else:
        await drain(app)
    row = conn.execute("select status, attempt from pgqueue.jobs where id = %s", [job]).fetchone()
    assert row == {
        "dead": ("dead", 1), "cancelled": ("cancelled", 1), "retry": ("pending", 1),
        "snooze": ("pending", 0), "lost": ("pending", 1),
    }[how]  # fmt: skip


async def test_two_children_that_sleep(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="t")
    async def t(ctx: Context) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ctx.sleep("1h", name="long"))
            tasks.create_task(ctx.sleep("30m", name="short"))

    t.enqueue()
    await drain(app)
    row = conn.execute("select status, attempt from pgqueue.jobs").fetchone()
    assert row == ("pending", 0)
