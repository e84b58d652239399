"""The next release: this code, made for a schema with the revisions of ``next_versions`` as well."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSIONS = Path(__file__).parent / "next_versions"
NEWEST = 3


def migrations(folder: Path) -> Path:
    """A copy of the migrations with the next ones, below ``folder``."""
    copy = folder / "migrations"
    shutil.copytree(ROOT / "migrations", copy)
    for file in VERSIONS.iterdir():
        shutil.copy(file, copy / "versions")
    return copy


def code(folder: Path) -> Path:
    """A folder for PYTHONPATH with the code of the next release."""
    shutil.copytree(ROOT / "pgqueue", folder / "pgqueue")
    migrations(folder)
    stamp = folder / "pgqueue/stamp.py"
    text, changed = re.subn(
        r"^EXPECTED = \d+$", f"EXPECTED = {NEWEST}", stamp.read_text(), flags=re.M
    )
    assert changed == 1
    stamp.write_text(text)
    return folder
