"""Limits where rows come from SQL: in pgqueue.enqueue(), and again when they are claimed."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from pgqueue import App, ArgumentsError
from pgqueue.jsontext import MOST_CLAIMED, check_stored, check_text
from pgqueue.sql import load
from tests.support import drain


def nested(depth: int) -> str:
    """A JSON object that nests this deep."""
    return '{"value": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


OBJECT = "args must be a JSON object"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"task": None}, "task must have 1 to 200 characters, got null"),
    ({"task": ""}, "got 0"),
    ({"task": "x" * 201}, "got 201"),
    ({"args": None}, OBJECT),
    ({"args": "[]"}, OBJECT),
    ({"args": json.dumps({"value": "x" * 1_048_576})}, "over 1 MB"),
    ({"args": nested(65)}, "nested deeper than 64"),
    ({"args": nested(65).replace("[]", "{}")}, "nested deeper than 64"),
    ({"args": nested(5000)}, "nested deeper than 64"),
    ({"queue": "a b"}, "queue 'a b' is not usable"),
    ({"queue": "x" * 65}, "is not usable"),
    ({"queue": "mail\n"}, "is not usable"),
    ({"priority": 40_000}, "priority must be from -32768 to 32767, got 40000"),
    ({"max_retries": -1}, "max_retries must be from 0 to 1000, got -1"),
    ({"run_at": "infinity"}, "run_at must be a time, got infinity"),
    ({"run_at": "-infinity"}, "run_at must be a time"),
    ({"delay": "-1 second"}, "delay must be from 0 to 365 days"),
    ({"delay": "366 days"}, "delay must be from 0 to 365 days"),
    *[({"backoff": text}, "backoff must be a JSON object of numbers") for text in (
        "5", "[]", '"5s"', "null", '{"base": "5"}', '{"base": -1}', '{"base": 1e400}', '{"factor": 0.5}',
        '{"factor": 101}', '{"cap": 31536001}', '{"jitter": 1.1}', '{"jitter": null}', '{"bass": 5}')],
]  # fmt: skip
TYPES = {"args": "jsonb", "backoff": "jsonb", "priority": "integer", "max_retries": "integer",
         "run_at": "timestamptz", "delay": "interval", "queue": "text", "task": "text"}  # fmt: skip


def enqueue(conn: psycopg.Connection, **given: Any) -> int:
    given = {"task": "t", **given}
    arguments = ", ".join(f"{name} => %({name})s::{TYPES[name]}" for name in given)
    row = conn.execute(f"select pgqueue.enqueue({arguments})".encode(), given).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.parametrize(("given", "says"), WRONG, ids=lambda v: str(v)[:40])
def test_what_enqueue_refuses(conn: psycopg.Connection, given: dict[str, Any], says: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as refused:
        enqueue(conn, **given)
    assert says in (refused.value.diag.message_primary or "")
    assert refused.value.diag.message_detail is None  # a detail would print the row
    assert len(str(refused.value)) < 500
    assert conn.execute("select count(*) from pgqueue.jobs").fetchone() == (0,)


def test_what_enqueue_takes(conn: psycopg.Connection) -> None:
    for given in (
        {"args": nested(64)}, {"args": nested(64).replace("[]", "[1]")}, {"task": "x" * 200},
        {"queue": "A-Z_0.9:" * 8}, {"priority": -32768}, {"max_retries": 1000}, {"delay": "365 days"},
        {"run_at": "2001-02-03"}, {"backoff": "{}"}, {"backoff": None}, {"delay": None},
        {"backoff": '{"base": 0.5, "factor": 2, "cap": 31536000, "jitter": 0}'},
    ):  # fmt: skip
        enqueue(conn, **given)


INSERT = "insert into pgqueue.jobs (task, args, run_at) values ('t', %s, now() - interval '1 hour') returning id"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (json.dumps({"value": "x" * 1_048_576}), "too large: 1,048,"),
        (json.dumps({"value": "x" * 5_000_000}), "too large: at most 1,048,576 bytes"),
        (json.dumps({"value": "é" * 600_000}, ensure_ascii=False), "too large: 1,200,0"),
        (nested(65), "nested deeper than 64"),
        (nested(5000), "nested deeper than 64"),
        (
            '{"value": [' + "{}," * 100_000 + "[]]}",
            "too many: 100,003 lists and objects, at most 100,000",
        ),
    ],
    ids=["large", "huge", "large in bytes", "deep", "very deep", "many"],
)
async def test_only_the_job_over_the_limit_is_dead(
    app: App, conn: psycopg.Connection, args: str, says: str
) -> None:
    ran: list[Any] = []

    @app.task(name="t")
    async def task(value: Any) -> None:
        ran.append(value)

    bad = conn.execute(INSERT, [args]).fetchone()
    good = [conn.execute(INSERT, [f'{{"value": {n}}}']).fetchone() for n in range(3)]
    await drain(app)
    assert sorted(ran) == [0, 1, 2]
    found = dict(conn.execute("select id, status from pgqueue.jobs").fetchall())  # type: ignore[arg-type]
    assert bad is not None
    assert found == {bad[0]: "dead", **{row[0]: "succeeded" for row in good if row}}
    (error,) = (
        conn.execute("select last_error from pgqueue.jobs where id = %s", bad).fetchone() or ()
    )
    assert says in error


async def test_what_enqueue_took_is_within_the_limit_when_claimed(app: App) -> None:
    """PostgreSQL writes blanks into JSON: text of nearly 1 MB comes back as more."""
    sizes: list[int] = []

    @app.task(name="t")
    async def task(value: list[int]) -> None:
        sizes.append(len(value))

    with pytest.warns(UserWarning, match="store the document"):
        await task.aenqueue([1] * 520_000)
    await drain(app)
    assert sizes == [520_000]


def test_the_cut_of_the_claim_is_the_one_the_check_knows() -> None:
    for name in ("claim", "sweep"):
        assert f"left(j.args::text, {MOST_CLAIMED})" in load()[name].numbered
    check_stored('{"value": "' + "  " * 400_000 + '"}')
    with pytest.raises(ArgumentsError, match="too large"):
        check_stored('{"value": "' + "  " * 600_000 + '"}')


@pytest.mark.parametrize(
    ("policy", "low", "high"),
    [
        ('{"base": "soon"}', 5, 10), ('{"base": 1e400, "jitter": 0}', 3600, 3600), ('"x"', 5, 10), ("[1]", 5, 10),
        ('{"base": 1e-400, "jitter": 0}', 0, 0), ('{"factor": null}', 5, 10), ('{"base": -1e400}', 0, 0),
        ('{"cap": 1e400, "base": 7, "jitter": 0}', 7, 7), ('{"jitter": 9}', 0, 10), ('{"base": {}}', 5, 10),
    ],
)  # fmt: skip
def test_a_backoff_put_in_by_sql_never_stops_a_failure_from_being_recorded(
    conn: psycopg.Connection, policy: str, low: float, high: float
) -> None:
    found = conn.execute(
        "select extract(epoch from pgqueue.backoff(1, %s::jsonb))::float8", [policy]
    ).fetchone()
    assert found is not None
    assert low <= found[0] <= high


def test_the_curve_of_a_backoff(conn: psycopg.Connection) -> None:
    row = conn.execute(
        "select array(select extract(epoch from pgqueue.backoff(n, %s))::float8 from generate_series(0, 6) n)",
        ['{"base": 1.5, "factor": 3, "cap": 100, "jitter": 0}'],
    ).fetchone()
    assert row == ([1.5, 1.5, 4.5, 13.5, 40.5, 100, 100],)
    assert conn.execute("select pgqueue.backoff(1000000) <= interval '1 hour'").fetchone() == (
        True,
    )


@pytest.mark.filterwarnings("ignore:pgqueue")
def test_what_a_producer_may_enqueue_of_lists_and_objects() -> None:
    """Those in text are none."""
    check_text(json.dumps({"value": [[]] * 99_990}))
    check_text(json.dumps({"value": "[{" * 200_000}))
    for many in ([[]] * 100_000, [{"a": []}] * 60_000):
        with pytest.raises(ArgumentsError, match=r"too many: \d+,\d+ lists and objects"):
            check_text(json.dumps({"value": many}))
