"""``pgqueue cron`` as a person and as a machine would use it."""

from __future__ import annotations

import psycopg
import pytest

from pgqueue.operations import schedules
from tests.cli.test_cli import Cli
from tests.model.machine import perform

APP = "tests.schedules.declaring:app"


@pytest.fixture
def cli(dsn: str) -> Cli:
    return Cli(dsn)


def test_add_list_pause_resume_run_remove(cli: Cli) -> None:
    assert cli("cron", "list").stdout.startswith("no schedules")
    added = cli("cron", "add", "daily", "0 9 * * *", "shop.report", "--tz", "Europe/Oslo",
                "--args", '{"kind": "sales"}', "--app", "tests.cli.support:app", "--queue", "slow", "--catch-up", "all")  # fmt: skip
    assert added.stdout.startswith("added: daily, next ")
    (found,) = cli.json("cron", "list")
    assert (found["tz"], found["queue"], found["catch_up"]) == ("Europe/Oslo", "slow", "all")
    assert [run[11:16] for run in found["next_runs"]] == ["09:00"] * 3
    listed = cli("cron", "list").stdout
    assert "0 9 * * * " in listed
    assert "Europe/Oslo" in listed
    assert "09:00:00 CE" in listed
    cli("cron", "pause", "daily")
    assert "paused" in cli("cron", "list").stdout
    job = cli.json("cron", "run", "daily")["daily"]
    assert cli.json("job", str(job))["job"]["args"] == {"kind": "sales"}
    assert cli("cron", "run", "daily").stdout == f"enqueued: daily, job {job + 1}\n"
    assert f"job {job + 1}, pending" in cli("cron", "list").stdout
    assert [run["job_id"] for run in cli.json("cron", "runs", "daily")] == [job + 1, job]
    assert "by hand" in cli("cron", "runs", "daily").stdout
    assert cli("cron", "resume", "daily").stdout == "resumed: daily\n"
    assert "Remove daily?" in cli("cron", "remove", "daily", code=130, stdin="n\n").stderr
    assert cli("cron", "remove", "daily", "--yes").stdout == "removed: daily\n"
    assert cli.json("cron", "list") == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("add", "s", "0 25 * * *", "t"), "the hour '25' is not usable"),
        (("add", "s", "@daily", "t", "--tz", "Oslo"), "no time zone 'Oslo'"),
        (("add", "s", "@daily", "t", "--args", "[1]"), "JSON object"),
        (("add", "s", "@daily", "t", "--queue", "a b"), "queue name 'a b'"),
        (("add", "s", "@daily", ""), "task name"),
    ],
)
def test_wrong_input_is_one_line(cli: Cli, arguments: tuple[str, ...], says: str) -> None:
    done = cli("cron", *arguments, code=2)
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_unknown_names(cli: Cli) -> None:
    for verb in ("pause", "resume", "run", "runs"):
        assert "no schedule 'x'" in cli("cron", verb, "x", code=1).stderr
    assert "no schedule 'x'" in cli("cron", "remove", "x", "-y", code=1).stderr


def test_a_broken_one_is_shown(cli: Cli, conn: psycopg.Connection) -> None:
    conn.execute(
        "insert into pgqueue.schedules (name, expression, task) values ('s', '99 * * * *', 't')"
    )
    assert "never: cron '99 * * * *'" in " ".join(cli("cron", "list").stdout.split())
    (found,) = cli.json("cron", "list")
    assert "the minute '99'" in found["error"]


def test_one_that_no_live_worker_declares(cli: Cli, conn: psycopg.Connection) -> None:
    cli("cron", "sync", "--app", APP)
    review = schedules.review(["poll", "sales", "stock"], patience=10.0)
    conn.execute("update pgqueue.schedules set kept = false")  # as if a worker had declared them
    for _ in range(2):
        perform(conn, review)
        conn.execute(
            "update pgqueue.schedules set undeclared_at = undeclared_at - interval '1 minute'"
        )
    name = "tests.schedules.declaring.nightly"
    found = {each["name"]: each for each in cli.json("cron", "list")}
    assert {n: s["pause_reason"] for n, s in found.items() if s["paused_at"]} == {
        name: "undeclared"
    }
    assert found[name]["undeclared_at"]
    assert found[name]["next_runs"] == []
    listed = " ".join(cli("cron", "list").stdout.split())
    assert "no live worker declares it" in listed
    cli("cron", "pause", "poll")
    assert cli("cron", "list").stdout.count("no live worker") == 1
    cli("cron", "resume", name)
    perform(conn, review)
    found = {each["name"]: each for each in cli.json("cron", "list")}
    assert [n for n, s in found.items() if s["paused_at"]] == ["poll"]
    assert found["poll"]["pause_reason"] == "hand"


def test_sync(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["poll", "sales", "stock", "tests.schedules.declaring.nightly"]
    assert cli.json("cron", "sync", "--app", APP)["written"] == names
    assert cli("cron", "sync", "--app", APP).stdout == "written: nothing to change\n"
    cli("cron", "add", "sales", "@hourly", "t")
    cli("cron", "add", "own", "@hourly", "t")
    assert cli("cron", "sync", "--app", APP).stdout == "written: sales\n"
    monkeypatch.setenv("WITHOUT_STOCK", "1")
    assert "not in this app (--prune pauses it): stock" in cli("cron", "sync", "--app", APP).stdout
    assert (
        "Pause stock?" in cli("cron", "sync", "--app", APP, "--prune", code=130, stdin="n\n").stderr
    )
    assert cli("cron", "sync", "--app", APP, "--prune", "--yes").stdout.endswith("paused: stock\n")
    paused = {s["name"]: bool(s["paused_at"]) for s in cli.json("cron", "list")}
    assert paused == {**dict.fromkeys(names, False), "stock": True, "own": False}
