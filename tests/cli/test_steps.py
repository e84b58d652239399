"""The commands for jobs with steps: messages, and retries from a step."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context
from pgqueue.job import Status
from tests.cli.support import Cli
from tests.support import drain


class Steps:
    """A job of three steps that failed after them, and what was done."""

    def __init__(self, dsn: str) -> None:
        self.app = App(dsn)
        self.done: list[str] = []
        self.broken = True

        @self.app.task(name="steps", max_retries=0)
        def steps(ctx: Context, value: int = 1) -> None:
            for name in "abc":
                ctx.step(name, self.done.append, f"{name}{value}")
            if self.broken:
                raise ValueError("broken")

        self.task = steps

    def drain(self) -> list[str]:
        """What is done now."""
        self.done.clear()
        asyncio.run(drain(self.app))
        return self.done


@pytest.fixture
def steps(dsn: str) -> Any:
    made = Steps(dsn)
    yield made
    made.app.close()


def test_a_retry_from_a_step(cli: Cli, steps: Steps) -> None:
    job = str(steps.task.enqueue().id)
    assert steps.drain() == ["a1", "b1", "c1"]
    assert cli("retry", job, "--from-step", "b").stdout == f"retried: 1 job ({job})\n"
    assert steps.drain() == ["b1", "c1"]
    assert cli("retry", job).stdout == f"retried: 1 job ({job})\n"
    assert steps.drain() == []
    steps.broken = False
    assert cli.json("retry", job, "--from-step", "c") == {"retried": [1], "not": {}}
    assert steps.drain() == ["c1"]
    refused = cli("retry", job, "--from-step", "c", code=1)
    assert "not retried: job 1 is succeeded\n" in refused.stderr


def test_a_retry_from_a_step_of_many(cli: Cli, steps: Steps, conn: psycopg.Connection) -> None:
    for value in (1, 2):
        steps.task.enqueue(value)
    steps.drain()
    conn.execute("delete from pgqueue.steps where job_id = 2 and name = 'b'")
    assert cli("retry", "--all", "--from-step", "b", "--yes").stdout == "retried: 1 job (1)\n"
    assert steps.drain() == ["b1", "c1"]
    refused = cli("retry", "1", "2", "--from-step", "b", code=1)
    assert refused.stdout == "retried: 1 job (1)\n"
    assert "job 2 is dead, and has no step 'b'; it has: 'a', 'c'" in refused.stderr


def test_a_retry_from_a_step_with_other_arguments(cli: Cli, steps: Steps) -> None:
    steps.task.enqueue()
    steps.drain()
    app = "tests.cli.test_steps:known"
    kept = cli("retry", "1", "--from-step", "b", "--args", '{"value": 2}', "--app", app)
    assert kept.stdout == "retried: 1 job (1)\n"
    assert steps.drain() == ["b2", "c2"]
    warned = cli("retry", "1", "--args", '{"value": 3}', "--app", app)
    assert warned.stderr.startswith("warning: ")
    assert "step" in warned.stderr
    assert steps.drain() == []


def test_a_step_that_is_not_there(cli: Cli, steps: Steps) -> None:
    steps.task.enqueue()
    steps.drain()
    refused = cli("retry", "1", "--from-step", "d", code=1)
    assert "job 1 is dead, and has no step 'd'; it has: 'a', 'b', 'c'" in refused.stderr
    edited = cli("retry", "1", "--from-step", "d", "--args", "{}",
                 "--app", "tests.cli.test_steps:known", code=1)  # fmt: skip
    assert "no step 'd'" in edited.stderr
    assert "99 does not exist" in cli("retry", "99", "--from-step", "a", code=1).stderr
    assert "from_step" in cli("retry", "1", "--from-step", "", code=2).stderr
    assert steps.app.client.job(1).status is Status.DEAD


def test_send(cli: Cli, dsn: str, conn: psycopg.Connection) -> None:
    got: list[Any] = []
    app = App(dsn)

    @app.task(name="waits")
    def waits(ctx: Context) -> None:
        got.append(ctx.receive("answer", name="first"))
        got.append(ctx.receive("answer", name="second"))
        got.append(ctx.receive("nothing"))

    first, second = waits.enqueue().id, waits.enqueue().id
    sent = cli("send", str(first), "answer", '{"yes": true}')
    assert sent.stdout == f"sent: message 1 answer to job {first}\n"
    assert cli.json("send", str(first), "answer", "[1]") == {"event": 2}
    assert cli("send", str(first), "nothing").stdout == f"sent: message 3 nothing to job {first}\n"
    asyncio.run(drain(app))
    assert got == [{"yes": True}, [1], None]
    assert (app.client.job(first).status, app.client.job(second).status) == ("succeeded", "pending")
    app.close()


def test_messages_that_are_refused(cli: Cli, dead: list[int], conn: psycopg.Connection) -> None:
    assert "the payload is not JSON" in cli("send", str(dead[0]), "x", "{", code=2).stderr
    assert "99" in cli("send", "99", "x", code=1).stderr
    assert "'one'" in cli("send", "one", "x", code=2).stderr
    assert cli("send", str(dead[0]), "", code=2).stderr
    assert cli("send", str(dead[0]), "x\ny", code=2).stderr
    assert conn.execute("select count(*) from pgqueue.events").fetchone() == (0,)


known = App("")


@known.task(name="steps")
def known_steps(ctx: Context, value: int = 1) -> None: ...
