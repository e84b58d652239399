"""What others put into rows, files and folders neither runs code of theirs nor stops a command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from pgqueue import ConfigError, config
from pgqueue.cli import group

FILES = {
    "pgqueue.toml": 'app = "trap:app"\ndsn = "postgresql://x/y"\n',
    "pyproject.toml": '[tool.pgqueue]\ndsn = "postgresql://x/y"\n',
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mode", [0o602, 0o666])
def test_a_file_that_others_may_write_to_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    file = tmp_path / name
    file.write_text(FILES[name])
    assert config.load(tmp_path, {}).dsn == "postgresql://x/y"
    file.chmod(mode)
    with pytest.raises(ConfigError, match="may be written to by other users"):
        config.load(tmp_path, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_that_a_group_may_write_to_is_refused(tmp_path: Path) -> None:
    """But for the group that a user has alone."""
    file = tmp_path / "pgqueue.toml"
    file.write_text(FILES["pgqueue.toml"])
    file.chmod(0o660)
    assert config.load(tmp_path, {}).app == "trap:app"
    os.chown(file, 0, 1)
    with pytest.raises(ConfigError, match="may be written to by other users"):
        config.load(tmp_path, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["file", "link"])
def test_a_file_of_another_user_is_refused(tmp_path: Path, name: str, how: str) -> None:
    file = tmp_path / name
    if how == "link":
        (tmp_path / "own").write_text(FILES[name])
        file.symlink_to(tmp_path / "own")
        os.chown(file, 65534, 65534, follow_symlinks=False)
    else:
        file.write_text(FILES[name])
        shutil.chown(file, "nobody")
    with pytest.raises(ConfigError, match="belongs to another user"):
        config.load(tmp_path, {})


def test_a_file_without_settings_may_be_anybodys(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.other]\nx = "y"\n')
    (tmp_path / "pyproject.toml").chmod(0o666)
    assert config.load(tmp_path, {}).dsn is None


@pytest.fixture
def job_id(conn: psycopg.Connection) -> int:
    row = conn.execute(
        "insert into pgqueue.jobs (task, status, finished_at, last_error, args)"
        " values ('t', 'dead', now(), 'no', '{\"colour\": \"mauve\"}') returning id"
    ).fetchone()
    assert row is not None
    return int(row[0])


COMMANDS = """
import json, sys
from pgqueue.cli import group
for command in json.load(sys.stdin):
    group.main(command, prog_name="pgqueue", standalone_mode=False)
    assert "trap" not in sys.modules, command
group.main(["jobs", "--json"], prog_name="pgqueue", standalone_mode=False)
assert "trap" in sys.modules
"""


def test_only_what_shows_arguments_imports_the_configured_app(
    dsn: str, job_id: int, tmp_path: Path
) -> None:
    (tmp_path / "trap.py").write_text("from pgqueue import App\napp = App()\n")
    commands = [
        ["list"], ["jobs"], ["dlq"], ["job", str(job_id)], ["workers"], ["queues"], ["limits"], ["paused"],
        ["workflows"], ["cron", "list"], ["retry", str(job_id)], ["cancel", str(job_id)], ["sql", "roles"],
        ["migrate", "--check"],
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], input=json.dumps(commands), capture_output=True, text=True,
        check=False, env={**os.environ, "PGQUEUE_DSN": dsn, "PGQUEUE_APP": "trap:app", "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "args",
    [
        '{"a":' * 900 + "1" + "}" * 900,
        '{"a":' + "[" * 3000 + "]" * 3000 + "}",
        '{"password":' * 200 + '"hunter2"' + "}" * 200,
        '["hunter2"]', '"hunter2"', "null",
    ],
    ids=["deep", "very deep", "deep secret", "list", "text", "null"],
)  # fmt: skip
def test_a_row_that_cannot_be_shown_is_said_to_be_so(
    dsn: str, conn: psycopg.Connection, job_id: int, args: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    conn.execute(
        "insert into pgqueue.jobs (task, status, finished_at, last_error, args, progress)"
        " values ('odd', 'dead', now(), 'no', %s, %s)",
        (args, "[" * 900 + "]" * 900),
    )
    odd = str(job_id + 1)
    commands = [
        ["jobs"], ["dlq"], ["job", odd, "--show-args"], ["job", odd], ["dlq", "--json"], ["jobs", "--json"],
    ]  # fmt: skip
    for command in commands:
        group.main(command, prog_name="pgqueue", standalone_mode=False)
        out = capsys.readouterr().out
        assert "hunter2" not in out
        assert "odd" in out
    assert {row["task"] for row in json.loads(out)} == {"odd", "t"}
