"""Any JSON value reaches the handler unchanged, or is refused before anything is written."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue import App, ArgumentsError, Keys, Secret
from pgqueue.bulk import copy_text, reserve
from pgqueue.codec import signature_of
from pgqueue.drivers._psycopg import PsycopgDriver
from pgqueue.jsontext import check_text
from pgqueue.operations import claims
from pgqueue.privacy import Privacy
from pgqueue.redact import MASK, Redaction
from pgqueue.sql import load
from tests.fuzz.support import fuzz, json_values, text
from tests.model.machine import perform

KEYS = Keys(Keys.generate())
seen: list[Any] = []


def same(a: Any, b: Any) -> bool:
    """Equal, and of the same kind all the way down; -0.0 is 0 in PostgreSQL."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) or isinstance(b, float):
        return not isinstance(a, bool | str) and float(a) == float(b)
    return type(a) is type(b) and bool(a == b)


@pytest.fixture
def fuzz_app(dsn: str) -> Any:
    app = App(dsn, keys=KEYS)

    @app.task(name="plain")
    def plain(value: Any) -> None:
        seen.append(value)

    @app.task(name="sealed")
    def sealed(value: Secret[Any]) -> None:
        seen.append(value)

    yield app
    app.close()


def run_one(app: App, conn: psycopg.Connection) -> None:
    """Claim one job and run its handler, as a worker does."""
    sweep = claims.sweep(None, limit=5, claim_id=uuid4(), worker_id=uuid4(), lease=60)
    (job,) = perform(conn, sweep).jobs
    definition = app.definition(job.task)
    assert definition is not None
    definition.invoke(None, definition.signature.decode(job.args, task=job.task, keys=app.keys))


@pytest.mark.parametrize("task", ["plain", "sealed"])
@pytest.mark.parametrize("way", ["enqueue", "copy"])
def test_round_trip(fuzz_app: App, conn: psycopg.Connection, task: str, way: str) -> None:
    definition = fuzz_app.definition(task)
    assert definition is not None
    driver, statements = PsycopgDriver(conn), load()

    def send(value: Any) -> None:
        job = definition.options.new_job(
            task, definition.signature.encode(task, (value,), {}, KEYS)
        )
        if way == "enqueue":
            fuzz_app.client.insert([job], on=conn)
        else:
            ids, now = perform(conn, reserve(1))
            driver.copy(statements["copy_jobs"], copy_text([job], ids, now))

    @fuzz(150)
    @given(json_values)
    def check(value: Any) -> None:
        seen.clear()
        conn.execute("delete from pgqueue.jobs")
        try:
            send(value)
        except ArgumentsError as error:
            assert "\n" not in str(error)
            assert conn.execute("select 1 from pgqueue.jobs").fetchone() is None
            return
        run_one(fuzz_app, conn)
        assert same(seen[0], value), (value, seen[0])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large arguments
        check()


def test_edited_arguments(fuzz_app: App, conn: psycopg.Connection) -> None:
    @fuzz(100)
    @given(st.dictionaries(text, json_values, max_size=3))
    def check(args: dict[str, Any]) -> None:
        conn.execute("delete from pgqueue.jobs")
        conn.execute(
            "insert into pgqueue.jobs (task, status, finished_at) values ('plain', 'dead', now())"
        )
        row = conn.execute("select id from pgqueue.jobs").fetchone()
        assert row is not None
        try:
            assert fuzz_app.client.retry(row[0], args=args, on=conn)
        except ArgumentsError:
            assert conn.execute("select status, args from pgqueue.jobs").fetchone() == ("dead", {})
        else:
            assert same(fuzz_app.client.job(row[0], on=conn).args, args)

    check()


@fuzz(300)
@given(text | st.text('{}[]":,\\u0123456789eE.-truefalsn $encrypted', max_size=60))
def test_any_stored_text_is_read_or_refused(stored: str) -> None:
    def task(value: int = 0, other: Any = None) -> None: ...

    signature = signature_of(task)
    with contextlib.suppress(ArgumentsError):
        assert signature.decode(stored).keys() == {"value", "other"}


@fuzz(300)
@given(text)
def test_text_is_checked(given_: str) -> None:
    with contextlib.suppress(ArgumentsError, UnicodeEncodeError):
        check_text(given_)


@fuzz(300)
@given(json_values, text)
def test_masking_keeps_the_shape_and_concealing_never_fails(value: Any, said: str) -> None:
    redaction = Redaction()
    redaction.mask(value)
    hide = Privacy().concealer("t", "{}", arguments={"password": value})
    assert isinstance(hide(said), str)
    if isinstance(value, str) and len(value) >= 6:
        assert not any(value in part for part in hide(f"{said}{value}").split(MASK))
