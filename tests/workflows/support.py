"""Jobs of the two tasks of the conftest."""

from __future__ import annotations

from typing import Any

from pgqueue import App
from pgqueue.job import NewJob


def note(app: App, name: str, value: Any = 0) -> NewJob:
    return app.tasks["note"].options.new_job(
        "note", app.tasks["note"].signature.encode("note", (name, value), {})
    )


def fail(app: App, name: str) -> NewJob:
    return app.tasks["fail"].options.new_job("fail", f'{{"name": "{name}"}}')
