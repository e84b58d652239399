"""Commands on workflows and events."""

from __future__ import annotations

import psycopg

from tests.cli.support import Cli


def test_workflows_and_events(cli: Cli, conn: psycopg.Connection) -> None:
    assert cli("workflows").stdout == "no such workflows\n"
    conn.execute(
        'select pgqueue.enqueue_workflow(\'[{"task": "a", "name": "one"},'
        ' {"task": "b", "after": [1], "if_failed": "hold"}]\', \'nightly\')'
    )
    assert "nightly" in cli("workflows", "--status", "running").stdout
    shown = cli("workflow", "1").stdout
    assert "workflow 1 nightly: running, 2 jobs" in shown
    assert all(word in shown for word in ("one", "(hold)", "blocked"))
    assert cli("workflow", "1", "--cancel", "--yes").stdout == "cancelled: 2 jobs\n"
    assert cli.json("workflow", "1", "--retry", "--yes") == {"retried": 2}
    assert [job["status"] for job in cli.json("workflow", "1")["jobs"]] == ["pending", "blocked"]
    assert "no workflow 7" in cli("workflow", "7", code=1).stderr
    assert "not both" in cli("workflow", "1", "--cancel", "--retry", code=2).stderr
    assert cli("emit", "paid 1", '{"a": 1}').stdout == "emitted: event 1 paid 1\n"
    assert cli.json("emit", "paid 1") == {"event": 2}
    assert "not JSON" in cli("emit", "x", "{", code=2).stderr
    assert conn.execute("select payload from pgqueue.events order by id").fetchall() == [
        ({"a": 1},),
        (None,),
    ]


def test_a_job_shows_its_steps(cli: Cli, conn: psycopg.Connection) -> None:
    conn.execute("select pgqueue.enqueue('t')")
    conn.execute(
        "insert into pgqueue.steps (job_id, name, kind, events, wakes_at, finished_at) values"
        " (1, 'charge', 'step', null, null, now()), (1, 'nap', 'sleep', null, now() + interval '90 min', null),"
        " (1, 'w', 'event', '{paid,void}', now() + interval '2 days', null),"
        " (1, 'v', 'event', '{gone}', now(), now()), (1, 'm', 'message', '{said}', now(), null)"
    )
    shown = cli("job", "1").stdout
    for text in ("charge: done ", "nap: sleeps, wakes in 1h", "v: timed out ",
                 "w: waits for event paid or void, at most until in", "m: waits for message said"):  # fmt: skip
        assert text in shown
    assert [step["name"] for step in cli.json("job", "1")["steps"]] == [
        "charge",
        "nap",
        "w",
        "v",
        "m",
    ]
