"""Names come from who enqueues, as many as they like: neither a worker nor a producer keeps them all, or logs them all."""

from __future__ import annotations

import gc
import logging
from collections import deque
from typing import Any

import psycopg
import pytest

from pgqueue import App, Context
from pgqueue.limiter import MOST_QUEUES, NotifyLimiter
from pgqueue.operations.claims import MOST_LANES, Lane
from pgqueue.worker import exchange, log_limiter, outage, runtime, unknown
from pgqueue.worker.lanes import Lanes
from pgqueue.worker.log_limiter import LogLimiter
from pgqueue.worker.outage import Seldom
from pgqueue.worker.trail import FRONT
from pgqueue.worker.unknown import Unknown
from tests.support import drain, eventually_async, working

MARK = "zq"
MANY = 1_300
BOUND = 1_100
CONTAINERS = (dict, set, list, tuple, deque)


def hoards() -> list[str]:
    """Where there are more of these names than anybody needs."""
    # A dict of texts is not tracked itself: it is found by what refers to it.
    held = {id(each): each for holder in gc.get_objects() for each in gc.get_referents(holder)
            if issubclass(type(each), CONTAINERS) and len(each) > BOUND}  # fmt: skip
    return [
        f"{type(each).__name__} of {len(each)}, such as {next(iter(each))!r}"
        for each in held.values()
        if sum(_named(name) for name in list(each)) > BOUND
    ]


def _named(name: Any) -> bool:
    text = name if isinstance(name, str) else name[0] if isinstance(name, tuple) and name else None
    return isinstance(text, str) and MARK in text


async def test_a_worker_keeps_no_names_of_others(
    app: App, conn: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    ran: set[int] = set()

    @app.task(name="known", max_retries=0)
    async def known(ctx: Context) -> None:
        ran.add(ctx.id)

    fill = "select count(pgqueue.enqueue({})) from generate_series(1, %s) n"
    for call in (
        f"'{MARK}' || n",
        f"'known', queue => '{MARK}' || n, priority => n",
        f"'known', queue => '{MARK}k' || n, limit_key => '{MARK}' || n",
        f"'known', limit_key => '{MARK}' || n",
        f"'known', unique_key => '{MARK}' || n, expires => interval '0'",
    ):
        conn.execute(fill.format(call).encode(), (MANY,))
    with caplog.at_level(logging.INFO, "pgqueue"):
        async with working(app, concurrency=100):
            await eventually_async(lambda: len(ran) == 3 * MANY)
            await eventually_async(
                lambda: conn.execute(
                    "select count(*) from pgqueue.jobs where status = 'cancelled'"
                ).fetchone() == (MANY,)
            )  # fmt: skip
            await eventually_async(lambda: gc.collect() >= 0 and not hoards(), timeout=5)
    assert hoards() == []
    lines = [record for record in caplog.records if MARK in record.getMessage()]
    assert len(lines) <= log_limiter.MOST_KINDS + 1
    assert len(caplog.records) < 100


def test_a_producer_keeps_no_names_of_queues(app: App, conn: psycopg.Connection) -> None:
    @app.task(name="known")
    async def known() -> None: ...

    for n in range(MANY):
        known.with_queue(f"{MARK}{n}").with_unique(f"{MARK}{n}").enqueue()
        app.emit(f"{MARK}{n}")
    assert hoards() == []


def test_the_rest_is_summed_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(log_limiter.time, "monotonic", lambda: now)
    limiter = LogLimiter(logging.getLogger("t"), "jobs left")
    for _ in range(3):
        for n in range(50_000):
            limiter.warn(f"\x1b[31m{n}", f"no task \x1b[31m{n}\n" + "x" * 1000)
    assert len(caplog.records) == log_limiter.MOST_KINDS
    now += log_limiter.INTERVAL
    limiter.sum_up()
    limiter.sum_up()
    said = caplog.records[-1].getMessage()
    assert said == "149940 more jobs left, such as \\x1b[31m20, \\x1b[31m21, \\x1b[31m22"
    assert len(caplog.records) == log_limiter.MOST_KINDS + 1
    assert all(record.getMessage().isprintable() for record in caplog.records)
    assert max(len(record.getMessage()) for record in caplog.records) < 600
    now += log_limiter.INTERVAL
    limiter.warn("a", "once more")
    assert caplog.records[-1].getMessage() == "once more"


def test_what_is_unknown_is_summed_up_when_it_is_met_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    monkeypatch.setattr(log_limiter.time, "monotonic", lambda: now)
    met = Unknown(lambda: ["known"], patience=60)
    for n in range(1000):
        met.task(f"t{n}")
    now += unknown.REPORT_EVERY
    assert met.only == ["known"]  # asked before each claim
    assert "980 more jobs that this worker cannot run, such as t20, t21, t22" in caplog.text


def test_reports_of_very_many_kinds() -> None:
    seldom = Seldom(3600)
    assert all(seldom(n) for n in range(50_000))
    assert not seldom(49_999)
    assert len(seldom._last) == outage.MOST_KINDS


def test_queues_of_very_many_names_are_notified_as_few_are() -> None:
    limiter = NotifyLimiter()
    for n in range(50_000):
        assert limiter.allows({f"q{n}"}, n / 100_000)
        assert len(limiter._enqueued) <= MOST_QUEUES + 1
    assert not limiter.allows({"q49999"}, 0.5)
    assert limiter.allows({"q49999"}, 0.7)


def test_lanes_are_bounded_however_they_become_known() -> None:
    lanes = Lanes()
    lanes.start_at([Lane(f"q{n}", 0, *FRONT) for n in range(10_000)])
    assert len(lanes.in_order()) == MOST_LANES


async def test_queues_under_limits_take_turns_also_when_there_are_too_many_for_one_pass(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With time for one queue a pass, all have theirs, and so have jobs without limits."""
    monkeypatch.setattr(exchange, "VISIT_FOR", 0.0)
    ran: list[str] = []

    @app.task(name="known")
    async def known(ctx: Context) -> None:
        ran.append(ctx.queue)

    conn.execute(
        "select pgqueue.enqueue('known', queue => 'q' || n, limit_key => 'k') from generate_series(1, 30) n"
    )
    conn.execute("select pgqueue.enqueue('known')")
    await drain(app)
    assert sorted(ran) == sorted(["default", *(f"q{n}" for n in range(1, 31))])


async def test_a_worker_listens_for_a_bounded_number_of_queues(
    app: App, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is enqueued to the others is found by polling."""
    monkeypatch.setattr(runtime, "MOST_CHANNELS", 5)
    ran: set[int] = set()

    @app.task(name="known")
    async def known(ctx: Context) -> None:
        ran.add(ctx.id)

    async with working(app, poll="50ms") as worker:
        for _ in range(2):
            before = len(ran)
            conn.execute(
                "select pgqueue.enqueue('known', queue => 'q' || n) from generate_series(1, 30) n"
            )
            await eventually_async(lambda expected=before + 30: len(ran) == expected)
        assert len(worker._wanted) <= 5
