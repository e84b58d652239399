"""Names that nothing here has are most likely misspelt: a warning names the nearest, and the command goes on."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from tests.cli.support import Cli

APP = "tests.schedules.declaring:app"
BROKEN = "import json\n\n\ndef load():\n    return json.nothing\n\n\nload()\n"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("pause mial", "no queue mial is known here; did you mean mail?"),
        ("pause --task male", "no task male is known here; did you mean mail?"),
        ("resume mial", "no queue mial is known here; did you mean mail?"),
        ("limit mial --limit 2", "no queue mial is known here; did you mean mail?"),
        ("limit --task male --limit 2", "no task male is known here; did you mean mail?"),
        ("queue mial", "no queue mial is known here; did you mean mail?"),
        ("queue mial --max-pending 3", "no queue mial is known here; did you mean mail?"),
        ("retry --queue mial --yes", "no queue mial is known here; did you mean mail?"),
        ("cancel --task male --yes", "no task male is known here; did you mean mail?"),
        (
            "change --queue mial --priority 1 --yes",
            "no queue mial is known here; did you mean mail?",
        ),
        (
            "change --queue mail --to-queue mial --yes",
            "no queue mial is known here; did you mean mail?",
        ),
        ("clear --queue mial --yes", "no queue mial is known here; did you mean mail?"),
        ("jobs --queue mial", "no queue mial is known here; did you mean mail?"),
        ("dlq --task xyzzy", "no task xyzzy is known here"),
    ],
)
def test_the_nearest_name(cli: Cli, dead: list[int], command: str, says: str) -> None:
    assert cli(*command.split()).stderr.startswith(f"pgqueue: warning: {says}\n")


def test_known_names_are_not_warned_of(cli: Cli, conn: psycopg.Connection, dead: list[int]) -> None:
    conn.execute("insert into pgqueue.schedules (name, expression, task, last_tick) values"
                 " ('s', '@daily', 'planned', now())")  # fmt: skip
    conn.execute("insert into pgqueue.workers (id, host, pid, version, queues) values"
                 " (gen_random_uuid(), 'h', 1, '0', array['served'])")  # fmt: skip
    for command in (
        "pause mail served --all --task mail --task planned", "resume --all mail", "limit mail --limit 2",
        "limit --task mail --off", "jobs --queue mail --task mail", "cancel --queue mail --yes",
    ):  # fmt: skip
        assert cli(*command.split()).stderr == "", command


def test_the_nearest_schedule(cli: Cli, conn: psycopg.Connection) -> None:
    conn.execute("insert into pgqueue.schedules (name, expression, task, last_tick) values"
                 " ('nightly', '@daily', 't', now())")  # fmt: skip
    for verb in ("pause", "resume", "run", "remove", "runs"):
        yes = ["--yes"] if verb == "remove" else []
        assert "did you mean nightly?" in cli("cron", verb, "nigthly", *yes, code=1).stderr


def test_tasks(cli: Cli, tmp_path: Path) -> None:
    found = cli.json("tasks", "--app", APP)
    by_name = {each["task"].rpartition(".")[2]: each for each in found}
    assert by_name["nightly"]["schedule"] == "30 2 * * *"
    assert {"nightly", "report", "Poll"} <= set(by_name)
    assert "tests.schedules.declaring.report" in cli("tasks", PGQUEUE_APP=APP).stdout
    (tmp_path / "retrying_app.py").write_text(
        "from pgqueue import App\n"
        "app = App()\n"
        "app.queue('mail', max_retries=3)\n"
        "@app.task(name='a')\ndef a() -> None: ...\n"
        "@app.task(name='b', queue='mail')\ndef b() -> None: ...\n"
        "@app.task(name='c', queue='mail', max_retries=0)\ndef c() -> None: ...\n"
    )
    shown = cli("tasks", "--app", "retrying_app:app", "--json", PYTHONPATH=str(tmp_path)).stdout
    assert {each["task"]: each["max_retries"] for each in json.loads(shown)} == {
        "a": 10,
        "b": 3,
        "c": 0,
    }
    (tmp_path / "empty_app.py").write_text("from pgqueue import App\napp = App()\n")
    none = cli("tasks", "--app", "empty_app:app", PYTHONPATH=str(tmp_path))
    assert none.stdout.startswith("no tasks: import the modules")
    assert "which app?" in cli("tasks", code=2).stderr


def test_work_lists_its_tasks_and_doubts_its_queues(cli: Cli, tmp_path: Path) -> None:
    log = cli("work", "--app", APP, "--drain", "--queue", "defualt").stderr
    assert "tests.schedules.declaring.nightly, tests.schedules.declaring.report" in log
    assert "queue defualt: no task of the app names it; did you mean default?" in log
    two = cli("work", "--app", APP, "--drain", "--workers", "2").stderr
    assert two.count("declaring.nightly, ") == 1
    (tmp_path / "empty_app.py").write_text("from pgqueue import App\napp = App()\n")
    none = cli("work", "--app", "empty_app:app", "--drain", PYTHONPATH=str(tmp_path)).stderr
    assert "the app has no tasks" in none


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (BROKEN, ["line 8, in <module>\n      load()", "line 5, in load\n      return json.nothing\n",
                  "AttributeError: module 'json' has no attribute 'nothing'"]),
        ("def f(:\n", ["line 1\n      def f(:\n            ^\n  SyntaxError: invalid syntax"]),
        ("raise ValueError('two\\nlines')", ["imported: ValueError: two\n", "\n  ValueError: two\n  lines\n"]),
        ("try:\n    1 / 0\nexcept Exception as e:\n    raise OSError('x') from e",
         ["ZeroDivisionError: division by zero", "direct cause", "OSError: x"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["work", "tasks", "cron sync", "jobs"])
def test_an_import_error_is_shown_as_python_shows_it_indented(
    dsn: str, tmp_path: Path, command: str, text: str, shown: list[str]
) -> None:
    import os
    import subprocess
    import sys

    (tmp_path / "brokenapp.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pgqueue", *command.split(), "--app", "brokenapp:app"], cwd=tmp_path,
        env={**os.environ, "PGQUEUE_DSN": dsn, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if command == "jobs":  # it shows no job, so it needs no app
        return
    assert done.returncode == 2
    assert done.stderr.startswith("pgqueue: --app brokenapp:app: brokenapp cannot be imported: ")
    for each in shown:
        assert each in done.stderr
    assert "\\n  File" not in done.stderr
    assert "importlib" not in done.stderr
    assert "pgqueue/cli" not in done.stderr
