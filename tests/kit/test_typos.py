"""An assertion about a task or an argument that there is not is a mistake of the test, not a test that passes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import asyncpg
import psycopg
import pytest

from pgqueue import App, ArgumentsError, Context, Job, Keys, Secret, Task, TaskError
from pgqueue.connect import asyncpg_uri
from pgqueue.testing import AsyncQueueTester, QueueTester


@pytest.fixture
def mail(app: App) -> Task[Any, Any]:
    @app.task(name="mail", aliases=["post"])
    def mail(ctx: Context, order_id: int, *, subject: str = "hi") -> None: ...

    return mail


@pytest.fixture
def pgq(app: App, dsn: str) -> Iterator[QueueTester]:
    with psycopg.connect(dsn) as mine, QueueTester(app, mine) as tester:
        yield tester
        mine.rollback()


def test_an_unknown_argument(pgq: QueueTester, mail: Any) -> None:
    mail.on(pgq.connection).enqueue(2)
    want = r"mail has no argument 'order'; did you mean order_id\? It takes order_id, subject"
    for task in (mail, "mail", "post"):
        with pytest.raises(ArgumentsError, match=want):
            pgq.assert_not_enqueued(task, order=2)
        with pytest.raises(ArgumentsError, match=want):
            pgq.assert_enqueued(task, order=2)
    with pytest.raises(ArgumentsError, match="mail has no argument 'ctx'"):
        pgq.assert_not_enqueued(mail, ctx=1)


def test_an_unknown_field_of_a_job_class(app: App, pgq: QueueTester) -> None:
    class Note(Job):
        number: int

        def handle(self) -> None: ...

    app.dispatch(Note(1)).on(pgq.connection).enqueue()
    pgq.assert_enqueued(Note, number=1)
    with pytest.raises(ArgumentsError, match="Note has no argument 'numer'; did you mean number"):
        pgq.assert_not_enqueued(Note, numer=1)


def test_an_unknown_task(pgq: QueueTester, mail: Any) -> None:
    want = r"no task 'mial' in this app; did you mean mail\?"
    with pytest.raises(TaskError, match=want):
        pgq.assert_not_enqueued("mial")
    with pytest.raises(TaskError, match=want):
        pgq.assert_enqueued("mial")
    with pytest.raises(TaskError, match=want):
        pgq.enqueued("mial")


def test_a_task_of_another_service_is_known_by_its_jobs(pgq: QueueTester, mail: Any) -> None:
    connection: Any = pgq.connection
    connection.execute("select pgqueue.enqueue('theirs', '{\"n\": 1}')")
    pgq.assert_enqueued("theirs", n=1)
    pgq.assert_not_enqueued("theirs", n=2)
    assert [job.task for job in pgq.enqueued("theirs")] == ["theirs"]


def test_an_earlier_name_is_that_of_the_task(pgq: QueueTester, mail: Any) -> None:
    mail.on(pgq.connection).enqueue(2)
    connection: Any = pgq.connection
    connection.execute("select pgqueue.enqueue('post', '{\"order_id\": 3}')")
    pgq.assert_enqueued("post", count=2)
    pgq.assert_enqueued(mail, count=2)
    with pytest.raises(AssertionError, match="1 jobs instead of 0"):
        pgq.assert_not_enqueued("post", order_id=2)


def test_encrypted_arguments_are_compared_as_they_were_given(dsn: str) -> None:
    app = App(dsn, keys=Keys(Keys.generate()))

    @app.task(name="login")
    def login(user: str, password: Secret[str]) -> None: ...

    with psycopg.connect(dsn) as mine, QueueTester(app, mine) as pgq:
        login.on(mine).enqueue("ada", "wonder")
        pgq.assert_enqueued(login, password="wonder")
        with pytest.raises(AssertionError, match="1 jobs instead of 0"):
            pgq.assert_not_enqueued(login, password="wonder")
        pgq.assert_not_enqueued(login, password="other")
        mine.rollback()


async def test_on_an_async_connection(app: App, dsn: str, mail: Any) -> None:
    mine = await asyncpg.connect(asyncpg_uri(dsn))
    transaction = mine.transaction()
    await transaction.start()
    async with AsyncQueueTester(app, mine) as pgq:
        with pytest.raises(ArgumentsError, match="mail has no argument 'order'"):
            await pgq.assert_not_enqueued(mail, order=2)
        with pytest.raises(ArgumentsError, match="mail has no argument 'order'"):
            await pgq.assert_enqueued(mail, order=2)
        for assertion in (pgq.assert_not_enqueued, pgq.assert_enqueued, pgq.enqueued):
            with pytest.raises(TaskError, match="no task 'mial' in this app"):
                await assertion("mial")
    await transaction.rollback()
    await mine.close()
