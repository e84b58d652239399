"""The README's code runs, in the order it is read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import psycopg

TEXT = Path(__file__).parents[1].joinpath("README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


def test_python_blocks_run(dsn: str, tmp_path: Path, conn: psycopg.Connection) -> None:
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks("python")), "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", str(script)],
        env={"PGQUEUE_DSN": dsn, "PATH": "/usr/bin:/bin"},
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "to ada@example.org: Thank you" in done.stdout
    assert "invoice of order 42" in done.stdout
    assert conn.execute("select paid from orders").fetchall() == [(True,)]


def test_sql_blocks_run(conn: psycopg.Connection) -> None:
    for block in blocks("sql"):
        for statement in block.split(";\n"):
            if statement.split("--")[0].strip():
                conn.execute(statement.encode())
    assert conn.execute("select count(*) from pgqueue.jobs").fetchone() == (1,)


def test_commands_exist() -> None:
    overview = subprocess.run(
        [sys.executable, "-m", "pgqueue", "--help"], capture_output=True, text=True, check=True
    ).stdout
    commands = {
        m for block in blocks("console") for m in re.findall(r"^\$ pgqueue (\w+)", block, re.M)
    }
    assert len(commands) > 8
    for command in commands:
        assert f"  {command} " in overview, json.dumps(sorted(commands))
