"""Every Python block of docs/ runs, page by page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pgqueue.job import TRANSITIONS

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


def test_the_documented_life_of_a_job_is_the_real_one() -> None:
    text = (DOCS / "explanation.md").read_text("utf-8")
    rows = [
        f"| {old.value} | {new.value} | {why} |"
        for old, moves in TRANSITIONS.items()
        for new, why in moves.items()
    ]
    assert "\n".join(rows) in text


def test_links_lead_somewhere() -> None:
    for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"
