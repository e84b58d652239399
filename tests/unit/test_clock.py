"""The database's clock is the only one that decides: no code of ours but for display reads another."""

from __future__ import annotations

import ast
from pathlib import Path

import pgqueue

PACKAGE = Path(pgqueue.__file__).parent
WALL = {("time", "time"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today")}  # fmt: skip
# Ages of rows for people, and the times of log lines.
FOR_DISPLAY = {"cli/output.py", "worker/logs.py", "worker/report.py"}


def reads_the_wall_clock(source: str) -> set[str]:
    return {
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in WALL
    }


def test_no_wall_clock_but_for_display() -> None:
    found = {
        str(file.relative_to(PACKAGE)): reads
        for file in PACKAGE.rglob("*.py")
        if (reads := reads_the_wall_clock(file.read_text("utf-8")))
    }
    assert set(found) <= FOR_DISPLAY, found


def test_the_check_sees_a_wall_clock() -> None:
    assert reads_the_wall_clock("x = time.time() + 1") == {"time.time"}
    assert reads_the_wall_clock("datetime.now(UTC)") == {"datetime.now"}
    assert not reads_the_wall_clock("time.monotonic()")
