"""Whatever a handler raises, its failure is recorded, and the jobs around it succeed."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgqueue import App, Cancel, Dead, Job, Retry, Snooze
from tests.poison import tasks
from tests.poison.errors import ERRORS, HostileError
from tests.support import drain

RECURSION = {**ERRORS, "recursion": RecursionError}
KINDS = {"async": tasks.bad_async, "thread": tasks.bad_thread, "process": tasks.bad_process}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_error_is_recorded(poison: App, conn: psycopg.Connection, kind: str) -> None:
    bad = KINDS[kind]
    jobs = {}
    for name in RECURSION:
        await tasks.good.aenqueue()
        jobs[(await bad.aenqueue(name)).id] = name
    await tasks.good_thread.aenqueue()
    await drain(poison, concurrency=5, processes=1)

    rows = conn.execute(
        "select id, task, status, attempt, claim_id, length(last_error) <= 1000 from pgqueue.jobs"
    ).fetchall()
    assert {row[2] for row in rows if row[1].startswith("good")} == {"succeeded"}
    for job_id, task, status, attempt, claim_id, short in rows:
        if not task.startswith("good"):
            snoozed = jobs[job_id] == "odd snooze" and attempt == 0
            expected = "dead" if kind == "process" and not snoozed else "pending"
            assert status == expected, jobs[job_id]
            assert snoozed or (attempt == 1 and short), jobs[job_id]
            assert claim_id is None, jobs[job_id]
    recorded = conn.execute("select count(distinct job_id) from pgqueue.attempts").fetchone()
    assert recorded == (len(jobs),)


async def test_an_error_text_is_short_and_says_what_was_cut(
    poison: App, conn: psycopg.Connection
) -> None:
    job_id = (await tasks.bad_thread.aenqueue("50 MB")).id
    await drain(poison)
    (attempt,) = await poison.aclient.attempts(job_id)
    assert len(attempt.error or "") < 8_100
    assert "characters cut" in (attempt.error or "")


class OwnBackoff(Job):
    answer: str
    name = "poison-backoff"

    def backoff(self, attempt: int) -> float:
        match self.answer:
            case "exit":
                raise SystemExit
            case "text":
                return "soon"  # type: ignore[return-value]
            case _:
                return float(self.answer)

    def handle(self) -> None:
        raise ValueError(self.answer)


async def test_a_backoff_of_ones_own_cannot_stop_the_record(
    poison: App, conn: psycopg.Connection
) -> None:
    answers = ["nan", "inf", "-inf", "-1", "1e300", "exit", "text"]
    for answer in answers:
        await poison.dispatch(OwnBackoff(answer))
    good = await tasks.good.aenqueue()
    await drain(poison)
    rows = conn.execute(
        "select status, attempt, run_at < clock_timestamp() + interval '366 days'"
        " from pgqueue.jobs where id <> %s", (good.id,)
    ).fetchall()  # fmt: skip
    assert rows == [("pending", 1, True)] * len(answers)
    assert conn.execute("select count(*) from ledger").fetchone() == (1,)


class OfAService(Retry):
    """As many write it, without the __init__ of its base."""

    def __init__(self, code: int) -> None:
        self.code = code


async def test_what_steers_does_so_though_its_text_cannot_be_had(
    app: App, conn: psycopg.Connection
) -> None:
    hostile: Any = HostileError()
    deep: BaseException = Dead("deep")
    for _ in range(3000):
        deep = ExceptionGroup("g", [deep])
    steers = {
        "dead": (Dead(hostile), "dead", "Dead"), "cancel": (Cancel(hostile), "cancelled", "Cancel"),
        "retry": (Retry(hostile, after="1h"), "pending", "Retry"),
        "snooze": (Snooze("1h", hostile), "pending", "Snooze"),
        "own": (OfAService(5), "pending", "OfAService"), "deep": (deep, "dead", "Dead"),
    }  # fmt: skip

    @app.task(name="t", backoff="1h")
    async def t(how: str) -> None:
        raise steers[how][0]

    jobs = {t.enqueue(how).id: how for how in steers}
    await drain(app)
    rows = conn.execute(
        "select j.id, j.status, a.error_type from pgqueue.jobs j join pgqueue.attempts a on a.job_id = j.id"
    ).fetchall()
    assert {jobs[job]: (status, kind) for job, status, kind in rows} == {
        how: expected[1:] for how, expected in steers.items()
    }
