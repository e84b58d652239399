"""Workers that end to be replaced: by memory, by number of jobs; no job is lost or repeated."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from pgqueue import ConfigError
from pgqueue.config import Settings
from pgqueue.sizes import size
from tests.processes import Workers
from tests.support import eventually, statuses
from tests.worker import recycled

JOBS = 50


@pytest.fixture
def workers(dsn: str, conn: psycopg.Connection) -> Iterator[Workers]:
    recycled.app.use(dsn=dsn)
    conn.execute("create table ledger (job bigint, pid int)")
    started = Workers(dsn, "tests.worker.recycled:app")
    yield started
    started.end()
    recycled.app.close()


@pytest.mark.parametrize(
    "options", [["--max-rss", "250MB"], ["--max-jobs", "20"], ["--max-rss", "250MB", "--max-jobs", "25"]],
    ids=["max-rss", "max-jobs", "both"],
)  # fmt: skip
def test_a_supervised_worker_is_replaced(
    workers: Workers, conn: psycopg.Connection, options: list[str]
) -> None:
    recycled.app.enqueue_many([recycled.leak.call(10) for _ in range(JOBS)])
    process = workers.start("--workers", "2", "--concurrency", "2", *options)

    def replaced() -> bool:
        if set(statuses(conn).values()) == {"succeeded"}:  # they have yet to look at their memory
            recycled.leak.enqueue(10)
        return len(set(conn.execute("select pid from ledger").fetchall())) > 2

    eventually(replaced, timeout=90)
    eventually(lambda: set(statuses(conn).values()) == {"succeeded"}, timeout=90)
    ledger = conn.execute("select job, pid from ledger order by job").fetchall()
    assert [job for job, _ in ledger] == sorted(statuses(conn))
    assert conn.execute("select max(attempt), max(crashes) from pgqueue.jobs").fetchone() == (1, 0)
    process.terminate()
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "asked to be replaced" in log


def test_alone_it_ends_and_says_why(workers: Workers, conn: psycopg.Connection) -> None:
    recycled.app.enqueue_many([recycled.leak.call(30) for _ in range(JOBS)])
    process = workers.start("--max-rss", "300MB", "--concurrency", "1")
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "over max_rss 286 MiB: ending, to be started anew" in log
    counts = conn.execute("select status, count(*) from pgqueue.jobs group by 1").fetchall()
    ran = dict(counts)  # type: ignore[arg-type]
    assert conn.execute("select count(*) from ledger").fetchone() == (ran["succeeded"],)
    assert ran.keys() <= {"succeeded", "pending"}


def test_a_limit_below_what_it_needs_is_an_error(workers: Workers) -> None:
    process = workers.start("--max-rss", "1MB")
    _, log = process.communicate(timeout=30)
    assert process.returncode != 0
    assert log.count("\n") == 1
    assert "max_rss 1 MiB is less than the" in log


def test_sizes() -> None:
    assert [size(text) for text in ("500MB", "1GiB", "1.5 kb", "2G", "7")] == [
        500_000_000, 2**30, 1500, 2**31, 7,
    ]  # fmt: skip
    for wrong in ("", "much", "5XB", "5ib", "0", -1, True, None, 1.5, "9999TB"):
        with pytest.raises(ConfigError, match="max_rss must"):
            size(wrong, name="max_rss")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_rss must be bytes or text like"):
        Settings().with_(max_rss="lots")
    assert Settings().with_(max_rss="1GiB").max_rss == 2**30
