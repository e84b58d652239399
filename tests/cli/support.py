"""Runs the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from pgqueue import App

app = App("")


@app.task(name="mail")
def mail(to: str) -> None: ...


@app.task(name="shop.report")
def report(kind: str) -> None: ...


class Cli:
    """Runs ``python -m pgqueue`` on a database."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def __call__(
        self, *arguments: str, code: int = 0, stdin: str = "", **environ: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pgqueue", *arguments], input=stdin, capture_output=True,
            text=True, check=False, env={**os.environ, "PGQUEUE_DSN": self.dsn, "COLUMNS": "160", **environ},
        )  # fmt: skip
        assert done.returncode == code, done.stderr + done.stdout
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").stdout)


def clean() -> dict[str, str]:
    """The environment without settings of pgqueue or libpq."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("PGQUEUE_", "PG"))}
