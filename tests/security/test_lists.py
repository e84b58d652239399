"""Lists have a bounded part of each row, whatever rows hold: memory of the command, and of the server for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import App, Filter, Keys, Secret
from pgqueue.job import TOO_LARGE
from pgqueue.operations.jobs import MOST_LISTED, MOST_PAGE
from pgqueue.rekey import rekey
from tests.cli.support import Cli
from tests.security.costs import MEGABYTES, SECONDS

ROWS = 12
LARGE = 40_000_000
# Each of these rows is large in every column that is not bounded by the table; compressible, so it is stored in little.
FILL = f"""
create temporary table wide as
    select repeat('x', {LARGE}) as text, jsonb_build_object('x', repeat('x', {LARGE})) as object;
insert into pgqueue.jobs (task, args, status, finished_at, last_error, progress, result, unique_key, unique_until)
    select 't', object, 'dead', now(), text, object, object, null, null from wide;
insert into pgqueue.jobs (task, args, status, finished_at, last_error, progress, result, left_at, left_because, worker_id)
    select 't', j.args, s.status, case when s.status in ('dead', 'succeeded') then now() end, j.last_error, j.progress, j.result,
           case when s.status = 'pending' then now() end, j.last_error,
           case when s.status = 'running' then gen_random_uuid() end
      from pgqueue.jobs j
     cross join (values ('pending'), ('running'), ('succeeded'), ('dead')) as s(status) cross join generate_series(1, 3)
     where j.id = 1;
insert into pgqueue.attempts (job_id, attempt, outcome, error_type, error, traceback, log)
    select 1, n, 'retry', text, text, text, text from wide cross join generate_series(1, 2) n;
insert into pgqueue.attempts (job_id, attempt, outcome, error_type, error, traceback, log)
    select 1, n, a.outcome, a.error_type, a.error, a.traceback, a.log
      from pgqueue.attempts a cross join generate_series(3, 12) n where a.attempt = 1;
insert into pgqueue.workflows (name) values ('w');
insert into pgqueue.workflow_jobs (job_id, workflow_id, name) select id, 1, 'n' || id from pgqueue.jobs;
insert into pgqueue.steps (job_id, name, kind, events, event, result, error, finished_at) select 1, 's', 'event', array[text, text], text, object, text, now() from wide;
insert into pgqueue.schedules (name, expression, task, args, error)
    select 's', '0 9 * * *', 't', object, text from wide;
insert into pgqueue.workers (id, host, pid, version, queues, tasks)
    select gen_random_uuid(), text, 1, text, array_fill('q'::text, array[100000]), array_fill('t'::text, array[100000]) from wide;
"""  # fmt: skip
COMMANDS = [
    ["list"], ["jobs"], ["jobs", "--json"], ["dlq"], ["dlq", "--json"], ["dlq", "--error", "xx"], ["jobs", "--error", "no such"],
    *(["jobs", "--json", "--status", status] for status in ("pending", "running", "succeeded", "dead")),
    ["job", "1"], ["job", "1", "--json"], ["job", "1", "--show-args", "--tracebacks"], ["workflows"], ["workflow", "1"],
    ["workflow", "1", "--json"], ["cron", "list"], ["cron", "list", "--json"], ["cron", "runs", "s"], ["workers"], ["queues"],
    ["limits"], ["paused"], ["retry", "--error", "no such", "--yes"], ["rekey"],
]  # fmt: skip
# Grows by what a command needs: the highest size of the process while it runs, less its size before.
MEASURE = """
import contextlib, io, json, sys, time
from pathlib import Path
from pgqueue.cli import group

def run(command):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            group.main(command, prog_name="pgqueue", standalone_mode=False)
        except Exception as error:
            if not isinstance(error, SystemExit):
                raise
    return out.getvalue(), err.getvalue()

def size(name):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(name))
    return int(line.split()[1]) / 1000

import psycopg, asyncpg, rich.table
for command in json.load(sys.stdin):
    Path("/proc/self/clear_refs").write_text("5")
    before, began = size("VmRSS"), time.process_time()
    printed = run(command)
    took, grown = time.process_time() - began, size("VmHWM") - before
    sys.__stdout__.write(json.dumps([command, took, grown, *printed]) + "\\n")
"""
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measured by /proc")


def measured(dsn: str, commands: list[list[str]], **environ: str) -> list[tuple[Any, ...]]:
    """Each command with its processor time in s, the memory that it took in MB, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], input=json.dumps([["list"], *commands]), capture_output=True, text=True,
        check=False, env={**os.environ, "PGQUEUE_DSN": dsn, "COLUMNS": "160", **environ},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()[1:]]


@pytest.fixture(scope="module")
def filled(server: str, template: str) -> Iterator[str]:
    """A database of rows that are large in every column; read only."""
    name = f"{template}_large"
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"create database {name} template {template}".encode())
    dsn = psycopg.conninfo.make_conninfo(server, dbname=name)
    with psycopg.connect(dsn) as conn:
        conn.execute(FILL.encode())
    yield dsn
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"drop database {name} with (force)".encode())


@linux
def test_no_command_reads_whole_what_it_does_not_print(filled: str) -> None:
    for command, _, grown, printed, _ in measured(filled, COMMANDS, PGQUEUE_KEYS=Keys.generate()):
        assert grown < MEGABYTES, command
        assert len(printed) < 2_000_000, command


def peak(pid: int) -> float:
    """The most memory that a process had, in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return (
        int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1]) / 1000
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measured by /proc")
def test_the_server_unpacks_nothing_that_a_list_does_not_show(filled: str) -> None:
    """A value is cast as a whole, or not at all; of text it unpacks what is shown."""
    with psycopg.connect(filled, autocommit=True) as conn, App(filled) as app:
        pid = conn.info.backend_pid
        if not Path(f"/proc/{pid}").exists():
            pytest.skip("the server is on another machine")

        def look() -> None:
            for status in (None, "pending", "running", "succeeded", "dead"):
                assert app.client.jobs(status=status, on=conn)
                app.client.jobs(Filter(error="no such"), status=status, on=conn)
            app.client.workflow_jobs(1, on=conn)
            app.client.attempts(1, on=conn)
            app.client.steps(1, on=conn)
            app.client.schedules(on=conn)
            app.client.workers(on=conn)
            app.client.stats(on=conn)
            conn.execute("select error from pgqueue.dead_jobs")

        app.client.stats(on=conn)
        before = peak(pid)
        look()
        assert peak(pid) - before < LARGE / 1e6


async def test_what_is_listed_of_a_job(app: App, conn: psycopg.Connection) -> None:
    """Of one asked for by its id, more."""
    fits, over = "x" * (MOST_LISTED - 10), "x" * MOST_LISTED
    conn.execute("insert into pgqueue.jobs (task, args, last_error) values"
                 " ('fits', jsonb_build_object('v', %s::text), repeat('e', 5000)),"
                 " ('over', jsonb_build_object('v', %s::text), null)", (fits, over))  # fmt: skip
    for jobs in (app.client.jobs(), await app.aclient.jobs()):
        assert [job.args for job in jobs] == [TOO_LARGE, {"v": fits}]
        assert jobs[1].last_error == "e" * 1000
    for job in (app.client.job(jobs[0].id), await app.aclient.job(jobs[0].id)):
        assert job.args == {"v": over}
    assert app.client.job(jobs[1].id).last_error == "e" * 5000


def test_a_page_has_no_more_than_fits_into_memory(app: App, conn: psycopg.Connection) -> None:
    """The newest come first; a command that prints all goes on with the next page."""
    number = 2 * MOST_PAGE // MOST_LISTED
    conn.execute("insert into pgqueue.jobs (task, args)"
                 " select 't', jsonb_build_object('v', string_agg(md5(n::text || m), ''))"
                 "   from generate_series(1, %s) n cross join generate_series(1, %s) m group by n", (number, MOST_LISTED // 33))  # fmt: skip
    listed = [job.args != TOO_LARGE for job in app.client.jobs(limit=10_000)]
    assert listed == sorted(listed, reverse=True)
    assert 0.45 * number < sum(listed) < 0.6 * number
    shown = Cli(app.dsn).json("jobs", "--limit", "10000")
    assert len(shown) == number
    assert [job["id"] for job in shown] == sorted((job["id"] for job in shown), reverse=True)
    assert TOO_LARGE not in {str(job["args"]) for job in shown}
    assert all(isinstance(job["args"], dict) for job in shown)


def test_new_keys_for_more_arguments_than_fit_into_memory(
    dsn: str, conn: psycopg.Connection
) -> None:
    """As many jobs at a time as fit, one at least."""
    old, new = Keys.generate(), Keys.generate()
    app = App(dsn, keys=Keys(old))

    @app.task(name="t")
    def task(secret: Secret[str], other: str) -> None: ...

    with pytest.warns(UserWarning, match="store the document"):
        app.enqueue_many([task.call("s", "x" * 1_000_000) for _ in range(8)])
    conn.execute("insert into pgqueue.jobs (task, args) select 't', args || jsonb_build_object('other', repeat('x', 5000000))"
                 " from pgqueue.jobs limit 1")  # fmt: skip
    assert len(app.client.encrypted()) == 3
    result = rekey(app.client, Keys(new, old))
    assert len(result.changed) == 8
    assert list(result.left.values()) == ["its arguments are too large, or no object"]
    app.close()


MANY = """
insert into pgqueue.jobs (task, queue, status, finished_at)
    select 't' || n, 'q' || n, 'succeeded', now() from generate_series(1, 10100) n;
insert into pgqueue.jobs (task, queue, limit_key, run_at)
    select 't' || n, 'k' || n, 't' || n || ':k', now() + interval '1 day' from generate_series(1, 1200) n;
insert into pgqueue.queues (name, max_running, paused_at) select 'k' || n, 1, now() from generate_series(1, 1200) n;
insert into pgqueue.tasks (name, max_running, paused_at) select 't' || n, 1, now() from generate_series(1, 1200) n;
insert into pgqueue.workers (id, host, pid, version, queues, tasks)
    select gen_random_uuid(), 'h', n, '1', array['q' || n], array['t' || n] from generate_series(1, 1200) n;
insert into pgqueue.attempts (job_id, attempt, outcome, error_type, error, traceback, log)
    select 1, n, 'retry', 'E', 'e', repeat('t', 16000), repeat('l', 16000) from generate_series(1, 1200) n;
insert into pgqueue.steps (job_id, name, kind, finished_at) select 1, 's' || n, 'step', now() from generate_series(1, 1200) n;
analyze;
"""


@linux
def test_no_command_lists_as_much_as_there_is(dsn: str, conn: psycopg.Connection) -> None:
    """Of lists without a limit of their own, as many as a person reads, and it is said."""
    conn.execute(MANY.encode())
    commands = [
        ["list"], ["queues"], ["limits"], ["paused"], ["workers"], ["job", "1"], ["pause", "no-such"], ["resume", "no-such"],
        ["queue", "k1200"], ["queue", "k1200", "--json"], ["jobs"], ["dlq"], ["tasks", "--app", "tests.cli.support:app"],
    ]  # fmt: skip
    for command, took, grown, _, _ in measured(dsn, commands):
        assert took < SECONDS, command
        assert grown < MEGABYTES, command
    commands = [[name, "--json"] for name in ("list", "queues", "limits", "paused", "workers")]
    for command, _, _, out, err in measured(dsn, commands):
        assert len(json.loads(out)) == 1000, command
        assert "the first 1,000 are listed" in err, command
    [(*_, out, err)] = measured(dsn, [["pause", "nobody-knows"]])
    assert (out, err) == ("paused: nobody-knows\n", ""), "not all names were fetched"
