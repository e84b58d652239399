"""Secret arguments: never in a repr, masked where shown, and taken out of stored errors."""

from __future__ import annotations

import asyncio
import json
import logging
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue import App, ArgumentsError, ConfigError, Context, Dead, Job, Retry, Worker, config
from pgqueue.connect import connect_async
from pgqueue.drivers import sqlstate
from pgqueue.redact import MASK, Redaction, concealer
from pgqueue.worker.database import forget_detail
from tests.cli.support import Cli
from tests.secrets.tasks import app as task_app
from tests.secrets.tasks import own_names
from tests.support import drain, eventually_async


class Colour(Enum):
    RED = "red"


VALUE = 'hunter2 "quoted" & more'


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("password", True), ("db_password", True), ("newPasswords", True), ("dbpassword", True),
        ("X-Api-Key", True), ("apiKey", True), ("PRIVATE_KEY", True), ("token", True),
        ("username", False), ("keyboard", False), ("opinion", False), ("secretary", False), ("", False),
    ],
)  # fmt: skip
def test_names(name: str, hidden: bool) -> None:
    assert Redaction().hides(name) is hidden


def test_names_can_be_added_and_taken_off() -> None:
    redaction = Redaction().plus(["colour", "-token"])
    assert redaction.hides("colour")
    assert not redaction.hides("token")
    assert redaction.hides("password")
    for wrong in (["!"], [3], "password"):
        with pytest.raises(ConfigError, match="redact takes"):
            Redaction().plus(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        App(redact=["-"])


def test_masks_at_any_depth_and_leaves_the_rest() -> None:
    value = {"a": [{"password": "x", "b": 1}], "token": {"c": 2}, "secret": None}
    masked = {"a": [{"password": MASK, "b": 1}], "token": MASK, "secret": None}
    assert Redaction().mask(value) == masked
    assert value["token"] == {"c": 2}


@given(st.text(min_size=6), st.text(max_size=20), st.text(max_size=20))
def test_a_secret_of_six_characters_never_stays(secret: str, before: str, after: str) -> None:
    hidden = concealer([secret])(before + secret + after)
    assert not any(secret in part for part in hidden.split(MASK))


def test_what_is_concealed_and_what_is_not() -> None:
    lines = "-----BEGIN KEY-----\nAAAABBBBCCCC\n-----END KEY-----"
    hide = concealer([VALUE, 1234, "pin", "ab", b"\x00key\xff", lines])
    for form in (VALUE, repr(VALUE), json.dumps(VALUE), quote_plus(VALUE), "|  AAAABBBBCCCC"):
        assert "hunter2" not in hide(f"<{form}>")
        assert "AAAA" not in hide(form)
    assert hide("pin=1234, pinned 12345, ab") == f"{MASK}={MASK}, pinned 12345, ab"
    assert hide(repr(b"\x00key\xff")) == f"b'{MASK}'"


@pytest.mark.parametrize("kind", [ValueError, Dead, Retry])
async def test_a_secret_is_taken_out_of_what_is_stored(
    app: App, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture, kind: type[Exception]
) -> None:
    @app.task(name="t", max_retries=0)
    async def task(password: str, settings: dict[str, Any]) -> None:
        local = "only-a-" + "local"
        try:
            raise KeyError(password, local[:0])
        except KeyError as cause:
            error = kind(f"{'x' * 3990}no: {password} {settings['api_key']} {settings['count']}")
            error.add_note(f"tried {password!r}")
            raise error from cause

    job = await task.aenqueue(VALUE, {"api_key": "k-123456", "count": 77})
    with caplog.at_level(logging.DEBUG):
        await drain(app)
    stored = repr(conn.execute("select last_error, error, traceback from pgqueue.jobs join"
                               " pgqueue.attempts on job_id = jobs.id").fetchall())  # fmt: skip
    assert MASK in stored
    assert "77" in stored
    for secret in ("hunter2", "k-123456", "only-a-local"):
        assert secret not in stored + caplog.text
    args = (await app.aclient.job(job.id)).args
    assert args["password"] == VALUE  # for programs it is what it was


async def test_names_of_the_app_and_of_the_task(dsn: str, conn: psycopg.Connection) -> None:
    task_app.use(dsn=dsn)
    await own_names.aenqueue("mauve", 4711, "seen")
    await drain(task_app)
    await task_app.aclose()
    assert conn.execute("select error from pgqueue.attempts").fetchone() == (f"{MASK} {MASK} seen",)


def test_names_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "pgqueue.toml").write_text('redact = ["colour", "-token"]')
    assert config.load(tmp_path, {}).redact == ("colour", "-token")
    assert config.load(tmp_path, {"PGQUEUE_REDACT": "a, b"}).redact == ("a", "b")
    (tmp_path / "pgqueue.toml").write_text("redact = 3")
    with pytest.raises(ConfigError, match="redact must be a list"):
        config.load(tmp_path, {})


def test_reprs_hold_no_arguments(dsn: str) -> None:
    class Mail(Job):
        to: str
        name = "repr-mail"

        def handle(self, ctx: Context) -> None: ...

    with App(dsn) as app:

        @app.task(name="t")
        def task(password: str) -> None: ...

        new = task.call("hunter2")
        row = app.client.job(task.enqueue("hunter2").id)
        mail = Mail("hunter2")
        text = repr([app, task, new, row, mail, app.dispatch(mail).call(), task.with_priority(1)])
    assert "hunter2" not in text
    assert "Mail(to=...)" in text
    assert "hunter2" not in repr(config.Config(dsn="postgresql://u:hunter2@h/d", keys="hunter2"))


def test_errors_hold_no_arguments(app: App) -> None:
    @app.task(name="t")
    def task(password: int, colour: Colour = Colour.RED) -> None: ...

    with pytest.raises(ArgumentsError, match="Expected 'int'"):
        task.call("hunter2")  # type: ignore[arg-type]
    for arguments in ((1, "hunter2"), ("hunter2", "hunter2", "hunter2")):
        with pytest.raises(ArgumentsError) as caught:
            task.call(*arguments)  # type: ignore[arg-type]
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError) as wrong:
        app.enqueue_many([{"password": "hunter2"}])  # type: ignore[list-item]
    assert "hunter2" not in str(wrong.value)


async def test_a_failing_statement_logs_no_row(
    app: App, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="t")
    def task(password: str) -> None: ...

    await task.aenqueue("hunter2")
    conn.execute("alter table pgqueue.jobs add constraint no_claims check (status <> 'running')")
    worker = Worker(app)
    running = asyncio.create_task(worker.arun())
    await eventually_async(lambda: "no_claims" in caplog.text)
    worker.stop()
    await running
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_an_error_of_the_server_forgets_the_row(
    dsn: str, conn: psycopg.Connection, driver: str
) -> None:
    conn.execute("create table pgqueue.strict (a text check (length(a) < 3))")
    statement = "insert into pgqueue.strict values ('hunter2')"
    other = await connect_async(dsn)
    with pytest.raises(Exception, match="violates check constraint") as caught:
        if driver == "asyncpg":
            await other.execute(statement)
        else:
            conn.execute(statement)
    await other.close()
    assert "hunter2" in str(caught.value)
    forget_detail(caught.value)
    assert "hunter2" not in str(caught.value)
    assert sqlstate(caught.value) == "23514"


class Liar(str):
    """Text that denies what it holds."""

    def __contains__(self, part: object) -> bool:
        return False


async def test_text_that_hides_a_secret_is_concealed(app: App, conn: psycopg.Connection) -> None:
    class Lying(Exception):
        def __str__(self) -> str:
            return Liar(self.args[0])

    @app.task(name="t")
    async def task(password: str) -> None:
        raise Lying(password)

    await task.aenqueue("hunter2")
    await drain(app)
    stored = repr(conn.execute("select * from pgqueue.attempts").fetchall())
    assert MASK in stored
    assert "hunter2" not in stored


async def test_an_error_of_a_backoff_is_concealed(
    app: App, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Job):
        password: str
        name = "broken-backoff"

        def __post_init__(self) -> None:
            if seen:
                raise ValueError(f"no {self.password}")

        def backoff(self, attempt: int) -> float:
            return 1.0

        def handle(self) -> None:
            seen.append(1)
            raise KeyError(self.password)

    seen: list[int] = []
    await app.dispatch(Broken("hunter2"))
    await drain(app)
    assert "ValueError: no [redacted]" in caplog.text
    stored = repr(conn.execute("select * from pgqueue.attempts").fetchall())
    assert f"no {MASK}" in stored
    assert "hunter2" not in stored + caplog.text


def test_the_command_line_masks(dsn: str) -> None:
    cli = Cli(dsn)
    with App(dsn) as app:

        @app.task(name="own-names")
        def task(colour: str, password: str) -> None: ...

        job_id = task.enqueue("mauve", "hunter2").id
    masked = {"colour": "mauve", "password": MASK}
    assert cli.json("job", str(job_id))["job"]["args"] == masked
    assert cli.json("jobs")[0]["args"] == masked
    shown = cli("job", str(job_id), "--show-args").stdout
    assert "mauve" in shown
    assert "hunter2" not in shown
    known = cli.json("job", str(job_id), "--app", "tests.secrets.tasks:app")["job"]["args"]
    assert known == {"colour": MASK, "password": MASK}
    assert "no module" in cli("jobs", "--app", "no.such:app", code=2).stderr


def test_an_app_that_cannot_be_imported_hides_all(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGQUEUE_APP", "no.such:app")
    with App(dsn) as app:

        @app.task(name="t")
        def task(colour: str) -> None: ...

        task.enqueue("mauve")
    assert Cli(dsn).json("jobs")[0]["args"] == {"colour": MASK}


def test_what_was_stored_unmasked_is_masked_when_shown(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute("""insert into pgqueue.jobs (task, args, status, finished_at, last_error)
                    values ('t', '{"iban": "DE00123456"}', 'dead', now(), 'no DE00123456')""")
    conn.execute("insert into pgqueue.attempts (job_id, attempt, outcome, error)"
                 " select id, 1, 'dead', last_error from pgqueue.jobs")  # fmt: skip
    cli = Cli(dsn)
    assert cli.json("dlq")[0]["last_error"] == f"no {MASK}"
    assert "DE00123456" not in cli("job", "1").stdout + cli("dlq").stdout


def test_edited_arguments_keep_what_is_masked(dsn: str, conn: psycopg.Connection) -> None:
    conn.execute("""insert into pgqueue.jobs (task, args, status, finished_at)
                    values ('own-names', '{"password": "hunter2", "to": "a"}', 'dead', now())""")
    cli = Cli(dsn)
    nested = json.dumps({"to": [MASK]})
    known = ("--app", "tests.secrets.tasks:app")
    assert "give its real value" in cli("retry", "1", "--args", nested, *known, code=1).stderr
    cli("retry", "1", "--args", json.dumps({"password": MASK, "to": "b"}), *known)
    row = conn.execute("select args from pgqueue.jobs").fetchone()
    assert row == ({"password": "hunter2", "to": "b"},)
