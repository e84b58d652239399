"""Every Python block of docs/ runs, page by page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from pgqueue.job import TRANSITIONS
from pgqueue.roles import ROLES
from tests.reference_pages import pages

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {
    str(page.relative_to(DOCS)): code
    for page in sorted(DOCS.rglob("*.md"))
    if (code := re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S))
}


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, dsn: str, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n".join(PAGES[page]), "utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], env={"PGQUEUE_DSN": dsn, "PATH": "/usr/bin:/bin"},
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ["cli.md", "api.md", "settings.md", "sql.md"])
def test_the_reference_is_what_the_code_says(page: str, dsn: str) -> None:
    committed = (DOCS / "reference" / page).read_text("utf-8")
    assert committed == pages(dsn)[page], "run: make reference"


def test_the_queries_of_the_docs_run(conn: psycopg.Connection) -> None:
    for page in DOCS.rglob("*.md"):
        for block in re.findall(r"```sql\n(.*?)```", page.read_text("utf-8"), re.S):
            conn.execute(block.encode())


def test_the_documented_life_of_a_job_is_the_real_one() -> None:
    text = (DOCS / "explanation.md").read_text("utf-8")
    rows = [
        f"| {old.value} | {new.value} | {why} |"
        for old, moves in TRANSITIONS.items()
        for new, why in moves.items()
    ]
    assert "\n".join(rows) in text


def test_every_role_is_described() -> None:
    text = (DOCS / "security.md").read_text("utf-8")
    for role in ROLES:
        assert f"| `pgqueue_{role}` |" in text


def test_links_lead_somewhere() -> None:
    for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md", DOCS.parent / "SECURITY.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"


def cells(page: Path) -> dict[tuple[str, str], str]:
    """The tables of a page: (row, column) -> cell."""
    found: dict[tuple[str, str], str] = {}
    head: list[str] = []
    for line in page.read_text("utf-8").splitlines():
        if line.startswith("|"):
            row = [cell.strip() for cell in line.strip("|").split("|")]
            if row[0] == "":
                head = row
            found |= {(row[0], column): cell for column, cell in zip(head, row, strict=False)}
    return found


def test_the_short_comparison_is_drawn_from_the_whole() -> None:
    whole = cells(DOCS / "comparison.md")
    readme = DOCS.parent.joinpath("README.md").read_text("utf-8")
    part = readme[readme.index("## Beside others") : readme.index("## Documentation")]
    short = [row for row in part.splitlines() if row.startswith("| ") and row[2] != "|"]
    head = next(row for row in part.splitlines() if row.startswith("| |"))
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    assert len(short) > 8
    for line in short:
        name, *row = (cell.strip() for cell in line.strip("|").split("|"))
        assert [whole[name, column] for column in columns[1:]] == row


def test_every_row_of_the_comparison_is_complete() -> None:
    for line in (DOCS / "comparison.md").read_text("utf-8").splitlines():
        if line.startswith("|"):
            assert line.count("|") == 14, line
